"""Extraneous spans: pauses, detours and rests that other episodes of the task do not have, by votes among them.

After Zhang et al., "Extraneousness-Aware Imitation Learning" (2023): steps are described by state and action together,
so that standing still differs from passing through, and other episodes of the task vote. What they vote on is not the
paper's moving reference, which lost recorded pauses altogether (overlap 0.0 to 0.2 on acted ones), but each one's own
time warping (:mod:`scorers.kernels.warping`): a run of steps in which the other hardly advances is extraneous to it.
The keep mask is evidence: a cut leaves a seam that no action chunk may span.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

import numpy as np
from pydantic import Field

from data_engine.reference import RawEpisode, Reference, episodes, key_of
from data_engine.scoring import EpisodeBatch, Fit, Metric, Resources, Scorer, ScoreRow, Span, Spec
from data_engine.view import EpisodeView, View, fit_views
from scorers.kernels.warping import stretched, warp

__all__ = ["Extraneous"]

_REFERENCE_STEPS = 20_000
_MIN_STEPS = 8


class Extraneous(Scorer):
    """The steps in which more than half of ``others`` reference episodes of the task hardly advance.

    Metrics: ``dropped_fraction``, the share of the steps in such runs of at least ``least_s`` seconds; ``confidence``,
    how much of one mind the others are, 0 (halves) to 1, mean over steps; ``length``. ``step_values``: the keep mask, 1
    keep and 0 drop; NaN where a step is not finite. Spans: ``extraneous``.

    Undefined below 8 finite steps, without a task, and where no other episode of the task is in the reference.
    """

    others: int = Field(default=5, ge=1, le=32)
    least_s: float = Field(default=0.4, gt=0)

    spec: ClassVar[Spec] = Spec(
        name="extraneous",
        version="1",
        level="episode",
        metrics=(
            Metric("dropped_fraction", "fraction of steps", "lower"),
            Metric("confidence", "majority of votes", "higher"),
            Metric("length", "steps", "neither"),
        ),
        resources=Resources(cpus=1),
    )

    def fit(
        self, batches: Iterable[EpisodeBatch], *, base: Fit | None = None, seed: int = 0, device: str = "cpu"
    ) -> Fit:
        """Draw the episodes of each task that the others are aligned with; one more than needed, for its own turn."""
        reference = Reference(batches, seed=seed, budget=_REFERENCE_STEPS)
        views = fit_views(reference)
        arrays, kept = {}, []
        for group, found in reference.groups.items():
            for task in sorted({raw.task for raw in found} - {""}):
                own = [raw for raw in found if raw.task == task and raw.finite.sum() >= _MIN_STEPS]
                own = sorted(own, key=lambda raw: key_of(seed, raw.content_hash, "extraneous"))[: self.others + 1]
                for raw in own:
                    arrays[f"{len(kept)}.course"] = _embedding(views[group].measure(raw)).astype(np.float32)
                    kept.append({"group": group, "task": task, "content": raw.content_hash})
        return Fit(
            producer=self.spec.name,
            version=self.spec.version,
            config=self.config,
            seed=seed,
            reference=reference.seen,
            arrays=arrays,
            meta={"views": {group: view.as_dict() for group, view in views.items()}, "courses": kept},
            base=base.id if base else None,
        )

    def score(self, batch: EpisodeBatch, fit: Fit, *, device: str = "cpu") -> list[list[ScoreRow]]:
        """Align each episode with the others of its task, its own recording left out."""
        views = {group: View(**found) for group, found in fit.meta["views"].items()}
        return [self._one(raw, views.get(raw.group), fit) for raw in episodes(batch)]

    def _one(self, raw: RawEpisode, view: View | None, fit: Fit) -> list[ScoreRow]:
        reason = raw.problem or (None if raw.task else "no task")
        if reason is None and raw.finite.sum() < _MIN_STEPS:
            reason = f"only {int(raw.finite.sum())} finite steps, of {_MIN_STEPS} at least"
        others = [
            fit.arrays[f"{number}.course"].astype(np.float64)
            for number, course in enumerate(fit.meta["courses"])
            if (course["group"], course["task"]) == (raw.group, raw.task) and course["content"] != raw.content_hash
        ][: self.others]
        if reason is None and (view is None or not others):
            reason = "no other episode of its task in the reference"
        length = ScoreRow("length", float(len(raw.state)))
        if reason is not None or view is None:
            return [ScoreRow(name, None, "undefined", reason) for name in ("dropped_fraction", "confidence")] + [length]
        own = _embedding(view.measure(raw))
        rows = np.flatnonzero(raw.finite)
        least = max(round(self.least_s * raw.dataset.fps), 3)
        votes = np.mean([stretched(*warp(own, other), len(own), least) for other in others], axis=0)
        edges = np.flatnonzero(np.diff(np.concatenate([[0], votes > 0.5, [0]])))
        runs = list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))
        keep = np.full(len(raw.state), np.nan)
        keep[rows] = 1.0
        for start, stop in runs:
            keep[rows[start:stop]] = 0.0
        spans = tuple(Span(int(rows[start]), int(rows[stop - 1]) + 1, "extraneous") for start, stop in runs)
        dropped = float((keep == 0).sum()) / len(rows)
        return [
            ScoreRow("dropped_fraction", dropped, step_values=keep.astype(np.float32), spans=spans),
            ScoreRow("confidence", float(np.abs(2 * votes - 1).mean())),
            length,
        ]


def _embedding(view: EpisodeView) -> np.ndarray:
    """State and action of each finite step, float64 [m, ds + da], each block of one size."""
    return np.concatenate([view.state, view.action], axis=1).astype(np.float64)
