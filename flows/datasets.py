"""Datasets as what is chosen: each the sum of its episodes, taken whole or not at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl

from data_engine.canonical import digest

__all__ = ["episodes_of", "gathered"]

_KEYS = ("dataset", "embodiment", "control_mode")


def gathered(episodes: pl.DataFrame) -> pl.DataFrame:
    """A unit for every dataset among ``episodes``, and of each kind of robot in it apart.

    Its ``vector`` and ``score`` are the means of those that its episodes have, ``n_steps`` their sum; ``content_hash``
    follows from theirs, and ``members`` names them, by content.
    """
    ordered = episodes.sort("content_hash", "unit").with_row_index("at")
    of_means = [pl.col("score").fill_nan(None).mean().fill_null(float("nan"))] if "score" in episodes.columns else []
    grouped = ordered.group_by(*_KEYS, maintain_order=True).agg(
        *of_means, pl.col("n_steps").sum(), members=pl.col("unit"), contents=pl.col("content_hash"), at=pl.col("at")
    )
    if "vector" in episodes.columns:
        vectors = np.asarray(ordered["vector"].to_list(), np.float64)
        means = [vectors[at].mean(axis=0).astype(np.float32).tolist() for at in grouped["at"].to_list()]
        grouped = grouped.with_columns(vector=pl.Series(means, dtype=pl.List(pl.Float32)))
    hashes = [digest(*sorted(contents)) for contents in grouped["contents"].to_list()]
    several = grouped["dataset"].is_duplicated()
    names = pl.when(several).then(pl.concat_str(*_KEYS, separator="/")).otherwise(pl.col("dataset"))
    return grouped.drop("contents", "at").with_columns(unit=names, content_hash=pl.Series(hashes, dtype=pl.String))


def episodes_of(
    grouped: pl.DataFrame, chosen: Sequence[tuple[str, float]], said: Mapping[str, str]
) -> tuple[list[tuple[str, float]], dict[str, str]]:
    """What was chosen and said of datasets, of their episodes: each with its dataset's weight, by content."""
    members = dict(grouped.select("unit", "members").iter_rows())
    taken = [(unit, weight) for name, weight in chosen for unit in members[name]]
    reasons = {unit: f"{said[name]} (dataset {name})" for name, units in members.items() for unit in units}
    return taken, reasons
