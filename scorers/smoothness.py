"""Smoothness: how evenly the robot moves, where it rests, how often it grips. Evidence, never the whole score.

Operators and policies differ in smoothness for good reasons, and it is the first thing to be fooled: a recording that
was smoothed, or stands still, measures well. Time comes from timestamps: positions are brought onto an even clock of
the median period, linearly between the steps that are there, and how much that bridged is said.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from data_engine.conventions.roles import parts
from data_engine.model import ACTION
from data_engine.reference import RawEpisode, Reference, episodes
from data_engine.scoring import EpisodeBatch, Fit, Metric, Resources, Scorer, ScoreRow, Span, Spec
from data_engine.view import View, fit_views
from scorers.kernels.loops import units
from scorers.kernels.smooth import high_frequency_ratio, log_dimensionless_jerk, spectral_arc_length
from scorers.motion import fast, path, speeds

__all__ = ["Smoothness"]

_REFERENCE_STEPS = 20_000
_MIN_STEPS = 5
_NEAR = 2.0  # fast steps


class Smoothness(Scorer):
    """Smoothness of the continuous state coordinates, each in units of its spread in the group's view.

    Metrics: ``log_dimensionless_jerk`` (the headline) and ``spectral_arc_length``, both higher where smoother and
    without a unit; ``high_frequency_ratio``, the share of the velocity's energy above ``split_hz``; ``pauses``, rests
    of at least ``pause_s`` seconds between motions, and ``pause_fraction`` of the time; ``gripper_cycles``, times that
    the command closes and opens again or the other way round; ``idle_start_s`` and ``idle_end_s``, seconds at rest that
    could be trimmed; ``settled_s``, seconds since anything was farther than two fast steps of its own (90 % quantile
    in the task) from where it ends, which a thing that trembles in place does not break; ``length``, the baseline.

    At rest is slower than ``still`` of the fast speed (90 % quantile) of the group's median episode, with no discrete
    coordinate changing. Spans: ``idle_start``, ``idle_end``, ``pause``; ``step_values``: speed, in units of that limit.
    Undefined below 5 finite steps, and each where it has no meaning (no motion, no gripper known, sampled too slowly).
    """

    split_hz: float = Field(default=2.0, gt=0)
    pause_s: float = Field(default=0.3, gt=0)
    still: float = Field(default=0.03, gt=0, lt=1)

    spec: ClassVar[Spec] = Spec(
        name="smoothness",
        version="3",
        level="episode",
        metrics=(
            Metric("log_dimensionless_jerk", "dimensionless", "higher"),
            Metric("spectral_arc_length", "dimensionless", "higher"),
            Metric("high_frequency_ratio", "share of energy", "lower"),
            Metric("pauses", "rests", "lower"),
            Metric("pause_fraction", "fraction of time", "lower"),
            Metric("gripper_cycles", "cycles", "neither"),
            Metric("idle_start_s", "s", "lower"),
            Metric("idle_end_s", "s", "lower"),
            Metric("settled_s", "s", "lower"),
            Metric("length", "steps", "neither"),
        ),
        resources=Resources(cpus=1),
    )

    def fit(
        self, batches: Iterable[EpisodeBatch], *, base: Fit | None = None, seed: int = 0, device: str = "cpu"
    ) -> Fit:
        """Learn each group's view, its usual speed and the range of its gripper commands."""
        reference = Reference(batches, seed=seed, budget=_REFERENCE_STEPS)
        views = fit_views(reference)
        return self.learned(
            reference.seen,
            seed=seed,
            base=base,
            meta={
                "views": {group: view.as_dict() for group, view in views.items()},
                "usual": {group: _usual(found, views[group]) for group, found in reference.groups.items()},
                "steps": {group: _fast_steps(found, views[group]) for group, found in reference.groups.items()},
            },
        )

    def score(self, batch: EpisodeBatch, fit: Fit, *, device: str = "cpu") -> list[list[ScoreRow]]:
        """Every metric of every episode."""
        views = {group: View(**found) for group, found in fit.meta["views"].items()}
        usual, steps = fit.meta["usual"], fit.meta["steps"]
        return [
            self._one(raw, views.get(raw.group), usual.get(raw.group), steps.get(raw.group, {}))
            for raw in episodes(batch)
        ]

    def _one(
        self, raw: RawEpisode, view: View | None, usual: Mapping[str, Any] | None, fast_steps: Mapping[str, list[float]]
    ) -> list[ScoreRow]:
        finite = int(raw.finite.sum()) if raw.problem is None else 0
        reason = raw.problem or (None if view else f"no reference for {raw.group}")
        if reason is None and finite < _MIN_STEPS:
            reason = f"only {finite} finite steps, of {_MIN_STEPS} at least"
        if reason is not None or view is None or usual is None:
            named = [metric.name for metric in self.spec.metrics if metric.name != "length"]
            rows = [ScoreRow(name, None, "undefined", reason) for name in named]
            return [*rows, ScoreRow("length", float(len(raw.state)))]
        when, position, levels, period = path(raw, view)
        rate = 1 / period
        even, bridged = _even(when, position, period)
        note = f"{bridged:.0%} of the time bridged across missing steps" if bridged > 0.01 else None
        velocity = np.diff(even, axis=0) * rate
        limit = self.still * float(usual["speed"])
        speed = speeds(when, position)
        still = (speed < limit) & ~_changes(levels)
        spans, times = self._rests(still, when, period)
        steps = np.full(len(raw.state), np.nan)
        steps[raw.finite] = speed / limit if limit > 0 else 0.0
        duration = float(when[-1] - when[0])
        pauses = [seconds for span, seconds in zip(spans, times, strict=True) if span.reason == "pause"]
        edge = {span.reason: seconds for span, seconds in zip(spans, times, strict=True)}
        row = np.flatnonzero(raw.finite)
        spans = tuple(Span(int(row[s.start]), int(row[s.stop - 1]) + 1, s.reason) for s in spans)
        jerk = log_dimensionless_jerk(even, rate)
        arc = spectral_arc_length(np.linalg.norm(velocity, axis=1), rate)
        high = high_frequency_ratio(velocity, rate, split=self.split_hz)
        cycles = _cycles(raw.action[raw.finite], usual["grippers"])
        return [
            _row("log_dimensionless_jerk", jerk, note, "no motion", steps.astype(np.float32), spans),
            _row("spectral_arc_length", arc, note, "no motion"),
            _row("high_frequency_ratio", high, note, f"no motion, or sampled at less than {2 * self.split_hz:g} Hz"),
            _row("pauses", float(len(pauses)), None, ""),
            _row("pause_fraction", sum(pauses) / duration if duration > 0 else None, None, "no time passes"),
            _row("gripper_cycles", cycles, None, "no action dimension is known as a gripper"),
            _row("idle_start_s", edge.get("idle_start", 0.0), None, ""),
            _row("idle_end_s", edge.get("idle_end", 0.0), None, ""),
            _row("settled_s", _settled(when, np.c_[position, levels], _of_task(fast_steps, raw.task)), None, ""),
            ScoreRow("length", float(len(raw.state))),
        ]

    def _rests(self, still: np.ndarray, when: np.ndarray, period: float) -> tuple[tuple[Span, ...], list[float]]:
        """The rests of at least ``pause_s`` [rows of finite steps] and their seconds. One that is all is a start."""
        edges = np.flatnonzero(np.diff(np.concatenate([[False], still, [False]]).astype(np.int8)))
        spans, times = [], []
        for start, stop in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
            seconds = float(when[stop - 1] - when[start]) + period
            if seconds < self.pause_s:
                continue
            reason = "idle_start" if start == 0 else "idle_end" if stop == len(still) else "pause"
            spans.append(Span(start, stop, reason))
            times.append(seconds)
        return tuple(spans), times


def _row(
    name: str,
    value: float | None,
    note: str | None,
    missing: str,
    step_values: np.ndarray | None = None,
    spans: tuple[Span, ...] = (),
) -> ScoreRow:
    if value is None:
        return ScoreRow(name, None, "undefined", missing, step_values, spans)
    return ScoreRow(name, value, reason=note, step_values=step_values, spans=spans)


def _even(when: np.ndarray, position: np.ndarray, period: float) -> tuple[np.ndarray, float]:
    """``position`` on an even clock, linearly, and the share of the time that lies in gaps of over 1.5 periods."""
    count = round((when[-1] - when[0]) / period) + 1
    clock = when[0] + np.arange(count) * period
    even = np.stack([np.interp(clock, when, column) for column in position.T], axis=1) if position.size else position
    gaps = np.diff(when)
    return even, float(gaps[gaps > 1.5 * period].sum() / max(when[-1] - when[0], 1e-12))


def _changes(levels: np.ndarray) -> np.ndarray:
    """bool [m]: a discrete coordinate changes to the next step."""
    changed = (np.diff(levels, axis=0) != 0).any(axis=1) if levels.shape[1] else np.zeros(max(len(levels) - 1, 0), bool)
    return np.append(changed, False)


def _usual(found: list[RawEpisode], view: View) -> dict[str, Any]:
    """The fast speed of the median episode, and (dimension, middle, quarter of the range) of each gripper command."""
    feature = found[0].dataset.feature(ACTION)
    named = {dim for part in (parts(feature) if feature else ()) if part.role == "gripper" for dim in part.components}
    actions = [raw.action[raw.finite] for raw in found]
    grippers = []
    for dim in sorted(named):
        low = float(np.median([x[:, dim].min() for x in actions]))
        high = float(np.median([x[:, dim].max() for x in actions]))
        if high > low:
            grippers.append([dim, (low + high) / 2, (high - low) / 4])
    return {"speed": fast(found, view), "grippers": grippers}


def _fast_steps(found: list[RawEpisode], view: View) -> dict[str, list[float]]:
    """How far each coordinate, the continuous ones first, goes in a fast step of each task, and under "" of all; 0 for
    one that rests."""
    discrete = np.array([levels for *_, levels in view.position], bool)
    discrete = np.r_[discrete[~discrete], discrete[discrete]]
    courses: dict[str, list[np.ndarray]] = {"": []}
    for raw in found:
        _, position, levels, _ = path(raw, view)
        for task in {raw.task, ""}:
            courses.setdefault(task, []).append(np.c_[position, levels])
    known = {task: units(several, discrete) for task, several in sorted(courses.items())}
    return {task: np.where(np.isfinite(unit), unit, 0.0).tolist() for task, unit in known.items()}


def _of_task(steps: Mapping[str, list[float]], task: str) -> np.ndarray:
    return np.array(steps.get(task, steps[""]))


def _settled(when: np.ndarray, course: np.ndarray, step: np.ndarray) -> float:
    """Seconds for which nothing is farther than ``_NEAR`` of its steps (``step`` [d]) from the end of ``course``."""
    off = np.abs(course - course[-1]) / np.where(step > 0, step, np.inf)
    far = np.flatnonzero((off > _NEAR).any(axis=1))
    return float(when[-1] - when[far[-1] if len(far) else 0])


def _cycles(action: np.ndarray, grippers: list[list[float]]) -> float | None:
    """Half the changes of side of all grippers' commands; a side begins a quarter of the range from the middle."""
    if not grippers:
        return None
    switches = 0
    for dim, middle, quarter in grippers:
        x = action[:, int(dim)] - middle
        sides = np.sign(x)[np.abs(x) >= quarter]
        switches += int((np.diff(sides) != 0).sum())
    return float(switches // 2)
