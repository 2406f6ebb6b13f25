"""Where the samples of a split lie: the mixture's row of each, and the step in it. Drawn in blocks where neighbours are
asked for, alone where not, so that neither order of asking costs more than its samples.
"""

from __future__ import annotations

import numpy as np

from data_engine.cache import LRU
from data_engine.sampling import Draws, Epoch

__all__ = ["Places"]

_BLOCK = 4096  # samples drawn at once: many counter-based draws cost little more than one
_BLOCKS = 64

Block = tuple[np.ndarray, np.ndarray]


class Places:
    """The places of the samples that ``draws`` draw from the mixture's ``rows`` int64 [m]."""

    def __init__(self, draws: Draws, rows: np.ndarray) -> None:
        self._rows = rows
        self._epochs: LRU[int, Epoch] = LRU(2, draws.epoch)
        self._blocks: dict[tuple[int, int], Block] = {}
        self._asked: tuple[int, int] | None = None  # the block of the sample that was asked for last

    def size(self, epoch: int) -> int:
        """Samples in ``epoch``."""
        return len(self._epochs(epoch))

    def of(self, epoch: int, k: np.ndarray) -> Block:
        """``(row, offset)`` int64 [n] of samples ``k`` int64 [n]: the mixture's row, and the step counted from its
        ``start``.

        Raises ``IndexError`` outside the epoch.
        """
        number = int(k[0]) // _BLOCK
        if len(k) > 1 and (k // _BLOCK == number).all():
            rows, offsets = self._block((epoch, number))
            inside = k - number * _BLOCK
            return rows[inside], offsets[inside]
        return self._at(epoch, k)

    def one(self, epoch: int, k: int) -> tuple[int, int]:
        """``(row, offset)`` of sample ``k`` alone. Raises ``IndexError`` outside the epoch."""
        key = epoch, k // _BLOCK
        block = self._blocks.get(key)
        if block is None:
            asked, self._asked = self._asked, key
            if asked != key:  # so far nobody reads along here
                rows, offsets = self._at(epoch, np.array([k], np.int64))
                return int(rows[0]), int(offsets[0])
            block = self._block(key)
        inside = k % _BLOCK
        return block[0].item(inside), block[1].item(inside)

    def _block(self, key: tuple[int, int]) -> Block:
        found = self._blocks.get(key)
        if found is None:
            epoch, number = key
            last = min((number + 1) * _BLOCK, self.size(epoch))
            found = self._blocks[key] = self._at(epoch, np.arange(number * _BLOCK, last))
            if len(self._blocks) > _BLOCKS:
                del self._blocks[next(iter(self._blocks))]
        return found

    def _at(self, epoch: int, k: np.ndarray) -> Block:
        rows, offsets = self._epochs(epoch).at(k)
        return self._rows[rows], offsets
