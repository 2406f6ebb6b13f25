"""Rows that people write down elsewhere: JSON, JSON Lines, CSV or Parquet files of a bounded size."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Mapping
from typing import Any

import polars as pl

from data_engine.errors import RequestError

__all__ = ["read_rows"]

_MOST_BYTES = 256 << 20  # of a file


def read_rows(path: str) -> list[dict[str, Any]]:
    """The rows of a file, by its name's ending. Raises ``RequestError`` where it is not what that says."""
    try:
        size = os.path.getsize(path)
        if size > _MOST_BYTES:
            raise RequestError(f"{path} is larger than {_MOST_BYTES >> 20} MiB", code="too_large", fix="cut it up")
        with open(path, "rb") as file:
            data = file.read(_MOST_BYTES)
    except OSError as error:
        raise RequestError(f"cannot read {path}: {error.strerror}", code="no_file") from error
    ending = os.path.splitext(path)[1].lower()
    if ending not in _READERS:
        raise RequestError(f"{path} is none of {', '.join(sorted(_READERS))}", code="bad_file")
    try:
        rows = _READERS[ending](data)
    except (ValueError, RecursionError, csv.Error, pl.exceptions.PolarsError) as error:
        what = " ".join(str(error).split())[:200]
        raise RequestError(f"{path} cannot be read as {ending[1:]}: {what}", code="bad_file") from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise RequestError(f"{path} holds no list of rows", code="bad_file")
    return rows


def _json(data: bytes) -> Any:
    found = json.loads(data)
    return found["items"] if isinstance(found, dict) and isinstance(found.get("items"), list) else found


def _lines(data: bytes) -> Any:
    return [json.loads(line) for line in data.splitlines() if line.strip()]


def _csv(data: bytes) -> Any:
    rows = list(csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline=""), strict=True))
    if any(None in row for row in rows):
        raise ValueError("a row has more cells than the header")
    return rows


def _parquet(data: bytes) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(io.BytesIO(data))
        if sum(file.metadata.row_group(i).total_byte_size for i in range(file.num_row_groups)) > _MOST_BYTES:
            raise ValueError("it unpacks to too much")
        return file.read().to_pylist()
    except pa.ArrowException as error:
        raise ValueError(str(error)) from error


_READERS: Mapping[str, Callable[[bytes], Any]] = {
    ".json": _json, ".jsonl": _lines, ".ndjson": _lines, ".csv": _csv, ".parquet": _parquet,
}  # fmt: skip
