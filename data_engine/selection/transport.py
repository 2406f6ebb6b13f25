"""Targeted selection by whitened optimal transport, after TAROT (Feng et al. 2024, "TAROT: Targeted Data Selection via
Optimal Transport").

Candidates and targets are centred jointly and whitened on a reduced rank (see ``whitening``), so that no loud direction
hides a telling one; the cost between two of them is sqrt(2 - 2 cos). Two things differ from the authors' code, because
measurements said so: the rank is cut before whitening, and the potentials are read the right way round. The source
potential grows with the distance to the targets, so the smallest comes first and weighs most.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from pydantic import Field

from data_engine.errors import RequestError
from data_engine.selection import Budget, Candidates, Chosen, Selector, resolve_budget
from data_engine.selection.nearest import cosines, layers
from data_engine.selection.pool import Pool, reasons_for, vector_pools
from data_engine.selection.random import draw
from data_engine.selection.solver import Solution, SolverName, solve
from data_engine.selection.whitening import fit_whitening

__all__ = ["MAX_CELLS", "Transport"]

MAX_CELLS = 50_000_000
"""Largest number of candidates times targets: the cost matrix and its plan then take about 2 GB."""

_FLAT = 1e-6


@dataclass(frozen=True)
class _Space:
    """Cosines float64 [n, m] of candidates with targets, and how they came about."""

    similarity: np.ndarray
    rank: int
    explained: float
    whitened: bool

    @property
    def cost(self) -> np.ndarray:
        return np.sqrt(np.maximum(2.0 - 2.0 * self.similarity, 0.0))

    @property
    def spread(self) -> float:
        return float(self.similarity.std())


class Transport(Selector):
    """Choose the candidates that optimal transport moves to the targets at least cost.

    Fixed budget: the union of the 1st, 2nd, ... nearest candidates of every target until it is full; inside a round,
    and so in the last one, the smallest source potential first.

    ``auto``: targets are split into K = min(``folds``, targets) folds. For each fold the k nearest candidates (cosine
    above 0) of its targets are held against the other folds' targets by transport distance; k grows until the distance
    has not fallen for ``patience`` steps; the best k is kept, and the union over the folds is chosen. That needs two
    targets at least.

    Weights are softmax(-potential / ``tau``) over the chosen, at mean 1: a shift of the potential changes nothing.

    ``variance``, ``rank_share``, ``ridge``: the reduced rank and its whitening. ``whiten=False``: centre only.
    ``min_spread``: smallest standard deviation of the cosines that still tells candidates apart; below it the request
    is refused, or with ``on_collapse="unwhitened"`` done without whitening. ``solver``, ``regularisation``: see
    ``data_engine.selection.solver``. ``baselines``: measure a random and an unwhitened nearest-neighbour choice of the
    same size beside this one.
    """

    name = "transport"
    needs_vectors = True
    needs_targets = True
    has_auto_budget = True

    whiten: bool = True
    variance: float = Field(0.95, gt=0, le=1)
    rank_share: float = Field(0.1, gt=0, le=1)
    ridge: float = Field(1e-5, ge=0)
    min_spread: float = Field(0.02, ge=0, lt=1)
    on_collapse: Literal["refuse", "unwhitened"] = "refuse"
    solver: SolverName = "auto"
    regularisation: float = Field(0.02, gt=0)
    tau: float = Field(0.2, ge=0.01)
    folds: int = Field(10, ge=2)
    patience: int = Field(3, ge=1)
    baselines: bool = True

    def select(self, candidates: Candidates, targets: Candidates | None, *, budget: Budget | None, seed: int) -> Chosen:
        """Choose ``budget`` candidates, or as many as ``auto`` finds.

        Raises ``RequestError`` where vectors or targets cannot be used, where the cosines collapse, and where there are
        more than ``MAX_CELLS`` pairs.
        """
        pool, wanted = vector_pools(candidates, targets)
        if budget != "auto":
            count = min(resolve_budget(budget, len(candidates)), len(pool))
        if len(pool) * len(wanted) > MAX_CELLS:
            raise RequestError(
                f"{len(pool)} candidates and {len(wanted)} targets are too many pairs for one transport problem",
                code="too_large",
                fix=f"narrow either side to at most {MAX_CELLS:,} pairs",
            )
        if len(pool) == 1:
            lines = reasons_for(len(candidates), pool.left_out, pool.rows, ["chosen: the only usable candidate"])
            return Chosen(
                pool.rows, np.ones(1), lines, {"candidates": len(candidates), "targets": len(wanted), "chosen": 1}
            )

        space = self._space(pool, wanted)
        solution = self._solve(space.cost)
        layer = layers(space.similarity)
        order = np.lexsort((solution.potential, layer))
        report: dict[str, Any] = {
            "candidates": len(candidates),
            "unusable": len(pool.left_out),
            "targets": len(wanted),
            "whitened": space.whitened,
            "rank": space.rank,
            "explained_variance": space.explained,
            "cosine_spread": space.spread,
            "solver": solution.solver,
            "converged": solution.converged,
        }
        if budget == "auto":
            kept, report["automatic_budget"] = self._automatic(space, seed)
            order = order[kept[order]]
        else:
            order = order[:count]
        weights = np.exp(-(solution.potential[order] - solution.potential[order].min()) / self.tau)
        weights /= weights.mean()
        report["chosen"] = len(order)
        report["effective_sample_size"] = float(weights.sum() ** 2 / (weights**2).sum())
        report["transport_distance"] = {
            "everything": solution.distance,
            "chosen": self._solve(space.cost[order]).distance,
        }
        report["coverage"] = {"chosen": _coverage(pool, wanted, order)}
        if self.baselines:
            self._measure_baselines(report, candidates, pool, wanted, space, len(order), seed)
        reasons = reasons_for(
            len(candidates), pool.left_out, pool.rows, _explain(order, layer, space.similarity, solution.potential)
        )
        return Chosen(pool.rows[order], weights, reasons, report)

    def _solve(self, cost: np.ndarray) -> Solution:
        return solve(cost, self.solver, self.regularisation)

    def _space(self, pool: Pool, wanted: Pool) -> _Space:
        """The cosines after centring and whitening. Raises ``RequestError`` where they collapse."""
        both, n = np.concatenate([pool.vectors, wanted.vectors]), len(pool)
        plain = both - both.mean(axis=0)
        space = _Space(cosines(plain[:n], plain[n:]), both.shape[1], 1.0, False)
        if self.whiten:
            whitening = fit_whitening(both, variance=self.variance, rank_share=self.rank_share, ridge=self.ridge)
            white = whitening.apply(both)
            whitened = _Space(cosines(white[:n], white[n:]), whitening.rank, whitening.explained, True)
            if whitened.spread >= self.min_spread:
                return whitened
            if self.on_collapse == "refuse":
                raise RequestError(
                    f"the whitened space tells the {n} candidates apart no more: "
                    f"rank {whitened.rank}, spread of cosines {whitened.spread:.2g} below {self.min_spread:g}",
                    code="collapsed_space",
                    fix="set whiten: false, or lower rank_share, or bring more candidates",
                )
        if space.spread < _FLAT:
            raise RequestError(
                f"every one of the {n} candidates has the same cosine with the targets",
                code="collapsed_space",
                fix="choose another space, or method random",
            )
        return space

    def _automatic(self, space: _Space, seed: int) -> tuple[np.ndarray, list[dict[str, Any]]]:
        """bool [n], the union over folds of each fold's best k rounds, and one curve a fold."""
        n, m = space.similarity.shape
        if m < 2:
            raise RequestError(
                "an automatic budget needs at least two targets: one chooses, another judges",
                code="bad_budget",
                fix="give a budget, or more targets",
            )
        cost = space.cost
        kept = np.zeros(n, dtype=bool)
        curves = []
        shuffled = np.random.default_rng(seed).permutation(m)
        for fold in np.array_split(shuffled, min(self.folds, m)):
            others = np.setdiff1d(shuffled, fold)
            layer = layers(space.similarity[:, fold], above=0.0)
            last = int(layer[layer < n].max(initial=-1)) + 1
            sizes: list[int] = []
            distances: list[float] = []
            best, k = 0, 1
            while k <= last and len(sizes) - 1 - best < self.patience:
                sizes.append(k)
                distances.append(self._solve(cost[np.ix_(layer < k, others)]).distance)
                if distances[-1] < distances[best]:
                    best = len(sizes) - 1
                k += max(1, k // 8)  # finer steps than an eighth tell nothing and cost a solution each
            if sizes:
                kept |= layer < sizes[best]
            curves.append(
                {"targets": len(fold), "k": sizes, "distance": distances, "best_k": sizes[best] if sizes else 0}
            )
        if not kept.any():
            raise RequestError(
                "no candidate has a positive cosine with any target",
                code="nothing_similar",
                fix="give a budget instead of auto",
            )
        return kept, curves

    def _measure_baselines(
        self,
        report: dict[str, Any],
        candidates: Candidates,
        pool: Pool,
        wanted: Pool,
        space: _Space,
        count: int,
        seed: int,
    ) -> None:
        """Add what a random and an unwhitened nearest-neighbour choice of ``count`` would have reached."""
        place = np.empty(len(candidates), dtype=np.int64)
        place[draw(candidates, seed)] = np.arange(len(candidates))
        plain = cosines(pool.vectors, wanted.vectors)
        rivals = {
            "random": np.argsort(place[pool.rows])[:count],
            "nearest": np.lexsort((-plain.max(axis=1), layers(plain)))[:count],
        }
        for name, rows in rivals.items():
            report["transport_distance"][name] = self._solve(space.cost[rows]).distance
            report["coverage"][name] = _coverage(pool, wanted, rows)


def _coverage(pool: Pool, wanted: Pool, rows: np.ndarray) -> dict[str, float]:
    """How near the chosen come to the targets in the space as it was: what transport did not optimise."""
    best = cosines(pool.vectors[rows], wanted.vectors).max(axis=0)
    return {"mean_target": float(best.mean()), "worst_target": float(best.min())}


def _explain(order: np.ndarray, layer: np.ndarray, similarity: np.ndarray, potential: np.ndarray) -> list[str]:
    """One line for each usable candidate."""
    chosen = np.zeros(len(layer), dtype=bool)
    chosen[order] = True
    best = similarity.max(axis=1)
    return [
        f"{'chosen' if taken else 'left out'}: {round_ + 1}. nearest of a target, "
        f"cosine {cosine:.4f}, potential {f:.4f}"
        for taken, round_, cosine, f in zip(
            chosen.tolist(), layer.tolist(), best.tolist(), potential.tolist(), strict=True
        )
    ]
