"""Extraneous spans: pauses, detours and rests that lead back to where they began, and that others do not make there.

After Zhang et al., "Extraneousness-Aware Imitation Learning" (2023): other episodes of the task vote on each step by
the like steps that they have, state and action together. What they vote on is not the paper's moving reference, which
lost recorded pauses altogether, and not a time warping either, which needs everybody to go one way: it is a loop, a
stretch after which everything, objects included, is where it was (:mod:`scorers.kernels.loops`). What lies between can
be cut out without a seam. People loop as well where a task wants it (they wait for a gripper, they push twice), so a
loop counts by the time that it loses beyond what others lose at like steps. The keep mask is evidence: no action chunk
may span a cut.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from data_engine.reference import RawEpisode, Reference, episodes, key_of
from data_engine.scoring import EpisodeBatch, Fit, Metric, Resources, Scorer, ScoreRow, Span, Spec
from data_engine.view import EpisodeView, View, fit_views
from scorers.kernels.loops import ahead, best_cuts, driven, gaps, lost, response_lag, through, units
from scorers.kernels.phases import nearest_of_each

__all__ = ["Extraneous"]

_REFERENCE_STEPS = 20_000
_MIN_STEPS = 8
_LEAST_STEPS = 5  # fewer are no loop, at whatever rate
_LONGEST_S = 10.0
_LONGEST = 512  # steps of a loop, at whatever rate
_MOST_STEPS = 50_000  # of an episode: 400 MB at once, at 50 Hz and above
_PLACES = 8192  # reference steps that vote
_WIDEST = 2.0  # fast steps that a loop may stay open by
_USUAL = 1.0  # the same, where there are too few episodes to tell
_AHEAD = 0.7  # of the robot's lag: how far ahead it is looked; the rest of it, a cut comes earlier
_SHARE = 0.5  # of the tolerance at which the median episode begins to lose steps
_HALVINGS = 6
_CALIBRATION = 33  # episodes of a task that it is found on


class Extraneous(Scorer):
    """The steps of the loops in which an episode loses at least ``least_s`` seconds (five steps at least) more than
    half of ``others`` reference episodes of its task do, each at its own likest step. One vote an episode: the likest
    steps of a pause are those of another pause, and the few that pause would outvote the many who do not.

    A loop is closed where no coordinate is farther from where it was than a tolerance, in fast steps of that coordinate
    (its 90 % quantile), or than two fifths of how far it strayed, and no discrete one changed. The tolerance is the
    task's own: half of that at which its median episode would begin to lose steps (2 fast steps at most, 1 where there
    are fewer than 5 episodes). What actions move is taken to be where it will be 0.7 of the robot's lag later; by the
    rest of the lag a cut begins and ends earlier than the motion, for it takes out what was commanded in the loop.

    Metrics: ``dropped_fraction``, the share of the steps in such loops; ``confidence``, how many of the votes on them
    lose less than half as long, null where nothing is dropped; ``length``. ``step_values``: the keep mask, 1 keep and 0
    drop; NaN where a step is not finite. Spans: ``extraneous``.

    Undefined below 8 finite steps, above 50,000, where nothing moves, and where no other episode of the task is in the
    reference. Time and memory grow with steps times the steps of ten seconds (512 at most), and time with steps times
    the reference's (8,192 at most).
    """

    others: int = Field(default=32, ge=1, le=128)
    least_s: float = Field(default=0.25, gt=0)

    spec: ClassVar[Spec] = Spec(
        name="extraneous",
        version="4",
        level="episode",
        metrics=(
            Metric("dropped_fraction", "fraction of steps", "lower"),
            Metric("confidence", "share of votes", "higher"),
            Metric("length", "steps", "neither"),
        ),
        resources=Resources(cpus=1),
    )

    def fit(
        self, batches: Iterable[EpisodeBatch], *, base: Fit | None = None, seed: int = 0, device: str = "cpu"
    ) -> Fit:
        """Draw the episodes of each task that vote, one more than needed for its own turn; learn pace and tolerance."""
        reference = Reference(batches, seed=seed, budget=_REFERENCE_STEPS)
        views = fit_views(reference)
        arrays: dict[str, np.ndarray] = {}
        kept: list[dict[str, Any]] = []
        for group, found in reference.groups.items():
            for task in sorted({raw.task for raw in found}):
                own = [raw for raw in found if raw.task == task and _MIN_STEPS <= raw.finite.sum() <= _MOST_STEPS]
                own = sorted(own, key=lambda raw: key_of(seed, raw.motion_hash, "extraneous"))[: self.others + 1]
                if own:
                    habits = self._learn(own, views[group], device)
                    arrays |= {f"{len(kept)}.{name}": getattr(habits, name) for name in _ARRAYS}
                    kept.append({"group": group, "task": task, **{name: getattr(habits, name) for name in _FACTS}})
        return self.learned(
            reference.seen,
            seed=seed,
            base=base,
            arrays=arrays,
            meta={"views": {group: view.as_dict() for group, view in views.items()}, "tasks": kept},
        )

    def _learn(self, found: list[RawEpisode], view: View, device: str) -> _Habits:
        measured = [view.measure(raw) for raw in found]
        courses, actions = [_course(one) for one in measured], [one.action for one in measured]
        levels = np.array([levels for *_, levels in view.position], bool)
        fps = found[0].dataset.fps
        lag = response_lag(courses, actions, units(courses, levels), min(round(fps / 2), 10))
        lead = _AHEAD * lag * (driven(courses, actions) & ~levels)
        courses = [ahead(course, lead) for course in courses]
        unit = units(courses, levels)
        spread = [gaps(course, unit, _longest(fps)) for course in courses]
        habits = _Habits(
            unit=unit,
            place=_thinned(np.concatenate([_embedding(one) for one in measured])),
            owner=_thinned(np.repeat(np.arange(len(found)), [len(course) for course in courses])),
            lost=_thinned(np.zeros(sum(map(len, courses)), np.float32)),
            contents=[raw.motion_hash for raw in found],
            lead=lead,
            lag=round((1 - _AHEAD) * lag) if lead.any() else lag,
            reach=_USUAL,
        )
        if len(found) >= 5:
            low, high = 0.0, _WIDEST / _SHARE
            votes = [habits.votes(one, device) for one in measured[:_CALIBRATION]]
            for _ in range(_HALVINGS):
                reach = (low + high) / 2
                losses = [lost(gap, reach) for gap in spread]
                habits = habits.at(reach, losses)
                dropped = [
                    bool((loss > self._charge(vote, habits, fps)[:, None]).any())
                    for loss, vote in zip(losses, votes, strict=False)
                    if len(vote)
                ]
                low, high = (low, reach) if np.mean(dropped) > 0.5 else (reach, high)
            reach = _SHARE * low
        else:
            reach = _USUAL
        return habits.at(reach, [lost(gap, reach) for gap in spread])

    def score(self, batch: EpisodeBatch, fit: Fit, *, device: str = "cpu") -> list[list[ScoreRow]]:
        """Hold each episode against the others of its task, its own recording left out."""
        views = {group: View(**found) for group, found in fit.meta["views"].items()}
        tasks = {}
        for number, facts in enumerate(fit.meta["tasks"]):
            arrays = {name: fit.arrays[f"{number}.{name}"] for name in _ARRAYS}
            tasks[facts["group"], facts["task"]] = _Habits(**arrays, **{name: facts[name] for name in _FACTS})
        return [
            self._one(raw, views.get(raw.group), tasks.get((raw.group, raw.task)), device) for raw in episodes(batch)
        ]

    def _one(self, raw: RawEpisode, view: View | None, habits: _Habits | None, device: str) -> list[ScoreRow]:
        reason = raw.problem
        if reason is None and raw.finite.sum() < _MIN_STEPS:
            reason = f"only {int(raw.finite.sum())} finite steps, of {_MIN_STEPS} at least"
        if reason is None and raw.finite.sum() > _MOST_STEPS:
            reason = f"more than {_MOST_STEPS} steps"
        if reason is None and habits is not None and not np.isfinite(habits.unit).any():
            reason = "nothing moves in the reference of its task"
        if reason is None and (habits is None or not set(habits.contents) - {raw.motion_hash}):
            reason = "no other episode of its task in the reference"
        length = ScoreRow("length", float(len(raw.state)))
        if reason is not None or view is None or habits is None:
            return [ScoreRow(name, None, "undefined", reason) for name in ("dropped_fraction", "confidence")] + [length]
        measured = view.measure(raw)
        spread = gaps(ahead(_course(measured), habits.lead), habits.unit, _longest(raw.dataset.fps))
        votes = habits.votes(measured, device)
        cuts = best_cuts(lost(spread, habits.reach), self._charge(votes, habits, raw.dataset.fps))
        rows = np.flatnonzero(raw.finite)
        keep = np.full(len(raw.state), np.nan)
        keep[rows] = 1.0
        spans = []
        for start, stop in cuts:
            start, stop = max(start - habits.lag, 0), max(stop - habits.lag, 1)
            keep[rows[start:stop]] = 0.0
            spans.append(Span(int(rows[start]), int(rows[stop - 1]) + 1, "extraneous"))
        agreed = [habits.lost[votes[start]] < (stop - start) / 2 for start, stop in cuts]
        sure = float(np.concatenate(agreed).mean()) if cuts else None
        return [
            ScoreRow(
                "dropped_fraction",
                float((keep == 0).sum()) / len(rows),
                step_values=keep.astype(np.float32),
                spans=tuple(spans),
            ),
            ScoreRow("confidence", sure, "ok" if cuts else "undefined", None if cuts else "nothing is dropped"),
            length,
        ]

    def _charge(self, votes: np.ndarray, habits: _Habits, fps: float) -> np.ndarray:
        """[n]: what a loop from each finite step on has to lose, the others' usual loss and ``least_s``."""
        usual = np.median(habits.lost[votes], axis=1) if votes.shape[1] else np.zeros(len(votes))
        return usual + max(self.least_s * fps, _LEAST_STEPS)


_ARRAYS = ("unit", "lead", "place", "owner", "lost")
_FACTS = ("contents", "lag", "reach")


@dataclass(frozen=True)
class _Habits:
    """What is known of a task: a fast step of each coordinate (``unit`` [d]) and how many steps ahead it is looked
    (``lead`` [d]); where its reference steps are (``place`` float32 [m, ds + da]), whose (``owner`` [m], an index into
    ``contents``), and how many the loop through each loses (``lost`` float32 [m]); by how many steps a cut is earlier
    than the loop (``lag``); how far open a loop may be (``reach``)."""

    unit: np.ndarray
    lead: np.ndarray
    place: np.ndarray
    owner: np.ndarray
    lost: np.ndarray
    contents: list[str]
    lag: int
    reach: float

    def at(self, reach: float, losses: list[np.ndarray]) -> _Habits:
        """The same with another ``reach``; ``losses``: what the loops of each reference episode lose at it."""
        found = np.concatenate([through(loss) for loss in losses])
        return replace(self, lost=_thinned(found), reach=reach)

    def votes(self, view: EpisodeView, device: str) -> np.ndarray:
        """For each step the likest one of each other reference episode, int64 [n, others], a row of ``place``."""
        edges = np.searchsorted(self.owner, np.arange(len(self.contents) + 1))
        _, index = nearest_of_each(_embedding(view), self.place, edges, device)
        others = np.array([content != view.motion_hash for content in self.contents])
        return index[:, others & (np.diff(edges) > 0)]


def _longest(fps: float) -> int:
    return int(np.clip(round(_LONGEST_S * fps), _LEAST_STEPS + 1, _LONGEST))


def _thinned(rows: np.ndarray) -> np.ndarray:
    """Every so many of ``rows``, so that at most ``_PLACES`` are left."""
    return rows[:: -(-len(rows) // _PLACES)]


def _course(view: EpisodeView) -> np.ndarray:
    """Where everything is at each finite step, float64 [m, d]."""
    return view.state[:, : view.positions].astype(np.float64)


def _embedding(view: EpisodeView) -> np.ndarray:
    """State and action of each finite step, float32 [m, ds + da], each block of one size."""
    return np.concatenate([view.state, view.action], axis=1)
