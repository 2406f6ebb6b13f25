"""Diversity: the ways in which episodes of a task go about it, and how varied a dataset or an operator is.

Jia et al., "Towards Diverse Behaviors" (D3IL, 2024) for behaviour entropy; Friedman and Dieng (2023) for the Vendi
score; Schweighofer et al., "A Dataset Perspective on Offline RL" (2022) for coverage; "Shortcut Learning in Generalist
Robot Policies" (2025) for diversity inside and disparity between datasets. A second way that succeeds is a
mode, not a defect, and more of anything is not always better: nothing here has a better direction.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from data_engine.reference import RawEpisode, Reference, episodes, key_of
from data_engine.scoring import EpisodeBatch, Fit, Metric, Resources, Scorer, ScoreRow, Spec
from data_engine.view import EpisodeView, View, fit_views
from scorers.kernels import diversity as kernel
from scorers.kernels.loops import units
from scorers.pool import MIN_EPISODES, REFERENCE_STEPS, usual

__all__ = ["Diversity"]

_POINTS = 16  # places along a course
_COURSES = 512  # courses of a group or a task that anything is measured on
_STARTS = 4  # kinds of start that behaviour is conditioned on
_SATURATED = 0.9  # of the steps in a cell of their own: coverage says nothing then
_STRETCHES = ((0, 16), (0, 8), (4, 12), (8, 16), *((at, at + 4) for at in range(0, 13, 2)))  # moments of a course
_APART = 0.11  # by how much clusters stand out that are modes
_EARLY = 0.25  # of the steps
_MOVING = 0.5  # of those
_PARTED = 160  # courses that modes are looked for in
_PER_START = 10  # episodes for each direction of the start that courses are relieved of


class Diversity(Scorer):
    """The mode of each episode, and measures of sets of episodes.

    A course is the positions of the view at 16 moments from beginning to end, relieved of what the start explains
    (ridge regression), in its leading principal directions. Two ways often part for a while only, so a task's modes are
    looked for in stretches of the course (the whole, halves and quarters of it), as displacements since the start of
    what moves from the beginning (half of the steps of the first quarter: the robot itself, and not what it handles),
    both as they are and relieved of the start: the stretch whose clusters stand out most against clouds without any
    decides, and there is one mode where none does by 0.11. An episode belongs to the nearest mode, or to none where its
    course lies farther out than those of the mode's own episodes do.

    Metrics: ``mode_id`` (0 is the commonest mode of the task); ``mode_share`` (of the task's reference episodes in it);
    ``length``. Of a set: ``vendi`` (effectively unlike courses), ``spread`` (mean squared distance of two courses over
    the reference's), ``behaviour_entropy`` (of modes, 0 to 1, mean over tasks) and ``behaviour_entropy_given_start``
    (the same inside like starts), ``coverage`` (cells of ``dims`` principal (state, action) directions, 100 bins each,
    over those of the reference), ``disparity`` (squared MMD) and ``disparity_sinkhorn`` to the reference's other
    episodes.
    """

    dims: int = Field(default=3, ge=1, le=6)

    spec: ClassVar[Spec] = Spec(
        name="diversity",
        version="4",
        level="episode",
        metrics=(
            Metric("mode_id", "number", "neither"),
            Metric("mode_share", "fraction of episodes", "neither"),
            Metric("length", "steps", "neither"),
        ),
        resources=Resources(cpus=1),
        set_metrics=(
            Metric("vendi", "episodes", "neither"),
            Metric("spread", "times the reference's", "neither"),
            Metric("behaviour_entropy", "0 to 1", "neither"),
            Metric("behaviour_entropy_given_start", "0 to 1", "neither"),
            Metric("coverage", "of the reference's cells", "neither"),
            Metric("disparity", "squared MMD", "neither"),
            Metric("disparity_sinkhorn", "squared view units", "neither"),
        ),
    )

    def fit(
        self, batches: Iterable[EpisodeBatch], *, base: Fit | None = None, seed: int = 0, device: str = "cpu"
    ) -> Fit:
        """Find the courses of each robot and the modes of each task."""
        reference = Reference(batches, seed=seed, budget=REFERENCE_STEPS)
        views = fit_views(reference)
        arrays: dict[str, np.ndarray] = {}
        groups: dict[str, dict[str, Any]] = {}
        for number, (group, raw) in enumerate(sorted(reference.groups.items())):
            found = [views[group].measure(episode) for episode in raw]
            found = _least([view for view in usual(found) if view.positions], seed)
            tasks = sorted({view.task for view in found})
            parts: dict[str, _Courses] = {}
            for task in dict.fromkeys(["", *tasks]):
                mine = [view for view in found if not task or view.task == task]
                if len(mine) >= MIN_EPISODES:
                    parts[task] = (
                        parts[""]
                        if task and len(tasks) == 1
                        else _Courses.fit(mine, seed, task in tasks or len(tasks) == 1)
                    )
            for place, (_, part) in enumerate(sorted(parts.items())):
                arrays |= {f"{number}.{place}.{name}": array for name, array in part.arrays().items()}
            cells = self._grid(found, arrays, f"{number}.grid") if "" in parts else 0
            groups[group] = {
                "view": views[group].as_dict(),
                "tasks": sorted(parts),
                "hashes": [view.motion_hash for view in found],
                "cells": cells,
            }
        return self.learned(
            reference.seen,
            seed=seed,
            base=base,
            arrays=arrays,
            meta={"groups": groups},
        )

    def score(self, batch: EpisodeBatch, fit: Fit, *, device: str = "cpu") -> list[list[ScoreRow]]:
        """The mode of every episode of ``batch``."""
        groups = _load(fit)
        return [self._rows(raw, groups) for raw in episodes(batch)]

    def score_set(self, batches: Iterable[EpisodeBatch], fit: Fit, *, device: str = "cpu") -> list[ScoreRow]:
        """The measures of a set of episodes as a whole; of its commonest robot where there are several."""
        groups = _load(fit)
        reference = Reference(batches, seed=fit.seed, budget=REFERENCE_STEPS)
        names = [metric.name for metric in self.spec.set_metrics]
        known = {
            group: raw for group, raw in reference.groups.items() if group in groups and "" in groups[group].courses
        }
        if not known:
            reason = f"no robot of the set has {MIN_EPISODES} reference episodes"
            return [ScoreRow(name, None, "undefined", reason) for name in names]
        name = max(sorted(known), key=lambda group: len(known[group]))
        note = None if len(reference.groups) == 1 else f"of {name} alone, one of {len(reference.groups)} robots"
        group = groups[name]
        found = _least([group.view.measure(raw) for raw in known[name]], fit.seed)
        values = self._measured(group, found, fit.seed)
        return [
            ScoreRow(metric, None, "undefined", value)
            if isinstance(value, str)
            else ScoreRow(metric, value, reason=note)
            for metric, value in zip(names, values, strict=True)
        ]

    def _rows(self, raw: RawEpisode, groups: Mapping[str, _Group]) -> list[ScoreRow]:
        length = ScoreRow("length", float(len(raw.state)))
        reason = raw.problem or (None if raw.finite.any() else "no finite step")
        if reason is None and (raw.group not in groups or not groups[raw.group].courses):
            reason = f"fewer than {MIN_EPISODES} reference episodes of {raw.group}"
        if reason is None:
            view = groups[raw.group].view.measure(raw)
            courses = groups[raw.group].of(view)
            mode = courses.mode(view) if courses else None
            if courses is not None and mode is not None:
                share = float(courses.sizes[mode] / courses.sizes.sum())
                return [ScoreRow("mode_id", float(mode)), ScoreRow("mode_share", share), length]
            reason = "novel: farther from every mode than its own episodes are"
            if courses is None:
                reason = f"fewer than {MIN_EPISODES} reference episodes of its task"
        return [*(ScoreRow(name, None, "undefined", reason) for name in ("mode_id", "mode_share")), length]

    def _measured(self, group: _Group, found: list[EpisodeView], seed: int) -> list[float | str]:
        """The set metrics in their order; a string says why there is no value."""
        whole = group.courses[""]
        courses = np.stack([whole.place(view) for view in found])
        inside = {view.motion_hash for view in found}
        rest = whole.points[[content not in inside for content in group.hashes]]
        few = f"fewer than {MIN_EPISODES} episodes"
        spread: float | str = few
        if len(courses) > 1:
            spread = _scatter(courses) / max(_scatter(whole.points), 1e-12)
        values: list[float | str] = [kernel.vendi(courses, whole.width), spread, *_entropies(group, found)]
        values.append(self._coverage(group, found))
        if min(len(courses), len(rest)) < MIN_EPISODES:
            return [*values, *(["the reference holds too few other episodes" if len(rest) < MIN_EPISODES else few] * 2)]
        return [
            *values,
            kernel.mmd(courses, rest, whole.width),
            kernel.sinkhorn(courses[:256], rest[:256], 0.1 * whole.width),
        ]

    def _grid(self, found: list[EpisodeView], arrays: dict[str, np.ndarray], prefix: str) -> int:
        """Keep the grid of the reference's steps in ``arrays``; how many of its cells they fill."""
        rows = np.concatenate([_both(view) for view in found]).astype(np.float64)
        centre = rows.mean(axis=0)
        _, vectors = np.linalg.eigh(np.cov(rows.T).reshape(rows.shape[1], -1))
        axes = vectors[:, ::-1][:, : self.dims]
        places = (rows - centre) @ axes
        low, high = places.min(axis=0), places.max(axis=0)
        arrays |= {f"{prefix}.centre": centre, f"{prefix}.axes": axes, f"{prefix}.ends": np.stack([low, high])}
        return len(kernel.occupied(places, low, high))

    def _coverage(self, group: _Group, found: list[EpisodeView]) -> float | str:
        places = (np.concatenate([_both(view) for view in found]) - group.centre) @ group.axes
        filled = len(kernel.occupied(places, *group.ends))
        if filled > _SATURATED * len(places):
            return f"saturated: {filled} cells for {len(places)} steps"
        return filled / max(group.cells, 1)


@dataclass(frozen=True)
class _Courses:
    """The courses of some reference episodes: how an episode's is made, where they lie (``points`` [E, p]), where modes
    part and lie there (``ways``), where modes lie as a whole (``centres`` [k, p], ``radii`` [k], ``sizes`` [k]), and
    kinds of start."""

    start: np.ndarray  # [d, s]: principal directions of the start
    explained: np.ndarray  # [s + 1, 16 d]: what the start says of the course
    axes: np.ndarray  # [16 d, p]
    points: np.ndarray
    centres: np.ndarray
    radii: np.ndarray
    sizes: np.ndarray
    stretch: np.ndarray  # [2]: first moment, and the one after the last, of the stretch in which modes part
    relieved: np.ndarray  # bool: modes part in what the start does not explain
    own: np.ndarray  # bool [d]: the coordinates that modes part in
    ways: np.ndarray  # [k, moments, own]: the mean displacement of each mode there
    starts: np.ndarray  # [kinds, s]
    width: float

    @staticmethod
    def fit(found: list[EpisodeView], seed: int, parted: bool) -> _Courses:
        """From at least five episodes in order of their content; of one mode all where not to be ``parted``."""
        courses = np.stack([_course(view) for view in found])
        begin = np.stack([view.state[0, : view.positions].astype(np.float64) for view in found])
        middle = begin.mean(axis=0)
        _, _, directions = np.linalg.svd(begin - middle, full_matrices=False)
        start = directions[: min(len(found) // _PER_START, len(directions))].T
        known = np.concatenate([np.ones((len(found), 1)), (begin - middle) @ start], axis=1)
        ridge = np.diag([0.0, *([1e-2 * len(found) * float(np.var(begin, axis=0).mean())] * start.shape[1])])
        explained = np.linalg.solve(known.T @ known + ridge + 1e-12 * np.eye(len(ridge)), known.T @ courses)
        explained[0] -= (middle @ start) @ explained[1:]  # so that a start is taken as it is
        rest = courses - np.concatenate([np.ones((len(found), 1)), begin @ start], axis=1) @ explained
        _, scale, vectors = np.linalg.svd(rest, full_matrices=False)
        power = np.cumsum(scale**2) / max(float((scale**2).sum()), 1e-300)
        axes = vectors[: min(int((power < 0.9).sum()) + 1, 8)].T
        points = rest @ axes
        own = _own(found)
        both = [_displaced(each.reshape(len(found), _POINTS, -1)[:, :, own]) for each in (courses, rest)]
        relieved, stretch, labels = _parting(both, _STRETCHES if parted else (), seed % 2**63)
        displaced = both[relieved]
        ways = np.stack([displaced[labels == mode].mean(axis=0) for mode in range(labels.max() + 1)])
        centres = np.stack([points[labels == mode].mean(axis=0) for mode in range(labels.max() + 1)])
        reach = np.sqrt(((points - centres[labels]) ** 2).sum(axis=1))
        radii = np.array([2 * np.quantile(reach[labels == mode], 0.95) for mode in range(len(centres))])
        kinds = kernel.clusters(begin @ start, seed=seed % 2**63) if start.shape[1] else np.zeros(len(found), np.int64)
        starts = np.stack(
            [(begin @ start)[kinds == kind].mean(axis=0) for kind in range(min(kinds.max() + 1, _STARTS))]
        )
        return _Courses(
            start=start,
            explained=explained,
            axes=axes,
            points=points,
            centres=centres,
            radii=radii,
            sizes=np.bincount(labels),
            stretch=np.array(stretch),
            relieved=np.array(relieved),
            own=own,
            ways=ways[:, slice(*stretch)],
            starts=starts,
            width=kernel.bandwidth(points),
        )

    def place(self, view: EpisodeView) -> np.ndarray:
        """Where the course of ``view`` lies, float64 [p]."""
        return self._rest(view) @ self.axes

    def _rest(self, view: EpisodeView) -> np.ndarray:
        """The course relieved of what its start explains, float64 [16 d]."""
        begin = view.state[0, : view.positions].astype(np.float64)
        return _course(view) - np.r_[1.0, begin @ self.start] @ self.explained

    def mode(self, view: EpisodeView) -> int | None:
        """The nearest mode where modes part, or None where the course as a whole is too far from it."""
        course = self._rest(view) if self.relieved else _course(view)
        moments = _displaced(course.reshape(1, _POINTS, -1)[:, :, self.own])[:, slice(*self.stretch)]
        near = int(((self.ways - moments) ** 2).sum(axis=(1, 2)).argmin())
        distance = np.sqrt(((self.centres[near] - self.place(view)) ** 2).sum())
        return near if distance <= self.radii[near] + 1e-9 else None

    def kind(self, view: EpisodeView) -> int:
        """The nearest kind of start."""
        begin = view.state[0, : view.positions].astype(np.float64) @ self.start
        return int(((self.starts - begin) ** 2).sum(axis=1).argmin())

    def arrays(self) -> dict[str, np.ndarray]:
        """What a fit keeps."""
        return {name: np.asarray(getattr(self, name)) for name in self.__dataclass_fields__}


@dataclass(frozen=True)
class _Group:
    """What a fit knows of one robot; ``courses`` by task, "" over all tasks."""

    view: View
    courses: Mapping[str, _Courses]
    hashes: list[str]
    centre: np.ndarray
    axes: np.ndarray
    ends: np.ndarray
    cells: int

    def of(self, view: EpisodeView) -> _Courses | None:
        """The courses of the episode's own task; None where they are too few."""
        return self.courses.get(view.task)


def _load(fit: Fit) -> dict[str, _Group]:
    groups = {}
    for number, (group, facts) in enumerate(sorted(fit.meta["groups"].items())):
        courses = {}
        for place, task in enumerate(facts["tasks"]):
            held = {name: fit.arrays[f"{number}.{place}.{name}"] for name in _Courses.__dataclass_fields__}
            courses[task] = _Courses(**{**held, "width": float(held["width"])})
        empty = np.zeros((0, 0))
        grid = [fit.arrays.get(f"{number}.grid.{name}", empty) for name in ("centre", "axes", "ends")]
        groups[group] = _Group(View(**facts["view"]), courses, list(facts["hashes"]), *grid, cells=facts["cells"])
    return groups


def _least(views: list[EpisodeView], seed: int) -> list[EpisodeView]:
    """At most ``_COURSES`` of those with a step, drawn by content, in order of content."""
    kept = sorted((v for v in views if len(v.state)), key=lambda view: key_of(seed, view.motion_hash, "course"))
    return sorted(kept[:_COURSES], key=lambda view: view.motion_hash)


def _course(view: EpisodeView) -> np.ndarray:
    """The positions at ``_POINTS`` moments from the first valid step to the last, float64 [16 d]."""
    position = view.state[:, : view.positions].astype(np.float64)
    moments = np.linspace(0, len(position) - 1, _POINTS)
    low = np.floor(moments).astype(np.int64)
    high = np.minimum(low + 1, len(position) - 1)
    part = (moments - low)[:, None]
    return ((1 - part) * position[low] + part * position[high]).ravel()


def _own(found: list[EpisodeView]) -> np.ndarray:
    """bool [d]: the positions that move in most steps of the beginning of the median episode, where things still lie;
    all of them where none does."""
    courses = [view.state[:, : view.positions].astype(np.float64) for view in found]
    unit = units(courses, np.zeros(courses[0].shape[1], bool))
    begun = [course[: max(int(_EARLY * len(course)), 4) + 1] for course in courses if len(course) > 1]
    moves = [(np.abs(np.diff(course, axis=0)) > 0.05 * unit).mean(axis=0) for course in begun]
    own = np.median(moves, axis=0) >= _MOVING if moves else np.zeros(len(unit), bool)
    return own if own.any() else np.ones(len(unit), bool)


def _displaced(courses: np.ndarray) -> np.ndarray:
    """``courses`` [E, 16, d] since their starts."""
    return courses - courses[:, :1]


def _parting(
    both: list[np.ndarray], stretches: Sequence[tuple[int, int]], seed: int
) -> tuple[bool, tuple[int, int], np.ndarray]:
    """Where displacements fall apart most: in the second of ``both`` ([E, 16, d] as they are, and relieved of the
    start) or in the first, in which of ``stretches``; and the mode of each episode, int64 [E]."""
    best, relieved, stretch, ways = _APART, False, _STRETCHES[0], both[0].mean(axis=0)[None]
    for number, displaced in enumerate(both):
        few = displaced[:_PARTED]
        for first, last in stretches:
            flat = few[:, first:last].reshape(len(few), -1)
            left, scale, _ = np.linalg.svd(flat - flat.mean(0), full_matrices=False)
            power = np.cumsum(scale**2) / max(float((scale**2).sum()), 1e-300)
            kept = min(int((power < 0.9).sum()) + 1, 8)
            apart, labels = kernel.parting(
                left[:, :kept] * scale[:kept], seed=seed, least=max(3, len(few) // 10), most=4, nulls=20, beat=best
            )
            if apart > best:
                best, relieved, stretch = apart, bool(number), (first, last)
                ways = np.stack([few[labels == mode].mean(axis=0) for mode in range(labels.max() + 1)])
    part = slice(*stretch)
    displaced = both[relieved]
    labels = ((displaced[:, None, part] - ways[None, :, part]) ** 2).sum(axis=(2, 3)).argmin(axis=1)
    order = np.argsort(-np.bincount(labels, minlength=len(ways)), kind="stable")
    return relieved, stretch, np.argsort(order)[labels]


def _both(view: EpisodeView) -> np.ndarray:
    return np.concatenate([view.state[:, : view.positions], view.action], axis=1)


def _scatter(points: np.ndarray) -> float:
    """The mean squared distance between two of ``points``."""
    return float(2 * points.var(axis=0, ddof=1).sum())


def _entropies(group: _Group, found: list[EpisodeView]) -> tuple[float | str, float | str]:
    """The entropy of modes, and the same inside like starts, each the mean over tasks weighed by their episodes."""
    plain, given, weights = [], [], []
    for task, courses in group.courses.items():
        mine = [view for view in found if view.task == task]
        modes = [(courses.mode(view), courses.kind(view)) for view in mine]
        known = np.array([pair for pair in modes if pair[0] is not None], dtype=np.int64).reshape(-1, 2)
        if not len(known):
            continue
        base = len(courses.centres)
        weights.append(len(known))
        plain.append(kernel.entropy(np.bincount(known[:, 0], minlength=base), base))
        parts = [known[known[:, 1] == kind, 0] for kind in np.unique(known[:, 1])]
        inside = [kernel.entropy(np.bincount(part, minlength=base), base) for part in parts]
        given.append(float(np.average(inside, weights=[len(part) for part in parts])))
    if not weights:
        reason = "no episode of the set is of a known mode"
        return reason, reason
    return float(np.average(plain, weights=weights)), float(np.average(given, weights=weights))
