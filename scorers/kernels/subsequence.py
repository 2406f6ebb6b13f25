"""Where in a long sequence a short one is most nearly repeated: subsequence dynamic time warping, many at once.

Müller, "Information Retrieval for Music and Motion" (2007), chapter 4; used for retrieving parts of demonstrations by
Memmel et al., "STRAP: Robot Sub-Trajectory Retrieval for Augmented Policy Learning" (2025). The query must be walked
through from its first to its last row; the match may begin and end anywhere. Moves are one on in the query, in the
sequence, or in both.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

__all__ = ["matches", "warped"]

_CELLS = 1 << 19  # of distances that are held at once


def matches(query: np.ndarray, vectors: np.ndarray, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The best match of ``query`` [q, d] in each of B sequences, which lie back to back in ``vectors`` [N, d].

    ``offsets`` int64 [B + 1]; none of the sequences is empty. Returns the cost float64 [B], which is the sum of cosine
    distances along the path divided by q, and its first row and the one after its last, int64 [B], counted from the
    sequence's own first. O(q N d), memory of ``_CELLS`` distances or the longest sequence's.
    """
    asked, base = _unit(query), _unit(vectors)
    lengths = np.diff(offsets)
    cost, start, stop = np.empty(len(lengths)), np.empty(len(lengths), np.int64), np.empty(len(lengths), np.int64)
    for block in _blocks(lengths, len(asked)):
        rows = np.concatenate([base[offsets[at] : offsets[at + 1]] for at in block.tolist()])
        inside = np.arange(lengths[block].max()) < lengths[block, None]
        apart = np.zeros((*inside.shape, len(asked)))
        apart[inside] = np.maximum(1.0 - rows @ asked.T, 0.0)
        costs = np.ascontiguousarray(apart.transpose(0, 2, 1))
        cost[block], start[block], stop[block] = warped(costs, lengths[block])
    return cost / len(asked), start, stop


def warped(costs: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The cheapest path through each of ``costs`` float64 [B, q, n], not negative, of which ``lengths`` [B] columns
    count: its sum float64 [B], its first column and the one after its last, int64 [B].

    D[i, j] = c[i, j] + min(D[i-1, j], D[i-1, j-1], D[i, j-1]) needs its own left neighbour; with S the running sum of
    c[i], D[i, j] = S[j] + min over l <= j of (min(D[i-1, l], D[i-1, l-1]) - S[l-1]), which is a running minimum: whole
    rows at once. Of equal ends the first is taken.
    """
    count, rows, width = costs.shape
    columns = np.broadcast_to(np.arange(width), (count, width))
    total, begun = costs[:, 0].astype(np.float64), columns.copy()
    for row in range(1, rows):
        here = costs[:, row]
        before = np.concatenate([np.full((count, 1), np.inf), total[:, :-1]], axis=1)
        diagonal = before <= total
        entered = np.where(diagonal, before, total)
        begun = np.where(diagonal, np.concatenate([begun[:, :1], begun[:, :-1]], axis=1), begun)
        along = np.cumsum(here, axis=1)
        lead = entered - (along - here)
        least = np.minimum.accumulate(lead, axis=1)
        since = np.maximum.accumulate(np.where(lead == least, columns, 0), axis=1)
        total, begun = along + least, np.take_along_axis(begun, since, axis=1)
    last = np.where(columns < lengths[:, None], total, np.inf).argmin(axis=1)
    each = np.arange(count)
    return total[each, last], begun[each, last], last + 1


def _blocks(lengths: np.ndarray, rows: int) -> Iterator[np.ndarray]:
    """Sequences of like length together, so that little is padded, as many as fit."""
    order = np.argsort(lengths, kind="stable")
    first = 0
    while first < len(order):
        last = first + 1
        while last < len(order) and (last + 1 - first) * rows * int(lengths[order[last]]) <= _CELLS:
            last += 1
        yield order[first:last]
        first = last


def _unit(vectors: np.ndarray) -> np.ndarray:
    matrix = np.asarray(vectors, np.float32)
    return matrix / np.maximum(np.linalg.norm(matrix, axis=1, keepdims=True), 1e-12)
