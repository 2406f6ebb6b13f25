"""Preferences as they are read back: each once, of episodes that are live, and pinned by what they are."""

from __future__ import annotations

import polars as pl
import pyarrow as pa

from data_engine.canonical import digest
from data_engine.errors import EngineError, RequestError
from data_engine.model import PREFERENCES
from storage import removals
from storage.tables import Tables

__all__ = ["held_preferences", "pin_preferences", "pinned_preferences"]


def held_preferences(lake: Tables, collection: str | None = None) -> pl.DataFrame:
    """The rows of the table, of one collection or all, sorted by id."""
    rows = lake.scan("preferences")
    if collection is not None:
        rows = rows.filter(pl.col("collection") == collection)
    return removals.live(lake, rows.collect().unique("preference_id", keep="first")).sort("preference_id")


def pin_preferences(lake: Tables, collection: str | None) -> dict[str, str]:
    """By ``preferences NAME``, what names the collection as it is now; nothing for None.

    Raises ``RequestError`` where it holds none.
    """
    if collection is None:
        return {}
    rows = held_preferences(lake, collection)
    if not len(rows):
        known = lake.scan("preferences").select("collection").unique().collect()["collection"].sort().to_list()
        raise RequestError(
            f"collection {collection!r} holds no preferences",
            code="no_preferences",
            fix=f"there are: {', '.join(known)}" if known else "see `data-engine preferences --help`",
        )
    return {f"preferences {collection}": _pin(rows)}


def pinned_preferences(lake: Tables, collection: str, pin: str) -> pa.Table:
    """The rows that :func:`pin_preferences` pinned. Raises ``EngineError`` where the collection is another one by
    now.
    """
    rows = held_preferences(lake, collection)
    if _pin(rows) != pin:
        raise EngineError(f"collection {collection!r} was added to meanwhile", code="changed", fix="run it again")
    return pa.Table.from_pylist(rows.to_dicts(), schema=PREFERENCES)


def _pin(rows: pl.DataFrame) -> str:
    return digest("preferences", rows["preference_id"].to_list(), length=16)
