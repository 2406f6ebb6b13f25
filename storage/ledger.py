"""The run ledger: which shards are done, and the rows that they hold ready for the commit that publishes them.

An entry is written once, whole, after the shard's files exist; so a shard that has one need never run again.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_engine.canonical import seal, unseal
from data_engine.errors import RequestError
from storage.blobs import Blobs

__all__ = ["LEDGER", "PENDING", "damage", "done", "forget", "mark_done", "read_pending", "write_pending"]

LEDGER = "_ledger"
PENDING = "_pending"
FINGERPRINT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def done(lake: Blobs, fingerprint: str) -> dict[str, Any] | None:
    """What the shard came to, or None where it is not done. A damaged entry is none: the shard runs again."""
    path = _path(LEDGER, fingerprint, "json")
    try:
        return dict(unseal(lake.read_bytes(path))["result"]) if lake.size(path) is not None else None
    except ValueError:
        return None


def mark_done(lake: Blobs, fingerprint: str, result: Mapping[str, Any]) -> None:
    """Record that the shard is done and all its files exist. ``result`` is plain JSON."""
    pending = _path(PENDING, fingerprint, "parquet")
    rows = lake.sha256(pending) if lake.size(pending) is not None else None
    lake.write_bytes(_path(LEDGER, fingerprint, "json"), seal({"result": result, "rows": rows}))


def write_pending(lake: Blobs, fingerprint: str, rows: pa.Table) -> None:
    """Keep the rows of a shard until the commit that publishes them."""
    sink = io.BytesIO()
    pq.write_table(rows, sink, compression="zstd")
    lake.write_bytes(_path(PENDING, fingerprint, "parquet"), sink.getvalue())


def read_pending(lake: Blobs, fingerprint: str, columns: Sequence[str] | None = None) -> pa.Table:
    """The rows that :func:`write_pending` kept, whole or in ``columns``. ``SourceError`` where there are none."""
    data = lake.read_bytes(_path(PENDING, fingerprint, "parquet"))
    return pq.ParquetFile(io.BytesIO(data)).read(columns=None if columns is None else list(columns))


def damage(lake: Blobs) -> Iterator[tuple[str, str]]:
    """(path, what is wrong) of each entry, and of the rows it holds ready, that is not what was written."""
    for path in lake.list(LEDGER):
        try:
            rows = unseal(lake.read_bytes(path))["rows"]
        except (ValueError, KeyError) as error:
            yield path, f"damaged: {error}; its shard runs again when it is needed"
            continue
        pending = f"{PENDING}/{PurePosixPath(path).stem}.parquet"
        if rows is not None and (lake.size(pending) is None or lake.sha256(pending) != rows):
            yield pending, "missing or damaged: its bytes are not the ones that were written"


def forget(lake: Blobs, fingerprint: str) -> None:
    """Drop the shard's entry and then its rows: it will run again."""
    lake.remove(_path(LEDGER, fingerprint, "json"))
    lake.remove(_path(PENDING, fingerprint, "parquet"))


def _path(folder: str, fingerprint: str, suffix: str) -> str:
    if not FINGERPRINT.fullmatch(fingerprint):
        raise RequestError(f"{fingerprint!r} cannot name a shard", code="bad_name", fix="use letters, digits, . _ -")
    return f"{folder}/{fingerprint}.{suffix}"
