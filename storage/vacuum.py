"""Vacuum: what nobody names any more is removed, after a grace period that running work is well inside of.

Kept are the files of every table's current version, what any episodes row names, what a frozen mixture pins, and
whatever is younger than the grace period. A ledger entry goes with the files that it names: its shard runs again. A
video that the lake refers to is not the lake's: only the reference goes.
"""

from __future__ import annotations

import io
import json
import time
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

import polars as pl
import pyarrow.parquet as pq

from data_engine.references import REFERENCES, VIDEOS, blob_of, pointer
from storage.blobs import TEMPORARY
from storage.ledger import LEDGER, PENDING, forget
from storage.tables import FOLDER, Tables

__all__ = ["pinned", "vacuum"]


def vacuum(lake: Tables, grace_hours: float = 168.0) -> dict[str, Any]:
    """Remove orphans older than ``grace_hours``; ``{"removed": [path], "bytes": n, "kept": n, "forgotten": [shard]}``.

    Shards that a run has done but not yet published count as orphans once they are older than that, so the grace period
    must exceed the longest run.
    """
    before = time.time() - grace_hours * 3600
    found: dict[str, dict[str, Any]] = {}
    for folder in (FOLDER, VIDEOS, REFERENCES, PENDING):
        found |= lake._stat(folder)
    files = {path: info for path, info in found.items() if "_delta_log" not in PurePosixPath(path).parts}
    kept = pinned(lake)
    orphans = {
        path: int(info["size"])
        for path, info in files.items()
        if _modified(info) < before and (path not in kept or PurePosixPath(path).name.startswith(TEMPORARY))
    }
    forgotten = sorted(_shards(lake, set(orphans)))
    for shard in forgotten:
        forget(lake, shard)
    for path in sorted(orphans):
        lake.remove(path)
    return {
        "removed": sorted(orphans),
        "bytes": sum(orphans.values()),
        "kept": len(files) - len(orphans),
        "forgotten": forgotten,
    }


def pinned(lake: Tables) -> set[str]:
    """Every file that a table, an episodes row or a mixture names, and the reference that may stand for it."""
    kept = {file.path for name in lake.tables() for file in lake.files(name)}
    rows = lake.scan("episodes").select("steps_file", "videos").collect()
    kept |= set(rows["steps_file"].drop_nulls())
    kept |= set(rows["videos"].explode().struct.field("blob").drop_nulls()) if len(rows) else set()
    for path in lake.list("mixtures"):
        if PurePosixPath(path).name == "files.parquet":
            kept |= set(pl.DataFrame(pq.read_table(io.BytesIO(lake.read_bytes(path)), columns=["path"]))["path"])
    return kept | {pointer(path) for path in kept if path.startswith(f"{VIDEOS}/")}


def _shards(lake: Tables, orphans: set[str]) -> Iterator[str]:
    """Shards whose ledger entry, or rows held ready, are among or name the orphans."""
    orphans = orphans | {blob_of(path) for path in orphans if path.startswith(f"{REFERENCES}/")}
    for path in lake.list(LEDGER):
        shard = PurePosixPath(path).name.removesuffix(".json")
        named = set(_strings(json.loads(lake.read_bytes(path)))) | {f"{PENDING}/{shard}.parquet"}
        if named & orphans:
            yield shard


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _strings(inner)


def _modified(info: dict[str, Any]) -> float:
    return float(info["mtime"] if "mtime" in info else info["LastModified"].timestamp())
