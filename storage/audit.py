"""The audit: one row a write over the service, made durable before the write is acknowledged.

The row of a write that carried an idempotency key holds its answer too, and is what a repetition is answered from.
Episode ids are in no column, so that an erase finds nothing here.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import polars as pl
import pyarrow as pa

from data_engine.canonical import digest
from storage.tables import Tables

__all__ = ["AUDIT", "Once", "audited", "enter"]

AUDIT = "service/audit"
_SCHEMA = pa.schema(
    [
        ("request_id", pa.string()),
        ("at", pa.timestamp("us", tz="UTC")),
        ("key_id", pa.string()),
        ("name", pa.string()),  # the key's
        ("method", pa.string()),
        ("route", pa.string()),  # the template, never what filled it in
        ("status", pa.int64()),
        ("idempotency_key", pa.string()),
        ("request_sha256", pa.string()),  # of method, path, query and body
        ("answer", pa.string()),  # where there is an idempotency key
    ]
)


def enter(lake: Tables, row: Mapping[str, Any]) -> None:
    """Append a row; ``at`` is now."""
    lake.create_table(AUDIT, _SCHEMA)
    lake.append_rows(AUDIT, [{**row, "at": datetime.now(UTC)}], transaction=digest("audit", str(row["request_id"])))


def audited(lake: Tables) -> pl.DataFrame:
    """Every row, oldest first."""
    if not lake.exists_table(AUDIT):
        return pl.DataFrame(_SCHEMA.empty_table())
    return lake.scan(AUDIT).collect().sort("at", "request_id")


class Once:
    """The writes that were answered under an idempotency key, of an audit that other processes append to as well.

    A write is a file of the table, and every file is read once: what is kept of it is where it lies. Safe to share
    between threads.
    """

    def __init__(self, lake: Tables) -> None:
        self._lake = lake
        self._version: int | None = None
        self._read: set[str] = set()
        self._places: dict[str, str] = {}  # digest of (key, idempotency key): file
        self._lock = threading.Lock()

    def earlier(self, key_id: str, idempotency_key: str) -> dict[str, Any] | None:
        """The row of the write that ``key_id`` made under that idempotency key; None where there was none.

        O(files that came in since the last call).
        """
        with self._lock:
            self._look()
            place = self._places.get(digest(key_id, idempotency_key, length=32))
        if place is None:
            return None
        mine = (pl.col("key_id") == key_id) & (pl.col("idempotency_key") == idempotency_key)
        return self._lake.scan_files(AUDIT, [place]).filter(mine).collect().row(0, named=True)

    def _look(self) -> None:
        version = self._lake.version(AUDIT)
        if version is None or version == self._version:
            return
        new = [file for file in self._lake.files(AUDIT, version) if file.path not in self._read]
        columns = ["key_id", "idempotency_key", "status"]
        rows = self._lake.scan_files(AUDIT, [file.path for file in new], version).select(columns).collect()
        paths = (file.path for file in new for _ in range(file.rows))
        for path, (key_id, once, status) in zip(paths, rows.iter_rows(), strict=True):
            if once is not None and status < 300:  # what was refused may be asked again
                self._places.setdefault(digest(key_id, once, length=32), path)
        self._read.update(file.path for file in new)
        self._version = version
