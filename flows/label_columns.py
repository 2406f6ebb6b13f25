"""Annotations as columns of a mixture's steps: what a labeller said of each step, cut to the ranges that are mixed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from data_engine.document import LabelColumn
from data_engine.errors import RequestError
from data_engine.recipe import ColumnRecipe
from data_engine.relabelled import schema
from flows.annotations import annotations
from storage.lake import Lake

__all__ = ["given"]

_FIELDS = {"number": ("step_values", "value"), "text": ("text", "label")}


def given(
    lake: Lake, columns: Sequence[ColumnRecipe], rows: Sequence[Mapping[str, Any]], fits: Mapping[str, str] | None
) -> tuple[tuple[LabelColumn, ...], pa.Table | None]:
    """The ``columns`` and who gave them, and for each row of a mixture the list of its values, null where none.

    A number a step (``step_values``), or one of a whole span (``value``) at each of its steps; where spans overlap the
    one that begins later counts, NaN where nothing is said. Or a span's text, else its label, null where there is none:
    ``of: text``. Raises ``RequestError`` where nothing was said of any row.
    """
    if not columns:
        return (), None
    episodes = lake.episodes().filter(pl.col("episode_id").is_in({row["episode_id"] for row in rows}))
    made, lists = [], {}
    for column in columns:
        kind = column.kind or column.name
        said, _ = annotations(lake, episodes, column.producer, kind, fits)
        by_episode: dict[str, list[dict[str, Any]]] = {}
        for item in said.iter_rows(named=True):
            if any(item[field] is not None for field in _FIELDS[column.of]):
                by_episode.setdefault(item["episode_id"], []).append(item)
        if not by_episode:
            raise RequestError(
                f"annotations {kind!r} of {column.producer!r} have no {column.of}s to make a column of",
                code="no_values",
                fix="name another kind",
            )
        first = said.row(0, named=True)
        who = {key: first[key] for key in ("producer", "version", "config_hash", "fit_id")}
        made.append(LabelColumn(name=column.name, kind=kind, of=column.of, **who))
        values_of = _texts if column.of == "text" else _values
        lists[column.name] = [values_of(by_episode.get(row["episode_id"]), row["start"], row["stop"]) for row in rows]
    return tuple(made), pa.table(lists, schema=schema(made))


def _texts(said: list[dict[str, Any]] | None, start: int, stop: int) -> list[str | None] | None:
    """What is said at each step, or None where nothing is said of these steps."""
    found: list[str | None] = [None] * (stop - start)
    for item in said or ():
        first, last = max(item["start"], start), min(item["stop"], stop)
        if first < last:
            found[first - start : last - start] = [item["text"] or item["label"]] * (last - first)
    return found if any(text is not None for text in found) else None


def _values(said: list[dict[str, Any]] | None, start: int, stop: int) -> np.ndarray | None:
    """float32 [stop - start], or None where nothing is said of these steps."""
    found, any_said = np.full(stop - start, np.nan, np.float32), False
    for item in said or ():
        first, last = max(item["start"], start), min(item["stop"], stop)
        if first < last:
            numbers = item["step_values"]
            part = item["value"] if numbers is None else numbers[first - item["start"] : last - item["start"]]
            found[first - start : last - start] = part
            any_said = True
    return found if any_said else None
