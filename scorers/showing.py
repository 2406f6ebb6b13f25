"""Which frames of an episode a model is shown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from data_engine.asking import Picture, steps_of

__all__ = ["view_of"]


def view_of(episode: Mapping[str, Any], camera: str | None, count: int) -> tuple[Picture, ...]:
    """``count`` pictures of an episode (a row of the table), evenly spread; none where it has no such camera.

    ``camera`` None: the first by name. A single picture is of the last step.
    """
    seen = sorted(video["camera"] for video in episode["videos"] or ())
    through = (camera if camera in seen else None) if camera else next(iter(seen), None)
    if through is None or not episode["n_steps"]:
        return ()
    last = episode["n_steps"] - 1
    steps = (last,) if count == 1 else steps_of(0, last + 1, count)
    return tuple(Picture(episode["episode_id"], episode["content_hash"], through, step) for step in steps)
