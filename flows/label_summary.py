"""What a labeller said of the episodes of a run, summed up for its report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl

from storage.lake import Lake

__all__ = ["summed_up"]

_POINTS = 20  # of a course, evenly spaced over each episode
_LABELS = 12  # the most frequent ones of a kind
_MOST = 200_000  # annotations whose courses are drawn from


def summed_up(lake: Lake, item: Mapping[str, Any], episodes: pl.DataFrame) -> dict[str, Any]:
    """``item``, a result of :func:`flows.label.label`, with ``kinds``: of each kind of annotation the ``count``, the
    ``episodes`` that have one, the median ``seconds``, the most frequent ``labels`` with their counts, and, where it
    has a number a step, its ``course``: the mean over episodes at 20 even points from first step to last.
    """
    said = lake.scan("annotations").filter(
        (pl.col("producer") == item["labeller"])
        & (pl.col("fit_id") == item["fit_id"])
        & (pl.col("config_hash") == item["config_hash"])
        & (pl.col("version") == item["version"])
    )
    names = ["episode_id", "content_hash", "kind", "start", "stop", "label", "step_values"]
    rows = said.select(names).collect()
    rows = rows.join(episodes.select("episode_id", "content_hash", "fps"), on=["episode_id", "content_hash"])
    rows = rows.unique(names[:-1], keep="first", maintain_order=True)  # racing runs label twice
    kinds = [_kind(str(kind), mine) for (kind,), mine in rows.sort("kind").group_by("kind", maintain_order=True)]
    facts = ("labeller", "version", "fit_id", "labelled", "already", "nulls", "errors")
    return {**{name: item.get(name) for name in facts}, "kinds": kinds}


def _kind(kind: str, rows: pl.DataFrame) -> dict[str, Any]:
    counted = rows.drop_nulls("label").group_by("label").len().sort("len", "label", descending=[True, False])
    return {
        "kind": kind,
        "count": len(rows),
        "episodes": rows["episode_id"].n_unique(),
        "seconds": rows.select(((pl.col("stop") - pl.col("start")) / pl.col("fps")).median()).item(),
        "labels": [list(row) for row in counted.head(_LABELS).iter_rows()],
        "course": _course(rows.drop_nulls("step_values").sort("content_hash", "start").head(_MOST)),
    }


def _course(rows: pl.DataFrame) -> list[float | None] | None:
    courses = []
    for values in rows["step_values"]:
        each = values.to_numpy()
        if len(each):
            courses.append(each[np.linspace(0, len(each) - 1, _POINTS).round().astype(int)])
    if not courses:
        return None
    matrix = np.ma.masked_invalid(np.array(courses, np.float64))
    return [None if mean is np.ma.masked else float(f"{mean:.6g}") for mean in matrix.mean(axis=0)]
