"""How well two ways to cut the same recording agree: boundaries matched one to one within a tolerance."""

from __future__ import annotations

import numpy as np

__all__ = ["matched", "scattered"]


def matched(one: np.ndarray, other: np.ndarray, tolerance: float) -> int:
    """The most boundaries of ``one`` [k] and ``other`` [l], rising times, that pair up within ``tolerance``.

    Each is in one pair at most. Taking the earliest that fits is optimal for intervals of one width. O(k + l).
    """
    pairs = i = j = 0
    while i < len(one) and j < len(other):
        if abs(one[i] - other[j]) <= tolerance:
            pairs, i, j = pairs + 1, i + 1, j + 1
        elif one[i] < other[j]:
            i += 1
        else:
            j += 1
    return pairs


def scattered(count: int, duration: float, draw: np.random.Generator) -> np.ndarray:
    """As many boundaries anywhere in (0, ``duration``), rising: what agreement must be above to mean anything."""
    return np.sort(draw.uniform(0, duration, count))
