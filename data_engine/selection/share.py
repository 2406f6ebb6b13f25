"""How many candidates are what the targets are: the share of one distribution that another holds.

Candidates are a mixture: a share pi is like the targets, the rest is otherwise. Hold one target out, and ask what share
c of the candidates lies as near to the others as it does. Those that are like it fall short as often as not: of m
targets held out in turn, the i-th smallest c admits some (i - 1/2) / m of them, so that

    c_i  >=  pi (i - 1/2) / m,

every ratio of the two is an upper bound of pi, and the least of them is the estimate (Blanchard, Lee and Scott,
"Semi-Supervised Novelty Detection", 2010; Elkan and Noto, "Learning Classifiers from Only Positive and Unlabeled Data",
2008). Unlike a distance that is made small by choosing more, it does not grow with what is admitted.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["Share", "share_alike"]

_LEAST = 0.5  # of those alike must be admitted for a bound to count: fewer make a ratio of chance
_COPY = 1.0 - 1e-6  # the cosine from which two targets are one, and say nothing of each other


@dataclass(frozen=True)
class Share:
    """``share`` of the candidates are like the targets: ``candidates`` (a share) lie as near to the other targets as
    the one at cosine ``threshold`` to them, and so do ``alike`` of those that are alike."""

    share: float
    threshold: float
    alike: float
    candidates: float


def share_alike(nearest: np.ndarray, cosine: np.ndarray, among: np.ndarray) -> Share:
    """The estimate from each candidate's two nearest targets, int64 [n, 2], their cosines with it, float64 [n, 2], and
    ``among`` [m, m], the targets' with each other; m is 2 at least. O(m^2 + n m).
    """
    m = len(among)
    others = np.where((among >= _COPY) | np.eye(m, dtype=bool), -np.inf, among)
    held = others.max(axis=1)
    held = np.where(np.isfinite(held), held, _COPY)  # all are copies of one another
    near = (np.where(nearest[:, 0] == j, cosine[:, 1], cosine[:, 0]) for j in range(m))  # of the targets but j
    shares = np.array([(cosine_of >= held[j]).mean() for j, cosine_of in enumerate(near)])
    order = np.lexsort((-held, shares))
    alike = (np.arange(m) + 0.5) / m
    ratio = np.where(alike >= _LEAST, shares[order] / alike, np.inf)
    at = int(ratio.argmin())
    return Share(float(min(ratio[at], 1.0)), float(held[order[at]]), float(alike[at]), float(shares[order[at]]))
