"""Task match: does the trajectory fit the task it is labelled with, or another of the set better?

An episode is described by its course of states and actions (the default embedding's description, unprojected), its
start and how far it gets; a class-balanced, shrunk linear discriminant over the tasks of its group, which has not seen
it, says how likely each task is.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from pydantic import Field

from data_engine.reference import RawEpisode, Reference, episodes
from data_engine.scoring import EpisodeBatch, Fit, Metric, Resources, Scorer, ScoreRow, Span, Spec
from data_engine.view import EpisodeView, View, fit_views
from scorers.kernels.discriminant import log_likelihoods
from scorers.trajectory import describe

__all__ = ["TaskMatch"]

_REFERENCE_STEPS = 20_000
_MIN_EPISODES = 3  # of a task, the one that is judged included
_RANK, _SHARE = 24, 6  # directions kept: at most so many, and no more than one for so many episodes


class TaskMatch(Scorer):
    """How much likelier the trajectory is under its own task than under the likeliest other.

    The metric ``log_odds`` is the difference of the two log densities in nats: positive where it fits its label,
    negative where another task fits better, which the reason names; a span ``mislabelled`` then covers the episode.
    Episodes that fit another task better are taken out of the reference before the final judgement, so that a share of
    wrong labels does not blur their tasks. The nats assume normal classes: they rank, they are no calibrated chance.

    Undefined without a task, where its group has one task, and where the task has fewer than 3 reference episodes.
    ``length`` is the baseline to beat.
    """

    shrinkage: float = Field(default=0.2, gt=0, le=1)

    spec: ClassVar[Spec] = Spec(
        name="task_match",
        version="2",
        level="episode",
        metrics=(Metric("log_odds", "nats", "higher"), Metric("length", "steps", "neither")),
        resources=Resources(cpus=1),
    )

    def fit(
        self, batches: Iterable[EpisodeBatch], *, base: Fit | None = None, seed: int = 0, device: str = "cpu"
    ) -> Fit:
        """Describe the reference episodes of each group, in the directions in which they differ most."""
        reference = Reference(batches, seed=seed, budget=_REFERENCE_STEPS)
        views = fit_views(reference)
        arrays, groups = {}, {}
        for number, (group, raws) in enumerate(reference.groups.items()):
            known = [raw for raw in raws if raw.task]
            if not known:
                continue
            full = np.stack([_describe(views[group].measure(raw), raw.dataset.fps) for raw in known])
            centre = full.mean(axis=0)
            rank = max(min(_RANK, len(known) // _SHARE), 1)
            axes = np.linalg.svd(full - centre, full_matrices=False)[2][:rank]
            tasks = sorted({raw.task for raw in known})
            labels = np.array([tasks.index(raw.task) for raw in known], np.int64)
            vectors = (full - centre) @ axes.T
            owners = [raw.motion_hash for raw in known]
            every = _Group(tasks, owners, vectors, labels, np.ones(len(known), bool), self.shrinkage)
            fits = np.array([every.odds(v, owner, tasks[k])[0] > 0 for v, owner, k in zip(vectors, owners, labels)])  # noqa: B905
            arrays |= {f"{number}.{name}": x for name, x in (("vectors", vectors), ("labels", labels), ("fits", fits))}
            arrays |= {f"{number}.centre": centre, f"{number}.axes": axes}
            groups[group] = {"number": number, "view": views[group].as_dict(), "tasks": tasks, "owners": owners}
        return self.learned(
            reference.seen,
            seed=seed,
            base=base,
            arrays=arrays,
            meta={"groups": groups},
        )

    def score(self, batch: EpisodeBatch, fit: Fit, *, device: str = "cpu") -> list[list[ScoreRow]]:
        """The log odds of each episode, its own recording left out of the reference."""
        return [[self._one(raw, fit), ScoreRow("length", float(len(raw.state)))] for raw in episodes(batch)]

    def _one(self, raw: RawEpisode, fit: Fit) -> ScoreRow:
        found = fit.meta["groups"].get(raw.group)
        reason = raw.problem
        if reason is None and not raw.task:
            reason = "no task"
        if reason is None and not raw.finite.any():
            reason = "no finite step"
        if reason is None and found is None:
            reason = f"no reference for {raw.group}"
        if reason is None and len(found["tasks"]) < 2:
            reason = "only one task in the reference"
        if reason is not None:
            return ScoreRow("log_odds", None, "undefined", reason)
        number, tasks = found["number"], found["tasks"]
        array = {name: fit.arrays[f"{number}.{name}"] for name in ("vectors", "labels", "fits", "centre", "axes")}
        labels = array["labels"]
        count = int((labels == tasks.index(raw.task)).sum()) if raw.task in tasks else 0
        count += raw.motion_hash not in found["owners"]
        if count < _MIN_EPISODES:
            return ScoreRow("log_odds", None, "undefined", f"only {count} episodes of its task, of {_MIN_EPISODES}")
        group = _Group(tasks, found["owners"], array["vectors"], labels, array["fits"], self.shrinkage)
        vector = (_describe(View(**found["view"]).measure(raw), raw.dataset.fps) - array["centre"]) @ array["axes"].T
        odds, other = group.odds(vector, raw.motion_hash, raw.task)
        if not np.isfinite(odds):
            return ScoreRow("log_odds", None, "undefined", "no other task has episodes to compare with")
        if odds < 0:
            span = Span(0, len(raw.state), "mislabelled")
            return ScoreRow("log_odds", odds, reason=f"likelier: {other}", spans=(span,))
        return ScoreRow("log_odds", odds)


@dataclass(frozen=True)
class _Group:
    """The described reference of a group. ``fits`` bool [E]: those that fit their own task."""

    tasks: Sequence[str]
    owners: Sequence[str]
    vectors: np.ndarray
    labels: np.ndarray
    fits: np.ndarray
    shrinkage: float

    def odds(self, vector: np.ndarray, owner: str, task: str) -> tuple[float, str]:
        """Log odds of ``task`` against the likeliest other, without the recording ``owner``; and that other."""
        others = np.array([name != owner for name in self.owners])
        chosen = others & self.fits
        mine = self.tasks.index(task)
        for label in range(len(self.tasks)):  # a task that hardly fits itself is held against all it has
            own = self.labels == label
            if (chosen & own).sum() < 2:
                chosen |= others & own
        likelihood = log_likelihoods(vector, self.vectors[chosen], self.labels[chosen], len(self.tasks), self.shrinkage)
        rival = int(np.where(np.arange(len(self.tasks)) == mine, -np.inf, likelihood).argmax())
        if not np.isfinite(likelihood[[mine, rival]]).all() or rival == mine:
            return np.inf, ""
        return float(likelihood[mine] - likelihood[rival]), self.tasks[rival]


def _describe(view: EpisodeView, fps: float) -> np.ndarray:
    """The course (see :mod:`scorers.trajectory`), the start and the displacement, float64."""
    position = view.state[:, : view.positions].astype(np.float64)
    return np.concatenate([describe(view, fps), position[0], position[-1] - position[0]])
