"""Drift: whether what a run brought scores as what was there before."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import polars as pl

from data_engine.errors import EngineError
from flows.query import score_column
from storage.snapshot import Snapshot

__all__ = ["drift"]

_RECORDING = ("episode_id", "content_hash")
_FEWEST = 8  # episodes on either side, below which nothing is said
_DISTANCE, _CHANCE = 0.25, 0.01


def drift(lake: Snapshot, run_id: str) -> list[dict[str, Any]]:
    """Of each dataset and scorer: the scores of the episodes that ``run_id`` was the first to score, whether it brought
    them or an earlier run did, against those of the others.

    Both sides come from the run's own fit, so that it is the recordings that differ and not the measure. Rows:
    ``dataset``, ``score``, ``new``, ``old`` (episodes with a value), ``median_new``, ``median_old``, ``distance``
    (two-sample Kolmogorov-Smirnov statistic, 0 to 1), ``chance`` (its asymptotic p-value, times the comparisons made:
    Bonferroni) and ``drifted``: distance at least 0.25 at a chance of at most 0.01. A revision of an episode counts as
    new. A dataset with fewer than eight values on a side is left out. O(scores).
    """
    rows = []
    first = _first_scored(lake, run_id)
    episodes = lake.episodes().join(first.select(_RECORDING[0]).unique(), on=_RECORDING[0], how="semi")
    for name in episodes["dataset"].unique().sort():
        mine = lake.episodes(dataset=name)
        for (scorer, fit), new_ones in first.group_by("scorer", "fit_id", maintain_order=True):
            try:
                values = score_column(lake, mine, scorer, {scorer: fit} if fit else None).to_numpy()
            except EngineError:  # measured against several sets without a fit, or not installed here
                continue
            told = mine.select(_RECORDING).join(new_ones, on=_RECORDING, how="left", maintain_order="left")
            came = told["scorer"].is_not_null().to_numpy()
            known = np.isfinite(values)
            new, old = values[came & known], values[~came & known]
            if min(len(new), len(old)) >= _FEWEST:
                distance = _distance(new, old)
                rows.append(
                    {"dataset": name, "score": scorer, "new": len(new), "old": len(old),
                     "median_new": float(np.median(new)), "median_old": float(np.median(old)), "distance": distance,
                     "chance": _chance(distance, len(new), len(old))}
                )  # fmt: skip
    for row in rows:
        row["chance"] = min(row["chance"] * len(rows), 1.0)
        row["drifted"] = row["distance"] >= _DISTANCE and row["chance"] <= _CHANCE
    return rows


def _first_scored(lake: Snapshot, run_id: str) -> pl.DataFrame:
    """The recordings that no run but this one has scored, by scorer, with the fit of this run."""
    scores = lake.scan("scores").filter(pl.col("unit_kind") == "episode").rename({"unit_id": _RECORDING[0]})
    keys = [*_RECORDING, "scorer"]
    mine = scores.filter(pl.col("run_id") == run_id).select(*keys, "fit_id").unique().collect()
    if not len(mine):
        return mine
    before = scores.filter(pl.col("run_id").ne_missing(run_id)).select(keys)
    others = before.join(mine.lazy(), on=keys, how="semi").collect()
    return mine.join(others, on=keys, how="anti").sort("scorer", "fit_id", *_RECORDING)


def _distance(one: np.ndarray, two: np.ndarray) -> float:
    """The largest difference of two empirical distribution functions."""
    every = np.concatenate([one, two])
    shares = (np.searchsorted(np.sort(each), every, "right") / len(each) for each in (one, two))
    first, second = shares
    return float(np.abs(first - second).max())


def _chance(distance: float, one: int, two: int) -> float:
    """How likely so large a distance is between samples of one distribution: Kolmogorov's limit, corrected by Stephens
    for few.
    """
    size = math.sqrt(one * two / (one + two))
    at = (size + 0.12 + 0.11 / size) * distance
    return float(min(max(2 * sum((-1) ** (k - 1) * math.exp(-2 * (k * at) ** 2) for k in range(1, 101)), 0.0), 1.0))
