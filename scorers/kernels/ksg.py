"""The pointwise Kraskov-Stoegbauer-Grassberger (KSG) estimate of mutual information against a fixed reference batch.

Kraskov, Stoegbauer and Grassberger, "Estimating mutual information" (2004), estimator 1; as a score of demonstrations,
Hejna et al., "Robot Data Curation with Mutual Information Estimators" (DemInf, 2025).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from scorers.kernels.neighbours import squared_distances, to_grid

__all__ = ["pointwise"]

_ROWS = 1024  # 8 MB of distances at once


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
    top = max(ks)
    out = np.full(len(state), np.nan)
    if len(state) == 0 or len(reference_state) < top:
        return out
    s, a = to_grid(state, device), to_grid(action, device)
    rs, ra = to_grid(reference_state, device), to_grid(reference_action, device)
    psi = torch.digamma(torch.arange(len(rs) + 2, dtype=torch.float64, device=device))
    own, ref_own = (None if o is None else torch.from_numpy(np.asarray(o)).to(device) for o in (owner, reference_owner))
    for start in range(0, len(s), _ROWS):
        rows = slice(start, start + _ROWS)
        # exact whole numbers: float32 keeps their order, merging only what agrees to 7 digits
        ds, da = squared_distances(s[rows], rs).float(), squared_distances(a[rows], ra).float()
        left = torch.full((len(ds),), len(rs), dtype=torch.int64, device=device)
        if own is not None and ref_own is not None:
            same = own[rows, None] == ref_own[None]
            ds.masked_fill_(same, torch.inf)
            da.masked_fill_(same, torch.inf)
            left -= same.sum(1)
        radii = torch.maximum(ds, da).topk(top, dim=1, largest=False).values
        total = torch.zeros(len(ds), dtype=torch.float64, device=device)
        for k in ks:
            radius = radii[:, k - 1 : k]
            n_s, n_a = (torch.count_nonzero(d < radius, dim=1) + 1 for d in (ds, da))
            total += psi[k] + psi[left + 1] - psi[n_s] - psi[n_a]
        undefined = (radii[:, min(ks) - 1] == 0) | (left < top)
        out[rows] = (total / len(ks)).masked_fill(undefined, torch.nan).cpu().numpy()
    return out
