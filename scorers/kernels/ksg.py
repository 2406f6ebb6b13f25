"""The pointwise Kraskov-Stoegbauer-Grassberger (KSG) estimate of mutual information against a fixed reference batch.

Kraskov, Stoegbauer and Grassberger, "Estimating mutual information" (2004), estimator 1; as a score of demonstrations,
Hejna et al., "Robot Data Curation with Mutual Information Estimators" (DemInf, 2025).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
import torch

from scorers.kernels.neighbours import chunks, squared_distances, to_grid

__all__ = ["pointwise"]

_HELD = 4  # matrices of distances held at once


def pointwise(
    state: np.ndarray,
    action: np.ndarray,
    reference_state: np.ndarray,
    reference_action: np.ndarray,
    *,
    ks: Sequence[int] = (5, 6, 7),
    owner: np.ndarray | None = None,
    reference_owner: np.ndarray | None = None,
    device: str = "cpu",
) -> np.ndarray:
    """The information in nats of each point about the pairing of its ``state`` [n, ds] and ``action`` [n, da].

    Each point is joined on its own to the reference batch ([m, ds], [m, da]), less the points of the same owner. With
    r the distance max(d_s, d_a) to its k-th nearest of the m' left, and n_s, n_a the points strictly within r in one
    space, itself counted: psi(k) + psi(m' + 1) - psi(n_s) - psi(n_a), averaged over ``ks``. The term in m' (constant in
    a batch, and lost in a z-score) keeps points comparable whose owners hold more or less of the batch.
    Returns float64 [n]; NaN where r is 0 for the least k (tied) or fewer than max(ks) points are left.
    """
    top, m = max(ks), len(reference_state)
    out = np.full(len(state), np.nan)
    if len(state) == 0 or m < top:
        return out
    first, last = np.zeros(len(state), np.int64), np.zeros(len(state), np.int64)
    if owner is not None and reference_owner is not None:
        order = np.argsort(reference_owner, kind="stable")  # what an owner holds of the batch then lies together
        reference_state, reference_action = reference_state[order], reference_action[order]
        first, last = (np.searchsorted(reference_owner[order], owner, side) for side in ("left", "right"))
    left = m - (last - first)
    s, a = to_grid(state, device), to_grid(action, device)
    rs, ra = to_grid(reference_state, device), to_grid(reference_action, device)
    for rows in chunks(len(s), _HELD * m, device):
        # exact whole numbers: float32 keeps their order, merging only what agrees to 7 digits
        ds, da = squared_distances(s[rows], rs).float(), squared_distances(a[rows], ra).float()
        for stretch, own in _own(first[rows], last[rows]):
            ds[stretch, own] = torch.inf
            da[stretch, own] = torch.inf
        radii = torch.maximum(ds, da).topk(top, dim=1, largest=False).values
        inside = torch.empty_like(ds)  # 0 and 1 as float32: sums several times faster than booleans, and exactly
        counts = [torch.lt(d, radii[:, k - 1 : k], out=inside).sum(1) for d in (ds, da) for k in ks]
        terms = _psi(torch.stack(counts).cpu().numpy() + 1).sum(axis=0) / len(ks)
        undefined = (radii[:, min(ks) - 1] == 0).cpu().numpy() | (left[rows] < top)
        value = np.mean(_psi(np.array(ks))) + _psi(left[rows] + 1) - terms
        out[rows] = np.where(undefined, np.nan, value)
    return out


def _own(first: np.ndarray, last: np.ndarray) -> Iterator[tuple[slice, slice]]:
    """Stretches of rows that own the same columns of the batch, with those columns."""
    edges = [0, *(np.flatnonzero(np.diff(first) | np.diff(last)) + 1).tolist(), len(first)]
    for start, stop in pairwise(edges):
        if last[start] > first[start]:
            yield slice(start, stop), slice(int(first[start]), int(last[start]))


def _psi(x: np.ndarray) -> np.ndarray:
    """The digamma function of whole numbers of at least 1."""
    return torch.digamma(torch.from_numpy(np.asarray(x, dtype=np.float64))).numpy()
