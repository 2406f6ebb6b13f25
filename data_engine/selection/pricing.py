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
from data_engine.selection.costs import Costs, DenseCosts, by_block
from data_engine.selection.scaling import first_prices, leftovers, scale

__all__ = ["Priced", "solve_priced"]

_SMALL = 1_200_000  # cells that are solved whole
_SAMPLE = 50_000_000  # cells of the sample that sets the first prices
_SCALINGS = 6
_PAIRS = 2_000_000  # of one sparse problem: more than that takes minutes


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
    costs: Costs, ot: Any, *, gap: float = 0.01, pairs: int = 12, rounds: int = 8, seed: int = 0
) -> Priced:
    """Transport between n rows and m columns of equal masses, to within ``gap`` of the least cost.

    ``ot`` is POT. Each row keeps its ``pairs`` columns of least reduced cost. Where n x ``pairs`` is too many, a sample
    of the rows sets the prices, and every row is priced by them: mini-batch transport by its semi-dual (Genevay et al.
    2016). Memory O(n x pairs + m); time that of a few passes over the costs and of the sparse solutions.
    """
    n, m = costs.shape
    if n * m <= _SMALL:
        return _whole(costs, ot)
    rng = np.random.default_rng(seed)
    most = max(_PAIRS // pairs, 2 * m)
    if n > most:
        part = _Rows(costs, np.sort(rng.permutation(n)[:most]))
        found = solve_priced(part, ot, gap=gap, pairs=pairs, rounds=rounds, seed=seed)
        potential, bound = _potential(costs, found.prices)
        return Priced(found.distance, bound, potential, found.prices, found.rounds, most)
    few = np.sort(rng.permutation(n)[: max(2 * m, 64)])
    prices = first_prices(np.array(costs.rows(few))) if 2 * m * m <= _SAMPLE else np.zeros(m)

    best = _Best()
    for _ in range(_SCALINGS):
        potential, bound, source, target, cost = _cheapest(costs, prices, pairs, None)
        best.bounded(bound, prices, potential)
        if best.gap <= gap:
            break
        moved, prices, left, room = scale(
            target.reshape(n, -1), cost.reshape(n, -1).astype(np.float64), prices, np.full(n, 1 / n)
        )
        row, column, amount = leftovers(left, room)
        best.moved(moved + float(_at(costs, row, column) @ amount))
        if best.gap <= gap:
            break
    if best.gap <= gap:
        return best.found(0, n)

    # generic masses leave no simplex basis degenerate, in which prices of parts float free of one another
    mass = 1 + 1e-7 * rng.random(n)
    mass /= mass.sum()
    prices = best.prices
    potential, bound, source, target, cost = _cheapest(costs, prices, pairs, None)
    first, second = _staircase(target.reshape(n, -1)[:, 0], mass, m)
    edges = _Edges(m).add(source, target, cost).add(first, second, _at(costs, first, second))
    done = 0
    while done < rounds:
        done += 1
        distance, prices = edges.solve(ot, mass, n)
        best.moved(distance)
        own = edges.potential(prices, n)
        potential, bound, source, target, cost = _cheapest(costs, prices, max(pairs // 4, 1), own)
        best.bounded(bound, prices, potential)
        if best.gap <= gap or not len(source):
            break
        edges.add(source, target, cost)
    return best.found(done, n)


class _Best:
    """The cheapest transport so far, and the prices that bound it best."""

    def __init__(self) -> None:
        self.distance, self.bound = np.inf, -np.inf
        self.prices = self.potential = np.zeros(0)

    def moved(self, distance: float) -> None:
        self.distance = min(self.distance, distance)

    def bounded(self, bound: float, prices: np.ndarray, potential: np.ndarray) -> None:
        if bound > self.bound:
            self.bound, self.prices, self.potential = bound, prices, potential

    @property
    def gap(self) -> float:
        if not np.isfinite(self.distance):
            return float(np.inf)
        return max(self.distance - self.bound, 0.0) / max(self.distance, 1e-12)

    def found(self, rounds: int, n: int) -> Priced:
        return Priced(self.distance, self.bound, self.potential, self.prices, rounds, n)


@dataclass(frozen=True)
class _Rows:
    """Some rows of other costs."""

    costs: Costs
    which: np.ndarray

    @property
    def shape(self) -> tuple[int, int]:
        """(rows kept, m)."""
        return len(self.which), self.costs.shape[1]

    def rows(self, which: np.ndarray | slice) -> np.ndarray:
        """float [b, m]."""
        return self.costs.rows(self.which[which])


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
    potential = np.concatenate(list(by_block(costs, lambda _, cost: (cost - prices).min(axis=1))))
    return potential, float(potential.mean() + prices.mean())


def _cheapest(
    costs: Costs, prices: np.ndarray, pairs: int, known: np.ndarray | None
) -> tuple[np.ndarray, float, np.ndarray, np.ndarray, np.ndarray]:
    """:func:`_potential`, and source, target and cost of each row's ``pairs`` of least reduced cost, the least first.

    With ``known`` [n] only of rows that have one below theirs.
    """
    narrow, pairs = prices.astype(np.float32), min(pairs, costs.shape[1])

    def price(block: slice, cost: np.ndarray) -> tuple[np.ndarray, ...]:
        reduced = cost - narrow
        least = reduced.argmin(axis=1)
        at = np.arange(len(cost))
        value = cost[at, least].astype(np.float64) - prices[least]
        rows = at if known is None else np.flatnonzero(value < known[block] - 1e-6)
        if pairs == 1 or not len(rows):
            found = least[rows, None]
        else:
            some = reduced if known is None else reduced[rows]
            found = np.argpartition(some, pairs - 1, axis=1)[:, :pairs]
            order = np.argsort(np.take_along_axis(some, found, axis=1), axis=1, kind="stable")
            found = np.take_along_axis(found, order, axis=1)
        source = np.repeat(rows, found.shape[1])
        return value, source + block.start, found.ravel(), cost[source, found.ravel()]

    parts = list(by_block(costs, price))
    potential, source, target, cost = (np.concatenate([part[i] for part in parts]) for i in range(4))
    return potential, float(potential.mean() + prices.mean()), source, target, cost


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


def _at(costs: Costs, source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The costs of these pairs: float64."""
    place = np.argsort(source, kind="stable")
    starts = np.searchsorted(source[place], np.arange(costs.shape[0] + 1))

    def pick(block: slice, cost: np.ndarray) -> np.ndarray:
        mine = place[starts[block.start] : starts[block.stop]]
        return cost[source[mine] - block.start, target[mine]].astype(np.float64)

    found = np.empty(len(source))
    found[place] = np.concatenate(list(by_block(costs, pick)))
    return found
