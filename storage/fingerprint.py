"""The lake's fingerprint: one hash over its logical rows, the measure of "the same lake".

Left out is everything that may differ between two runs of one recipe: run ids and times, file names and row offsets,
table versions, how long things took; ``runs`` and the service's keys and audit as a whole. Steps count by episode, so
that neither shards nor row groups nor orphan files matter.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any, Protocol

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from data_engine.canonical import canonical_json, digest
from data_engine.errors import SourceError
from storage.reading import steps
from storage.tables import Tables

__all__ = ["fingerprint", "steps_digest"]

LEFT_OUT = {"run_id", "ingested_at", "created_at", "started_at", "ended_at", "steps_file", "row_start", "path"}
VOLATILE = {"timing", "timings", "seconds", "run_id", "versions", "table_versions", "created_at"}  # keys inside JSON
JSON_COLUMNS = {"inputs", "receipt", "features", "attributes"}


class _Sha(Protocol):
    def update(self, data: bytes, /) -> None: ...


def fingerprint(lake: Tables) -> str:
    """sha256 in hex over the sorted logical rows of every table; equal for equal lakes, whatever their files.

    Raises ``SourceError`` where a file cannot be read.
    """
    parts: list[str] = []
    for name in lake.tables():
        if name == "runs" or name.startswith(("steps/", "service/")):
            continue
        try:
            rows = lake.scan(name).collect()
        except (pl.exceptions.PolarsError, OSError) as error:
            raise SourceError(f"table {name} cannot be read: {error}", code="damaged") from error
        if not len(rows):
            continue  # a table that was made and never filled is no difference
        if name == "episodes":
            rows = rows.sort("steps_file", "row_start")
            found = [steps_digest(table) for _, table in steps(lake, rows)]
            rows = rows.with_columns(pl.Series("steps", found, dtype=pl.String))
        parts += [name, *_rows(rows)]
    return digest(*parts)


def steps_digest(table: pa.Table) -> str:
    """sha256 in hex over the values of an episode's steps, columns by name; null counts apart from every value."""
    sha = hashlib.sha256()
    for name in sorted(table.column_names):
        sha.update(name.encode() + b"\0")
        _feed(sha, table.column(name).combine_chunks())
    return sha.hexdigest()


def _feed(sha: _Sha, array: pa.Array) -> None:
    kind = array.type
    sha.update(len(array).to_bytes(8, "big"))
    sha.update(np.packbits(array.is_valid().to_numpy(zero_copy_only=False)).tobytes())
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        sha.update(pc.fill_null(pc.list_value_length(array), 0).to_numpy(zero_copy_only=False).astype("<i8").tobytes())
        _feed(sha, array.flatten())
    elif pa.types.is_struct(kind):
        for field, values in zip(kind, array.flatten(), strict=True):
            sha.update(field.name.encode() + b"\0")
            _feed(sha, values)
    elif pa.types.is_floating(kind) or pa.types.is_integer(kind):
        values = pc.fill_null(array, 0).to_numpy(zero_copy_only=False)
        sha.update(values.dtype.str.encode())
        sha.update(values.tobytes())
    else:
        for value in array.drop_null().to_pylist():
            data = value if isinstance(value, bytes) else str(value).encode()
            sha.update(len(data).to_bytes(8, "big"))
            sha.update(data)


def _rows(frame: pl.DataFrame) -> list[str]:
    """A hash a row, sorted: order and files do not matter, a row that is there twice does."""
    names = sorted(name for name in frame.columns if name not in LEFT_OUT)
    columns = [_cells(name, frame[name]) for name in names]
    head = "\0".join(names).encode()
    return sorted(hashlib.sha256(head + b"\0".join(cells)).hexdigest() for cells in zip(*columns, strict=True))


def _cells(name: str, column: pl.Series) -> Iterable[bytes]:
    kind = column.dtype
    if isinstance(kind, pl.List) and kind.inner.is_numeric():
        return [b"null" if value is None else _numbers(value) for value in column]
    if name in JSON_COLUMNS:
        return [b"null" if value is None else canonical_json(_steady(json.loads(value))).encode() for value in column]
    return [b"null" if value is None else repr(value).encode().replace(b"\0", b"\0\0") for value in column.to_list()]


def _numbers(values: pl.Series) -> bytes:
    sha = hashlib.sha256()
    _feed(sha, values.to_arrow())
    return sha.hexdigest().encode()


def _steady(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _steady(inner) for key, inner in value.items() if key not in VOLATILE}
    return [_steady(inner) for inner in value] if isinstance(value, list) else value
