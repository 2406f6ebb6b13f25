"""Exact nearest neighbours by chunked matrix products, with the same answer on every device and thread count.

Floating-point distances depend on the order of summation, so near-ties would fall differently on CPU, CUDA or with more
threads. Coordinates are therefore put on a grid of 2**-14: squared distances are then whole numbers below 2**53, which
float64 adds without rounding in any order.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

__all__ = ["GRID", "chunks", "nearest", "squared_distances", "to_grid", "within"]

GRID = float(2**14)
_CELLS = 2**21  # distances held at once: 16 MB
_MANY = 2**26  # the same on an accelerator, where starting a small piece takes longer than computing it: 512 MB


def to_grid(x: np.ndarray, device: str = "cpu") -> torch.Tensor:
    """``x`` [n, d] as whole numbers of 1 / ``GRID``, float64 on ``device``."""
    return torch.from_numpy(np.rint(np.asarray(x, dtype=np.float64) * GRID)).to(device)


def squared_distances(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Exact squared distances [n, m] between grid points ``x`` [n, d] and ``y`` [m, d], in squared grid units."""
    return torch.addmm((y * y).sum(1)[None], x, y.T, alpha=-2).add_((x * x).sum(1)[:, None])


def chunks(rows: int, columns: int, device: str = "cpu") -> Iterator[slice]:
    """Row ranges such that rows x ``columns`` distances stay within a fixed memory of ``device``."""
    step = max((_CELLS if device == "cpu" else _MANY) // max(columns, 1), 1)
    return (slice(start, min(start + step, rows)) for start in range(0, rows, step))


def nearest(
    queries: np.ndarray,
    pool: np.ndarray,
    k: int,
    *,
    owner: np.ndarray | None = None,
    pool_owner: np.ndarray | None = None,
    device: str = "cpu",
) -> tuple[np.ndarray, np.ndarray]:
    """The ``k`` nearest of ``pool`` [m, d] for each of ``queries`` [n, d], nearest first; of equals, the lower index.

    Where ``owner`` [n] equals ``pool_owner`` [m] the pair is left out (a step's own episode). Returns distances float32
    [n, k], infinity where there are fewer than ``k``, and indices int64 [n, k], -1 there. Raises ``ValueError`` where
    distances would leave the exact range: a pool of more than 32,768 points, or points farther than 16 from the origin.
    """
    n, m = len(queries), len(pool)
    distances, indices = np.full((n, k), np.inf, np.float32), np.full((n, k), -1, np.int64)
    if n == 0 or m == 0:
        return distances, indices
    x, y = to_grid(queries, device), to_grid(pool, device)
    y2 = (y * y).sum(1)
    if m > 32768 or float(max((x * x).sum(1).max(), y2.max())) > (16 * GRID) ** 2:
        raise ValueError("nearest is exact for pools of at most 32768 points within 16 of the origin")
    # distance * m + index is unique, so the choice of neighbours and their order are too
    y_key = (y2 * m + torch.arange(m, dtype=torch.float64, device=device))[None]
    y_scaled = (y * (-2.0 * m)).T.contiguous()
    taken = min(k, m)
    own, pool_own = (None if o is None else torch.from_numpy(np.asarray(o)).to(device) for o in (owner, pool_owner))
    for rows in chunks(n, m, device):
        part = x[rows]
        keys = torch.addmm(y_key, part, y_scaled)
        if own is not None and pool_own is not None:
            keys.masked_fill_(own[rows, None] == pool_own[None], torch.inf)
        keys = keys.topk(taken, dim=1, largest=False).values
        found = torch.isfinite(keys)
        index = torch.where(found, keys, torch.zeros_like(keys)).remainder(m)
        square = torch.div(keys - index, m) + (part * part).sum(1)[:, None]
        distances[rows, :taken] = (square.sqrt() / GRID).cpu().numpy()
        indices[rows, :taken] = torch.where(found, index, torch.full_like(index, -1)).long().cpu().numpy()
    return distances, indices


def within(
    queries: np.ndarray,
    pool: np.ndarray,
    radius: float,
    *,
    owner: np.ndarray | None = None,
    pool_owner: np.ndarray | None = None,
    device: str = "cpu",
) -> np.ndarray:
    """How many of ``pool`` [m, d] lie within ``radius`` of each of ``queries`` [n, d]: int64 [n].

    Pairs of one owner are left out, as in ``nearest``. O(n m d).
    """
    counts = np.zeros(len(queries), np.int64)
    if not len(queries) or not len(pool):
        return counts
    x, y = to_grid(queries, device), to_grid(pool, device)
    own, pool_own = (None if o is None else torch.from_numpy(np.asarray(o)).to(device) for o in (owner, pool_owner))
    for rows in chunks(len(x), len(y), device):
        near = squared_distances(x[rows], y) <= (radius * GRID) ** 2
        if own is not None and pool_own is not None:
            near &= own[rows, None] != pool_own[None]
        counts[rows] = near.sum(1).cpu().numpy()
    return counts
