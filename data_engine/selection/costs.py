"""What it costs to move a candidate to a target, block by block: the whole of it need never be in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np

__all__ = ["Costs", "DenseCosts", "UnitCosts", "by_block"]

T = TypeVar("T")
_CELLS = 2_000_000  # of a block: 8 MB


class Costs(Protocol):
    """Costs [n, m] that are read by rows."""

    @property
    def shape(self) -> tuple[int, int]:
        """(n, m)."""
        ...

    def rows(self, which: np.ndarray | slice) -> np.ndarray:
        """float [b, m]: the costs of these rows."""
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
        cost = self.ours[which] @ self.theirs.T
        np.multiply(cost, -2, out=cost)
        cost += 2
        np.maximum(cost, 0, out=cost)
        return np.sqrt(cost, out=cost)


def by_block(costs: Costs, do: Callable[[slice, np.ndarray], T]) -> Iterator[T]:
    """``do(rows, their costs)`` for all rows in blocks of some 8 MB, two at a time, in order."""
    n, m = costs.shape
    size = max(1, _CELLS // max(m, 1))
    blocks = [slice(start, min(start + size, n)) for start in range(0, n, size)]
    with ThreadPoolExecutor(2) as pool:  # numpy lets go of the interpreter while it multiplies and partitions
        yield from pool.map(lambda block: do(block, costs.rows(block)), blocks)
