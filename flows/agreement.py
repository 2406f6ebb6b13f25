"""How far two labellers agree on where recordings are cut, beside what cuts anywhere would agree by chance."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import Any

import numpy as np
import polars as pl

from data_engine.errors import RequestError
from data_engine.reference import key_of
from flows.annotations import annotations
from scorers.kernels.boundaries import matched, scattered
from storage.lake import Lake

__all__ = ["agreement", "agreements"]

_DRAWS = 20
_SEGMENT = "segment"


def agreement(
    lake: Lake, episodes: pl.DataFrame, first: str, second: str, *, tolerance_s: float = 0.5,
    fits: Mapping[str, str] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """``{"first", "second", "tolerance_s", "episodes", "first_cuts", "second_cuts", "precision", "recall", "f1",
    "chance"}`` of the segments of two labellers, over the ``episodes`` that both cut.

    A cut is where a segment begins, but for the first; two agree within ``tolerance_s`` seconds, each in one pair at
    most. ``precision``: the share of ``first``'s cuts that are paired, ``recall`` of ``second``'s, ``f1`` their
    harmonic mean, None where nobody cuts. ``chance``: the mean f1 of as many cuts of ``second`` anywhere. Raises
    ``RequestError`` where either labelled none of them, or by several fits.
    """
    one, two = (_cuts(lake, episodes, name, fits) for name in (first, second))
    both = sorted(set(one) & set(two))
    length = dict(episodes.select("episode_id", "duration_s").iter_rows())
    pairs = sum(matched(one[name], two[name], tolerance_s) for name in both)
    mine, theirs = (sum(len(found[name]) for name in both) for found in (one, two))
    by_chance = []
    for number in range(_DRAWS if mine and theirs else 0):
        draws = {name: np.random.default_rng(key_of(number, name)) for name in both}
        anywhere = (scattered(len(two[name]), max(length[name] or 0.0, 0.0), draws[name]) for name in both)
        paired = sum(matched(one[name], cuts, tolerance_s) for name, cuts in zip(both, anywhere, strict=True))
        by_chance.append(2 * paired / (mine + theirs))
    return {
        "first": first,
        "second": second,
        "tolerance_s": tolerance_s,
        "episodes": len(both),
        "first_cuts": mine,
        "second_cuts": theirs,
        "precision": pairs / mine if mine else None,
        "recall": pairs / theirs if theirs else None,
        "f1": 2 * pairs / (mine + theirs) if mine + theirs else None,
        "chance": float(np.mean(by_chance)) if by_chance else None,
    }


def agreements(lake: Lake, episodes: pl.DataFrame, tolerance_s: float = 0.5) -> list[dict[str, Any]]:
    """:func:`agreement` of every two labellers that cut some of ``episodes``; with ``reason`` where it is not known."""
    said = (
        lake.scan("annotations").filter(pl.col("kind") == _SEGMENT).select("episode_id", "producer").unique().collect()
    )
    known = said.join(episodes, on="episode_id", how="semi")["producer"].unique().sort()
    rows = []
    for first, second in combinations(known, 2):
        try:
            rows.append({**agreement(lake, episodes, first, second, tolerance_s=tolerance_s), "reason": None})
        except RequestError as error:
            rows.append({"first": first, "second": second, "f1": None, "reason": error.message})
    return rows


def _cuts(lake: Lake, episodes: pl.DataFrame, producer: str, fits: Mapping[str, str] | None) -> dict[str, np.ndarray]:
    """Seconds of the cuts of every episode that ``producer`` cut, rising; empty where it is one segment."""
    said, _ = annotations(lake, episodes, producer, _SEGMENT, fits)
    said = said.join(episodes.select("episode_id", "n_steps", "duration_s"), on="episode_id", maintain_order="left")
    period = pl.col("duration_s").fill_null(0.0) / (pl.col("n_steps") - 1).clip(1)
    timed = said.with_columns(at=pl.col("start") * period)
    found = timed.group_by("episode_id", maintain_order=True).agg(pl.col("at").filter(pl.col("start") > 0))
    return {name: np.array(cuts, float) for name, cuts in found.iter_rows()}
