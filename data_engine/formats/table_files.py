"""Parquet and Arrow IPC files of strangers as groups of rows, read one group and a few columns at a time.

The kind is told by the first bytes. Sizes that a header declares are checked before anything is allocated, and IPC
data, whose offsets Arrow trusts, is validated whole.
"""

from __future__ import annotations

import re
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq

from data_engine.errors import EngineError, SourceError
from data_engine.formats import Source
from data_engine.formats.arrays import EPISODE_BYTES
from data_engine.formats.files import member

__all__ = ["FAULTS", "SUFFIXES", "TableFile", "hive", "open_parquet", "open_table"]

SUFFIXES = (".parquet", ".parq", ".pq", ".arrow", ".feather", ".ipc", ".arrows")
FAULTS = (OSError, ValueError, MemoryError, pa.ArrowException)
"""What Arrow raises for a damaged file."""

_HIVE = re.compile(r"([^/=]+)=([^/=]*)")
_HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"


class TableFile(ABC):
    """An open file. ``rows``: of each group, a Parquet row group or an Arrow record batch."""

    path: str
    schema: pa.Schema
    rows: tuple[int, ...]

    @abstractmethod
    def read(self, group: int, columns: Sequence[str]) -> pa.Table:
        """Top-level ``columns`` of one group. Raises ``SourceError`` for a group beyond an episode's limit."""

    def batches(self, group: int, columns: Sequence[str], size: int = 16) -> Iterator[pa.RecordBatch]:
        """The same, at most ``size`` rows at a time, in order."""
        yield from self.read(group, columns).to_batches(max_chunksize=size)


class _Parquet(TableFile):
    def __init__(self, path: str, file: pq.ParquetFile) -> None:
        self.path, self._file, self.schema = path, file, file.schema_arrow
        meta = file.metadata
        self.rows = tuple(meta.row_group(i).num_rows for i in range(meta.num_row_groups))

    def read(self, group: int, columns: Sequence[str]) -> pa.Table:
        self._check(group, columns)
        return self._file.read_row_group(group, columns=list(columns))

    def batches(self, group: int, columns: Sequence[str], size: int = 16) -> Iterator[pa.RecordBatch]:
        yield from self._file.iter_batches(size, row_groups=[group], columns=list(columns))

    def _check(self, group: int, columns: Sequence[str]) -> None:
        """A run of equal values takes no bytes in the file: what it unpacks to counts too."""
        meta, size = self._file.metadata.row_group(group), 0
        for i in range(meta.num_columns):
            chunk = meta.column(i)
            if chunk.path_in_schema in columns or chunk.path_in_schema.split(".", 1)[0] in columns:
                size += max(chunk.total_uncompressed_size, chunk.num_values)
        if size > EPISODE_BYTES:
            raise SourceError(
                f"row group {group} of {self.path} declares {size >> 30} GiB",
                code="too_large",
                fix="write smaller row groups",
            )


class _Arrow(TableFile):
    """Record batches of a memory-mapped or remote IPC file: a column is not touched before it is asked for."""

    def __init__(self, path: str, open_file: Any) -> None:
        self.path, self._open = path, open_file
        reader = open_file(None)
        self.schema = reader.schema
        first = open_file([0]) if len(self.schema) else reader
        self.rows = tuple(first.get_batch(i).num_rows for i in range(first.num_record_batches))

    def read(self, group: int, columns: Sequence[str]) -> pa.Table:
        positions = [i for i, name in enumerate(self.schema.names) if name in columns]
        return _sound(self._open(positions).get_batch(group), self.path).select(list(columns))


class _Stream(TableFile):
    """Record batches of a stream, which has no index: all are taken at once, which copies nothing of a mapped file."""

    def __init__(self, path: str, reader: pa.RecordBatchStreamReader) -> None:
        self.path, self.schema = path, reader.schema
        self._batches, size = [], 0
        for batch in reader:
            size += batch.nbytes
            if size > EPISODE_BYTES:
                raise SourceError(
                    f"{path} unpacks to more than {EPISODE_BYTES >> 30} GiB", code="too_large", fix="write Parquet"
                )
            self._batches.append(batch)
        self.rows = tuple(batch.num_rows for batch in self._batches)

    def read(self, group: int, columns: Sequence[str]) -> pa.Table:
        return _sound(self._batches[group].select(list(columns)), self.path)


def _sound(batch: pa.RecordBatch, path: str) -> pa.Table:
    if batch.nbytes > EPISODE_BYTES:
        raise SourceError(f"a record batch of {path} holds more than {EPISODE_BYTES >> 30} GiB", code="too_large")
    batch.validate(full=True)
    return pa.Table.from_batches([batch])


def open_table(source: Source, path: str) -> TableFile:
    """The table file at ``path`` of ``source`` (or ``source`` itself). Raises ``SourceError`` where it is none."""
    found = member(source, path)
    try:
        head = bytes(found.fs.cat_file(found.root, start=0, end=6))
        if head.startswith(b"PAR1"):
            return _Parquet(path, open_parquet(source, path))
        if head == b"ARROW1":
            data = pa.memory_map(found.path()) if found.is_local else found.open()

            def opened(fields: list[int] | None) -> pa.RecordBatchFileReader:
                options = pa.ipc.IpcReadOptions(included_fields=fields, use_threads=False)
                return pa.ipc.open_file(data, options=options)

            return _distinct(_Arrow(path, opened), path)
        if head.startswith(b"\xff\xff\xff\xff"):
            return _distinct(_Stream(path, pa.ipc.open_stream(_mapped(found))), path)
    except FileNotFoundError as error:
        raise SourceError(f"{path} is not there", code="missing_file") from error
    except FAULTS as error:
        raise SourceError(f"{path} is damaged: {error}", code="damaged_file") from error
    old = head.startswith(b"FEA1")
    raise SourceError(
        f"{path} is {'Feather of version 1' if old else 'neither Parquet nor Arrow'}",
        code="bad_file",
        fix="write it as Parquet" if old else None,
    )


def _mapped(found: Source) -> pa.MemoryMappedFile:
    if found.is_local:
        return pa.memory_map(found.path())
    with tempfile.NamedTemporaryFile(prefix="data-engine-") as copy:
        found.fs.get_file(found.path(), copy.name)
        return pa.memory_map(copy.name)  # stays mapped whatever becomes of the name


def open_parquet(source: Source, path: str, *, once: bool = False) -> pq.ParquetFile:
    """The Parquet file at ``path`` of ``source``. Raises ``SourceError`` where it is none or holds a column twice.

    Its footer is kept for the next to ask, unless the file is read ``once``.
    """
    try:
        found = member(source, path)
        file = _open(found, None if once else _footer(found, found.stamp()))
    except FileNotFoundError as error:
        raise SourceError(f"{path} is not there", code="missing_file") from error
    except (OSError, pa.ArrowException, EngineError) as error:
        raise SourceError(f"{path} is not readable: {error}", code="bad_file") from error
    _check_names(file.schema_arrow, path)
    return file


def _distinct(file: TableFile, path: str) -> TableFile:
    _check_names(file.schema, path)
    return file


def _check_names(schema: pa.Schema, path: str) -> None:
    """Of two columns of one name a reader would take either, and say nothing."""
    names = schema.names
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise SourceError(f"{path} holds two columns called {twice!r}", code="duplicate_column", fix="rename one")


@lru_cache(maxsize=2)  # one of thousands of row groups takes long to parse, and much memory: 1 kB a group and column
def _footer(found: Source, stamp: tuple[int, str]) -> pq.FileMetaData:
    """The footer of a file as it is now: every shard of it asks."""
    return _open(found, None).metadata


def _open(found: Source, footer: pq.FileMetaData | None) -> pq.ParquetFile:
    if found.is_local:
        return pq.ParquetFile(found.path(), metadata=footer, memory_map=True)
    return pq.ParquetFile(found.open(), metadata=footer, pre_buffer=True)


def hive(path: str) -> dict[str, str | None]:
    """The ``key=value`` folders on the way to a file, values unquoted; Hive's own word for a missing one is None."""
    found = (_HIVE.fullmatch(part) for part in path.split("/")[:-1])
    return {match[1]: None if match[2] == _HIVE_NULL else unquote(match[2]) for match in found if match is not None}
