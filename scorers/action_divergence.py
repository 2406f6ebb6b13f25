"""Action divergence: how far a step's action is from what others did in like states.

Belkhale, Cui and Sadigh, "Data Quality in Imitation Learning" (2023): a learner stays in distribution where
demonstrations agree on the action. The headline is the step's own residual against its neighbours from other episodes;
the variance among those (``ambiguity``) says how much the region disagrees with itself, but cannot see the step's own
action. Beside it, where asked for, stands what it estimates: the error of cloned policies on episodes held out of them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import ClassVar

import numpy as np
from pydantic import Field

from data_engine.reference import RawEpisode, Reference
from data_engine.scoring import EpisodeBatch, Fit, Metric, Resources, Scorer, ScoreRow, Spec
from data_engine.view import EpisodeView
from scorers.cloning import Clones
from scorers.kernels.neighbours import nearest
from scorers.pool import REFERENCE_STEPS, Pool, Pools, worst_spans

__all__ = ["ActionDivergence"]

_FOLDS = 5
_CALIBRATION = 1024  # reference steps that the radius and the bad-step quantile come from


class ActionDivergence(Scorer):
    """Squared distance of each action to the mean action of its ``k`` nearest states in other episodes.

    States and actions are view coordinates; the distance is divided by the action's width, so 1 is one scale unit off
    in each dimension. A neighbour must lie within twice the 95 % quantile of the reference's own k-th neighbour
    distances; a step with fewer than 3 such neighbours is undefined (not zero), and so is an episode where that is most
    steps.

    Metrics: ``own_residual`` (mean over steps), ``own_residual_median``, ``own_residual_capped`` (mean over steps, each
    at most the reference's 95 % quantile: how much of an episode is off, and not how far its oddest step is),
    ``own_residual_horizon`` (weights (H - t) / H, normalised: early errors cost more), ``ambiguity`` (variance among
    the neighbours), ``neighbour_count`` (of ``k``, within reach), ``length``, the baseline to beat. With ``cloning``
    also ``cloning_error``, the squared error of behaviour cloning (``members`` policies, chunks of ``chunk`` actions,
    five folds over the episodes) on the episodes that it did not see, mean over steps, and ``cloning_error_horizon``,
    weighted as above. ``iterations`` bounds the training, which ends when the held-out loss does not fall any more.
    """

    k: int = Field(default=10, ge=3, le=100)
    pool_size: int = Field(default=4096, ge=64, le=32768)
    cloning: bool = False
    members: int = Field(default=2, ge=1, le=16)
    chunk: int = Field(default=4, ge=1, le=64)
    iterations: int = Field(default=3000, ge=1)

    spec: ClassVar[Spec] = Spec(
        name="action_divergence",
        version="3",
        level="episode",
        metrics=(
            Metric("own_residual", "squared view units", "lower"),
            Metric("own_residual_median", "squared view units", "lower"),
            Metric("own_residual_capped", "squared view units", "lower"),
            Metric("own_residual_horizon", "squared view units", "lower"),
            Metric("ambiguity", "squared view units", "neither"),
            Metric("neighbour_count", "steps", "neither"),
            Metric("length", "steps", "neither"),
            Metric("cloning_error", "squared view units", "lower"),
            Metric("cloning_error_horizon", "squared view units", "lower"),
        ),
        resources=Resources(cpus=1),
    )

    def fit(
        self, batches: Iterable[EpisodeBatch], *, base: Fit | None = None, seed: int = 0, device: str = "cpu"
    ) -> Fit:
        """Draw the reference pools, calibrate reach and bad-step threshold on them, and train what is asked for."""
        reference = Reference(batches, seed=seed, budget=REFERENCE_STEPS)
        pools = Pools.drawn(reference, seed=seed, size=self.pool_size)
        limits = []
        for (pool,) in pools.draws.values():
            some = slice(0, _CALIBRATION)
            distance, index = nearest(
                pool.state[some], pool.state, self.k, owner=pool.owner[some], pool_owner=pool.owner, device=device
            )
            reach = distance[np.isfinite(distance).all(axis=1), -1]
            radius = 2 * float(np.quantile(reach, 0.95)) if len(reach) else 0.0
            residual, _, _ = _residual(pool.action[some], distance, index, pool, radius)
            bad = float(np.nanquantile(residual, 0.95)) if np.isfinite(residual).any() else 0.0
            limits.append({"radius": radius, "bad": bad})
        arrays, meta = pools.arrays(), {**pools.meta(), "limits": limits}
        if self.cloning:
            clones = Clones.fit(
                reference,
                seed=seed,
                folds=_FOLDS,
                members=self.members,
                horizon=self.chunk,
                limit=self.iterations,
                device=device,
            )
            arrays, meta = arrays | clones.arrays(), meta | clones.meta()
        return self.learned(
            reference.seen,
            seed=seed,
            base=base,
            arrays=arrays,
            meta=meta,
        )

    def score(self, batch: EpisodeBatch, fit: Fit, *, device: str = "cpu") -> list[list[ScoreRow]]:
        """Every metric of every episode against the fit's pools, its own recording left out of them."""
        pools = Pools.load(fit)
        clones = Clones.load(fit) if self.cloning else None
        limits = dict(zip(pools.draws, fit.meta["limits"], strict=True))
        rows: list[list[ScoreRow] | None] = [None] * len(batch)
        against: dict[tuple[str, str | None], list[tuple[int, RawEpisode, EpisodeView]]] = defaultdict(list)
        for i, (raw, view) in enumerate(pools.measure(batch)):
            if view is None or not len(view.state):
                rows[i] = self._undefined(raw)
                continue
            (pool,) = pools.of(view)
            against[pool.group, pool.task].append((i, raw, view))
        for key, members in against.items():
            (pool,) = pools.draws[key]
            state = np.concatenate([view.state for _, _, view in members])
            action = np.concatenate([view.action for _, _, view in members])
            owner = np.concatenate([np.full(len(view.state), pools.owner(view)) for _, _, view in members])
            distance, index = nearest(state, pool.state, self.k, owner=owner, pool_owner=pool.owner, device=device)
            measured = np.stack(_residual(action, distance, index, pool, limits[key]["radius"]))
            ends = np.cumsum([len(view.state) for _, _, view in members])
            parts = np.split(measured, ends[:-1], axis=1)
            for (i, _, view), part in zip(members, parts, strict=True):
                rows[i] = self._rows(view, part, pool, limits[key]["bad"]) + _cloned(view, clones, device)
        return [found for found in rows if found is not None]

    def _rows(self, view: EpisodeView, measured: np.ndarray, pool: Pool, bad: float) -> list[ScoreRow]:
        n = len(view.valid)
        steps = np.full((3, n), np.nan)
        steps[:, view.valid] = measured
        residual, ambiguity, count = steps
        defined = np.isfinite(residual)
        length = ScoreRow("length", float(n))
        counts = ScoreRow("neighbour_count", float(np.nanmean(count)), step_values=count.astype(np.float32))
        if 2 * defined.sum() < view.valid.sum():
            reason = f"sparse: {defined.sum()} of {n} steps have 3 neighbours from other episodes within reach"
            names = ("own_residual", "own_residual_median", "own_residual_capped", "own_residual_horizon", "ambiguity")
            return [*(ScoreRow(name, None, "undefined", reason) for name in names), counts, length]
        note = pool.note(view)
        values = residual[defined]
        return [
            ScoreRow(
                "own_residual",
                float(values.mean()),
                reason=note,
                step_values=residual.astype(np.float32),
                spans=worst_spans(residual, np.nan_to_num(residual) > bad, "divergent_action"),
            ),
            ScoreRow("own_residual_median", float(np.median(values)), reason=note),
            ScoreRow("own_residual_capped", float(np.minimum(values, bad).mean()), reason=note),
            ScoreRow("own_residual_horizon", _early(residual), reason=note),
            ScoreRow(
                "ambiguity", float(ambiguity[defined].mean()), reason=note, step_values=ambiguity.astype(np.float32)
            ),
            counts,
            length,
        ]

    def _undefined(self, raw: RawEpisode) -> list[ScoreRow]:
        reason = raw.problem or ("no finite step" if not raw.finite.any() else f"no reference for {raw.group}")
        metrics = self.spec.metrics if self.cloning else self.spec.metrics[:-2]
        named = [metric.name for metric in metrics if metric.name != "length"]
        rows = [ScoreRow(name, None, "undefined", reason) for name in named]
        return [*rows, ScoreRow("length", float(len(raw.state)))]


def _early(values: np.ndarray) -> float:
    """The mean of the finite ``values`` [n] of an episode's steps, each weighed by the share that still lies ahead."""
    weight = np.where(np.isfinite(values), (len(values) - np.arange(len(values))) / len(values), 0.0)
    return float(weight @ np.nan_to_num(values) / weight.sum())


def _cloned(view: EpisodeView, clones: Clones | None, device: str) -> list[ScoreRow]:
    """The rows of the cloning error; none where it was not asked for."""
    if clones is None:
        return []
    if view.group not in clones.weights:
        reason = f"sparse: {view.group} has no two reference episodes to clone"
        return [ScoreRow(name, None, "undefined", reason) for name in ("cloning_error", "cloning_error_horizon")]
    steps = clones.steps(view)
    error = np.full(len(view.valid), np.nan)
    error[view.valid] = steps.error(clones.expected(view, steps, device).mean(axis=0))
    note = clones.note(view)
    return [
        ScoreRow("cloning_error", float(np.nanmean(error)), reason=note, step_values=error.astype(np.float32)),
        ScoreRow("cloning_error_horizon", _early(error), reason=note),
    ]


def _residual(
    action: np.ndarray, distance: np.ndarray, index: np.ndarray, pool: Pool, radius: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(own residual, ambiguity, neighbours within reach) of each step, float64 [n]; the first two NaN below 3."""
    within = distance <= radius
    count = within.sum(axis=1)
    weight = within / np.maximum(count, 1)[:, None]
    near = pool.action[index].astype(np.float64)
    mean = (near * weight[:, :, None]).sum(axis=1)
    residual = ((action - mean) ** 2).sum(axis=1)
    spread = (((near - mean[:, None]) ** 2).sum(axis=2) * weight).sum(axis=1)
    sparse = count < 3
    return np.where(sparse, np.nan, residual), np.where(sparse, np.nan, spread), count.astype(np.float64)
