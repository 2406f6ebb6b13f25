"""Scores of episodes told of whole datasets and operators. What is measured on sets themselves is ``diversity``'s."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl

from data_engine.errors import EngineError
from flows.query import score_column
from storage.lake import Lake

__all__ = ["levels"]

_LEVELS = ("dataset", "operator")


def levels(lake: Lake, episodes: pl.DataFrame, fits: Mapping[str, str] | None = None) -> list[dict[str, Any]]:
    """``[{"level", "name", "scorer", "median", "percentile", "episodes", "known", "reason"}]``: of each dataset and
    each named operator among ``episodes``, the median of every scorer's headline and of its percentile over the
    ``known`` episodes, those with a value; None where none has one, or beside a ``reason`` (two reference sets, say,
    where ``fits`` names neither). O(scores).
    """
    measured = lake.scan("scores").filter(pl.col("unit_kind") == "episode").select("scorer").unique().collect()
    values: dict[str, pl.Series | str] = {}
    for scorer in sorted(measured["scorer"]):
        for name in (scorer, f"percentile({scorer})"):
            try:
                values[name] = score_column(lake, episodes, name, fits)
            except EngineError as error:
                values[name] = str(error)
    rows = []
    for level in _LEVELS:
        for unit in sorted(episodes[level].drop_nulls().unique()):
            mine = (episodes[level] == unit).fill_null(False)
            for scorer in sorted(measured["scorer"]):
                row = {"level": level, "name": unit, "scorer": scorer, "median": None, "percentile": None,
                       "episodes": int(mine.sum()), "known": 0, "reason": None}  # fmt: skip
                for key, name in (("median", scorer), ("percentile", f"percentile({scorer})")):
                    found = values[name]
                    if isinstance(found, str):
                        row["reason"] = found
                        continue
                    known = found.filter(mine).drop_nulls().drop_nans()
                    row[key] = known.median()
                    row["known"] = len(known) if name == scorer else row["known"]
                rows.append(row)
    return rows
