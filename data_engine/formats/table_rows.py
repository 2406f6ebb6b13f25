"""Which rows of which files of a table are an episode's, and those rows: nothing is read but what is asked for."""

from __future__ import annotations

import posixpath
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from data_engine.cache import LRU
from data_engine.errors import EngineError, SourceError
from data_engine.formats import Source
from data_engine.formats.files import below
from data_engine.formats.table_columns import SEPARATOR, field
from data_engine.formats.table_files import FAULTS, SUFFIXES, TableFile, hive, open_table

__all__ = [
    "ONE_A_FILE", "TRIES", "RowReader", "RowSpan", "cells_of", "files_of", "first_rows", "partition_values", "paths_of",
    "rows_by_episode", "whole_keys", "with_values",
]  # fmt: skip

ONE_A_FILE = "."  # in place of the field that names the episode: each file is one
TRIES = 8  # files looked at for one that opens
_LOOK = 64  # rows that types and shapes are learned from


class RowSpan(NamedTuple):
    """Rows [start, stop) of one group of one file."""

    path: str
    group: int
    start: int
    stop: int


@dataclass
class RowReader:
    """Reads rows of the source's files; the last groups and open files are kept."""

    source: Source
    whole: frozenset[str]  # keys of hive partitions that are numbers

    @cached_property
    def _open(self) -> LRU[str, TableFile]:
        return LRU(4, partial(open_table, self.source))

    @cached_property
    def _group(self) -> LRU[tuple[str, int, tuple[str, ...]], pa.Table]:
        return LRU(1, lambda key: self._open(key[0]).read(key[1], key[2]))

    def table(self, rows: Sequence[RowSpan], paths: Sequence[str]) -> pa.Table:
        """The columns that hold fields ``paths``, of ``rows`` in order. ``SourceError`` where a file lacks one."""
        parts = []
        for span in rows:
            constants = partition_values(span.path, self.whole)
            names = _columns(self._open(span.path).schema, [path for path in paths if path not in constants])
            group = self._group((span.path, span.group, names)).slice(span.start, span.stop - span.start)
            parts.append(with_values(group, {name: constants[name] for name in paths if name in constants}, len(group)))
        try:
            return pa.concat_tables(parts, promote_options="default")
        except pa.ArrowException as error:
            raise SourceError(f"its files differ: {error}", code="layout_differs") from error


def files_of(source: Source) -> list[str]:
    """The table files of ``source`` in natural order, without folders and files whose names begin with ``_``."""
    if source.is_file:
        return [source.relative(source.root)] if source.root.lower().endswith(SUFFIXES) else []
    return [path for path in below(source, SUFFIXES) if not any(part.startswith("_") for part in path.split("/"))]


def first_rows(source: Source, files: Sequence[str]) -> tuple[pa.Table, str]:
    """A few rows of the first file that has any, and its path. Raises ``SourceError`` where none has."""
    broken: SourceError | None = None
    for path in files[:TRIES]:
        try:
            file = open_table(source, path)
            for group, count in enumerate(file.rows):
                if count:
                    batch = next(file.batches(group, file.schema.names, _LOOK))
                    return pa.Table.from_batches([batch]), path
        except SourceError as error:
            broken = broken or error
        except FAULTS as error:
            broken = broken or SourceError(f"{path} is damaged: {error}", code="damaged_file")
    raise broken or SourceError(f"{source.uri} has no rows", code="no_episodes")


def whole_keys(files: Iterable[str]) -> frozenset[str]:
    """The keys of hive partitions whose every value is a whole number."""
    numbers: dict[str, bool] = {}
    for path in files:
        for name, value in hive(path).items():
            numbers[name] = numbers.get(name, True) and (value is None or value.isdecimal())
    return frozenset(name for name, are in numbers.items() if are)


def partition_values(path: str, whole: frozenset[str]) -> dict[str, str | int | None]:
    """What the hive partition of a file says, the same in all its rows."""
    return {name: int(v) if v is not None and name in whole else v for name, v in hive(path).items()}


def with_values(table: pa.Table, constants: Mapping[str, str | int | None], n: int | None = None) -> pa.Table:
    """``table`` with a column for each of a partition's constants that it has none for."""
    count = table.num_rows if n is None else n
    columns = dict(zip(table.column_names, table.columns, strict=True))
    for name, value in constants.items():
        columns.setdefault(name, pa.chunked_array([pa.repeat(pa.scalar(value), count)]))
    return pa.table(columns)


def rows_by_episode(
    source: Source, files: Sequence[str], how: str, whole: frozenset[str]
) -> tuple[dict[str, tuple[RowSpan, ...] | None], list[str]]:
    """Episode key -> its rows in order, None where they do not lie together; and notes.

    Reads nothing but the field that names the episode. A file that cannot be read is noted.
    """
    runs: dict[str, tuple[RowSpan, ...] | None] = {}
    notes: list[str] = []
    nameless, last = 0, None
    short = Counter(posixpath.splitext(path)[0] for path in files)
    for path in files:
        try:
            file = open_table(source, path)
            if how == ONE_A_FILE:
                stem = posixpath.splitext(path)[0]
                rows = tuple(RowSpan(path, group, 0, count) for group, count in enumerate(file.rows) if count)
                runs[stem if short[stem] == 1 else path] = rows
                continue
            for group, count in enumerate(file.rows):
                for value, start, stop in _values(file, group, count, how, partition_values(path, whole)):
                    if value is None:
                        nameless += stop - start
                        last = None
                        continue
                    key = f"episode_{value:06d}" if isinstance(value, int) else str(value)
                    before = runs.get(key, ())
                    scattered = before is None or (before and key != last)
                    runs[key] = None if scattered else (*(before or ()), RowSpan(path, group, start, stop))
                    last = key
        except (EngineError, *FAULTS) as error:
            if len(files) == 1:
                raise (
                    error
                    if isinstance(error, EngineError)
                    else SourceError(f"{path} is damaged: {error}", code="damaged_file")
                ) from error
            notes.append(" ".join(f"{path} cannot be read and is left out: {error}".split()))
            last = None
    if nameless:
        notes.append(f"{nameless} rows have no {how} and are left out")
    if not runs:
        raise SourceError(f"{source.uri} holds no episodes: {notes[0] if notes else 'no rows'}", code="no_episodes")
    return runs, notes


def cells_of(source: Source, rows: Sequence[RowSpan], path: str) -> Iterator[Any]:
    """The values of field ``path`` in ``rows``, a batch in memory at a time. Raises ``SourceError`` for damage."""
    opened: LRU[str, TableFile] = LRU(1, partial(open_table, source))
    try:
        for span in rows:
            file, at = opened(span.path), 0
            for batch in file.batches(span.group, _columns(file.schema, [path])):
                first, last = max(span.start - at, 0), min(span.stop - at, batch.num_rows)
                at += batch.num_rows
                if first < last:
                    table = pa.Table.from_batches([batch.slice(first, last - first)])
                    yield from (cell.as_py() for cell in field(table, path))
                if at >= span.stop:
                    break
    except FAULTS as error:
        raise SourceError(" ".join(f"images of {path} cannot be read: {error}".split()), code="damaged") from error


def paths_of(rows: Sequence[RowSpan] | None) -> tuple[str, ...]:
    """The files that ``rows`` lie in, each once."""
    return tuple(dict.fromkeys(span.path for span in rows or ()))


def _columns(schema: pa.Schema, paths: Sequence[str]) -> tuple[str, ...]:
    """The top-level columns that ``paths`` lie in."""
    found: dict[str, None] = {}
    for path in paths:
        parts = path.split(SEPARATOR)
        tops = [SEPARATOR.join(parts[:length]) for length in range(len(parts), 0, -1)]
        top = next((top for top in tops if top in schema.names), None)
        if top is None:
            raise SourceError(f"there is no column {path!r}", code="missing_column")
        found[top] = None
    return tuple(found)


def _values(
    file: TableFile, group: int, count: int, how: str, constants: Mapping[str, Any]
) -> Iterator[tuple[int | str | None, int, int]]:
    """(value, first row, row after the last) of each run of equal values of the field ``how``."""
    if not count:
        return
    if how in constants:
        yield constants[how], 0, count
        return
    array = field(file.read(group, _columns(file.schema, [how])), how)
    if pa.types.is_floating(array.type):
        array = array.cast(pa.int64())  # refuses what is not whole
    codes = array.dictionary_encode(null_encoding="encode")
    index = codes.indices.to_numpy(zero_copy_only=False)
    starts = np.concatenate([[0], np.flatnonzero(np.diff(index)) + 1])
    stops = np.append(starts[1:], len(index))
    known = codes.dictionary.to_pylist()
    for code, start, stop in zip(index[starts].tolist(), starts.tolist(), stops.tolist(), strict=True):
        yield known[code], start, stop
