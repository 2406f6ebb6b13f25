"""What it costs to move a candidate to a target, block by block: the whole of it need never be in memory."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np

__all__ = ["Cheapest", "Costs", "DenseCosts", "UnitCosts", "by_block", "least", "one_thread"]

T = TypeVar("T")
_CELLS = 250_000  # of a block: 1 MB, so that what is made of it stays near the processor
_GROUP = 8


@dataclass(frozen=True)
class Cheapest:
    """Of each of n rows the k columns of least reduced cost C_ij - g_j, the least first: ``target`` int32 [n, k] with
    its ``cost`` C_ij float32 [n, k], and ``potential`` float64 [n], the reduced cost of the first."""

    potential: np.ndarray
    target: np.ndarray
    cost: np.ndarray


class Costs(Protocol):
    """Costs [n, m] that are read by rows."""

    @property
    def shape(self) -> tuple[int, int]:
        """(n, m)."""
        ...

    def rows(self, which: np.ndarray | slice) -> np.ndarray:
        """float [b, m]: the costs of these rows."""
        ...

    def at(self, source: np.ndarray, target: np.ndarray) -> np.ndarray:
        """float64 [p]: the costs of these pairs."""
        ...

    def part(self, which: np.ndarray) -> Costs:
        """Some of the rows: int64 [p]."""
        ...

    def cheapest(self, prices: np.ndarray, pairs: int) -> Cheapest:
        """What each row would pay least for under ``prices`` float64 [m]. O(n m) of time, O(n ``pairs``) of memory."""
        ...


@dataclass(frozen=True)
class DenseCosts:
    """A cost matrix [n, m] that is in memory."""

    matrix: np.ndarray

    @property
    def shape(self) -> tuple[int, int]:
        """(n, m)."""
        return self.matrix.shape[0], self.matrix.shape[1]

    def rows(self, which: np.ndarray | slice) -> np.ndarray:
        """float [b, m]."""
        return np.asarray(self.matrix[which])

    def at(self, source: np.ndarray, target: np.ndarray) -> np.ndarray:
        """float64 [p]."""
        return np.asarray(self.matrix[source, target], np.float64)

    def part(self, which: np.ndarray) -> DenseCosts:
        """Some of the rows."""
        return DenseCosts(self.matrix[which])

    def cheapest(self, prices: np.ndarray, pairs: int) -> Cheapest:
        """See :class:`Costs`."""
        return _cheapest(self, prices, pairs)


@dataclass(frozen=True)
class UnitCosts:
    """sqrt(2 - 2 cos) between unit vectors ``ours`` float32 [n, d] and ``theirs`` float32 [m, d]."""

    ours: np.ndarray
    theirs: np.ndarray

    @property
    def shape(self) -> tuple[int, int]:
        """(n, m)."""
        return len(self.ours), len(self.theirs)

    def rows(self, which: np.ndarray | slice) -> np.ndarray:
        """float32 [b, m], computed anew."""
        return _distance(self.ours[which] @ self.theirs.T)

    def at(self, source: np.ndarray, target: np.ndarray) -> np.ndarray:
        """float64 [p]."""
        return _distance(np.einsum("pd,pd->p", self.ours[source], self.theirs[target])).astype(np.float64)

    def part(self, which: np.ndarray) -> UnitCosts:
        """Some of the rows."""
        return UnitCosts(self.ours[which], self.theirs)

    def cheapest(self, prices: np.ndarray, pairs: int) -> Cheapest:
        """See :class:`Costs`."""
        return _cheapest(self, prices, pairs)


def by_block(costs: Costs, do: Callable[[slice, np.ndarray], T]) -> list[T]:
    """``do(rows, their costs)`` for all rows in blocks of some 1 MB, one on each processor, in order."""
    n, m = costs.shape
    size = max(1, _CELLS // max(m, 1))
    blocks = [slice(start, min(start + size, n)) for start in range(0, n, size)]
    # numpy lets go of the interpreter while it multiplies and partitions
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with one_thread(), ThreadPoolExecutor(cores) as pool:
        return list(pool.map(lambda block: do(block, costs.rows(block)), blocks))


def one_thread() -> AbstractContextManager[object]:
    """Small products on one thread each: several only wait for each other wherever somebody else is at work."""
    try:
        from threadpoolctl import threadpool_limits
    except ImportError:
        return nullcontext()
    return threadpool_limits(1, "blas")


def least(values: np.ndarray, k: int) -> np.ndarray:
    """int64 [b, k]: the columns of the ``k`` least of each row of ``values`` [b, m], the least first.

    The k least lie in the k groups of columns whose own least are the least: so only an eighth of the columns, and then
    those of these groups, are partitioned.
    """
    b, m = values.shape
    width = m // _GROUP
    if width < 4 * k:
        found = np.argpartition(values, k - 1, axis=1)[:, :k] if k < m else np.tile(np.arange(m), (b, 1))
        return _sorted(values, found)
    grouped = values[:, : width * _GROUP].reshape(b, _GROUP, width).min(axis=1)
    group = np.argpartition(grouped, k - 1, axis=1)[:, :k]
    column = (group[:, None, :] + width * np.arange(_GROUP)[None, :, None]).reshape(b, -1)
    if rest := m - width * _GROUP:
        column = np.concatenate([column, np.tile(np.arange(m - rest, m), (b, 1))], axis=1)
    some = np.take_along_axis(values, column, axis=1)
    found = np.argpartition(some, k - 1, axis=1)[:, :k]
    return _sorted(values, np.take_along_axis(column, found, axis=1))


def _cheapest(costs: Costs, prices: np.ndarray, pairs: int) -> Cheapest:
    narrow, pairs = prices.astype(np.float32), min(pairs, costs.shape[1])

    def price(_: slice, cost: np.ndarray) -> tuple[np.ndarray, ...]:
        reduced = cost - narrow
        found = reduced.argmin(axis=1)[:, None] if pairs == 1 else least(reduced, pairs)
        paid = np.take_along_axis(cost, found, axis=1)
        return paid[:, 0] - prices[found[:, 0]], found.astype(np.int32), paid.astype(np.float32)

    parts = by_block(costs, price)
    return Cheapest(*(np.concatenate([part[i] for part in parts]) for i in range(3)))


def _distance(cosine: np.ndarray) -> np.ndarray:
    """sqrt(2 - 2 ``cosine``), in its place."""
    np.multiply(cosine, -2, out=cosine)
    np.add(cosine, 2, out=cosine)
    np.maximum(cosine, 0, out=cosine)
    return np.sqrt(cosine, out=cosine)


def _sorted(values: np.ndarray, found: np.ndarray) -> np.ndarray:
    order = np.argsort(np.take_along_axis(values, found, axis=1), axis=1, kind="stable")
    return np.take_along_axis(found, order, axis=1)
