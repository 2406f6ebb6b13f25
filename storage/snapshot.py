"""A snapshot: a lake as it was at one set of table versions, its tables in memory.

It is a lake in every other respect, so that each flow that reads gives the same answer on it as on the lake. Columns of
step values stay on disk. Steps, videos and documents are read from the lake: they are immutable.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, TypeVar

import polars as pl

from data_engine.model import TABLES, Dataset
from storage.lake import Lake

__all__ = ["Snapshot"]

T = TypeVar("T")

_FIRST = ("episodes", "removals")  # what others are joined to is read first: rows that name a later episode fall away
_ON_DISK = {"scores": ("step_values", "spans"), "annotations": ("step_values",)}


class Snapshot(Lake):
    """Reads come from memory; ``versions`` says of when. Writes go to the lake, and are not seen here."""

    versions: Mapping[str, int | None]
    taken: float
    """When its versions were read, by ``time.monotonic``."""

    def __init__(self, uri: str) -> None:
        super().__init__(uri)
        self._frames: dict[str, pl.DataFrame] = {}
        self._remembered: dict[Hashable, tuple[tuple[str, ...], Any]] = {}
        self._locks: dict[Hashable, threading.Lock] = {}
        self._lock = threading.Lock()
        self.versions, self.taken = {}, 0.0

    @classmethod
    def take(cls, lake: Lake, before: Snapshot | None = None) -> Snapshot:
        """The lake as it is now. Tables that have not changed since ``before`` are shared with it, and nothing is read
        of them; where none has, it is ``before`` itself, taken now.
        """
        now = time.monotonic()
        names = (*_FIRST, *(name for name in TABLES if name not in _FIRST))
        versions = {name: lake.version(name) for name in names}
        if before is not None and versions == before.versions:
            before.taken = now
            return before
        snapshot = cls(lake.uri)
        snapshot.versions, snapshot.taken = versions, now
        for name, version in versions.items():
            if before is not None and before.versions[name] == version:
                snapshot._frames[name] = before._frames[name]
            else:
                rows = lake.scan(name, version=version)
                snapshot._frames[name] = rows.drop(_ON_DISK.get(name, ())).collect()
        if before is not None:
            same = {name for name in versions if before.versions[name] == versions[name]}
            kept = {key: entry for key, entry in list(before._remembered.items()) if same.issuperset(entry[0])}
            snapshot._remembered = kept
        return snapshot

    def __reduce__(self) -> Any:
        return Lake, (self.uri,)

    def scan(self, name: str, *, version: int | None = None) -> pl.LazyFrame:
        """The table's rows at the snapshot's version, without columns of step values."""
        if version is None and name in self._frames:
            return self._frames[name].lazy()
        return super().scan(name, version=version)

    def version(self, name: str) -> int | None:
        """The version of the table that the snapshot holds."""
        return self.versions[name] if name in self.versions else super().version(name)

    def episodes(
        self, where: pl.Expr | None = None, dataset: str | None = None, *, removed: bool = False,
        columns: Sequence[str] | None = None,
    ) -> pl.DataFrame:  # fmt: skip
        """As :meth:`Lake.episodes`; sorted once."""
        rows = self.remembered(("episodes", removed), lambda: super(Snapshot, self).episodes(removed=removed), _FIRST)
        if dataset is not None:
            rows = rows.filter(pl.col("dataset") == dataset)
        if where is not None:
            rows = rows.filter(where)
        return rows if columns is None else rows.select(columns)

    def datasets(self) -> dict[str, Dataset]:
        """As :meth:`Lake.datasets`; parsed once."""
        return self.remembered("datasets", super().datasets, ("datasets",))

    def remembered(self, key: Hashable, make: Callable[[], T], tables: Sequence[str]) -> T:
        """What ``make`` returned the first time, for as long as ``tables`` stay as they are."""
        if key in self._remembered:
            return self._remembered[key][1]
        with self._lock:
            lock = self._locks.setdefault(key, threading.Lock())
        try:
            with lock:  # one makes it, the others wait for that
                if key not in self._remembered:
                    self._remembered[key] = (tuple(tables), make())
                return self._remembered[key][1]
        finally:
            self._locks.pop(key, None)

    def rows_of(self, table: str, column: str, value: str) -> pl.DataFrame:
        """The rows of a table (of episodes: the newest, live ones) with ``value`` in a column of text.

        O(log rows), once the column is sorted, which the first call sees to.
        """
        frame = self.episodes() if table == "episodes" else self._frames[table]
        made = self.remembered(("sorted", table, column), lambda: _sorted(frame[column]), (table, "removals"))
        values, order = made
        start, stop = (values.search_sorted(value, side) for side in ("left", "right"))
        return frame[order[start:stop]]

    def count(self, name: str) -> int:
        """Rows of a table that the snapshot holds."""
        return len(self._frames[name])


def _sorted(column: pl.Series) -> tuple[pl.Series, pl.Series]:
    """The values of a column in order, without nulls, and where each one lies."""
    order = column.arg_sort(nulls_last=True)
    values = column.gather(order)
    return values.head(len(values) - values.null_count()), order
