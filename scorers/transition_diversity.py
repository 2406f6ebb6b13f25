"""Transition diversity: how differently the world answers one action in like states, and how dense those states are.

Belkhale, Cui and Sadigh, "Data Quality in Imitation Learning" (2023): beside the divergence of actions, what a learner
meets depends on the noise of the transitions and on the horizon. More is not better: diversity that the policy can
recover from helps, the rest widens what it must cover. So nothing here has a better direction.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from data_engine.reference import RawEpisode, Reference
from data_engine.scoring import EpisodeBatch, Fit, Metric, Resources, Scorer, ScoreRow, Spec
from data_engine.view import EpisodeView
from scorers.kernels.neighbours import nearest, within
from scorers.pool import REFERENCE_STEPS, Pool, Pools

__all__ = ["TransitionDiversity"]

_CALIBRATION = 1024  # reference steps that the reaches come from
Key = tuple[str, str | None]


class TransitionDiversity(Scorer):
    """The variance of s' - s over the ``k`` nearest (state, action) of other episodes.

    In view coordinates, the squares summed over the positions of the state, each divided by their number. A neighbour
    must lie within twice the 95 % quantile of the reference's own k-th neighbour distances; a step with fewer than 3 is
    undefined, and so is an episode where that is most steps.

    Metrics: ``transition_diversity`` (mean over steps); ``state_similarity`` (reference steps of other episodes about a
    state, in a thousand: within the median distance of a reference state's own k-th neighbour); ``horizon`` (steps over
    the median of the task's reference episodes); ``neighbour_count``; ``length``, the baseline.
    """

    k: int = Field(default=10, ge=3, le=100)
    pool_size: int = Field(default=4096, ge=64, le=32768)

    spec: ClassVar[Spec] = Spec(
        name="transition_diversity",
        version="2",
        level="episode",
        metrics=(
            Metric("transition_diversity", "squared view units", "neither"),
            Metric("state_similarity", "per thousand reference steps", "neither"),
            Metric("horizon", "times the task's median", "neither"),
            Metric("neighbour_count", "steps", "neither"),
            Metric("length", "steps", "neither"),
        ),
        resources=Resources(cpus=1),
    )

    def fit(
        self, batches: Iterable[EpisodeBatch], *, base: Fit | None = None, seed: int = 0, device: str = "cpu"
    ) -> Fit:
        """Draw pools of transitions, and measure on them how far neighbours lie and how long episodes are."""
        reference = Reference(batches, seed=seed, budget=REFERENCE_STEPS)
        pools = Pools.drawn(reference, seed=seed, size=self.pool_size, seen_as=_transitions)
        limits = [self._limits(pool, pools, device) for (pool,) in pools.draws.values()]
        lengths: dict[Key, list[int]] = {key: [] for key in pools.draws}
        for group, members in reference.groups.items():
            for raw in members:
                for task in (raw.task, None):
                    if (group, task) in lengths:
                        lengths[group, task].append(len(raw.state))
        return self.learned(
            reference.seen,
            seed=seed,
            base=base,
            arrays=pools.arrays(),
            meta={
                **pools.meta(),
                "limits": limits,
                "horizons": [float(np.median(found)) for found in lengths.values()],
            },
        )

    def score(self, batch: EpisodeBatch, fit: Fit, *, device: str = "cpu") -> list[list[ScoreRow]]:
        """Every metric of every episode against the fit's transitions, its own left out of them."""
        pools = Pools.load(fit)
        facts = dict(zip(pools.draws, zip(fit.meta["limits"], fit.meta["horizons"], strict=True), strict=True))
        measured = [(raw, view, None if view is None else _transitions(view)) for raw, view in pools.measure(batch)]
        by_pool: dict[Key, list[EpisodeView]] = defaultdict(list)
        for _, _, seen in measured:
            if seen is not None and len(seen.state):
                (pool,) = pools.of(seen)
                by_pool[pool.group, pool.task].append(seen)
        around: dict[int, list[np.ndarray]] = {}
        for key, views in by_pool.items():
            (_, radius), _ = facts[key]
            found = self._around(views, pools, pools.draws[key][0], radius, device)
            ends = np.cumsum([len(view.state) for view in views])[:-1]
            parts = zip(*(np.split(each, ends) for each in found), strict=True)
            around.update(zip(map(id, views), map(list, parts), strict=True))
        return [self._rows(raw, view, seen, around, pools, facts) for raw, view, seen in measured]

    def _around(
        self, views: Sequence[EpisodeView], pools: Pools, pool: Pool, radius: float, device: str
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Distances [n, k] and indices [n, k] of the nearest of ``pool`` to every transition of ``views``, and how many
        have states within ``radius`` [n]."""
        both = np.concatenate([view.state for view in views])
        owners = {
            "owner": np.concatenate([np.full(len(view.state), pools.owner(view)) for view in views]),
            "pool_owner": pool.owner,
        }
        where = pools.views[pool.group]
        states = len(where.position) + len(where.velocity)
        close = within(both[:, :states], pool.state[:, :states], radius, **owners, device=device)
        return *nearest(both, pool.state, self.k, **owners, device=device), close

    def _rows(
        self,
        raw: RawEpisode,
        view: EpisodeView | None,
        seen: EpisodeView | None,
        around: Mapping[int, list[np.ndarray]],
        pools: Pools,
        facts: Mapping[Key, Any],
    ) -> list[ScoreRow]:
        length = ScoreRow("length", float(len(raw.state)))
        names = [metric.name for metric in self.spec.metrics[:-1]]
        if view is None or seen is None or not len(seen.state):
            reason = raw.problem or ("no finite step" if not raw.finite.any() else f"no reference for {raw.group}")
            reason = "no step is followed by another" if view is not None and len(view.state) else reason
            return [*(ScoreRow(name, None, "undefined", reason) for name in names), length]
        (pool,) = pools.of(view)
        (reach, _), horizon = facts[pool.group, pool.task]
        note = pool.note(view)
        others = max(int((pool.owner != pools.owner(view)).sum()), 1)
        distance, index, close = around[id(seen)]
        variance, count = _spread(pool.action[index].astype(np.float64), distance <= reach)
        steps = np.full((3, len(view.valid)), np.nan)
        steps[:, seen.valid] = variance, close * (1000 / others), count
        rows = [
            ScoreRow("state_similarity", float(np.nanmean(steps[1])), reason=note, step_values=_floats(steps[1])),
            ScoreRow("horizon", len(raw.state) / horizon, reason=note),
            ScoreRow("neighbour_count", float(count.mean()), step_values=_floats(steps[2])),
            length,
        ]
        defined = np.isfinite(variance)
        if 2 * defined.sum() < len(defined):
            reason = f"sparse: {defined.sum()} of {len(raw.state)} steps have 3 neighbours from other episodes in reach"
            return [ScoreRow(names[0], None, "undefined", reason), *rows]
        return [
            ScoreRow(names[0], float(variance[defined].mean()), reason=note, step_values=_floats(steps[0])),
            *rows,
        ]

    def _limits(self, pool: Pool, pools: Pools, device: str) -> tuple[float, float]:
        """How far a neighbour in (state, action) may lie, and what counts as close by in state."""
        some = slice(0, _CALIBRATION)
        view = pools.views[pool.group]
        states = len(view.position) + len(view.velocity)
        owners = {"owner": pool.owner[some], "pool_owner": pool.owner}
        both, _ = nearest(pool.state[some], pool.state, self.k, **owners, device=device)
        state, _ = nearest(pool.state[some, :states], pool.state[:, :states], self.k, **owners, device=device)
        both, state = (found[np.isfinite(found).all(axis=1), -1] for found in (both, state))
        return (
            2 * float(np.quantile(both, 0.95)) if len(both) else 0.0,
            float(np.median(state)) if len(state) else 0.0,
        )


def _transitions(view: EpisodeView) -> EpisodeView:
    """``view`` with (state, action) for state and the change of position to the next step for action.

    Steps that no valid step follows have none and drop out.
    """
    rows = np.flatnonzero(view.valid)
    follows = np.flatnonzero(np.diff(rows) == 1)
    position = view.state[:, : view.positions]
    valid = np.zeros_like(view.valid)
    valid[rows[follows]] = True
    both = np.concatenate([view.state, view.action], axis=1)
    return replace(view, state=both[follows], action=position[follows + 1] - position[follows], valid=valid)


def _spread(change: np.ndarray, near: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(variance summed over dimensions, neighbours) of ``change`` [n, k, d] where ``near`` [n, k]; NaN below 3."""
    count = near.sum(axis=1)
    weight = near / np.maximum(count, 1)[:, None]
    mean = (change * weight[:, :, None]).sum(axis=1)
    variance = (((change - mean[:, None]) ** 2).sum(axis=2) * weight).sum(axis=1)
    return np.where(count < 3, np.nan, variance), count


def _floats(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float32)
