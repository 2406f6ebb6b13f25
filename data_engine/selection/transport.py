"""Targeted selection by whitened optimal transport, after TAROT (Feng et al. 2024, "TAROT: Targeted Data Selection via
Optimal Transport").

Candidates and targets are centred jointly and whitened on a reduced rank (see ``whitening``), so that no loud direction
hides a telling one; the cost between two of them is sqrt(2 - 2 cos). Two things differ from the authors' code, because
measurements said so: the rank is cut before whitening, and the potentials are read the right way round. The source
potential grows with the distance to the targets, so the smallest comes first and weighs most.
"""

from __future__ import annotations

from dataclasses import asdict
from functools import cached_property
from typing import Any, Literal

import numpy as np
from pydantic import Field

from data_engine.errors import RequestError
from data_engine.selection import Budget, Candidates, Chosen, Selector, resolve_budget
from data_engine.selection.accelerated import unit_costs
from data_engine.selection.costs import Costs, DenseCosts
from data_engine.selection.nearest import cosines, layers
from data_engine.selection.neighbours import directions, nearest
from data_engine.selection.pool import Pool, reasons_for, vector_pools
from data_engine.selection.random import draw
from data_engine.selection.share import share_alike
from data_engine.selection.solver import Solution, SolverName, solve
from data_engine.selection.whitening import fit_whitening

__all__ = ["MAX_CELLS", "Transport"]

MAX_CELLS = 50_000_000
"""Candidates times targets up to which every cosine is in memory (0.4 GB); above, they are computed where wanted."""

_FLAT = 1e-6
_WORTH = 0.02  # of separation: where there is something to uncover it gains more; less is the luck of the targets
_DEEPEST = 2048  # nearest candidates of each target that are looked up where not every cosine is in memory
_LOOKED_AT = 4096  # candidates whose cosines say how far they spread


class _Space:
    """Candidates [n, d] and targets [m, d] where their cosines are taken, and how that came about."""

    def __init__(self, ours: np.ndarray, theirs: np.ndarray, rank: int, explained: float, whitened: bool) -> None:
        self.rank, self.explained, self.whitened = rank, explained, whitened
        self.compared: dict[str, float] = {}  # the separation of this space and of the other that there was
        self.shape = len(ours), len(theirs)
        self.theirs = theirs
        self.similarity = cosines(ours, theirs) if len(ours) * len(theirs) <= MAX_CELLS else None
        if self.similarity is None:
            self.units = unit_costs(directions(ours), directions(theirs))

    def costs(self, rows: np.ndarray | None = None) -> Costs:
        """sqrt(2 - 2 cos) of all candidates, or of some."""
        if self.similarity is None:
            return self.units if rows is None else self.units.part(rows)
        some = self.similarity if rows is None else self.similarity[rows]
        return DenseCosts(np.sqrt(np.maximum(2.0 - 2.0 * some, 0.0)))

    @cached_property
    def best(self) -> np.ndarray:
        """float64 [n]: each candidate's cosine with its nearest target."""
        if self.similarity is not None:
            return np.asarray(self.similarity.max(axis=1))
        return nearest(self.units.theirs, self.units.ours, 1)[1][:, 0].astype(np.float64)

    @property
    def two_nearest(self) -> tuple[np.ndarray, np.ndarray]:
        """int64 [n, 2], float64 [n, 2]: each candidate's two nearest targets and their cosines."""
        if self.similarity is None:
            rows, cosine = nearest(self.units.theirs, self.units.ours, 2)
            return rows, cosine.astype(np.float64)
        rows = np.argpartition(-self.similarity, 1, axis=1)[:, :2]
        rows = np.take_along_axis(rows, np.argsort(-np.take_along_axis(self.similarity, rows, 1), axis=1), 1)
        return rows, np.take_along_axis(self.similarity, rows, 1)

    def layers(self, count: int) -> np.ndarray:
        """int64 [n]: the round in which each candidate is reached by a target, deep enough for ``count`` of them.

        n where that is deeper than was looked.
        """
        if self.similarity is not None:
            return layers(self.similarity)
        n, m = self.shape
        deep = min(n, max(64, 2 * count // m))
        while True:
            found, _ = nearest(self.units.ours, self.units.theirs, min(deep, _DEEPEST))
            layer = np.full(n, n, dtype=np.int64)
            for round_ in range(found.shape[1] - 1, -1, -1):
                layer[found[:, round_][found[:, round_] >= 0]] = round_
            if int((layer < n).sum()) >= count or deep >= min(n, _DEEPEST):
                return layer
            deep *= 2

    @cached_property
    def separation(self) -> float:
        """The chance that a target lies nearer to another target than a candidate does to any: what the space knows of
        the targets that was not put into it. 0.5 where it knows nothing, or there is but one target.
        """
        if len(self.theirs) < 2:
            return 0.5
        among = cosines(self.theirs, self.theirs)
        np.fill_diagonal(among, -np.inf)
        ranked, held = np.sort(np.round(self._some.max(axis=1), 6)), np.round(among.max(axis=1), 6)
        below = sum(np.searchsorted(ranked, held, side=side).mean() for side in ("left", "right"))
        return float(below / 2 / len(ranked))

    @cached_property
    def spread(self) -> float:
        """The standard deviation of the cosines, over a part of the candidates where they are many."""
        return float(self._some.std())

    @cached_property
    def _some(self) -> np.ndarray:
        """The cosines of all candidates, or of a part of them where they are many."""
        if self.similarity is not None:
            return self.similarity
        some = np.linspace(0, self.shape[0] - 1, _LOOKED_AT).astype(np.int64)
        return np.asarray(self.units.ours[some] @ self.units.theirs.T, np.float64)


class Transport(Selector):
    """Choose the candidates that optimal transport moves to the targets at least cost.

    Fixed budget: the union of the 1st, 2nd, ... nearest candidates of every target until it is full; inside a round,
    and so in the last one, the smallest source potential first.

    ``auto``: as many as are like the targets by ``automatic``: ``share`` holds each target out and asks what share
    of the candidates lies as near to the others (:mod:`data_engine.selection.share`). ``folds`` is the authors' rule,
    which chooses two to four times too many where targets are few or of several kinds: targets are split into K =
    min(``folds``, targets) folds; for each the k nearest candidates (cosine above 0) of its targets are held against
    the other folds' targets by transport distance; k grows until the distance has not fallen for ``patience`` steps;
    the best k is kept, and the union over the folds is chosen. Either needs two targets at least.

    Weights are softmax(-potential / ``tau``) over the chosen, at mean 1: a shift of the potential changes nothing.

    ``variance``, ``rank_share``, ``ridge``: the reduced rank and its whitening. ``whiten=False``: centre only;
    ``auto``: whitened where that tells the targets from the candidates better, by how near each target lies to the
    others (the report's ``separation``, 0.02 more at least): whitening uncovers what loud directions hide, and where
    there are none it only lifts what tells little.
    ``min_spread``: smallest standard deviation of the cosines that still tells candidates apart; below it the request
    is refused, or with ``on_collapse="unwhitened"`` done without whitening. ``solver``, ``regularisation``: see
    ``data_engine.selection.solver``; the report's ``gap`` says how far from exact it is at most. ``baselines``: measure
    choices of the same size beside this one: at random, the nearest unwhitened neighbours, unwhitened transport, and
    the largest mean cosine with the targets (with projected gradients for vectors, the mean influence).

    Above ``MAX_CELLS`` pairs the rounds come from each target's 2,048 nearest at most (FAISS), and what lies deeper
    follows by its potential alone; ``automatic: folds`` is refused there.
    """

    name = "transport"
    needs_vectors = True
    needs_targets = True
    has_auto_budget = True

    whiten: bool | Literal["auto"] = "auto"
    variance: float = Field(0.95, gt=0, le=1)
    rank_share: float = Field(0.1, gt=0, le=1)
    ridge: float = Field(1e-5, ge=0)
    min_spread: float = Field(0.02, ge=0, lt=1)
    on_collapse: Literal["refuse", "unwhitened"] = "refuse"
    solver: SolverName = "auto"
    regularisation: float = Field(0.02, gt=0)
    tau: float = Field(0.2, ge=0.01)
    automatic: Literal["share", "folds"] = "share"
    folds: int = Field(10, ge=2)
    patience: int = Field(3, ge=1)
    baselines: bool = True

    def select(self, candidates: Candidates, targets: Candidates | None, *, budget: Budget | None, seed: int) -> Chosen:
        """Choose ``budget`` candidates, or as many as ``auto`` finds.

        Raises ``RequestError`` where vectors or targets cannot be used, where the cosines collapse, for ``auto`` with
        one target or where no candidate is like them, and for ``folds`` over more than ``MAX_CELLS`` pairs.
        """
        pool, wanted = vector_pools(candidates, targets)
        if budget != "auto":
            count = min(resolve_budget(budget, len(candidates)), len(pool))
        elif len(wanted) < 2:
            raise RequestError(
                "an automatic budget needs at least two targets: one is held out against the other",
                code="bad_budget",
                fix="give a budget, or more targets",
            )
        by_folds = budget == "auto" and self.automatic == "folds"
        if by_folds and len(pool) * len(wanted) > MAX_CELLS:
            raise RequestError(
                f"{len(pool)} candidates and {len(wanted)} targets are too many pairs for an automatic budget by folds",
                code="too_large",
                fix=f"set automatic: share, or narrow either side to at most {MAX_CELLS:,} pairs",
            )
        if len(pool) == 1:
            lines = reasons_for(len(candidates), pool.left_out, pool.rows, ["chosen: the only usable candidate"])
            return Chosen(
                pool.rows, np.ones(1), lines, {"candidates": len(candidates), "targets": len(wanted), "chosen": 1}
            )

        space = self._space(pool, wanted)
        solution = self._solve(space.costs())
        report: dict[str, Any] = {
            "candidates": len(candidates),
            "unusable": len(pool.left_out),
            "targets": len(wanted),
            "whitened": space.whitened,
            "rank": space.rank,
            "explained_variance": space.explained,
            "cosine_spread": space.spread,
            **({"separation": space.compared} if space.compared else {}),
            "solver": solution.solver,
            "converged": solution.converged,
            "gap": solution.gap,
        }
        if budget == "auto":
            count = len(pool) if by_folds else self._alike(space, report)
        layer = space.layers(count)
        order = np.lexsort((solution.potential, layer))[:count]
        if by_folds:
            kept, report["automatic_budget"] = self._automatic(space, seed)
            order = order[kept[order]]
        weights = np.exp(-(solution.potential[order] - solution.potential[order].min()) / self.tau)
        weights /= weights.mean()
        report["chosen"] = len(order)
        report["effective_sample_size"] = float(weights.sum() ** 2 / (weights**2).sum())
        report["transport_distance"] = {
            "everything": solution.distance,
            "chosen": self._solve(space.costs(order)).distance,
        }
        report["coverage"] = {"chosen": _coverage(pool, wanted, order)}
        if self.baselines:
            self._measure_baselines(report, candidates, pool, wanted, space, len(order), seed)
        reasons = reasons_for(
            len(candidates), pool.left_out, pool.rows, _explain(order, layer, space.best, solution.potential)
        )
        return Chosen(pool.rows[order], weights, reasons, report)

    def _solve(self, cost: Costs | np.ndarray) -> Solution:
        return solve(cost, self.solver, self.regularisation)

    def _space(self, pool: Pool, wanted: Pool) -> _Space:
        """The cosines after centring and whitening. Raises ``RequestError`` where they collapse."""
        both, n = np.concatenate([pool.vectors, wanted.vectors]), len(pool)
        plain = both - both.mean(axis=0)
        space = _Space(plain[:n], plain[n:], both.shape[1], 1.0, False)
        if self.whiten:
            whitening = fit_whitening(both, variance=self.variance, rank_share=self.rank_share, ridge=self.ridge)
            white = whitening.apply(both)
            whitened = _Space(white[:n], white[n:], whitening.rank, whitening.explained, True)
            if whitened.spread >= self.min_spread:
                compared = {"whitened": whitened.separation, "unwhitened": space.separation}
                gain = compared["whitened"] - compared["unwhitened"]
                better = self.whiten is True or len(wanted) < 2 or gain >= _WORTH
                chosen = whitened if better or space.spread < _FLAT else space
                chosen.compared = compared
                return chosen
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

    def _alike(self, space: _Space, report: dict[str, Any]) -> int:
        """How many candidates are like the targets; ``report`` says by what. Raises ``RequestError`` where none is."""
        found = share_alike(*space.two_nearest, cosines(space.theirs, space.theirs))
        report["automatic_budget"] = asdict(found)
        count = round(found.share * space.shape[0])
        if not count:
            raise _nothing_similar("no candidate lies as near to a target as the targets to each other")
        return count

    def _automatic(self, space: _Space, seed: int) -> tuple[np.ndarray, list[dict[str, Any]]]:
        """bool [n], the union over folds of each fold's best k rounds, and one curve a fold."""
        n, m = space.shape
        assert space.similarity is not None
        cost = space.costs().rows(slice(0, n))
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
            raise _nothing_similar("no candidate has a positive cosine with any target")
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
        """Add what other choices of ``count`` would have reached."""
        place = np.empty(len(candidates), dtype=np.int64)
        place[draw(candidates, seed)] = np.arange(len(candidates))
        plain = _Space(pool.vectors, wanted.vectors, 0, 1.0, False)
        mean = directions(pool.vectors) @ directions(wanted.vectors).mean(axis=0)
        rivals = {
            "random": np.argsort(place[pool.rows])[:count],
            "nearest": np.lexsort((-plain.best, plain.layers(count)))[:count],
            "mean_cosine": np.argsort(-np.round(mean, 9), kind="stable")[:count],
        }
        if space.whitened:
            middle = np.concatenate([pool.vectors, wanted.vectors]).mean(axis=0)
            centred = _Space(pool.vectors - middle, wanted.vectors - middle, 0, 1.0, False)
            potential = self._solve(centred.costs()).potential
            rivals["unwhitened"] = np.lexsort((potential, centred.layers(count)))[:count]
        for name, rows in rivals.items():
            report["transport_distance"][name] = self._solve(space.costs(rows)).distance
            report["coverage"][name] = _coverage(pool, wanted, rows)


def _nothing_similar(message: str) -> RequestError:
    return RequestError(message, code="nothing_similar", fix="give a budget instead of auto")


def _coverage(pool: Pool, wanted: Pool, rows: np.ndarray) -> dict[str, float]:
    """How near the chosen come to the targets in the space as it was: what transport did not optimise."""
    chosen, asked = directions(pool.vectors)[rows], directions(wanted.vectors)
    best = nearest(chosen, asked, 1)[1][:, 0].astype(np.float64)
    return {"mean_target": float(best.mean()), "worst_target": float(best.min())}


def _explain(order: np.ndarray, layer: np.ndarray, best: np.ndarray, potential: np.ndarray) -> list[str]:
    """One line for each usable candidate."""
    chosen = np.zeros(len(layer), dtype=bool)
    chosen[order] = True
    deep = len(layer)
    return [
        f"{'chosen' if taken else 'left out'}: "
        + (f"{round_ + 1}. nearest of a target, " if round_ < deep else "not among the nearest of any target, ")
        + f"cosine {cosine:.4f}, potential {f:.4f}"
        for taken, round_, cosine, f in zip(
            chosen.tolist(), layer.tolist(), best.tolist(), potential.tolist(), strict=True
        )
    ]
