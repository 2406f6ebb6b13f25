"""Scores by episode, in memory: of every measure one row a recording, so that a question joins nothing.

A recording (episode id, content hash) has a slot, a number that it keeps from snapshot to snapshot. A measure (scorer,
metric, version, configuration, fit) holds arrays over slots. What a commit adds is put into copies of the measures that
it names; the others are shared. Rows that say another thing of the same recording and measure (spans of it) lie beside.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl

__all__ = ["COLUMNS", "MEASURE", "Measure", "Pivot"]

MEASURE = ("scorer", "metric", "version", "config_hash", "fit_id")
_PAIR = ("unit_id", "content_hash")
_NUMBERS = {"value": np.float64, "percentile": np.float64, "start": np.int64, "stop": np.int64, "n_steps": np.int64}
_TEXTS = ("better", "unit", "status", "reason", "run_id")
COLUMNS = (*_PAIR, *MEASURE, *_NUMBERS, *_TEXTS)
"""Of the table of scores, those that a pivot is made of."""
_NONE = np.iinfo(np.int64).min
_RECENT = 8  # while rows are put in their places

Key = tuple[str | None, ...]


@dataclass
class Measure:
    """What one measure says of each slot. ``said``: place in the pivot's texts, -1 where it says nothing.

    Numbers are float64, NaN for null, or int64.
    """

    numbers: dict[str, np.ndarray]
    said: np.ndarray

    @classmethod
    def empty(cls, size: int) -> Measure:
        """One that says nothing of ``size`` slots."""
        numbers = {name: np.full(size, np.nan if kind is np.float64 else _NONE, kind)
                   for name, kind in _NUMBERS.items()}  # fmt: skip
        return cls(numbers, np.full(size, -1, np.int32))

    def grown(self, size: int) -> Measure:
        """A copy of at least ``size`` slots, with room for as many again of what will come in small commits."""
        room = len(self.said) if size <= len(self.said) else size + size // 16 + 64
        new = Measure.empty(room)
        for name, values in self.numbers.items():
            new.numbers[name][: len(values)] = values
        new.said[: len(self.said)] = self.said
        return new


@dataclass
class Pivot:
    """All measures of a table of scores. Not changed once made."""

    pairs: pl.DataFrame  # unit_id, content_hash and a hash of both; a row's place is its slot
    measures: dict[Key, Measure] = field(default_factory=dict)
    texts: list[tuple[Any, ...]] = field(default_factory=list)
    places: dict[tuple[Any, ...], int] = field(default_factory=dict)
    beside: dict[tuple[int, Key], list[dict[str, Any]]] = field(default_factory=dict)
    recent: list[tuple[pl.Series, pl.Series]] = field(default_factory=list)
    """Hashes that were looked for lately, and their slots: scorers measure the same episodes in the same order."""

    @classmethod
    def empty(cls) -> Pivot:
        """One of no scores."""
        return cls(pl.DataFrame(schema={**dict.fromkeys(_PAIR, pl.String), "hash": pl.UInt64}))

    def with_rows(self, parts: Iterable[pl.DataFrame], episodes: pl.DataFrame) -> Pivot:
        """This, and what further rows say, those that come later over those before; every recording of ``episodes`` has
        a slot. O(recordings + rows).
        """
        new = Pivot(self.pairs, dict(self.measures), self.texts, self.places, dict(self.beside))
        new._place(episodes.select(pl.col("episode_id").alias("unit_id"), "content_hash"))
        fresh: set[Key] = set()
        for rows in parts:
            new._add(rows.filter(pl.col("unit_id").is_not_null()), fresh)
        new.recent.clear()
        return new

    def slots(self, episodes: pl.DataFrame) -> np.ndarray:
        """The slot of each row of ``episodes``, int64 [rows]; -1 for a recording that has none. O(rows)."""
        found = self._found(episodes.select(pl.col("episode_id").alias("unit_id"), "content_hash"))
        return found.cast(pl.Int64).fill_null(-1).to_numpy()

    @property
    def scorers(self) -> list[str]:
        """Names of the scorers that there are scores by, sorted."""
        return sorted({key[0] for key in self.measures if key[0] is not None})

    def find(self, scorer: str, metric: str) -> dict[Key, Measure]:
        """The measures of a metric, by version, configuration and fit."""
        return {key: each for key, each in self.measures.items() if key[:2] == (scorer, metric)}

    def rows_at(self, slot: int) -> list[dict[str, Any]]:
        """All that is said of a recording, as rows of the table without its columns of step values and unit."""
        rows = []
        for key, measure in self.measures.items():
            if slot >= len(measure.said) or (said := measure.said[slot]) < 0:
                continue
            numbers = {name: _plain(values[slot]) for name, values in measure.numbers.items()}
            rows.append({**dict(zip(MEASURE, key, strict=True)), **numbers,
                         **dict(zip(_TEXTS, self.texts[said], strict=True))})  # fmt: skip
            rows += self.beside.get((slot, key), ())
        return rows

    def _found(self, pairs: pl.DataFrame) -> pl.Series:
        """The slot of each of ``pairs``, null where it has none. By hashes, each held against its pair."""
        hashes = _hashed(pairs)
        slots = next((slots for asked, slots in self.recent if asked.equals(hashes)), None)
        if slots is None:
            held = self.pairs.select("hash").with_row_index("slot")
            slots = pl.DataFrame({"hash": hashes}).join(held, on="hash", how="left", maintain_order="left")["slot"]
            if not slots.null_count():
                self.recent[:] = [(hashes, slots), *self.recent][:_RECENT]
        if len(slots) == len(pairs):  # no two of ours have one hash
            there, asked = self.pairs[slots.drop_nulls()], pairs.filter(slots.is_not_null())
            if all(there[name].eq_missing(asked[name]).all() for name in _PAIR):
                return slots
        exact = self.pairs.select(_PAIR).with_row_index("slot")
        return pairs.join(exact, on=list(_PAIR), how="left", maintain_order="left", nulls_equal=True)["slot"]

    def _place(self, pairs: pl.DataFrame) -> None:
        """Give slots to those of ``pairs`` that have none."""
        new = pairs.filter(self._found(pairs).is_null()).unique(maintain_order=True)
        if len(new):
            self.pairs = pl.concat([self.pairs, new.with_columns(hash=_hashed(new))], rechunk=True)

    def _add(self, rows: pl.DataFrame, fresh: set[Key]) -> None:
        if not len(rows):
            return
        pairs = rows.select(_PAIR)
        slots = self._found(pairs)
        if slots.null_count():
            self._place(pairs.filter(slots.is_null()))
            slots = self._found(pairs)
        size = len(self.pairs)
        at = rows.select(*MEASURE, *_NUMBERS, *_TEXTS).with_columns(slots.alias("slot"), self._said(rows).alias("said"))
        for key, mine in _groups(at):
            measure = self.measures.get(key)
            if key not in fresh or measure is None or len(measure.said) < size:
                measure = measure.grown(size) if measure is not None else Measure.empty(size)
                self.measures[key] = measure
                fresh.add(key)
            first = _last(mine, size)
            places = first["slot"].to_numpy()
            again = (measure.said[places] >= 0).any()
            if len(first) < len(mine) or again:
                self._keep_beside(key, measure, mine, places)
            for name, values in measure.numbers.items():
                null = np.nan if values.dtype.kind == "f" else _NONE
                values[places] = first[name].fill_null(null).to_numpy()
            measure.said[places] = first["said"].to_numpy()

    def _said(self, rows: pl.DataFrame) -> pl.Series:
        """The place in ``texts`` of what each of ``rows`` says, int32."""
        varied = _varied(rows, _TEXTS)
        told = rows.select(varied).unique(maintain_order=True) if varied else rows.head(1)
        same = {name: rows[name][0] for name in _TEXTS if name not in varied}
        codes = []
        for row in told.iter_rows(named=True):
            text = tuple((row | same)[name] for name in _TEXTS)
            if text not in self.places:
                self.places[text] = len(self.texts)
                self.texts.append(text)  # append only: older pivots share it
            codes.append(self.places[text])
        if not varied:
            return pl.repeat(codes[0], len(rows), dtype=pl.Int32, eager=True)
        coded = told.select(varied).with_columns(pl.Series("said", codes, pl.Int32))
        return rows.select(varied).join(coded, on=varied, how="left", maintain_order="left", nulls_equal=True)["said"]

    def _keep_beside(self, key: Key, measure: Measure, mine: pl.DataFrame, slots: np.ndarray) -> None:
        """Rows that others of the same recording and measure come after."""
        for slot in slots[measure.said[slots] >= 0].tolist():
            numbers = {name: _plain(values[slot]) for name, values in measure.numbers.items()}
            row = {**dict(zip(MEASURE, key, strict=True)), **numbers,
                   **dict(zip(_TEXTS, self.texts[measure.said[slot]], strict=True))}  # fmt: skip
            self.beside[slot, key] = [*self.beside.get((slot, key), ()), row]
        more = mine.filter(pl.col("slot").is_duplicated())
        for part in more.partition_by("slot"):
            shown = part.head(-1).select(*MEASURE, *_NUMBERS, *_TEXTS).to_dicts()
            slot = int(part["slot"][0])
            self.beside[slot, key] = [*self.beside.get((slot, key), ()), *shown]


def _plain(value: Any) -> Any:
    """A number as JSON knows it; null for what stands for it."""
    if isinstance(value, np.floating):
        return float(value) if np.isfinite(value) else None
    return int(value) if value != _NONE else None


def _hashed(pairs: pl.DataFrame) -> pl.Series:
    """A hash of each pair, uint64."""
    return pairs["unit_id"].hash() ^ pairs["content_hash"].hash(seed=1)


def _varied(rows: pl.DataFrame, columns: Sequence[str]) -> list[str]:
    """Those of ``columns`` that do not say the same in every row: of what one run writes at once, few do."""
    return [name for name in columns if not rows[name].eq_missing(rows[name][0]).all()]


def _groups(rows: pl.DataFrame) -> Iterator[tuple[Key, pl.DataFrame]]:
    """``rows`` by measure, in the order in which they come."""
    if not _varied(rows, MEASURE):
        yield rows.select(MEASURE).row(0), rows
        return
    yield from rows.partition_by(*MEASURE, as_dict=True).items()


def _last(rows: pl.DataFrame, size: int) -> pl.DataFrame:
    """Of ``rows`` of one slot the last, of all ``size`` slots."""
    slots, order = rows["slot"].to_numpy(), np.arange(len(rows))
    last = np.zeros(size, np.int64)
    last[slots] = order  # of those with one index, the last is kept
    return rows if (last[slots] == order).all() else rows.unique("slot", keep="last", maintain_order=True)
