"""FAISS indices: built from the vectors of one space, kept under ``indices/<space>/<version>/``, searched by id.

A row of an index is a unit: an episode, or steps of one as a camera shows them. The form follows the size and the
effort of a search from a measured recall (:mod:`storage.forms`). Building does not depend on the order of the rows:
they are sorted, k-means is seeded and trained on one thread.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, cast

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_engine.canonical import canonical_json, digest, seal, unseal
from data_engine.errors import RequestError, SourceError
from storage import forms
from storage.blobs import Blobs, file_sha256
from storage.forms import Effort, Metric, form_of

__all__ = [
    "INDICES",
    "Hit",
    "Index",
    "Metric",
    "build",
    "described",
    "form_of",
    "list_indices",
    "load",
    "save",
    "verify",
]

INDICES = "indices"


class Hit(NamedTuple):
    """One result: the unit's id, its inner product (``ip``, larger is nearer) or squared distance (``l2``), and its
    row among the index's units."""

    id: str
    score: float
    row: int


@dataclass(frozen=True)
class Index:
    """A searchable index.

    ``units`` [n]: what each row stands for, in the index's own order: ``id``, and columns that tell units of one id
    apart. ``effort``: of a search by default, and its measured recall. ``meta`` is what the caller wants kept with it.
    """

    index: Any
    units: pa.Table
    form: str
    metric: Metric
    version: str
    effort: Effort = field(default_factory=Effort)
    meta: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.units)

    @property
    def ids(self) -> list[str]:
        """The id of each unit."""
        return self.units.column("id").to_pylist()

    @cached_property
    def _fast(self) -> Any:
        return forms.accelerated(self.index)

    def search(self, vectors: np.ndarray, k: int, allowed: Collection[str] | None = None) -> list[list[Hit]]:
        """The ``k`` nearest of each query float [q, d], nearest first; fewer where there are fewer.

        ``allowed`` limits the answer to units of those ids, before anything is compared: where they are few, all of
        them are, else more lists are probed, as they are fewer, and where that yields less than ``k``, all are. Raises
        ``RequestError`` for vectors of another width or ones that are not finite.
        """
        queries = _matrix(vectors)
        if queries.shape[1] != self.index.d:
            raise RequestError(
                f"the query has {queries.shape[1]} dimensions, the index {self.index.d}", code="bad_vector"
            )
        if k < 1:
            raise RequestError(f"k = {k} asks for nothing", code="bad_k", fix="give at least 1")
        scores, rows = self._nearest(queries, k, None if allowed is None else self._mask(allowed))
        names = self.units.column("id")
        return [
            [Hit(names[at].as_py(), float(score), int(at)) for at, score in zip(found, line, strict=True) if at >= 0]
            for found, line in zip(rows, scores, strict=True)
        ]

    def _mask(self, allowed: Collection[str]) -> np.ndarray:
        codes, names = self._codes
        return pc.is_in(names, value_set=pa.array(list(allowed), pa.string())).to_numpy(zero_copy_only=False)[codes]

    @cached_property
    def _codes(self) -> tuple[np.ndarray, pa.Array]:
        """Every unit's place among the distinct ids, and these: there are far fewer of them than frames."""
        encoded = pc.dictionary_encode(self.units.column("id")).combine_chunks()
        encoded = encoded.chunk(0) if isinstance(encoded, pa.ChunkedArray) else encoded
        return encoded.indices.to_numpy(), encoded.dictionary

    def _nearest(self, queries: np.ndarray, k: int, mask: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """Scores and rows [q, k], as many as there are."""
        count = len(self) if mask is None else int(mask.sum())
        if not count:
            return np.empty((len(queries), 0)), np.empty((len(queries), 0), np.int64)
        most, kinds = min(k, count), cast(Any, faiss)  # whose stubs do not know that constructors take arrays
        chosen = None if mask is None else kinds.IDSelectorBitmap(np.packbits(mask, bitorder="little"))
        if mask is None or count >= forms.EXACT_BELOW:
            index = self._fast if mask is None and most <= forms.GPU_RESULTS else self.index
            effort = replace(self.effort, probes=round(self.effort.probes * len(self) / count))
            found = index.search(queries, most, params=forms.parameters(self.index, effort, chosen))
            if (found[1] >= 0).all():
                return found
        index, effort = forms.exact_of(self.index)
        return index.search(queries, most, params=forms.parameters(index, effort, chosen))


def build(
    vectors: np.ndarray,
    units: Sequence[str] | pa.Table,
    *,
    metric: Metric = "ip",
    seed: int = 0,
    form: str | None = None,
    meta: Mapping[str, Any] | None = None,
) -> Index:
    """An index over ``vectors`` float [n, d], which are used as they are: normalise them first for cosine.

    ``units``: their ids, or a table with the column ``id`` and what tells units of one id apart. ``form`` overrides the
    choice by size; where the chosen one cannot reach the recall that is asked for, it is inverted lists without codes.
    ``meta`` (plain JSON: embodiment, encoder version) is kept and is part of the version. Raises ``RequestError`` for
    no vectors, ones that are not finite, and units that repeat.
    """
    matrix = _matrix(vectors)
    table = units if isinstance(units, pa.Table) else pa.table({"id": pa.array([str(unit) for unit in units])})
    distinct = len(table.group_by(table.column_names).aggregate([]))
    if len(table) != len(matrix) or distinct != len(table):
        raise RequestError(f"{len(matrix)} vectors need as many distinct ids, not {distinct}", code="bad_ids")
    order = pc.sort_indices(table, [(name, "ascending") for name in table.column_names]).to_numpy()
    if not (np.diff(order.astype(np.int64)) == 1).all():
        matrix, table = np.ascontiguousarray(matrix[order]), table.take(order)
    table = table.combine_chunks()
    chosen = form or form_of(*matrix.shape)
    owners = pc.dictionary_encode(table.column("id")).combine_chunks().indices.to_numpy().astype(np.int64)
    index = forms.made(matrix, chosen, metric, seed)
    effort = forms.tuned(index, matrix, owners, metric, seed)
    if form is None and effort.recall < forms.RECALL:
        chosen = chosen.partition(",")[0] + ",Flat"
        index = forms.made(matrix, chosen, metric, seed)
        effort = forms.tuned(index, matrix, owners, metric, seed)
    facts = {"form": chosen, "metric": metric, "seed": seed, **(meta or {})}
    told = hashlib.sha256()
    for name in table.column_names:
        told.update(canonical_json(table.column(name).to_pylist()).encode())
    told.update(matrix.data)
    version = digest(facts, told.digest(), length=16)
    return Index(index, table, chosen, metric, version, effort, dict(meta or {}))


def save(lake: Blobs, space: str, index: Index) -> str:
    """Keep ``index`` as a version of ``space`` and return the version; it becomes the newest."""
    folder = f"{_space(space)}/{index.version}"
    hashes = {}
    with lake.staged(folder) as staged:
        faiss.write_index(index.index, str(staged))
        hashes["index.faiss"] = file_sha256(staged)
        lake.publish(staged, f"{folder}/index.faiss")
    with lake.staged(folder) as staged:
        pq.write_table(index.units, staged, compression="zstd")
        hashes["ids.parquet"] = file_sha256(staged)
        lake.publish(staged, f"{folder}/ids.parquet")
    document = {
        "space": space,
        "form": index.form,
        "metric": index.metric,
        "dimensions": index.index.d,
        "count": len(index),
        "effort": index.effort.as_dict(),
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
    units = pq.read_table(paths["ids.parquet"]).combine_chunks()
    effort = Effort(**document["effort"]) if "effort" in document else forms.exact_of(index)[1]
    return Index(index, units, document["form"], document["metric"], version, effort, document["meta"])


def verify(lake: Blobs, space: str, version: str) -> tuple[dict[str, Any], dict[str, Path]]:
    """The index's description and its files on this machine, each with the hash recorded of it.

    Raises ``RequestError`` where there is no such index, ``SourceError`` naming the file that is missing or damaged.
    """
    folder = f"{_space(space)}/{version}"
    if lake.size(f"{folder}/meta.json") is None:
        raise RequestError(f"space {space!r} has no index {version!r}", code="no_index", fix="build one: index")
    document = described(lake, space, version)
    paths = {}
    for name, sha256 in document["sha256"].items():
        if lake.sha256(f"{folder}/{name}") != sha256:
            raise SourceError(f"{folder}/{name} is damaged: its bytes are not the ones written", code="damaged")
        paths[name] = lake.local(f"{folder}/{name}", sha256)
    return document, paths


def described(lake: Blobs, space: str, version: str) -> dict[str, Any]:
    """What an index says of itself: its form, count, effort, ``meta`` and when it was made. Raises ``SourceError``
    where that is damaged."""
    path = f"{_space(space)}/{version}/meta.json"
    try:
        return unseal(lake.read_bytes(path))
    except ValueError as error:
        raise SourceError(f"{path} is damaged: {error}", code="damaged") from error


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
    made = {v: described(lake, space, v)["created_at"] for v in versions}
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
