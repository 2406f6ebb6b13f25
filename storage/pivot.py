"""Scores by episode, in memory: of every measure one row a recording, so that a question joins nothing.

A recording (episode id, content hash) has a slot, a number that it keeps from snapshot to snapshot. A measure (scorer,
metric, version, configuration, fit) holds arrays over slots. What a commit adds is put into copies of the measures that
it names; the others are shared. Rows that say another thing of the same recording and measure (spans of it) lie beside.
"""

from __future__ import annotations

from collections.abc import Iterable
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

    pairs: pl.DataFrame
    measures: dict[Key, Measure] = field(default_factory=dict)
    texts: list[tuple[Any, ...]] = field(default_factory=list)
    places: dict[tuple[Any, ...], int] = field(default_factory=dict)
    beside: dict[tuple[int, Key], list[dict[str, Any]]] = field(default_factory=dict)

    @classmethod
    def empty(cls) -> Pivot:
        """One of no scores."""
        return cls(pl.DataFrame(schema={**dict.fromkeys(_PAIR, pl.String), "slot": pl.UInt32}))

    def with_rows(self, parts: Iterable[pl.DataFrame], episodes: pl.DataFrame) -> Pivot:
        """This, and what further rows say, those that come later over those before; every recording of ``episodes`` has
        a slot. O(recordings + rows).
        """
        new = Pivot(self.pairs, dict(self.measures), self.texts, self.places, dict(self.beside))
        new._place(episodes.select(pl.col("episode_id").alias("unit_id"), "content_hash"))
        fresh: set[Key] = set()
        for rows in parts:
            new._add(rows.filter(pl.col("unit_id").is_not_null()), fresh)
        return new

    def slots(self, episodes: pl.DataFrame) -> np.ndarray:
        """The slot of each row of ``episodes``, int64 [rows]; -1 for a recording that has none. O(rows)."""
        pairs = self.pairs.rename({"unit_id": "episode_id"})
        found = episodes.select("episode_id", "content_hash").join(
            pairs, on=["episode_id", "content_hash"], how="left", maintain_order="left", nulls_equal=True
        )
        return found["slot"].cast(pl.Int64).fill_null(-1).to_numpy()

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

    def _place(self, pairs: pl.DataFrame) -> None:
        """Give slots to those of ``pairs`` that have none."""
        new = pairs.unique(maintain_order=True).join(self.pairs, on=list(_PAIR), how="anti", maintain_order="left",
                                                     nulls_equal=True)  # fmt: skip
        if len(new):
            count = len(self.pairs)
            slots = pl.Series("slot", np.arange(count, count + len(new)), pl.UInt32)
            self.pairs = pl.concat([self.pairs, new.with_columns(slots)], rechunk=True)

    def _add(self, rows: pl.DataFrame, fresh: set[Key]) -> None:
        if not len(rows):
            return
        at = rows.join(self.pairs, on=list(_PAIR), how="left", maintain_order="left", nulls_equal=True)
        if at["slot"].null_count():
            self._place(at.filter(pl.col("slot").is_null()).select(_PAIR))
            at = rows.join(self.pairs, on=list(_PAIR), how="left", maintain_order="left", nulls_equal=True)
        size = len(self.pairs)
        told = rows.select(_TEXTS).unique(maintain_order=True)
        for text in told.rows():
            if text not in self.places:
                self.places[text] = len(self.texts)
                self.texts.append(text)  # append only: older pivots share it
        codes = told.with_columns(
            pl.Series("said", [self.places[text] for text in told.rows()], pl.Int32)
        )  # fmt: skip
        at = at.join(codes, on=list(_TEXTS), how="left", maintain_order="left", nulls_equal=True)
        for key, mine in at.partition_by(*MEASURE, as_dict=True).items():
            measure = self.measures.get(key)
            if key not in fresh or measure is None or len(measure.said) < size:
                measure = measure.grown(size) if measure is not None else Measure.empty(size)
                self.measures[key] = measure
                fresh.add(key)
            first = mine.unique("slot", keep="last", maintain_order=True)
            slots = first["slot"].to_numpy()
            again = (measure.said[slots] >= 0).any()
            if len(first) < len(mine) or again:
                self._keep_beside(key, measure, mine, slots)
            for name, values in measure.numbers.items():
                null = np.nan if values.dtype.kind == "f" else _NONE
                values[slots] = first[name].fill_null(null).to_numpy()
            measure.said[slots] = first["said"].to_numpy()

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
