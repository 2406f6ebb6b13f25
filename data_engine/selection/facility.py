"""Facility location: the few that stand for all, by lazy greedy.

f(S) = sum_i w_i max_{j in S} s_ij is monotone and submodular for s >= 0, so greedy reaches (1 - 1/e) of the best set of
its size (Nemhauser, Wolsey and Fisher 1978). A gain can only fall as S grows, so one measured earlier is a bound, and
most candidates are never measured again (Minoux 1978): the same set as plain greedy, for far fewer looks.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np

from data_engine.selection.neighbours import nearest

__all__ = ["Facilities", "Located", "locate"]


@dataclass(frozen=True)
class Facilities:
    """How well each of n units is stood for by each: column j lists the units that j reaches.

    ``rows`` int64 and ``values`` float32 or float64, both [e], of the pairs ordered by column; ``offsets`` int64
    [n + 1]. A pair that is not listed is worth 0; every unit reaches itself.
    """

    rows: np.ndarray
    values: np.ndarray
    offsets: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @classmethod
    def dense(cls, similarity: np.ndarray) -> Facilities:
        """All pairs of ``similarity`` [n, n], where [i, j] says how well j stands for i; below 0 counts as 0."""
        n = len(similarity)
        values = np.maximum(similarity.T, 0).ravel()
        return cls(np.tile(np.arange(n), n), values, np.arange(n + 1, dtype=np.int64) * n)

    @classmethod
    def sparse(cls, units: np.ndarray, k: int) -> Facilities:
        """Each of the unit vectors [n, d] is stood for by itself and its ``k`` nearest of positive cosine."""
        n = len(units)
        found, cosine = nearest(units, units, k + 1)
        others = (found >= 0) & (found != np.arange(n)[:, None]) & (cosine > 0)
        rows = np.concatenate([np.repeat(np.arange(n), found.shape[1])[others.ravel()], np.arange(n)])
        columns = np.concatenate([found[others], np.arange(n)])
        values = np.concatenate([np.minimum(cosine[others], 1), np.ones(n, np.float32)])
        order = np.lexsort((rows, columns))
        offsets = np.concatenate([[0], np.cumsum(np.bincount(columns, minlength=n))])
        return cls(rows[order], values[order], offsets.astype(np.int64))

    def scaled(self, quality: np.ndarray) -> Facilities:
        """The same, where j is worth ``quality`` [n] (not negative) times as much to whoever it stands for."""
        return Facilities(self.rows, self.values * np.repeat(quality, np.diff(self.offsets)), self.offsets)


@dataclass(frozen=True)
class Located:
    """``order`` int64 [k], best first, and ``gains`` float64 [k], what each added. ``value``: their sum, f(S).

    ``bound``: no set of k is worth more (f(S) plus the k largest gains that are left; Leskovec et al. 2007).
    ``worth`` float64 [n]: how well each unit is stood for, and ``by`` int64 [n]: by whom (-1: by nobody).
    ``looks``: gains that were measured.
    """

    order: np.ndarray
    gains: np.ndarray
    value: float
    bound: float
    worth: np.ndarray
    by: np.ndarray
    looks: int


def locate(facilities: Facilities, demand: np.ndarray, count: int) -> Located:
    """Choose ``count`` of n facilities by lazy greedy; of equal gains the earlier first.

    ``demand`` float64 [n], not negative: how much each unit counts. O(e + looks x reach) for e listed pairs.
    """
    n, count = len(facilities), min(count, len(facilities))
    rows, values, offsets = facilities.rows, facilities.values, facilities.offsets
    worth, by = np.zeros(n), np.full(n, -1, dtype=np.int64)

    def gain(j: int) -> float:
        mine = slice(offsets[j], offsets[j + 1])
        reached = rows[mine]
        return float(np.maximum(values[mine] - worth[reached], 0.0) @ demand[reached])

    heap = [(-gain(j), j) for j in range(n)]
    heapq.heapify(heap)
    looks, order, gains = n, list[int](), list[float]()
    while len(order) < count:
        _, j = heapq.heappop(heap)
        now = (-gain(j), j)
        looks += 1
        if heap and now > heap[0]:
            heapq.heappush(heap, now)
            continue
        mine = slice(offsets[j], offsets[j + 1])
        better = values[mine] > worth[rows[mine]]
        reached = rows[mine][better]
        worth[reached], by[reached] = values[mine][better], j
        order.append(j)
        gains.append(-now[0])
    left = np.sort([gain(j) for _, j in heap])[::-1][:count] if heap else np.zeros(0)
    value = float(worth @ demand)
    return Located(np.asarray(order, np.int64), np.asarray(gains), value, value + float(left.sum()), worth, by, looks)
