"""FAISS indices: built from the vectors of one space, kept under ``indices/<space>/<version>/``, searched by id.

The form follows the size: exact below 50 thousand vectors, inverted lists above, and above a million inverted lists
over product-quantised codes whose best candidates are ranked again on the vectors themselves. Building does not depend
on the order of the rows: they are sorted by id, k-means is seeded and trained on one thread.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NamedTuple

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_engine.canonical import digest, seal, unseal
from data_engine.errors import RequestError, SourceError
from storage.blobs import Blobs, file_sha256

__all__ = ["INDICES", "Hit", "Index", "build", "form_of", "list_indices", "load", "save", "verify"]

INDICES = "indices"
EXACT_BELOW = 50_000
CODES_ABOVE = 1_000_000
REFINE = 8  # candidates a result that the codes propose for the second ranking

Metric = Literal["ip", "l2"]


class Hit(NamedTuple):
    """One result: the unit's id and its inner product (``ip``, larger is nearer) or squared distance (``l2``)."""

    id: str
    score: float


@dataclass(frozen=True)
class Index:
    """A searchable index. ``ids`` [n] are in the index's own order; ``meta`` is what the caller wants kept with it."""

    index: Any
    ids: Sequence[str]
    form: str
    metric: Metric
    version: str
    meta: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def _fast(self) -> Any:
        return _accelerated(self.index)

    def search(self, vectors: np.ndarray, k: int, allowed: Collection[str] | None = None) -> list[list[Hit]]:
        """The ``k`` nearest of each query float [q, d], nearest first; fewer where there are fewer.

        ``allowed`` limits the answer to those ids; inverted lists are then searched to the end, so that a rare id is
        found. Raises ``RequestError`` for vectors of another width or ones that are not finite.
        """
        queries = _matrix(vectors)
        if queries.shape[1] != self.index.d:
            raise RequestError(
                f"the query has {queries.shape[1]} dimensions, the index {self.index.d}", code="bad_vector"
            )
        if k < 1:
            raise RequestError(f"k = {k} asks for nothing", code="bad_k", fix="give at least 1")
        chosen = None
        if allowed is not None:
            wanted = frozenset(allowed)
            positions = np.flatnonzero([name in wanted for name in self.ids]).astype(np.int64)
            if not len(positions):
                return [[] for _ in queries]
            chosen = faiss.IDSelectorBatch(positions)
        searched = self.index if chosen is not None else self._fast
        scores, found = searched.search(queries, min(k, len(self.ids)), params=_parameters(self.index, chosen))
        return [
            [Hit(self.ids[at], float(score)) for at, score in zip(row, line, strict=True) if at >= 0]
            for row, line in zip(found, scores, strict=True)
        ]


def form_of(n: int, d: int) -> str:
    """FAISS's factory string for ``n`` vectors of width ``d``."""
    if n < EXACT_BELOW:
        return "Flat"
    lists = 2 ** round(math.log2(4 * math.sqrt(n)))
    widths = [m for m in range(max(d // 4, 1), 0, -1) if d % m == 0]
    if n < CODES_ABOVE or widths[0] < d / 8:
        return f"IVF{lists},Flat"
    return f"IVF{lists},PQ{widths[0]}x4fs,RFlat"


def build(
    vectors: np.ndarray,
    ids: Sequence[str],
    *,
    metric: Metric = "ip",
    seed: int = 0,
    form: str | None = None,
    meta: Mapping[str, Any] | None = None,
) -> Index:
    """An index over ``vectors`` float [n, d], which are used as they are: normalise them first for cosine.

    ``form`` overrides the choice by size. ``meta`` (plain JSON: embodiment, encoder version) is kept and is part of the
    version. Raises ``RequestError`` for no vectors, ones that are not finite, and ids that repeat.
    """
    matrix = _matrix(vectors)
    if len(ids) != len(matrix) or len(set(ids)) != len(ids):
        raise RequestError(f"{len(matrix)} vectors need as many distinct ids, not {len(set(ids))}", code="bad_ids")
    order = np.argsort(np.asarray(ids, dtype=np.str_), kind="stable")
    matrix, names = np.ascontiguousarray(matrix[order]), [str(ids[at]) for at in order]
    form = form or form_of(*matrix.shape)
    kind = faiss.METRIC_INNER_PRODUCT if metric == "ip" else faiss.METRIC_L2
    index = faiss.index_factory(matrix.shape[1], form, kind)
    if (lists := _lists(index)) is not None:
        lists.cp.seed = seed + 1234
    with _one_thread():
        index.train(matrix)
    index.add(matrix)
    facts = {"form": form, "metric": metric, "seed": seed, "ids": names, **(meta or {})}
    version = digest(facts, matrix.tobytes(), length=16)
    return Index(index, names, form, metric, version, dict(meta or {}))


def save(lake: Blobs, space: str, index: Index) -> str:
    """Keep ``index`` as a version of ``space`` and return the version; it becomes the newest."""
    folder = f"{_space(space)}/{index.version}"
    hashes = {}
    with lake.staged(folder) as staged:
        faiss.write_index(index.index, str(staged))
        hashes["index.faiss"] = file_sha256(staged)
        lake.publish(staged, f"{folder}/index.faiss")
    with lake.staged(folder) as staged:
        pq.write_table(pa.table({"id": pa.array(index.ids, pa.string())}), staged, compression="zstd")
        hashes["ids.parquet"] = file_sha256(staged)
        lake.publish(staged, f"{folder}/ids.parquet")
    document = {
        "space": space,
        "form": index.form,
        "metric": index.metric,
        "dimensions": index.index.d,
        "count": len(index.ids),
        "sha256": hashes,
        "meta": dict(index.meta),
        "created_at": datetime.now(UTC).isoformat(),
    }
    lake.write_bytes(f"{folder}/meta.json", seal(document))
    return index.version


def load(lake: Blobs, space: str, version: str | None = None) -> Index:
    """An index of ``space``, the newest by default, its bytes verified.

    Raises ``RequestError`` where there is none, ``SourceError`` where it is damaged.
    """
    version = version or _newest(lake, space)
    document, paths = verify(lake, space, version)
    index = faiss.read_index(str(paths["index.faiss"]))
    ids = pq.read_table(paths["ids.parquet"]).column("id").to_pylist()
    return Index(index, ids, document["form"], document["metric"], version, document["meta"])


def verify(lake: Blobs, space: str, version: str) -> tuple[dict[str, Any], dict[str, Path]]:
    """The index's description and its files on this machine, each with the hash recorded of it.

    Raises ``RequestError`` where there is no such index, ``SourceError`` naming the file that is missing or damaged.
    """
    folder = f"{_space(space)}/{version}"
    if lake.size(f"{folder}/meta.json") is None:
        raise RequestError(f"space {space!r} has no index {version!r}", code="no_index", fix="build one: index")
    document = _described(lake, folder)
    paths = {}
    for name, sha256 in document["sha256"].items():
        if lake.sha256(f"{folder}/{name}") != sha256:
            raise SourceError(f"{folder}/{name} is damaged: its bytes are not the ones written", code="damaged")
        paths[name] = lake.local(f"{folder}/{name}", sha256)
    return document, paths


def _described(lake: Blobs, folder: str) -> dict[str, Any]:
    try:
        return unseal(lake.read_bytes(f"{folder}/meta.json"))
    except ValueError as error:
        raise SourceError(f"{folder}/meta.json is damaged: {error}", code="damaged") from error


def list_indices(lake: Blobs) -> list[tuple[str, str]]:
    """(space, version) of every index, sorted."""
    paths = (PurePosixPath(path) for path in lake.list(INDICES) if path.endswith("/meta.json"))
    return sorted(("/".join(path.parts[1:-2]), path.parts[-2]) for path in paths)


def _newest(lake: Blobs, space: str) -> str:
    versions = [version for name, version in list_indices(lake) if name == space]
    if not versions:
        known = sorted({name for name, _ in list_indices(lake)})
        raise RequestError(
            f"no index of space {space!r}", code="no_index", fix=f"there are: {', '.join(known) or 'none'}"
        )
    made = {v: _described(lake, f"{INDICES}/{space}/{v}")["created_at"] for v in versions}
    return max(versions, key=lambda v: (made[v], v))


def _space(space: str) -> str:
    if not space or any(not part or part.startswith(".") for part in space.split("/")):
        raise RequestError(f"{space!r} cannot name a space", code="bad_name")
    return f"{INDICES}/{space}"


def _matrix(vectors: np.ndarray) -> np.ndarray:
    matrix = np.ascontiguousarray(np.atleast_2d(vectors), dtype=np.float32)
    if matrix.ndim != 2 or not matrix.size or not np.isfinite(matrix).all():
        raise RequestError("vectors must be a finite, non-empty [n, d] array", code="bad_vector")
    return matrix


def _lists(index: Any) -> Any | None:
    inner = faiss.downcast_index(index)
    if isinstance(inner, faiss.IndexRefine):
        inner = faiss.downcast_index(inner.base_index)
    return inner if isinstance(inner, faiss.IndexIVF) else None


def _parameters(index: Any, chosen: Any | None) -> Any:
    kinds: Any = faiss  # its Python constructors take the fields by name, which its stubs do not know
    lists = _lists(index)
    if lists is None:
        return kinds.SearchParameters(sel=chosen) if chosen is not None else None
    probes = lists.nlist if chosen is not None else max(16, lists.nlist // 16)
    inner = kinds.SearchParametersIVF(nprobe=min(probes, lists.nlist), sel=chosen)
    if isinstance(faiss.downcast_index(index), faiss.IndexRefine):
        return kinds.IndexRefineSearchParameters(k_factor=REFINE, base_index_params=inner)
    return inner


def _accelerated(index: Any) -> Any:
    """A copy on the GPU where there is one and FAISS has the form there (it takes no id filter), else the index."""
    if not faiss.get_num_gpus():
        return index
    try:
        return faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), 0, index)
    except (RuntimeError, AttributeError):  # no such form on GPUs, or no room
        return index


@contextmanager
def _one_thread() -> Iterator[None]:
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)
