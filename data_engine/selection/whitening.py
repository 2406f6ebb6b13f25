"""Whitening that keeps low-rank spaces: principal components first, then unit variance.

Whitening gives every direction the same voice. Done on all directions of a low-rank space it turns rounding and noise
into most of the signal, and with as many dimensions as points every pair of points becomes equally far. So the rank is
cut to the components that carry ``variance``, and to a share of the number of points, before anything is rescaled.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data_engine.errors import RequestError

__all__ = ["REACH", "Whitening", "fit_whitening"]


REACH = 5.0
"""How far a vector may lie, in median distances from the median, before its pull on the estimate is cut."""


@dataclass(frozen=True)
class Whitening:
    """An affine map to uncorrelated components of unit variance.

    ``mean`` [d], ``matrix`` [d, r]: ``(x - mean) @ matrix`` is the whitened x. ``explained``: share of variance kept.
    """

    mean: np.ndarray
    matrix: np.ndarray
    explained: float

    @property
    def rank(self) -> int:
        """Components kept."""
        return self.matrix.shape[1]

    def apply(self, vectors: np.ndarray) -> np.ndarray:
        """float64 [n, d] to float64 [n, r]."""
        return (vectors - self.mean) @ self.matrix


def fit_whitening(vectors: np.ndarray, *, variance: float, rank_share: float, ridge: float) -> Whitening:
    """The whitening of ``vectors`` float64 [n, d].

    With eigenpairs (l_i, v_i) of the covariance X^T X / n of the centred vectors, largest first, keep the fewest that
    carry ``variance`` of the trace, at most ``rank_share`` of n (but 2, where there are 2), and scale each by
    1 / sqrt(l_i + ridge * trace / d). At full rank this equals X L^-T, with L L^T the ridged covariance, up to a
    rotation, which no cosine sees. So that one wild vector does not set everybody's space, a vector farther from the
    median than ``REACH`` times the median distance counts, here only, as if it lay there. Raises ``RequestError`` where
    all vectors are equal.
    """
    n, d = vectors.shape
    tame = _drawn_in(vectors)
    mean = tame.mean(axis=0)
    centred = tame - mean
    values, components = _principal(centred)
    trace = float((centred**2).sum() / n)
    if not len(values):
        raise RequestError(
            "all vectors are equal: there is nothing to tell the candidates apart by", code="collapsed_space"
        )
    shares = np.cumsum(values) / values.sum()
    enough = int(np.searchsorted(shares, variance - 1e-12)) + 1
    rank = min(enough, max(2, int(rank_share * n)), len(values))
    scale = 1.0 / np.sqrt(values[:rank] + ridge * trace / d)
    return Whitening(mean, components[:, :rank] * scale, float(min(shares[rank - 1], 1.0)))


def _drawn_in(vectors: np.ndarray) -> np.ndarray:
    middle = np.median(vectors, axis=0)
    away = vectors - middle
    distance = np.linalg.norm(away, axis=1, keepdims=True)
    limit = REACH * float(np.median(distance))
    if limit == 0:  # most vectors are equal: distances from them say nothing about the rest
        return vectors
    return np.where(distance > limit, middle + away * (limit / np.maximum(distance, limit)), vectors)


def _principal(centred: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues [k] of the covariance above rounding, largest first, and their eigenvectors [d, k]."""
    n, d = centred.shape
    if d <= n:
        values, vectors = np.linalg.eigh(centred.T @ centred / n)
    else:  # the smaller Gram matrix has the same eigenvalues
        values, vectors = np.linalg.eigh(centred @ centred.T / n)
    real = values > max(values.max(), 0.0) * 1e-12
    values, vectors = values[real][::-1], vectors[:, real][:, ::-1]
    if d > n:
        vectors = centred.T @ vectors / np.sqrt(n * values)
    return values, vectors
