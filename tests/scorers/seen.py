"""Batches of rendered scenes whose frame vectors a small model made: what a producer that reads a space is handed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa

from data_engine.model import EPISODES
from data_engine.scoring import Clips, EpisodeBatch, Fit
from scorers.open_clip import OpenClip
from tests.scenes import Scene, instruction
from tests.scorers.conftest import make_batch

SPACE = "frames"


def batch_of(
    clips: Sequence[Scene], towers: OpenClip, told: Sequence[str | None] | None = None,
    views: Mapping[int, Mapping[str, np.ndarray]] | None = None, cameras: Sequence[str] = ("front",),
) -> EpisodeBatch:  # fmt: skip
    """``clips`` with a vector a frame. ``told``: their instructions, else their own. ``views``: frames by clip number
    and camera that take the place of what the camera shows."""
    given = views or {}
    spaces = []
    for number, clip in enumerate(clips):
        shown = {camera: given.get(number, {}).get(camera, None) for camera in cameras}
        frames = [clip.frames(camera) if seen is None else seen for camera, seen in shown.items()]
        n = len(clip.gripper)
        spaces.append(
            Clips(
                np.tile(np.arange(n), len(cameras)), np.tile(np.arange(n) + 1, len(cameras)),
                tuple(np.repeat(cameras, n).tolist()), towers.images(np.concatenate(frames)),
            )
        )  # fmt: skip
    states = [clip.gripper for clip in clips]
    made = make_batch(states, [np.diff(s, axis=0, append=s[-1:]) for s in states], fps=10.0)
    tasks = told or [instruction(clip.task) for clip in clips]
    rows = [{**row, "task": task, "language": None} for row, task in zip(made.episodes.to_pylist(), tasks, strict=True)]
    return replace(made, episodes=pa.Table.from_pylist(rows, schema=EPISODES), spaces={SPACE: spaces})


def fitted(fit: Fit, version: str) -> Fit:
    """``fit`` as a flow stores it: with what it stands on."""
    return replace(fit, meta={**fit.meta, "parts": {f"space {SPACE}": version}})
