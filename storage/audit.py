"""The audit: one row a write over the service, made durable before the write is acknowledged.

The row of a write that carried an idempotency key holds its answer too, and is what a repetition is answered from.
Episode ids are in no column, so that an erase finds nothing here.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import polars as pl
import pyarrow as pa

from data_engine.canonical import digest
from storage.tables import Tables

__all__ = ["AUDIT", "audited", "earlier", "enter"]

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


def earlier(lake: Tables, key_id: str, idempotency_key: str) -> dict[str, Any] | None:
    """The row of the write that ``key_id`` made under that idempotency key; None where there was none."""
    if not lake.exists_table(AUDIT):
        return None
    mine = (pl.col("key_id") == key_id) & (pl.col("idempotency_key") == idempotency_key)
    rows = lake.scan(AUDIT).filter(mine & (pl.col("status") < 300)).collect().sort("at")
    return rows.row(0, named=True) if len(rows) else None
