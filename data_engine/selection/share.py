"""How many candidates are what the targets are: the share of one distribution that another holds.

Candidates are a mixture: a share pi is like the targets, the rest is otherwise. Let s be the cosine with the nearest
target. Of a target it is that with the nearest *other* target, so that each is held out where it is judged. Wherever a
threshold q is set,

    P(s of a candidate >= q)  >=  pi P(s of a target >= q),

so every ratio of the two is an upper bound of pi, and the least of them is the estimate (Blanchard, Lee and Scott,
"Semi-Supervised Novelty Detection", 2010; Elkan and Noto, "Learning Classifiers from Only Positive and Unlabeled Data",
2008). Unlike a distance that is made small by choosing more, it does not grow with what is admitted.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["Share", "share_alike"]

_LEAST = 0.5  # of the targets lie above a threshold that counts: fewer make a ratio of chance
_COPY = 1.0 - 1e-6  # the cosine from which two targets are one, and say nothing of each other


@dataclass(frozen=True)
class Share:
    """``share`` of the candidates are like the targets, judged at cosine ``threshold``, above which ``targets`` of the
    targets and ``candidates`` of the candidates lie (shares)."""

    share: float
    threshold: float
    targets: float
    candidates: float


def share_alike(nearest: np.ndarray, among: np.ndarray) -> Share:
    """The estimate from ``nearest`` float64 [n], each candidate's cosine with its nearest target, and ``among`` [m, m],
    the targets' with each other; m is 2 at least. O(m^2 + n log n).
    """
    others = np.where((among >= _COPY) | np.eye(len(among), dtype=bool), -np.inf, among)
    held = np.sort(others.max(axis=1))[::-1]
    held = np.where(np.isfinite(held), held, _COPY)  # all are copies of one another
    n, m = len(nearest), len(held)
    above = (np.arange(m) + 0.5) / m  # the share of targets at least as near as each: the middle of its step
    ours = (n - np.searchsorted(np.sort(nearest), held, side="left")) / n
    counted = above >= _LEAST
    ratio = np.where(counted, ours / above, np.inf)
    at = int(ratio.argmin())
    return Share(float(min(ratio[at], 1.0)), float(held[at]), float(above[at]), float(ours[at]))
