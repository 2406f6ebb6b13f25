"""Ending: does an episode end where others of its task do, or in the midst of what they do?

Who gives up, misses the object or loses it leaves things as others have them before they are done. So each end is
looked up in the other episodes: the phase of their nearest steps says how far they were there (nearest-neighbour phase,
as in Dwibedi et al., "Temporal Cycle-Consistency Learning", 2019). Neither success nor a goal has to be known, and the
many who fail do not make it an end: where a task is failed by most, what they leave behind is still what the others
began with.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from data_engine.reference import RawEpisode, Reference, episodes
from data_engine.scoring import EpisodeBatch, Fit, Metric, Resources, Scorer, ScoreRow, Spec
from data_engine.view import View, fit_views
from scorers.kernels.phases import phases
from scorers.pool import MIN_EPISODES, REFERENCE_STEPS

__all__ = ["Ending"]

_NOWHERE = 0.35  # of a course still to go at the better ends of a task: its ends are no place of their own


class Ending(Scorer):
    """How much of others' courses is still to come where an episode ends.

    ``unfinished``: 1 - the mean phase of the nearest step in each of the ``share`` of the task's other reference
    episodes (three at least) that come nearest to the episode's last finite step, by position in the view, things
    included: about 0 where others end, about 0.5 where it could be anywhere. ``length``, the baseline.

    Undefined without 5 other episodes of the task in the reference, and ``unobservable`` where a quarter of those, each
    held against the rest, are not below 0.35: then what is recorded does not show when the task is done. O(steps of the
    reference) an episode.
    """

    share: float = Field(default=0.25, gt=0, le=1)

    spec: ClassVar[Spec] = Spec(
        name="ending",
        version="2",
        level="episode",
        metrics=(
            Metric("unfinished", "share of a course", "lower"),
            Metric("length", "steps", "neither"),
        ),
        resources=Resources(cpus=1),
    )

    def fit(
        self, batches: Iterable[EpisodeBatch], *, base: Fit | None = None, seed: int = 0, device: str = "cpu"
    ) -> Fit:
        """Keep the courses of each task, and how much of them is still to come at their better ends."""
        reference = Reference(batches, seed=seed, budget=REFERENCE_STEPS)
        views = fit_views(reference)
        arrays: dict[str, np.ndarray] = {}
        kept: list[dict[str, Any]] = []
        for group, found in sorted(reference.groups.items()):
            for task in sorted({raw.task for raw in found}):
                own = [raw for raw in found if raw.task == task]
                courses = [_course(raw, views[group]) for raw in own]
                if not courses[0].shape[1]:
                    continue
                edges = np.r_[0, np.cumsum([len(course) for course in courses])]
                task_s = _Task(np.concatenate(courses).astype(np.float32), edges, [raw.motion_hash for raw in own])
                ends = np.stack([course[-1] for course in courses])
                still = task_s.unfinished(ends, task_s.contents, self.share, device)
                usual = float(np.quantile(still, 0.25)) if len(own) > MIN_EPISODES else None
                arrays |= {f"{len(kept)}.steps": task_s.steps, f"{len(kept)}.edges": edges}
                kept.append({"group": group, "task": task, "contents": task_s.contents, "usual": usual})
        return self.learned(
            reference.seen,
            seed=seed,
            base=base,
            arrays=arrays,
            meta={"views": {group: view.as_dict() for group, view in views.items()}, "tasks": kept},
        )

    def score(self, batch: EpisodeBatch, fit: Fit, *, device: str = "cpu") -> list[list[ScoreRow]]:
        """Hold each end against the other episodes of its task."""
        views = {group: View(**found) for group, found in fit.meta["views"].items()}
        places = {(facts["group"], facts["task"]): number for number, facts in enumerate(fit.meta["tasks"])}
        raws = list(episodes(batch))
        rows = [ScoreRow("unfinished", None, "undefined", raw.problem or "no finite step") for raw in raws]
        by_task: dict[tuple[str, str], list[int]] = {}
        for i, raw in enumerate(raws):
            if raw.problem is None and raw.finite.any():
                by_task.setdefault((raw.group, raw.task), []).append(i)
        for place, mine in by_task.items():
            number = places.get(place)
            facts = fit.meta["tasks"][number] if number is not None else {"contents": [], "usual": None}
            others = [len(set(facts["contents"]) - {raws[i].motion_hash}) for i in mine]
            few = f"fewer than {MIN_EPISODES} other episodes of its task in the reference"
            if facts["usual"] is not None and facts["usual"] > _NOWHERE:
                few = "unobservable: courses of its task end where others are still on their way"
                others = [0] * len(mine)
            told = [i for i, count in zip(mine, others, strict=True) if count >= MIN_EPISODES]
            for i in mine:
                rows[i] = ScoreRow("unfinished", None, "undefined", few)
            if told:
                known = _Task(fit.arrays[f"{number}.steps"], fit.arrays[f"{number}.edges"], facts["contents"])
                ends = np.stack([_course(raws[i], views[place[0]])[-1] for i in told])
                still = known.unfinished(ends, [raws[i].motion_hash for i in told], self.share, device)
                for i, value in zip(told, still.tolist(), strict=True):
                    rows[i] = ScoreRow("unfinished", value)
        return [[row, ScoreRow("length", float(len(raw.state)))] for row, raw in zip(rows, raws, strict=True)]


@dataclass(frozen=True)
class _Task:
    """The courses of a task's reference episodes: ``steps`` float32 [m, d], episode i of content ``contents[i]`` from
    row ``edges[i]`` to ``edges[i + 1]``."""

    steps: np.ndarray
    edges: np.ndarray
    contents: list[str]

    def unfinished(self, ends: np.ndarray, contents: Sequence[str], share: float, device: str) -> np.ndarray:
        """[n]: what is still to come in the nearest ``share`` of the others at ``ends`` [n, d] of episodes of
        ``contents``; NaN where there is no other."""
        distance, phase = phases(ends, self.steps, self.edges, device)
        found = np.full(len(ends), np.nan)
        for row, content in enumerate(contents):
            others = np.array([content != other for other in self.contents])
            near = np.argsort(distance[row, others], kind="stable")[: max(3, round(share * others.sum()))]
            if len(near):
                found[row] = 1 - phase[row, others][near].mean()
        return found


def _course(raw: RawEpisode, view: View) -> np.ndarray:
    """Where everything is at each finite step, float64 [m, d]."""
    measured = view.measure(raw)
    return measured.state[:, : measured.positions].astype(np.float64)
