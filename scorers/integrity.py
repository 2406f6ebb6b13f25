"""Integrity: is the recording what it claims to be? Defects per episode and step range, each with a reason code.

Limits are learned from the reference set as quantiles over episodes, so that no bad episode sets its own limit; angles
count as sin and cos, so that a wrap is no teleport. A defect is evidence, not a verdict: thresholds lie in selections.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from pydantic import Field

from data_engine.model import ACTION, STATE, TIMESTAMP
from data_engine.reference import RawEpisode, Reference, episodes, matrix
from data_engine.scoring import EpisodeBatch, Fit, Metric, Needs, Resources, Scorer, ScoreRow, Span, Spec
from data_engine.view import View, fit_views
from scorers.footage import Footage
from scorers.pool import MIN_EPISODES

__all__ = ["Integrity"]

_REFERENCE_STEPS = 20_000
_AHEAD = 0.7  # of a long course still to come where a beginning of it ends
Found = tuple[np.ndarray, str]  # bool [n] steps, reason code


class Integrity(Scorer):
    """Defects that show without knowing the task.

    Reason codes: ``missing_state``, ``missing_action``, ``wrong_shape``, ``wrong_dtype`` (against the declared
    features), ``too_short`` (under ``min_steps`` or a quarter of the median length of the task's others; where most are
    short, of those that the short ones are beginnings of, if there are five),
    ``not_finite``, ``time_not_increasing``, ``time_gap`` (over 1.5 periods late), ``time_jitter`` (over ``jitter`` of a
    period off), ``frozen_state`` (the same state for ``freeze_s`` and five steps while the action changes),
    ``constant_action`` (a dimension still all through that moves in 95 % of episodes), ``saturated_action`` (at a limit
    in more than half its steps, and half as often again as 95 % of episodes), ``out_of_range`` (beyond the reference's
    range by all its width), ``teleport`` (a jump over five times that of 95 % of episodes).

    Of cameras, each with the camera's name behind it: ``black_frames``, ``undecodable_frames``, ``frozen_frames`` (the
    same picture for ``freeze_s`` and five steps while the robot moves: three in five dimensions of the state, or a
    quarter of the state's and three in five of the action's, by a tenth of their usual range at least),
    ``missing_camera`` (the episode has video of others). They are found on ``frames`` samples spread over the episode,
    the first and last step among them, and told as stretches of steps: between a sound sample and a bad one the border
    is sought by halving, which takes one border to lie between them. So a black or undecodable stretch is sure to be
    seen from 1 / (``frames`` - 1) of the episode on, a shorter one where a sample falls into it; a frozen one needs two
    samples, and the robot to move between them; a rest just before counts in. Frozen is not told from still where the
    robot moves out of sight of a camera without noise, and is missed where coarse coding makes equal pictures differ.

    Cameras that show another's view are seen by ``views``, which looks at every stored vector. Frames are counted
    against steps by the ingest, which quarantines an episode that lacks one; its receipt says which videos hold more,
    and where codec, size, rate, pixel format or length are not as declared. Near copies are seen by ``duplicates``.

    Metrics: ``defect_fraction`` (steps in any defect, of all), ``defects`` (spans), ``copies`` (recordings of this
    exact content in the reference; more than 1 is a ``duplicate`` span, which counts as no defect: else the original
    would be lost with its copy), ``length``.
    """

    min_steps: int = Field(default=8, ge=1)
    jitter: float = Field(default=0.3, gt=0)
    freeze_s: float = Field(default=0.5, gt=0)
    frames: int = Field(default=8, ge=0, le=64)

    spec: ClassVar[Spec] = Spec(
        name="integrity",
        version="4",
        level="episode",
        metrics=(
            Metric("defect_fraction", "fraction of steps", "lower"),
            Metric("defects", "spans", "lower"),
            Metric("copies", "recordings", "neither"),
            Metric("length", "steps", "neither"),
        ),
        needs=Needs(frames=True),
        resources=Resources(cpus=1),
    )

    def fit(
        self, batches: Iterable[EpisodeBatch], *, base: Fit | None = None, seed: int = 0, device: str = "cpu"
    ) -> Fit:
        """Learn usual ranges, jumps and lengths from the reference, and which contents it holds more than once."""
        reference = Reference(batches, seed=seed, budget=_REFERENCE_STEPS)
        views = fit_views(reference)
        copies = {content: count for content, count in Counter(reference.seen).items() if count > 1}
        return self.learned(
            reference.seen,
            seed=seed,
            base=base,
            meta={
                "views": {group: view.as_dict() for group, view in views.items()},
                "limits": {group: _limits(found, views[group]) for group, found in reference.groups.items()},
                "copies": copies,
            },
        )

    def score(self, batch: EpisodeBatch, fit: Fit, *, device: str = "cpu") -> list[list[ScoreRow]]:
        """Every defect of every episode. Never raises for what it finds."""
        declared = list(_declared(batch))
        times = matrix(batch, TIMESTAMP)
        known = set(fit.reference)
        rows = []
        for i, (raw, span) in enumerate(zip(episodes(batch), batch, strict=True)):
            n = span.stop - span.start
            found = [(np.ones(n, bool), reason) for reason in declared]
            found += self._recorded(raw, n, fit)
            if times is not None:
                found += _times(times[span, 0], batch.dataset.fps, self.jitter)
            found += self._cameras(batch, i, raw, span, fit)
            copies = fit.meta["copies"].get(raw.content_hash, int(raw.content_hash in known))
            rows.append(_rows(n, found, copies))
        return rows

    def _recorded(self, raw: RawEpisode, n: int, fit: Fit) -> Iterator[Found]:
        """What states and actions show, alone and against the group's limits."""
        every = np.ones(n, bool)
        limits = fit.meta["limits"].get(raw.group)
        shortest = limits["shortest"].get(raw.task, 0) if limits else 0
        if n < max(self.min_steps, shortest):
            yield every, "too_short"
        if raw.problem is not None or not n:
            return
        finite = raw.finite
        yield ~finite, "not_finite"
        still = np.zeros(n, bool)
        still[1:] = (np.diff(raw.state, axis=0) == 0).all(axis=1)
        for start, stop in _runs(still):
            if stop - start >= self._least(raw.dataset.fps) and np.ptp(raw.action[start - 1 : stop], axis=0).max() > 0:
                yield _steps(n, start - 1, stop), "frozen_state"
        if limits is None:
            return
        state, action = View(**fit.meta["views"][raw.group]).unfolded(raw)
        state, action = state[finite], action[finite]
        outside = np.zeros(n, bool)
        outside[finite] = _beyond(state, limits["state"]) | _beyond(action, limits["action"])
        yield outside, "out_of_range"
        jumped = np.zeros(n, bool)
        after = np.flatnonzero(finite)[1:]
        jumped[after] = (np.abs(np.diff(state, axis=0)) > np.array(limits["jump"])).any(axis=1)
        jumped[after[np.diff(np.flatnonzero(finite)) > 1]] = False
        yield jumped, "teleport"
        recorded = raw.action[finite]
        if len(recorded) >= self.min_steps:
            constant = (np.ptp(recorded, axis=0) == 0) & np.array(limits["moves"])
            if constant.any():
                yield every, "constant_action"
            low, high = np.array(limits["bounds"])
            at = (recorded <= low) | (recorded >= high)
            dims = (at.mean(axis=0) > np.array(limits["saturation"])) & ~constant
            saturated = np.zeros(n, bool)
            saturated[finite] = at[:, dims].any(axis=1)
            yield saturated, "saturated_action"

    def _cameras(self, batch: EpisodeBatch, i: int, raw: RawEpisode, span: slice, fit: Fit) -> Iterator[Found]:
        """Stretches of each camera that are black, frozen or undecodable, and cameras that the episode lacks."""
        n, shown = span.stop - span.start, batch.frames
        if shown is None or not self.frames or n == 0:
            return
        filmed = _filmed(batch, i)
        motion = _motion(raw, fit)
        for camera in batch.dataset.cameras:
            if filmed is not None and camera not in filmed:
                if filmed:  # a recording without any video is one of states and actions
                    yield np.ones(n, bool), f"missing_camera {camera}"
                continue
            clock = matrix(batch, f"frame_time.{camera}")
            clock = matrix(batch, TIMESTAMP) if clock is None else clock
            times = np.arange(n) / batch.dataset.fps if clock is None else clock[span, 0]
            footage = Footage(partial(shown, i, camera), times, motion)
            for start, stop, code in footage.defects(self.frames, self._least(batch.dataset.fps)):
                yield _steps(n, start, stop), f"{code} {camera}"

    def _least(self, fps: float) -> int:
        """Steps from which on what does not change is frozen."""
        return max(5, round(self.freeze_s * fps))


def _filmed(batch: EpisodeBatch, i: int) -> set[str] | None:
    """The cameras that episode ``i`` has video of; None where that is not said."""
    if "videos" not in batch.episodes.column_names:
        return None
    return {video["camera"] for video in batch.episodes["videos"][i].as_py() or ()}


def _motion(raw: RawEpisode, fit: Fit) -> tuple[np.ndarray, np.ndarray] | None:
    """State and action in units of their dimensions' usual ranges (the episode's own without a reference)."""
    if raw.problem is not None:
        return None
    limits = fit.meta["limits"].get(raw.group)
    if limits is None:
        return _in_ranges(raw.state), _in_ranges(raw.action)
    state, action = View(**fit.meta["views"][raw.group]).unfolded(raw)
    return _in_ranges(state, limits["state"]), _in_ranges(action, limits["action"])


def _in_ranges(x: np.ndarray, limits: list[list[float]] | None = None) -> np.ndarray:
    """float64 [n, d]: those dimensions of ``x`` that vary, in units of how far; NaN where it is not finite."""
    x = np.where(np.isfinite(x), x, np.nan)
    low, high = np.array(limits or [np.fmin.reduce(x), np.fmax.reduce(x)])
    varies = high > low
    return x[:, varies] / (high - low)[varies]


def _declared(batch: EpisodeBatch) -> Iterator[str]:
    """Reason codes of the columns that are absent or not as the dataset's features declare them."""
    for column, missing in ((STATE, "missing_state"), (ACTION, "missing_action")):
        values = matrix(batch, column) if column in batch.steps.column_names else None
        if values is None:
            yield missing
            continue
        feature = batch.dataset.feature(column)
        if feature is None:
            continue
        if len(values) and values.shape[1] != feature.size:
            yield "wrong_shape"
        kind = batch.steps.schema.field(column).type
        while pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
            kind = kind.value_type
        if pa.types.is_floating(kind) != feature.dtype.startswith("float"):
            yield "wrong_dtype"


def _times(times: np.ndarray, fps: float, jitter: float) -> Iterator[Found]:
    periods = np.full(len(times), np.nan)
    periods[1:] = np.diff(times) * fps
    back = periods <= 0
    gap = periods > 2.5
    yield back | ~np.isfinite(times), "time_not_increasing"
    yield gap, "time_gap"
    yield (np.abs(periods - 1) > jitter) & ~back & ~gap, "time_jitter"


def _limits(found: list[RawEpisode], view: View) -> dict[str, Any]:
    """What is usual in one group, as plain JSON: quantiles over episodes of each episode's own extremes."""
    unfolded = [tuple(x[raw.finite] for x in view.unfolded(raw)) for raw in found]
    recorded = [raw.action[raw.finite] for raw in found]
    ranges = {name: _range([parts[i] for parts in unfolded]) for i, name in enumerate(("state", "action"))}
    jumps = [np.abs(np.diff(state, axis=0)).max(axis=0) for state, _ in unfolded if len(state) > 1]
    width = np.array(ranges["state"][1]) - np.array(ranges["state"][0])
    jump = np.maximum(5 * np.quantile(jumps, 0.95, axis=0), 0.5 * width) if jumps else np.full(len(width), np.inf)
    jump = np.where(jump > 0, jump, np.finfo(np.float64).max)  # a dimension at rest everywhere: out_of_range sees to it
    low = np.quantile([x.min(axis=0) for x in recorded], 0.1, axis=0)
    high = np.quantile([x.max(axis=0) for x in recorded], 0.9, axis=0)
    at = np.quantile([((x <= low) | (x >= high)).mean(axis=0) for x in recorded], 0.95, axis=0)
    by_task: dict[str, list[RawEpisode]] = {}
    for raw in found:
        by_task.setdefault(raw.task, []).append(raw)
    return {
        **ranges,
        "jump": jump.tolist(),
        "bounds": [low.tolist(), high.tolist()],
        "saturation": np.maximum(0.5, 1.5 * at).tolist(),
        "moves": (np.mean([np.ptp(x, axis=0) > 0 for x in recorded], axis=0) >= 0.95).tolist(),
        "shortest": {task: _shortest(own, view) for task, own in by_task.items()},
    }


def _shortest(own: list[RawEpisode], view: View) -> float:
    """A quarter of the median length of a task's episodes, those below it left out, as they would lower it; of the long
    ones alone, where most are beginnings of those.
    """
    lengths = np.array([len(raw.state) for raw in own])
    long = lengths > 4 * np.median(lengths)
    if long.sum() >= MIN_EPISODES and _begins(own, ~long, long, view):
        lengths = lengths[long]
    while (lengths < np.median(lengths) / 4).any():
        lengths = lengths[lengths >= np.median(lengths) / 4]
    return float(np.median(lengths) / 4)


def _begins(own: list[RawEpisode], short: np.ndarray, long: np.ndarray, view: View) -> bool:
    """Whether most of the ``short`` [E] episodes end where the ``long`` ones [E] have most of their way before them, by
    the quarter of those that come nearest. Who is done early ends where the others end too, or where none of them is.
    """
    from scorers.kernels.phases import phases  # torch: seconds that most sets never need

    measured = [view.measure(raw) for raw in own]
    courses = [one.state[:, : one.positions] for one in measured]
    if not courses[0].shape[1]:
        return False
    ends = np.stack([course[-1] for course, of in zip(courses, short, strict=True) if of])
    others = [course for course, of in zip(courses, long, strict=True) if of]
    distance, phase = phases(ends, np.concatenate(others), np.r_[0, np.cumsum([len(course) for course in others])])
    near = np.argsort(distance, axis=1, kind="stable")[:, : max(3, len(others) // 4)]
    return bool(np.median(1 - np.take_along_axis(phase, near, axis=1).mean(axis=1)) >= _AHEAD)


def _range(found: list[np.ndarray]) -> list[list[float]]:
    low = np.quantile([x.min(axis=0) for x in found], 0.05, axis=0)
    high = np.quantile([x.max(axis=0) for x in found], 0.95, axis=0)
    return [low.tolist(), high.tolist()]


def _beyond(x: np.ndarray, limits: list[list[float]]) -> np.ndarray:
    """bool [n]: rows with a value farther outside [low, high] than it is wide (for a constant: than its own size)."""
    low, high = np.array(limits)
    slack = np.where(high > low, high - low, np.maximum(np.abs(low), 1.0))
    return ((x < low - slack) | (x > high + slack)).any(axis=1)


def _runs(flags: np.ndarray) -> list[tuple[int, int]]:
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(np.int8)))
    return [(int(start), int(stop)) for start, stop in zip(edges[::2], edges[1::2], strict=True)]


def _steps(n: int, start: int, stop: int) -> np.ndarray:
    flags = np.zeros(n, bool)
    flags[start:stop] = True
    return flags


def _rows(n: int, found: list[Found], copies: int) -> list[ScoreRow]:
    flagged = np.zeros(n, bool)
    spans = []
    reasons: Mapping[str, None] = {reason: None for flags, reason in found if flags.any() or n == 0}
    for flags, reason in found:
        flagged |= flags
        spans += [Span(start, stop, reason) for start, stop in _runs(flags)]
    summary = ", ".join(reasons) or None
    twice = (Span(0, n, "duplicate"),) if copies > 1 else ()
    fraction = float(flagged.mean()) if n else 1.0
    return [
        ScoreRow(
            "defect_fraction",
            fraction,
            reason=summary,
            step_values=flagged.astype(np.float32),
            spans=(*sorted(spans, key=lambda span: (span.start, span.stop, span.reason)), *twice),
        ),
        ScoreRow("defects", float(len(spans) if n else 1), reason=summary),
        ScoreRow("copies", float(copies), reason="duplicate" if copies > 1 else None),
        ScoreRow("length", float(n)),
    ]
