"""Large transport problems by pricing: solve on few pairs, look which others would pay, and say how far the rest is.

The exact solver needs every pair; nearly none of them moves anything. Here each row keeps its pairs of least reduced
cost C_ij - g_j under the targets' prices g, which a small sample gives first; matrix scaling moves the mass along those
and corrects the prices, and all pairs are priced again. Any g bounds the true cost from below:
mean_i min_j (C_ij - g_j) + mean_j g_j. So the gap to the exact solution is known without it. Where it stays too large,
the network simplex takes over on few pairs, to which those are added that would pay: column generation (Dantzig and
Wolfe 1960; for transport Gottschlich and Schuhmacher 2014), which ends at the exact solution.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from data_engine.errors import EngineError
from data_engine.selection.costs import Cheapest, Costs, DenseCosts
from data_engine.selection.scaling import first_prices, leftovers, scale

__all__ = ["Priced", "solve_priced"]

_SMALL = 1_200_000  # cells that are solved whole
_DENSE = 50_000_000  # cells of the sample that sets the first prices
_SCALINGS = 6
_SIMPLEX = 2_000_000  # pairs of one sparse problem: more than that takes minutes
_SCALED = 24_000_000  # pairs that mass is scaled along: some 2 GB
_GROWTH = 8
_TAUGHT = 3  # scalings of a sample


@dataclass(frozen=True)
class Priced:
    """``distance``: the cost of a transport that is one. ``bound``: no transport costs less. ``potential`` float64 [n]:
    min_j (C_ij - g_j). ``prices`` float64 [m]: g. ``rounds``: sparse problems that the simplex solved. ``sample``: how
    many rows were moved; where that is not all, ``distance`` is of the sample and ``bound`` of everything.
    """

    distance: float
    bound: float
    potential: np.ndarray
    prices: np.ndarray
    rounds: int
    sample: int

    @property
    def gap(self) -> float:
        """How far, at most, the distance is above the least one, as a share of it."""
        return max(self.distance - self.bound, 0.0) / max(self.distance, 1e-12)


def solve_priced(
    costs: Costs, ot: Any, *, gap: float = 0.01, pairs: int = 16, rounds: int = 8, seed: int = 0
) -> Priced:
    """Transport between n rows and m columns of equal masses, to within ``gap`` of the least cost.

    ``ot`` is POT. Each row keeps its ``pairs`` columns of least reduced cost. Samples of the rows, each larger than the
    one before, set the prices that the next one begins with: mini-batch transport by its semi-dual (Genevay et al.
    2016). Where n x ``pairs`` is too many for the simplex, scaling has the last word, whatever its gap; where it is too
    many for scaling, the largest sample that is not is moved, and every row is priced as that says.

    Memory O(n x pairs + m); time that of a few passes over the costs and of the sparse solutions.
    """
    n, m = costs.shape
    if n * m <= _SMALL:
        return _whole(costs, ot)
    rng = np.random.default_rng(seed)
    shuffled, pairs = rng.permutation(n), min(pairs, m)
    most = max(_SCALED // pairs, 2 * m)
    if n > most:
        part = costs.part(np.sort(shuffled[:most]))
        found = solve_priced(part, ot, gap=gap, pairs=pairs, rounds=rounds, seed=seed)
        potential, bound = _potential(costs, found.prices)
        return Priced(found.distance, bound, potential, found.prices, found.rounds, most)
    prices = _taught(costs, shuffled, pairs)
    best = _scaled(costs, prices, pairs, _SCALINGS, gap)
    if best.gap <= gap or n * pairs > _SIMPLEX:
        return best.found(0, n)

    # generic masses leave no simplex basis degenerate, in which prices of parts float free of one another
    mass = 1 + 1e-7 * rng.random(n)
    mass /= mass.sum()
    found_pairs = costs.cheapest(best.prices, pairs)
    first, second = _staircase(found_pairs.target[:, 0], mass, m)
    edges = _Edges(m).add(*_listed(found_pairs)).add(first, second, costs.at(first, second))
    done = 0
    while done < rounds:
        done += 1
        distance, prices = edges.solve(ot, mass, n)
        best.moved(distance)
        found_pairs = costs.cheapest(prices, max(pairs // 4, 1))
        best.bounded(prices, found_pairs.potential)
        would_pay = np.flatnonzero(found_pairs.potential < edges.potential(prices, n) - 1e-6)
        if best.gap <= gap or not len(would_pay):
            break
        edges.add(*_listed(found_pairs, would_pay))
    return best.found(done, n)


def _taught(costs: Costs, shuffled: np.ndarray, pairs: int) -> np.ndarray:
    """Prices float64 [m] to begin with: of samples of the rows, ``shuffled`` int64 [n]."""
    n, m = costs.shape
    size = max(min(2 * m, _DENSE // m), 64)  # all pairs of these: what is far apart is not among anybody's cheapest
    prices = first_prices(costs.rows(np.sort(shuffled[:size])))
    size = max(size, 2 * m) * _GROWTH
    while size * _GROWTH // 2 <= n:  # a sample nearly as large as the whole teaches nothing that the whole does not
        part = costs.part(np.sort(shuffled[:size]))
        prices = _scaled(part, prices, pairs, _TAUGHT, 0.0).latest
        size *= _GROWTH
    return prices


def _scaled(costs: Costs, prices: np.ndarray, pairs: int, times: int, gap: float) -> _Best:
    """Scale and price in turns, until the gap is small enough or ``times`` over."""
    n, _ = costs.shape
    best = _Best()
    for _ in range(times):
        found = costs.cheapest(prices, pairs)
        best.bounded(prices, found.potential)
        if best.gap <= gap:
            break
        moved, prices, left, room = scale(found.target, found.cost, prices, np.full(n, 1 / n))
        row, column, amount = leftovers(left, room)
        best.moved(moved + float(costs.at(row, column) @ amount))
        best.latest = prices
        if best.gap <= gap:
            break
    return best


class _Best:
    """The cheapest transport so far, and the prices that bound it best."""

    def __init__(self) -> None:
        self.distance, self.bound = np.inf, -np.inf
        self.prices = self.potential = self.latest = np.zeros(0)

    def moved(self, distance: float) -> None:
        self.distance = min(self.distance, distance)

    def bounded(self, prices: np.ndarray, potential: np.ndarray) -> None:
        bound = float(potential.mean() + prices.mean())
        if bound > self.bound:
            self.bound, self.prices, self.potential = bound, prices, potential

    @property
    def gap(self) -> float:
        if not np.isfinite(self.distance):
            return float(np.inf)
        return max(self.distance - self.bound, 0.0) / max(self.distance, 1e-12)

    def found(self, rounds: int, n: int) -> Priced:
        return Priced(self.distance, self.bound, self.potential, self.prices, rounds, n)


class _Edges:
    """The pairs that are solved on, each once."""

    def __init__(self, m: int) -> None:
        self.m = m
        self.keys, self.costs = np.empty(0, np.int64), np.empty(0)

    def add(self, source: np.ndarray, target: np.ndarray, cost: np.ndarray) -> _Edges:
        keys = np.concatenate([self.keys, source * self.m + target])
        self.keys, first = np.unique(keys, return_index=True)
        self.costs = np.concatenate([self.costs, cost.astype(np.float64)])[first]
        return self

    def solve(self, ot: Any, mass: np.ndarray, n: int) -> tuple[float, np.ndarray]:
        """The least cost on these pairs and the prices [m] that go with it."""
        from scipy.sparse import coo_matrix

        cost = np.maximum(self.costs, 1e-12)  # a stored zero is a pair, not a gap
        matrix = coo_matrix((cost, (self.keys // self.m, self.keys % self.m)), shape=(n, self.m))
        _, log = ot.emd(mass, np.full(self.m, 1 / self.m), matrix, numItermax=100_000_000, log=True)
        if log["warning"] is not None:
            raise EngineError(f"the transport solver gave up: {log['warning']}", code="not_solved")
        return float(log["cost"]), np.asarray(log["v"], np.float64)

    def potential(self, prices: np.ndarray, n: int) -> np.ndarray:
        """min over the pairs of each row of C_ij - g_j: float64 [n]."""
        reduced = self.costs - prices[self.keys % self.m]
        starts = np.searchsorted(self.keys, np.arange(n) * self.m)
        return np.minimum.reduceat(reduced, starts)


def _whole(costs: Costs, ot: Any) -> Priced:
    n, m = costs.shape
    matrix = costs.rows(slice(0, n)).astype(np.float64)
    distance, log = ot.emd2(np.full(n, 1 / n), np.full(m, 1 / m), matrix, numItermax=10_000_000, log=True)
    prices = np.asarray(log["v"], np.float64)
    potential, bound = _potential(DenseCosts(matrix), prices)
    return Priced(float(distance), bound, potential, prices, 1, n)


def _potential(costs: Costs, prices: np.ndarray) -> tuple[np.ndarray, float]:
    """min_j (C_ij - g_j) float64 [n] over all pairs, and the bound that it gives."""
    potential = costs.cheapest(prices, 1).potential
    return potential, float(potential.mean() + prices.mean())


def _listed(found: Cheapest, rows: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Source, target and cost of the pairs of all ``rows``, one after the other."""
    rows = np.arange(len(found.target)) if rows is None else rows
    target, cost = found.target[rows], found.cost[rows]
    return np.repeat(rows, target.shape[1]), target.ravel().astype(np.int64), cost.ravel()


def _staircase(nearest: np.ndarray, mass: np.ndarray, m: int) -> tuple[np.ndarray, np.ndarray]:
    """Pairs (source, target) of a path through all rows and columns that carries one transport: with them, the others
    always have an answer. Rows of ``mass`` [n] in the order of their ``nearest`` [n] column: the northwest corner's
    rule.
    """
    order = np.argsort(nearest, kind="stable")
    ended = np.minimum((np.cumsum(mass[order]) * m).astype(np.int64), m - 1)  # the column that each row's mass ends in
    begun = np.concatenate([[0], ended[:-1]])
    count = ended - begun + 1
    source = np.repeat(np.arange(len(mass)), count)
    target = np.arange(len(source)) - np.repeat(np.cumsum(count) - count, count) + np.repeat(begun, count)
    return order[source], target
