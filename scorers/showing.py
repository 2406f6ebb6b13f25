"""Labellers that show some frames of an episode to a model, and which frames those are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from data_engine.asking import Asking, Picture, steps_of

__all__ = ["Showing"]


class Showing(Asking):
    """One question an episode, about ``pictures`` frames of ``camera`` (default: the first by name), evenly spread.

    The last frame is among them; a single picture is that one.
    """

    pictures: int = Field(default=6, ge=1, le=64)
    camera: str | None = None

    @property
    def rounds(self) -> int:
        """One question an episode."""
        return 1

    def shown(self, episode: Mapping[str, Any]) -> tuple[Picture, ...]:
        """The pictures of ``episode``, a row of the table; none where it has no such camera."""
        seen = sorted(video["camera"] for video in episode["videos"] or ())
        camera = (self.camera if self.camera in seen else None) if self.camera else next(iter(seen), None)
        if camera is None or not episode["n_steps"]:
            return ()
        last = episode["n_steps"] - 1
        steps = (last,) if self.pictures == 1 else steps_of(0, last + 1, self.pictures)
        return tuple(Picture(episode["episode_id"], episode["content_hash"], camera, step) for step in steps)
