"""The run ledger: which shards are done, and the rows that they hold ready for the commit that publishes them.

An entry is written once, whole, after the shard's files exist; so a shard that has one need never run again.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_engine.canonical import canonical_json
from data_engine.errors import RequestError
from storage.blobs import Blobs

__all__ = ["LEDGER", "PENDING", "done", "forget", "mark_done", "read_pending", "write_pending"]

LEDGER = "_ledger"
PENDING = "_pending"
FINGERPRINT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def done(lake: Blobs, fingerprint: str) -> dict[str, Any] | None:
    """What the shard came to, or None where it is not done."""
    path = _path(LEDGER, fingerprint, "json")
    return json.loads(lake.read_bytes(path)) if lake.size(path) is not None else None


def mark_done(lake: Blobs, fingerprint: str, result: Mapping[str, Any]) -> None:
    """Record that the shard is done and all its files exist. ``result`` is plain JSON."""
    lake.write_bytes(_path(LEDGER, fingerprint, "json"), canonical_json(result).encode())


def write_pending(lake: Blobs, fingerprint: str, rows: pa.Table) -> None:
    """Keep the rows of a shard until the commit that publishes them."""
    sink = io.BytesIO()
    pq.write_table(rows, sink, compression="zstd")
    lake.write_bytes(_path(PENDING, fingerprint, "parquet"), sink.getvalue())


def read_pending(lake: Blobs, fingerprint: str, columns: Sequence[str] | None = None) -> pa.Table:
    """The rows that :func:`write_pending` kept, whole or in ``columns``. ``SourceError`` where there are none."""
    data = lake.read_bytes(_path(PENDING, fingerprint, "parquet"))
    return pq.ParquetFile(io.BytesIO(data)).read(columns=None if columns is None else list(columns))


def forget(lake: Blobs, fingerprint: str) -> None:
    """Drop the shard's entry and then its rows: it will run again."""
    lake.remove(_path(LEDGER, fingerprint, "json"))
    lake.remove(_path(PENDING, fingerprint, "parquet"))


def _path(folder: str, fingerprint: str, suffix: str) -> str:
    if not FINGERPRINT.fullmatch(fingerprint):
        raise RequestError(f"{fingerprint!r} cannot name a shard", code="bad_name", fix="use letters, digits, . _ -")
    return f"{folder}/{fingerprint}.{suffix}"
