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

_FEWEST = 8  # episodes on either side, below which nothing is said
_DISTANCE, _CHANCE = 0.25, 0.01


def drift(lake: Snapshot, run_id: str) -> list[dict[str, Any]]:
    """Of each dataset that ``run_id`` brought episodes of, and each scorer: the scores of those against the others'.

    Both sides come from one fit, so that it is the recordings that differ and not the measure. Rows: ``dataset``,
    ``score``, ``new``, ``old`` (episodes with a value), ``median_new``, ``median_old``, ``distance`` (two-sample
    Kolmogorov-Smirnov statistic, 0 to 1), ``chance`` (its asymptotic p-value, times the comparisons made: Bonferroni)
    and ``drifted``: distance at least 0.25 at a chance of at most 0.01. A revision of an episode counts as new. A
    dataset with fewer than eight values on a side, or a score with several fits, is left out. O(episodes x scorers).
    """
    rows = []
    episodes = lake.episodes()
    for name in episodes.filter(pl.col("run_id") == run_id)["dataset"].unique().sort():
        mine = episodes.filter(pl.col("dataset") == name)
        came = mine["run_id"].eq_missing(run_id).to_numpy()
        for scorer in lake.pivot.scorers:
            try:
                values = score_column(lake, mine, scorer).to_numpy()
            except EngineError:  # not scored, measured against several sets, or not installed here
                continue
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
