"""A snapshot: a lake as it was at one set of table versions, its tables in memory.

It is a lake in every other respect, so that each flow that reads gives the same answer on it as on the lake. Of scores,
what is said of whole recordings is held by recording (``pivot``), and the table's rows stay on disk, as do columns of
step values. Steps, videos and documents are read from the lake: they are immutable.
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np
import polars as pl

from data_engine.model import TABLES, Dataset
from storage import removals
from storage.lake import Lake
from storage.pivot import COLUMNS, Pivot

__all__ = ["Snapshot"]

T = TypeVar("T")

_FIRST = ("episodes", "removals")  # what others are joined to is read first: rows that name a later episode fall away
_ON_DISK = {"scores": ("step_values", "spans"), "annotations": ("step_values",)}
_ORDER = ["dataset", "source_key", "episode_id"]  # of episodes
_FEW = 5_000  # new episodes that are put in their places one by one
_NOWHERE = np.empty(0, np.int64)
_PIVOTED = "scores"
_ROWS_AT_ONCE = 250_000  # of scores, while they are put by recording
_SEGMENTS = 32  # of a table, before those that came later are made one


@dataclass(frozen=True)
class _Segment:
    """Rows of a table that were read together, and the files that they lie in."""

    paths: frozenset[str]
    rows: pl.DataFrame


class Snapshot(Lake):
    """Reads come from memory; ``versions`` says of when. Writes go to the lake, and are not seen here."""

    versions: Mapping[str, int | None]
    taken: float
    """When its versions were read, by ``time.monotonic``."""

    def __init__(self, uri: str) -> None:
        super().__init__(uri)
        self._frames: dict[str, pl.DataFrame] = {}
        self._segments: dict[str, list[_Segment]] = {}
        self._pivot: Pivot | None = None
        self._scores: dict[str, int] = {}  # rows by file
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
            if name == _PIVOTED:
                continue
            if before is not None and before.versions[name] == version:
                snapshot._frames[name], snapshot._segments[name] = before._frames[name], before._segments[name]
            else:
                snapshot._read(lake, name, version, before._segments[name] if before is not None else [])
        snapshot._take_scores(lake, before)
        if before is not None:
            same = {name for name in versions if before.versions[name] == versions[name]}
            kept = {key: entry for key, entry in list(before._remembered.items()) if same.issuperset(entry[0])}
            snapshot._remembered = kept
            if "episodes" not in same and "removals" in same:
                snapshot._insert(before)
        return snapshot

    def _read(self, lake: Lake, name: str, version: int | None, held: list[_Segment]) -> None:
        """The table at a version: of what is held, files that came in are read, and all of it where one has gone."""
        paths = frozenset(file.path for file in lake.files(name, version)) if version is not None else frozenset()
        if not all(segment.paths <= paths for segment in held):
            held = []
        new = paths.difference(*(segment.paths for segment in held))
        if new or not held:
            rows = lake.scan_files(name, sorted(new), version).drop(_ON_DISK.get(name, ())).collect()
            held = [*held, _Segment(new, rows)]
        if len(held) > _SEGMENTS:  # later ones are small; the first becomes part of them once it is not much larger
            keep = 1 if sum(len(each.rows) for each in held[1:]) < len(held[0].rows) else 0
            late = held[keep:]
            one = _Segment(frozenset().union(*(each.paths for each in late)),
                           pl.concat([each.rows for each in late], rechunk=True))  # fmt: skip
            held = [*held[:keep], one]
        self._segments[name] = held
        self._frames[name] = pl.concat([each.rows for each in held]) if len(held) > 1 else held[0].rows

    def _insert(self, before: Snapshot) -> None:
        """Put few new episodes where they belong among those of ``before``, which are in order already."""
        held = before._remembered.get(("episodes", False))
        late = self._late(before, "episodes")
        if held is None or late is None or sum(map(len, late)) > _FEW:
            return
        old: pl.DataFrame = held[1]
        came = pl.concat(late)
        again = old.filter(pl.col("episode_id").is_in(came["episode_id"].implode()))
        newest = pl.concat([again, came]).sort("revision", "ingested_at").unique("episode_id", keep="last")
        newest = removals.live(self, newest).sort(_ORDER)
        stay = np.flatnonzero(~old["episode_id"].is_in(again["episode_id"].implode()).to_numpy())
        if not len(stay) or newest.select(pl.any_horizontal(pl.col(_ORDER).is_null()).any()).item():
            return
        columns = [old[name] for name in _ORDER]

        def key(place: int) -> tuple[str, ...]:
            return tuple(column[int(stay[place])] for column in columns)

        at = [bisect_left(range(len(stay)), row, key=key) for row in newest.select(_ORDER).rows()]
        order = np.insert(stay, at, len(old) + np.arange(len(newest)))
        self._remembered["episodes", False] = _FIRST, pl.concat([old, newest])[order]
        slots = before._remembered.get("slots")
        if slots is not None:
            every = np.concatenate([slots[1], self.pivot.slots(newest)])
            self._remembered["slots"] = _FIRST, every[order]

    def _late(self, before: Snapshot, name: str) -> list[pl.DataFrame] | None:
        """What a table holds that ``before`` does not; None where that cannot be told, or something has gone."""
        seen, now = (frozenset().union(*(each.paths for each in held._segments[name])) for held in (before, self))
        late = [each for each in self._segments[name] if not each.paths & seen]
        if not seen <= now or now - seen != frozenset().union(*(each.paths for each in late)):
            return None
        return [each.rows for each in late]

    def _take_scores(self, lake: Lake, before: Snapshot | None) -> None:
        """The scores by recording, with what came in since ``before``; the table itself stays on disk."""
        same = before is not None and before.versions[_PIVOTED] == self.versions[_PIVOTED]
        version = self.versions[_PIVOTED]
        if same and before is not None:
            self._scores = before._scores
        else:
            self._scores = {} if version is None else {file.path: file.rows for file in lake.files(_PIVOTED, version)}
        old = before._pivot if before is not None and before._scores.keys() <= self._scores.keys() else None
        if same and old is not None and before is not None and before.versions["episodes"] == self.versions["episodes"]:
            self._pivot = old
            return
        late = sorted(self._scores.keys() - (before._scores.keys() if before is not None and old is not None else ()))

        def parts() -> Iterator[pl.DataFrame]:
            """The files that came in, a bounded number of rows at a time."""
            batch: list[str] = []
            for path in late:
                batch.append(path)
                if sum(self._scores[each] for each in batch) >= _ROWS_AT_ONCE or path == late[-1]:
                    rows = lake.scan_files(_PIVOTED, batch, version).select(COLUMNS).collect()
                    yield from rows.iter_slices(_ROWS_AT_ONCE)
                    batch = []

        self._pivot = (old or Pivot.empty()).with_rows(parts(), self._frames["episodes"])

    def __reduce__(self) -> Any:
        return Lake, (self.uri,)

    def scan(self, name: str, *, version: int | None = None) -> pl.LazyFrame:
        """The table's rows at the snapshot's version, without columns of step values."""
        if version is None and name in self._frames:
            return self._frames[name].lazy()
        if version is None and name == _PIVOTED:
            held = self.versions.get(name)
            empty = pl.DataFrame(TABLES[name].empty_table()).lazy()
            return (super().scan(name, version=held) if held is not None else empty).drop(_ON_DISK[name])
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

        O(log rows), once the column's hashes are sorted, which the first call sees to.
        """
        frame = self._frame(table)
        places = self.places_of(table, column, value)
        return frame[places] if len(places) else frame.head(0)

    def kept(self) -> Iterable[Hashable]:
        """The keys of what is remembered."""
        return tuple(self._remembered)

    def places_of(self, table: str, column: str, value: str) -> np.ndarray:
        """Where :meth:`rows_of` lie in the table (of episodes, in :meth:`episodes`), int64, ascending."""
        frame = self._frame(table)
        if not len(frame):
            return _NOWHERE
        hashes, order = self.remembered(("sorted", table, column), lambda: _sorted(frame[column]), (table, "removals"))
        wanted = _hash(value)
        start, stop = (int(hashes.searchsorted(wanted, side)) for side in ("left", "right"))
        found = np.sort(order[start:stop])
        texts = frame[column]
        if len(found) <= 16:  # as nearly always: a look at each is quicker than to ask of all
            return found[[texts[int(at)] == value for at in found]] if len(found) else _NOWHERE
        return found[(texts[found] == value).fill_null(False).to_numpy()]

    @property
    def pivot(self) -> Pivot:
        """The scores by recording."""
        assert self._pivot is not None
        return self._pivot

    def slots(self) -> np.ndarray:
        """The pivot's slot of each row of :meth:`episodes`, int64 [rows]."""
        return self.remembered("slots", lambda: self.pivot.slots(self.episodes()), _FIRST)

    def count(self, name: str) -> int:
        """Rows of a table that the snapshot holds."""
        return sum(self._scores.values()) if name == _PIVOTED else len(self._frames[name])

    def _frame(self, table: str) -> pl.DataFrame:
        if table == "episodes":
            return self.episodes()
        return self.scan(table).collect() if table == _PIVOTED else self._frames[table]


@lru_cache(maxsize=4096)  # a question about an episode asks for the same several times
def _hash(value: str) -> np.uint64:
    return np.uint64(pl.Series([value], dtype=pl.String).hash()[0])


def _sorted(column: pl.Series) -> tuple[np.ndarray, np.ndarray]:
    """The hashes of a column's values in order, and where each one lies. Equal hashes need not be equal values."""
    hashes = column.hash().to_numpy()
    order = np.argsort(hashes)
    return hashes[order], order
