"""Search over frame vectors: latency and recall against comparing with everything, at 1k, 100k and 1M vectors.

Made vectors of 512 numbers, as an image tower's are: episodes of 100 frames wander from one of 60 places over a curved
surface of 24 dimensions. Queries are frames of episodes that are not in the index (``pictures``), and vectors that lie
apart from all frames, as those of texts do (``texts``). One query at a time on one thread; brute force is FAISS's own
exact index in the same run. ``1 %``: among the episodes of a filter that admits one in a hundred.

Parts of episodes: alignments a second of a query of 50 vectors with sequences of 300 (``scorers.kernels.subsequence``).
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterator
from typing import Any

import faiss
import numpy as np
import pyarrow as pa

from scorers.kernels.subsequence import matches
from storage import indices

SIZES = (1_000, 100_000, 1_000_000)
WIDTH, FRAMES, QUERIES, K = 512, 100, 100, 10


def main_rows(quick: bool) -> list[dict[str, Any]]:
    """A row for each size, kind of query and filter."""
    return [row for n in SIZES[: 2 if quick else 3] for row in _rows(n)]


def aligned() -> str:
    """How fast parts are aligned."""
    rng = np.random.default_rng(0)
    vectors, offsets = _unit(rng.normal(size=(60_000, WIDTH))), np.arange(0, 60_001, 300)
    query = vectors[1000:1050]
    began = time.process_time()
    matches(query, vectors, offsets)
    return f"aligning: {200 / (time.process_time() - began):,.0f} sequences of 300 vectors a CPU second, query of 50"


def _rows(n: int) -> Iterator[dict[str, Any]]:
    draw = np.random.default_rng(n)
    surface = draw.normal(size=(24, WIDTH)), draw.normal(size=(WIDTH, WIDTH)) / np.sqrt(WIDTH)
    places = 2 * draw.normal(size=(60, 24))
    base = np.concatenate([_frames(draw, places, surface, min(n - at, 100_000)) for at in range(0, n, 100_000)])
    names = [f"ep_{at // FRAMES:05d}" for at in range(n)]
    units = pa.table({"id": names, "start": pa.array(np.arange(n) % FRAMES)})
    shown = _frames(draw, places, surface, QUERIES * 10)[::10]
    gap = _unit(draw.normal(size=WIDTH)[None])
    told = _unit(0.5 * shown[draw.permutation(QUERIES)] + 0.3 * _unit(draw.normal(size=(QUERIES, WIDTH))) + gap)
    began = time.process_time()
    index = indices.build(base, units)
    seconds = time.process_time() - began
    exact = faiss.IndexFlatIP(WIDTH)
    exact.add(base)
    few = [f"ep_{at:05d}" for at in range(0, max(n // FRAMES, 1), 100)]
    inside = np.flatnonzero(np.isin(np.arange(n) // FRAMES % 100, 0))
    narrow = faiss.IndexFlatIP(WIDTH)
    narrow.add(base[inside])
    del base
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    for kind, queries in (("pictures", shown), ("texts", told)):
        for among, allowed, brute, rows in (("all", None, exact, np.arange(n)), ("1 %", few, narrow, inside)):
            slow, true = _timed(lambda query, brute=brute: brute.search(query, K)[1][0], queries)
            fast, hits = _timed(lambda query, allowed=allowed: index.search(query, K, allowed)[0], queries)
            right = [len({hit.row for hit in mine} & set(rows[best])) for mine, best in zip(hits, true, strict=True)]
            yield {
                "vectors": f"{n:,}", "form": index.form, "lists": index.effort.probes, "query": kind, "among": among,
                "recall at 10": float(np.mean(right)) / min(K, len(rows)), "said": index.effort.recall,
                "results": float(np.mean([len(mine) for mine in hits])), "ms": fast, "brute ms": slow,
                "build CPU s": seconds, "peak MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            }  # fmt: skip
    faiss.omp_set_num_threads(threads)


def _timed(search: Callable[[np.ndarray], Any], queries: np.ndarray) -> tuple[float, list[Any]]:
    """The median milliseconds of a query, and every answer."""
    search(queries[:1])
    found, took = [], []
    for at in range(len(queries)):
        began = time.perf_counter()
        found.append(search(queries[at : at + 1]))
        took.append(time.perf_counter() - began)
    return 1000 * float(np.median(took)), found


def _frames(
    draw: np.random.Generator, places: np.ndarray, surface: tuple[np.ndarray, np.ndarray], n: int
) -> np.ndarray:
    """float32 [n, 512], of unit length: episode after episode."""
    count = -(-n // FRAMES)
    walks = np.cumsum(0.08 * draw.normal(size=(count, FRAMES, 24)), axis=1)
    walks += places[draw.integers(len(places), size=count)][:, None] + 0.7 * draw.normal(size=(count, 1, 24))
    hidden = np.tanh(walks.reshape(-1, 24)[:n].astype(np.float32) @ surface[0].astype(np.float32) / 5)
    return _unit(hidden @ surface[1].astype(np.float32) + 0.02 * draw.normal(size=(n, WIDTH)).astype(np.float32))


def _unit(vectors: np.ndarray) -> np.ndarray:
    matrix = np.asarray(vectors, np.float32)
    return matrix / np.linalg.norm(matrix, axis=1, keepdims=True)
