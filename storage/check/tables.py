"""Tables: their logs say what their files are, and their files are what was written."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_engine.errors import EngineError
from data_engine.model import TABLES
from storage.blobs import DataFile
from storage.check.look import Look, Problem, problem

__all__ = ["tables"]

_ACTIONS = {"commitInfo", "protocol", "metaData", "add", "remove", "txn", "domainMetadata", "cdc", "checkpointMetadata"}


def tables(look: Look) -> Iterator[Problem]:
    """Every table: its log, and each of its files."""
    for name in look.lake.tables():
        folder = look.lake.folder(name)
        try:
            files, schema = look.lake.files(name), look.lake.schema(name)
        except (EngineError, LookupError, ValueError) as error:
            yield problem(folder, error)
            continue
        look.files |= {file.path: file for file in files}
        if name in TABLES and (odd := _odd(schema, TABLES[name])):
            yield problem(f"{folder}/_delta_log", f"its columns are others: {odd}")
        yield from _log(look, name, {PurePosixPath(file.path).name: file for file in files})
        for file in files:
            bad = list(look.file(file))
            yield from bad or _footer(look, file, schema)


def _log(look: Look, name: str, files: dict[str, DataFile]) -> Iterator[Problem]:
    """The commits, replayed, must come to the files that the table says it has (from its newest checkpoint)."""
    folder = f"{look.lake.folder(name)}/_delta_log"
    added: dict[str, dict[str, Any]] = {}
    seen = set()
    for path in look.lake.list(folder):
        if not path.endswith(".json"):
            continue
        try:
            actions = [_action(line) for line in look.lake.read_bytes(path).splitlines()]
            adds = {action["path"]: action for kind, action in actions if kind == "add"}
            taken = {action["path"] for kind, action in actions if kind == "remove"}
            transactions = {action["appId"] for kind, action in actions if kind == "txn"}
            stated = {action[what] for _, action in actions for what in ("transaction", "turn") if what in action}
        except (ValueError, KeyError, TypeError) as error:
            yield problem(path, f"damaged: {error}")
            continue
        if transactions != stated:
            yield problem(path, "damaged: it says two things of its transaction")
        added = {file: action for file, action in {**added, **adds}.items() if file not in taken}
        seen |= transactions
    look.committed |= {(name, transaction) for transaction in seen}
    for file in sorted(added.keys() ^ files.keys()):
        yield problem(folder, f"commits and checkpoint disagree on {file}")
    for file in sorted(added.keys() & files.keys()):
        try:
            same = (added[file]["size"], json.loads(added[file]["stats"])["numRecords"]) == (
                files[file].bytes, files[file].rows,
            )  # fmt: skip
        except (ValueError, KeyError, TypeError):
            same = False
        if not same:
            yield problem(folder, f"commits and checkpoint disagree on the size of {file}")
    for transaction in sorted(look.lake.uncommitted(name, seen)):
        yield problem(folder, f"the checkpoint has lost the transaction {transaction}")


def _action(line: bytes) -> tuple[str, dict[str, Any]]:
    ((kind, action),) = json.loads(line).items()
    if kind not in _ACTIONS or not isinstance(action, dict):
        raise ValueError(f"unknown action {kind!r}")
    return kind, action


def _footer(look: Look, file: DataFile, schema: pa.Schema) -> Iterator[Problem]:
    try:
        with look.lake.fs.open(look.lake._at(file.path), "rb") as handle:
            held = pq.ParquetFile(handle)
            rows, columns = held.metadata.num_rows, held.schema_arrow
    except (pa.ArrowException, OSError) as error:
        look.bad.add(file.path)
        yield problem(file.path, f"no Parquet file: {error}")
        return
    if rows != file.rows:
        yield problem(file.path, f"{rows} rows, {file.rows} were committed")
    if odd := _odd(columns, schema):
        yield problem(file.path, f"its columns are not the table's: {odd}")


def _odd(have: pa.Schema, want: pa.Schema) -> str | None:
    """The first column that is another one; how list items are called is no difference."""
    if have.names != want.names:
        return f"{', '.join(sorted({*have.names} ^ {*want.names})) or 'their order'}"
    return next((name for name in want.names if not have.field(name).type.equals(want.field(name).type)), None)
