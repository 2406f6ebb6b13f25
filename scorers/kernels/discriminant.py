"""Linear discriminant analysis that counts every class alike, shrunk and with one sample left out.

Fisher, "The Use of Multiple Measurements in Taxonomic Problems" (1936); the covariance within classes is shrunk towards
a sphere (Friedman, "Regularized Discriminant Analysis", 1989), which needs no more samples than classes.
"""

from __future__ import annotations

import numpy as np

__all__ = ["linear_rule", "log_likelihoods"]


def log_likelihoods(
    x: np.ndarray, samples: np.ndarray, labels: np.ndarray, classes: int, shrinkage: float
) -> np.ndarray:
    """Log density [classes] of ``x`` [d] up to a constant that all share, float64; -inf for a class without samples.

    ``samples`` [n, d] of ``labels`` int64 [n]. The covariance is the mean over the classes of that within each, every
    class alike, of which a share ``shrinkage`` is given to the sphere of the same trace. O(n d^2 + d^3).
    """
    d = samples.shape[1]
    means, within, counted = np.full((classes, d), np.nan), np.zeros((d, d)), 0
    for label in np.unique(labels):
        own = samples[labels == label]
        means[label] = own.mean(axis=0)
        if len(own) > 1:
            apart = own - means[label]
            within += apart.T @ apart / (len(own) - 1)
            counted += 1
    within /= max(counted, 1)
    size = np.trace(within) / d
    sphere = (size if size > 0 else 1.0) * np.eye(d)
    away = x - means
    known = np.isfinite(away).all(axis=1)
    result = np.full(classes, -np.inf)
    solved = np.linalg.solve((1 - shrinkage) * within + shrinkage * sphere, away[known].T).T
    result[known] = -0.5 * (away[known] * solved).sum(axis=1)
    return result


def linear_rule(samples: np.ndarray, labels: np.ndarray, classes: int, shrinkage: float) -> np.ndarray:
    """float64 [classes, d + 1]: ``[x, 1]`` times it is the log density of x up to a constant that all classes share.

    The same estimate as :func:`log_likelihoods`, as weights for many x; -inf in the last column for a class without
    samples. ``samples`` [n, d] of ``labels`` int64 [n].
    """
    d = samples.shape[1]
    means, within, counted = np.zeros((classes, d)), np.zeros((d, d)), 0
    for label in np.unique(labels):
        own = samples[labels == label].astype(np.float64)
        means[label] = own.mean(axis=0)
        if len(own) > 1:
            apart = own - means[label]
            within += apart.T @ apart / (len(own) - 1)
            counted += 1
    within /= max(counted, 1)
    size = np.trace(within) / d
    sphere = (size if size > 0 else 1.0) * np.eye(d)
    weights = np.linalg.solve((1 - shrinkage) * within + shrinkage * sphere, means.T).T
    offset = -0.5 * (weights * means).sum(axis=1)
    offset[np.setdiff1d(np.arange(classes), labels)] = -np.inf
    return np.column_stack([weights, offset])
