"""Transport on few pairs by matrix scaling, rounded to one that is exactly a transport.

Sinkhorn's iteration (Cuturi 2013) from prices that are nearly right: the kernel is taken of the reduced costs, so that
a temperature far below the costs' own size neither underflows nor needs many rounds (the stabilised and truncated form
of Schmitzer 2019). What the scaling leaves over in rows and columns is moved by the northwest corner's rule.
"""

from __future__ import annotations

import numpy as np

from data_engine.selection.costs import one_thread

__all__ = ["first_prices", "leftovers", "scale"]

_WARM, _COLD = 0.03, 0.004  # temperatures, as shares of the mean cost
_WARM_ROUNDS, _ROUNDS = 30, 100
_FAR = 5e8  # what a column that hardly a pair reaches may rise by: 20 temperatures, not out of everybody's sight
_RELAXED = 1.6  # over-relaxation: a third of the rounds that the plain iteration needs (Thibault et al. 2021)


def first_prices(cost: np.ndarray) -> np.ndarray:
    """Prices float64 [m] from all pairs ``cost`` [s, m] of a sample: warm, so that they are not those of its noise."""
    s, m = cost.shape
    temperature = _WARM * max(float(cost.mean()), 1e-12)
    kernel = cost - cost.min(axis=1, keepdims=True)
    np.multiply(kernel, -1 / temperature, out=kernel)
    np.exp(kernel, out=kernel)
    down = np.ones(m, kernel.dtype)
    with one_thread():  # products as small as these lose more by waiting for each other
        for _ in range(_WARM_ROUNDS):
            up = (1 / s) / np.maximum(kernel @ down, 1e-30)
            down = (1 / m) / np.maximum(up.astype(kernel.dtype) @ kernel, 1e-30)
    return temperature * np.log(down.astype(np.float64))


def scale(
    target: np.ndarray, cost: np.ndarray, prices: np.ndarray, mass: np.ndarray
) -> tuple[float, np.ndarray, np.ndarray, np.ndarray]:
    """Move ``mass`` [n] to m columns of equal mass along the pairs ``target`` int [n, k], ``cost`` [n, k].

    O(n k) of time a round and of memory. Returns the cost of what was moved, prices float64 [m] that fit better than
    the given, and what is left over in each row [n] and column [m]: never negative, of equal sums.
    """
    from scipy.sparse import csr_matrix

    (n, k), m = target.shape, len(prices)
    capacity = np.full(m, 1.0 / m)
    flat, starts = target.ravel().astype(np.int32), np.arange(n + 1, dtype=np.int64) * k
    temperature = _COLD * max(float(cost.mean()), 1e-12)
    reduced = cost - prices[target]
    reduced -= reduced.min(axis=1, keepdims=True)
    kernel = csr_matrix((np.exp(-reduced / temperature).ravel(), flat, starts), shape=(n, m))
    turned = kernel.T.tocsr()
    down = np.ones(m)
    for _ in range(_ROUNDS):
        up = mass / np.maximum(kernel @ down, 1e-300)
        fitting = np.clip(capacity / np.maximum(turned @ up, 1e-300), 1 / _FAR, _FAR)
        down = np.clip(fitting * (fitting / down) ** (_RELAXED - 1), 1 / _FAR, _FAR)
    prices = prices + temperature * np.log(down / np.median(down))
    up = mass / np.maximum(kernel @ down, 1e-300)
    moved = up[:, None] * kernel.data.reshape(n, k) * down[target]
    full = np.bincount(flat, moved.ravel(), minlength=m)
    moved *= np.minimum(capacity / np.maximum(full, 1e-300), 1.0)[target]
    left = np.maximum(mass - moved.sum(axis=1), 0.0)
    room = np.maximum(capacity - np.bincount(flat, moved.ravel(), minlength=m), 0.0)
    return float((moved * cost).sum()), prices, left, room * (left.sum() / max(float(room.sum()), 1e-300))


def leftovers(left: np.ndarray, room: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which row gives how much to which column, so that ``left`` [n] fills ``room`` [m]: row, column and amount."""
    ends = [np.cumsum(left), np.cumsum(room)]
    edges = np.sort(np.concatenate(ends))
    amount = np.diff(edges, prepend=0.0)
    middle = edges - amount / 2
    row, column = (np.minimum(np.searchsorted(end, middle), len(end) - 1) for end in ends)
    some = amount > 0
    return row[some], column[some], amount[some]
