"""The lake's tables: Parquet files named by shard and content, made visible by exactly-once Delta commits.

A file's name is ``<key>-<sha256 of its bytes>.parquet``: a second write of other bytes under one key can never harm a
committed file, and ``check`` needs no other record of what the bytes were.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, TypeAlias

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from data_engine.canonical import digest
from data_engine.errors import EngineError, RequestError
from data_engine.model import TABLES
from storage import commits
from storage.blobs import Blobs, DataFile, file_sha256

__all__ = ["Tables", "file_of"]

FOLDER = "tables"
GROUP_BYTES = 16 << 20
GROUP_ROWS = 1 << 17
NAME = re.compile(r"[A-Za-z0-9_]+(/[A-Za-z0-9][A-Za-z0-9._-]*)?")
KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")

Rows: TypeAlias = pa.Table | Iterable[pa.Table | pa.RecordBatch]


class Tables(Blobs):
    """Delta tables under ``tables/``: those of ``model.TABLES``, made at their first commit, and any other."""

    def folder(self, name: str) -> str:
        """The table's folder. Raises ``RequestError`` for a name that is none."""
        if not NAME.fullmatch(name):
            raise RequestError(f"{name!r} cannot name a table", code="bad_name", fix="use letters, digits, . _ and -")
        return f"{FOLDER}/{name}"

    def tables(self, prefix: str = "") -> list[str]:
        """Names of the tables there are, sorted, of those that start with ``prefix``."""
        found = set()
        for kind in self._folders(FOLDER):
            inner = self._folders(f"{FOLDER}/{kind}")
            found |= {kind} if "_delta_log" in inner else {f"{kind}/{name}" for name in inner}
        return sorted(name for name in found if name.startswith(prefix) and self.exists_table(name))

    def _folders(self, path: str) -> list[str]:
        if not self.exists(path):
            return []
        entries = self.fs.ls(self._at(path), detail=True)
        return [PurePosixPath(entry["name"]).name for entry in entries if entry["type"] == "directory"]

    def _open(self, name: str, version: int | None = None) -> commits.DeltaTable | None:
        return commits.open_table(self.uri_of(self.folder(name)), self.options.delta, version)

    def exists_table(self, name: str) -> bool:
        """Whether the table is there."""
        return self.size(f"{self.folder(name)}/_delta_log/{0:020}.json") is not None

    def create_table(self, name: str, schema: pa.Schema) -> None:
        """Create the table where it is absent. Racing creators are fine; another schema raises ``RequestError``."""
        commits.create(self.uri_of(self.folder(name)), self.options.delta, schema)

    def schema(self, name: str) -> pa.Schema:
        """The table's Arrow schema. Raises ``RequestError`` for an absent table that no contract describes."""
        table = self._open(name)
        return commits.schema_of(table) if table is not None else self._declared(name)

    def _declared(self, name: str) -> pa.Schema:
        if name not in TABLES:
            raise RequestError(f"no table {name!r} in {self.uri}", code="no_table")
        return TABLES[name]

    def version(self, name: str) -> int | None:
        """The table's newest version; None where it is absent."""
        table = self._open(name)
        return None if table is None else table.version()

    def files(self, name: str, version: int | None = None) -> list[DataFile]:
        """The files that make up the table (not: that lie in its folder), sorted by path; empty where it is absent."""
        table = self._open(name, version)
        return [] if table is None else self._files(name, table)

    def _files(self, name: str, table: commits.DeltaTable) -> list[DataFile]:
        actions = pa.table(table.get_add_actions(flatten=True))
        folder = self.folder(name)
        rows = zip(*(actions[column].to_pylist() for column in ("path", "size_bytes", "num_records")), strict=True)
        return sorted((file_of(f"{folder}/{path}", size, count) for path, size, count in rows), key=lambda f: f.path)

    def scan(self, name: str, *, version: int | None = None) -> pl.LazyFrame:
        """The table's rows, in no promised order; an empty frame of the right columns where it is absent.

        Raises ``RequestError`` for a table that is absent and that no contract describes, and for an unknown version.
        """
        table = self._open(name, version)
        files = [] if table is None else self._files(name, table)
        return self._scan(name, table, [file.path for file in files])

    def scan_files(self, name: str, paths: Sequence[str], version: int | None = None) -> pl.LazyFrame:
        """:meth:`scan` of these files of the table alone."""
        return self._scan(name, self._open(name, version), paths)

    def _scan(self, name: str, table: commits.DeltaTable | None, paths: Sequence[str]) -> pl.LazyFrame:
        schema = self._declared(name) if table is None else commits.schema_of(table)
        if not paths:
            return pl.DataFrame(schema.empty_table()).lazy()
        return pl.scan_parquet(
            [self.uri_of(path) for path in paths],
            schema=pl.DataFrame(schema.empty_table()).schema,
            storage_options=self.options.polars or None,
            hive_partitioning=False,
            glob=False,
        )

    def write_file(self, name: str, key: str, rows: Rows, schema: pa.Schema | None = None) -> DataFile:
        """Write ``rows`` as one Parquet file of the table, not yet part of it: :meth:`commit` adds it.

        ``rows`` may be a stream of tables or batches; each becomes row groups of its own, of bounded size. ``key``
        names the shard. ``schema`` defaults to the table's.
        Equal rows give equal bytes. Raises ``RequestError`` for a missing, surplus or lossy column.
        """
        if not KEY.fullmatch(key):
            raise RequestError(f"{key!r} cannot name a file", code="bad_name", fix="use letters, digits, . _ and -")
        schema = self.schema(name) if schema is None else schema
        parts = [rows] if isinstance(rows, pa.Table) else rows
        count, folder = 0, self.folder(name)
        with self.staged(folder) as staged:
            texts = [
                field.name for field in schema if pa.types.is_string(field.type)
            ]  # a dictionary pays for no number
            with pq.ParquetWriter(staged, schema, compression="zstd", version="2.6", use_dictionary=texts) as writer:
                for part in parts:  # a thread that encodes beside this one was measured to cost more than it saves
                    table = _conform(part, schema, name)
                    if table.num_rows:
                        writer.write_table(table, row_group_size=_group_rows(table))
                        count += table.num_rows
            file = file_of(f"{folder}/{key}-{file_sha256(staged)}.parquet", staged.stat().st_size, count)
            self.publish(staged, file.path)
        return file

    def commit(
        self, name: str, files: Sequence[DataFile], *, transaction: str, run_id: str = "", config_hash: str = "",
        after: tuple[str, int] | None = None,
    ) -> int:  # fmt: skip
        """Add ``files`` to the table in one transaction, exactly once by the id ``transaction``; its new version.

        A repeated transaction changes nothing. ``after``: a turn and its number as :meth:`turn` said it before the work
        that led here. Raises ``EngineError`` where a file is not there with its size, and with code ``overtaken`` where
        another commit took that turn meanwhile.
        """
        return self._commit(name, files, transaction, run_id, config_hash, None, after)

    def turn(self, name: str, turn: str) -> int:
        """How many commits to the table have taken turns under this name."""
        table = self._open(name)
        return 0 if table is None else commits.turn(table, turn)

    def committed(self, name: str, transaction: str) -> bool:
        """Whether the table has seen the transaction."""
        return not self.uncommitted(name, [transaction])

    def uncommitted(self, name: str, transactions: Iterable[str]) -> set[str]:
        """Those of ``transactions`` that the table has not seen."""
        table = self._open(name)
        return {each for each in transactions if table is None or table.transaction_version(each) is None}

    def altered(
        self, name: str, file: DataFile, change: Callable[[pa.Table], pa.Table], schema: pa.Schema | None = None
    ) -> DataFile | None:
        """A file of the table, each row group put through ``change``; it is no part of the table before a :meth:`swap`.

        ``change`` hands back the very table that it leaves as it is; where it leaves all, ``file`` itself is returned.
        None where no row is left. Reads one row group at a time.
        """
        with self.fs.open(self._at(file.path), "rb", block_size=8 << 20) as handle:
            source = pq.ParquetFile(handle, pre_buffer=False)

            def groups() -> Iterator[pa.Table]:
                return (source.read_row_group(index) for index in range(source.num_row_groups))

            if all(change(group) is group for group in groups()):
                return file
            key = PurePosixPath(file.path).stem.rpartition("-")[0]
            new = self.write_file(name, key, (change(group) for group in groups()), schema)
        if not new.rows:
            self.remove(new.path)
            return None
        return new

    def swap(self, name: str, files: Mapping[str, DataFile | None], *, why: str) -> bool:
        """Put other files (or none) in the place of those of the table, by path, in one transaction.

        What the table does not hold any more is passed over; whether that was nothing. Raises ``EngineError`` where
        others keep replacing the same files.
        """
        for attempt in range(commits.ATTEMPTS):
            table = self._open(name)
            here = [] if table is None else [file for file in self._files(name, table) if file.path in files]
            added = [new for file in here if (new := files[file.path]) is not None]
            if not here or table is None:
                return not files
            if commits.swap(
                self.uri_of(self.folder(name)),
                self.options.delta,
                table,
                [(PurePosixPath(file.path).name, file.bytes) for file in here],
                [(PurePosixPath(file.path).name, file.bytes, file.rows) for file in added],
                {"why": why},
            ):
                return len(here) == len(files)
            time.sleep(min(0.01 * 2**attempt, 1.0))
        raise EngineError(f"table {name} keeps changing", code="commit_failed", fix="run it again")

    def rewrite(self, name: str, change: Callable[[pa.Table], pa.Table], *, why: str) -> int:
        """Put every row group of the table through ``change`` (see :meth:`altered`); how many files were replaced.

        Rows that others append meanwhile are neither lost nor changed. The old files stay until they are removed.
        Raises ``EngineError`` where others keep replacing the same files.
        """
        count = 0
        while True:
            files = self.files(name)
            schema = self.schema(name) if files else None
            new = {file.path: self.altered(name, file, change, schema) for file in files}
            changed = {file.path: new[file.path] for file in files if new[file.path] != file}
            whole = not changed or self.swap(name, changed, why=why)
            count += len(changed)
            if whole:
                return count

    def retired(self, name: str) -> list[str]:
        """Files still in the table's folder that a :meth:`swap` took out of it."""
        folder = self.folder(name)
        removed: set[str] = set()
        for path in self.list(f"{folder}/_delta_log"):
            if path.endswith(".json"):
                actions = (json.loads(line) for line in self.read_bytes(path).splitlines())
                removed |= {f"{folder}/{action['remove']['path']}" for action in actions if "remove" in action}
        held = {file.path for file in self.files(name)}
        return [path for path in self.list(folder) if path in removed - held]

    def append(self, name: str, rows: pa.Table, *, transaction: str, run_id: str = "", config_hash: str = "") -> int:
        """Write and commit a small table of rows, exactly once by ``transaction``; the table's version.

        The table is made where it is absent. A repeated transaction writes nothing, whatever its rows.
        """
        table = self._open(name)
        if table is None:
            self.create_table(name, TABLES.get(name, rows.schema))
            table = self._open(name)
        if table is None:
            raise EngineError(f"no table at {self.uri_of(self.folder(name))}", code="no_table")
        if table.transaction_version(transaction) is not None:
            return table.version()
        key = digest(transaction, length=16)
        files = [self.write_file(name, key, rows, commits.schema_of(table))] if rows.num_rows else []
        return self._commit(name, files, transaction, run_id, config_hash, table)

    def append_rows(
        self, name: str, rows: Sequence[Mapping[str, Any]], *, transaction: str, run_id: str = "", config_hash: str = ""
    ) -> int:
        """:meth:`append` for plain rows: columns that a row lacks are null, unknown ones raise ``RequestError``."""
        schema = TABLES[name] if name in TABLES else self.schema(name)
        unknown = sorted({key for row in rows for key in row} - set(schema.names))
        if unknown:
            raise RequestError(f"table {name!r} has no column {unknown[0]!r}", code="schema_conflict")
        table = pa.Table.from_pylist([dict(row) for row in rows], schema=schema)
        return self.append(name, table, transaction=transaction, run_id=run_id, config_hash=config_hash)

    def _commit(
        self, name: str, files: Sequence[DataFile], transaction: str, run_id: str, config_hash: str,
        table: commits.DeltaTable | None, after: tuple[str, int] | None = None,
    ) -> int:  # fmt: skip
        folder = self.folder(name)
        for file, size in zip(files, self.sizes(file.path for file in files), strict=True):
            if size != file.bytes or PurePosixPath(file.path).parent != PurePosixPath(folder):
                there = "missing" if size is None else f"{size} bytes"
                raise EngineError(f"cannot commit {file.path} to {name}: {there}, not {file.bytes}", code="bad_file")
        if table is None and name in TABLES:
            self.create_table(name, TABLES[name])
        return commits.commit(
            self.uri_of(folder),
            self.options.delta,
            [(PurePosixPath(file.path).name, file.bytes, file.rows) for file in files],
            transaction=transaction,
            metadata={
                "run_id": run_id,
                "config_hash": config_hash,
                "transaction": transaction,
                **({"turn": after[0]} if after else {}),
            },
            table=table,
            after=after,
        )


def file_of(path: str, size: int, rows: int) -> DataFile:
    """A table's file from its path, which ends in the sha256 of its bytes."""
    return DataFile(path, size, PurePosixPath(path).stem.rpartition("-")[2], rows)


def _conform(part: pa.Table | pa.RecordBatch, schema: pa.Schema, name: str) -> pa.Table:
    table = pa.Table.from_batches([part]) if isinstance(part, pa.RecordBatch) else part
    if table.schema == schema:
        return table
    if set(table.column_names) != set(schema.names):
        odd = sorted(set(table.column_names) ^ set(schema.names))
        raise RequestError(f"rows for {name} and its schema differ in: {', '.join(odd)}", code="schema_conflict")
    for field in schema:
        if _narrows(table.schema.field(field.name).type, field.type):
            raise RequestError(
                f"rows for {name} do not fit its schema: {field.name} would lose precision", code="schema_conflict"
            )
    try:
        return table.select(schema.names).cast(schema)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError) as error:
        raise RequestError(f"rows for {name} do not fit its schema: {error}", code="schema_conflict") from error


def _narrows(have: pa.DataType, want: pa.DataType) -> bool:
    """Whether a cast loses float precision, which Arrow's safe cast lets pass."""
    lists = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    while any(is_kind(have) for is_kind in lists) and pa.types.is_list(want):
        have, want = have.value_type, want.value_type
    return pa.types.is_floating(have) and pa.types.is_floating(want) and have.bit_width > want.bit_width


def _group_rows(table: pa.Table) -> int:
    if table.get_total_buffer_size() <= GROUP_BYTES:  # at least its bytes, and much quicker to tell
        return GROUP_ROWS
    return max(1, min(GROUP_ROWS, GROUP_BYTES * table.num_rows // max(table.nbytes, 1)))
