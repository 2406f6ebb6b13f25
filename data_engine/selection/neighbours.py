"""Who is near whom, by cosine: all pairs where they are few, else each unit's nearest by FAISS."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from data_engine.errors import EngineError

__all__ = ["EXACT_BELOW", "clusters", "directions", "nearest", "one_thread"]

EXACT_BELOW = 50_000
"""Vectors below which every pair is compared; above, the 16 inverted lists next to a query (of 4 sqrt(n)) are."""

_PROBES = 16
_TAUGHT = 64  # vectors of an inverted list that its place is learned from: more cost minutes and find no more


def directions(vectors: np.ndarray, centre: bool = False) -> np.ndarray:
    """``vectors`` [n, d] as float64 unit vectors, about their mean with ``centre``.

    What is zero, or rounding beside how large the vectors were before centring, has no direction and stays zero.
    """
    vectors = np.asarray(vectors, dtype=np.float64)
    size = float(np.median(np.linalg.norm(vectors, axis=1))) if len(vectors) else 0.0
    if centre and len(vectors):
        vectors = vectors - vectors.mean(axis=0)
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(vectors, norms, out=np.zeros_like(vectors), where=norms > 1e-9 * size)


def nearest(units: np.ndarray, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """int64 and float32 [q, k]: the ``k`` rows of ``units`` [n, d] of largest inner product with each query, best
    first, and those products, rounded to 6 digits. Row -1 and product 0 where fewer than ``k`` were found.

    Exact below ``EXACT_BELOW`` units; above, inverted lists over k-means cells, which find nearly all.
    """
    faiss = _faiss()
    base, asked = (np.ascontiguousarray(x, dtype=np.float32) for x in (units, queries))
    k = min(k, len(base))
    if len(base) < EXACT_BELOW:
        products, rows = faiss.knn(asked, base, k, metric=faiss.METRIC_INNER_PRODUCT)
    else:
        lists = 2 ** round(math.log2(4 * math.sqrt(len(base))))
        index = faiss.IndexIVFFlat(faiss.IndexFlatIP(base.shape[1]), base.shape[1], lists, faiss.METRIC_INNER_PRODUCT)
        index.cp.max_points_per_centroid = _TAUGHT
        with one_thread(faiss):
            index.train(base)
        index.add(base)
        index.nprobe = _PROBES
        products, rows = index.search(asked, k)
    found = rows >= 0
    return np.where(found, rows, -1).astype(np.int64), np.where(found, np.round(products, 6), 0).astype(np.float32)


def clusters(units: np.ndarray, count: int, seed: int) -> np.ndarray:
    """float32 [count, d]: unit centroids of spherical k-means over ``units`` float [n, d], the same for one seed."""
    faiss = _faiss()
    base = np.ascontiguousarray(units, dtype=np.float32)
    means = faiss.Kmeans(
        base.shape[1], count, niter=20, seed=seed + 1, spherical=True, min_points_per_centroid=1, verbose=False
    )
    with one_thread(faiss):
        means.train(base)
    return np.asarray(means.centroids, dtype=np.float32)


def _faiss() -> Any:
    try:
        import faiss
    except ImportError as error:
        raise EngineError(
            "this selection needs a package that is not installed: faiss",
            code="missing_package",
            fix="install faiss-cpu",
        ) from error
    return faiss


@contextmanager
def one_thread(faiss: Any) -> Iterator[None]:
    """Training sums in an order that depends on the number of threads: one gives the same centroids everywhere."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)
