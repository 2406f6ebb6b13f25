"""Subgoals, segments, progress and a shaped reward from stored frame embeddings, without any training.

Zhang et al., "Universal Visual Decomposer: Long-Horizon Manipulation Made Easy" (2024). The goal is the last frame, so
progress towards it says how the video approaches its own end, not whether that end is the task's: a failure approaches
its end, too. Re-encodes nothing: only vectors of a space are read.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from itertools import pairwise
from typing import ClassVar

import numpy as np
from pydantic import Field

from data_engine.labelling import Annotation, Labeller, Labels, LabelSpec
from data_engine.model import TIMESTAMP
from data_engine.scoring import Clips, EpisodeBatch, Fit, Metric, Needs, Resources, ScoreRow
from scorers.kernels.subgoals import distances, subgoals

__all__ = ["UVD"]

_MIN_FRAMES = 3


class UVD(Labeller):
    """Annotations of each episode with vectors in ``space``, of ``camera`` or, without one, of all side by side:

    ``subgoal``: the step that ends each subtask, the last one the episode's end. ``segment``: the steps up to and with
    each subgoal; they tile the episode. ``progress``, over all steps: 1 - d(o_t, o_end) / d(o_first, o_end), 1 at the
    end, below 0 where it is further away than at first. ``reward``, over all steps: d(o_t, g) - d(o_t+1, g) with g the
    next subgoal after t; the last step has none. A vector stands for the steps of its clip, until the next one begins:
    what is sampled less often than every step changes where the next clip begins.

    ``least_s`` and ``smooth_s``: see :func:`scorers.kernels.subgoals.subgoals`. Metrics: ``subgoals``, how many;
    ``order``, Spearman correlation of progress with time over the frames (a video that goes straight to its end has 1,
    whatever it shows), None where progress is constant; ``segment_s``, median seconds; ``length``.
    Undefined below 3 frames.
    """

    space: str = "open_clip"
    camera: str | None = None
    least_s: float = Field(default=0.9, gt=0)
    smooth_s: float = Field(default=0.125, ge=0)

    spec: ClassVar[LabelSpec] = LabelSpec(
        name="uvd",
        version="1",
        level="step",
        metrics=(
            Metric("subgoals", "subgoals", "neither"),
            Metric("order", "rank correlation", "higher"),
            Metric("segment_s", "s", "neither"),
            Metric("length", "steps", "neither"),
        ),
        needs=Needs(columns=(TIMESTAMP,)),
        resources=Resources(cpus=1),
        kinds=("subgoal", "segment", "progress", "reward"),
        learns=False,
    )

    @property
    def needs(self) -> Needs:
        """The clock, and the space that the parameter names."""
        return Needs(columns=(TIMESTAMP,), spaces=(self.space,))

    def fit(
        self, batches: Iterable[EpisodeBatch], *, base: Fit | None = None, seed: int = 0, device: str = "cpu"
    ) -> Fit:
        """Nothing is learned."""
        return Fit(self.spec.name, self.spec.version, self.config, seed, ())

    def label(self, batch: EpisodeBatch, fit: Fit, *, device: str = "cpu") -> list[Labels]:
        """Subgoals, segments, progress and reward of each episode."""
        clock = batch.array(TIMESTAMP)
        found = []
        for rows, clips in zip(batch, batch.spaces[self.space], strict=True):
            count = rows.stop - rows.start
            times = np.arange(count) / batch.dataset.fps if clock is None else clock[rows, 0]
            found.append(self._one(clips, times))
        return found

    def _one(self, clips: Clips, times: np.ndarray) -> Labels:
        clips, reason = _chosen(clips, self.camera)
        if reason is None and len(clips) < _MIN_FRAMES:
            reason = f"{len(clips)} frames in space {self.space!r}, of {_MIN_FRAMES} at least"
        if reason is None and not np.isfinite(times[clips.starts]).all():
            reason = "its timestamps are missing"
        length = ScoreRow("length", float(len(times)))
        if reason is not None:
            return Labels((), (*Labels.undefined(self.spec.metrics[:-1], reason).scores, length))
        count, when = len(times), times[clips.starts]
        goals = subgoals(clips.vectors, when, least_s=self.least_s, smooth_s=self.smooth_s)
        ends = [*clips.starts[goals[:-1]].tolist(), count - 1]
        edges = [0, *(end + 1 for end in ends)]
        frame = np.maximum(np.searchsorted(clips.starts, np.arange(count), side="right") - 1, 0)
        progress, order, unclear = _progress(clips.vectors, when)
        said = [Annotation("subgoal", end, end + 1) for end in ends]
        said += [Annotation("segment", start, stop) for start, stop in pairwise(edges)]
        said.append(Annotation("reward", 0, count, step_values=_rewards(clips.vectors, goals, frame)))
        if progress is not None:
            said.append(Annotation("progress", 0, count, step_values=progress[frame].astype(np.float32)))
        seconds = np.diff([times[0], *times[ends]])
        return Labels(
            said,
            (
                ScoreRow("subgoals", float(len(ends))),
                ScoreRow("order", order, "ok" if order is not None else "undefined", unclear),
                ScoreRow("segment_s", float(np.median(seconds))),
                length,
            ),
        )


def _chosen(clips: Clips, camera: str | None) -> tuple[Clips, str | None]:
    """The clips of one camera, or of all side by side, in the order of time; or why there are none."""
    cameras = sorted(set(clips.cameras), key=str)
    named = ", ".join(map(str, cameras)) or "none"
    if camera is not None:
        return clips.of(camera), None if camera in cameras else f"no vectors of camera {camera!r}; there are: {named}"
    if len(cameras) < 2:
        return clips, None
    parts = [clips.of(name) for name in cameras]
    first = parts[0]
    if any(not np.array_equal(part.starts, first.starts) for part in parts):
        return clips, f"cameras {named} show unlike steps; name one as camera"
    return replace(first, vectors=np.concatenate([part.vectors for part in parts], axis=1)), None


def _progress(vectors: np.ndarray, when: np.ndarray) -> tuple[np.ndarray | None, float | None, str | None]:
    """Progress [m] of each frame, its rank correlation with time, and why there is none of these."""
    far = distances(vectors, vectors[-1])
    if far[0] <= 1e-9 * max(float(far.max()), 1.0):
        return None, None, "the first frame is the last one again: there is no way to measure progress on"
    progress = 1 - far / far[0]
    if not np.ptp(progress):
        return progress, None, "progress is constant"
    ranks = [_ranks(values) for values in (progress, when)]
    return progress, float(np.corrcoef(*ranks)[0, 1]), None


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks float64 [m], of equal values the mean one."""
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(count) - (count - 1) / 2)[place]


def _rewards(vectors: np.ndarray, goals: np.ndarray, frame: np.ndarray) -> np.ndarray:
    """The shaped reward float32 [n] of every step, NaN for the last. ``frame`` int64 [n]: the frame that each shows."""
    rewards = np.full(len(frame), np.nan)
    before, after = frame[:-1], frame[1:]
    goal = goals[np.searchsorted(goals, after)]
    start, stop = (np.linalg.norm(vectors[at].astype(np.float64) - vectors[goal], axis=1) for at in (before, after))
    rewards[:-1] = start - stop
    return rewards.astype(np.float32)
