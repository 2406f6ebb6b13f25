"""Steps of one course that stand still in another's time: dynamic time warping, and what it stretches.

Sakoe and Chiba, "Dynamic Programming Algorithm Optimization for Spoken Word Recognition" (1978).
"""

from __future__ import annotations

import numpy as np

__all__ = ["stretched", "warp"]


def warp(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The cheapest monotone path of pairs (i, j) through ``x`` [n, d] and ``y`` [m, d], int64 [path] each.

    The cost of a pair is its squared distance. O(n m), by anti-diagonals.
    """
    n, m = len(x), len(y)
    cost = np.maximum((x * x).sum(1)[:, None] + (y * y).sum(1)[None] - 2 * x @ y.T, 0.0)
    total = np.full((n + 1, m + 1), np.inf)
    total[0, 0] = 0.0
    for diagonal in range(2, n + m + 1):
        i = np.arange(max(1, diagonal - m), min(n, diagonal - 1) + 1)
        j = diagonal - i
        before = np.minimum(np.minimum(total[i - 1, j - 1], total[i - 1, j]), total[i, j - 1])
        total[i, j] = cost[i - 1, j - 1] + before
    i, j, path = n, m, []
    while i and j:
        path.append((i - 1, j - 1))
        i, j = min(((i - 1, j - 1), (i - 1, j), (i, j - 1)), key=lambda cell: total[cell])
    first, second = np.array(path[::-1], np.int64).T
    return first, second


def stretched(first: np.ndarray, second: np.ndarray, n: int, least: int, slope: float = 0.35) -> np.ndarray:
    """bool [n]: steps in runs of at least ``least`` that advance the other course by at most ``slope`` a step.

    ``first``, ``second``: a path of :func:`warp`.
    """
    place = np.zeros(n)
    place[first] = second  # the last one that a step is paired with
    found = np.zeros(n, bool)
    for start in range(n - least + 1):
        stop = start + least
        if place[stop - 1] - place[start] <= slope * (least - 1):
            found[start:stop] = True
    return found
