"""``selections``: what is stored of them, why each unit is in or out, and how two of them differ."""

from __future__ import annotations

import json
from typing import Any

import polars as pl

from data_engine.errors import RequestError
from flows.select import stored
from storage.lake import Lake

__all__ = ["compare", "listing", "show"]

_KEYS = ["episode_id", "start", "stop"]
_OF_A_RUN = ("report", "table_versions")  # what came of the inputs, and where they lay


def listing(lake: Lake) -> list[dict[str, Any]]:
    """``{"name", "method", "episodes", "steps", "selection_id"}`` of every selection, newest last."""
    chosen = pl.col("rank").is_not_null()
    rows = lake.scan("selections").group_by("selection_id", "name", "method").agg(
        pl.col("rank").count().alias("episodes"),
        (pl.col("stop") - pl.col("start")).filter(chosen).sum().alias("steps"),
        pl.col("created_at").max(),
    )  # fmt: skip
    ordered = rows.sort("created_at", "selection_id").collect()
    return ordered.select("name", "method", "episodes", "steps", "selection_id").to_dicts()


def show(lake: Lake, name: str, episode: str | None = None) -> dict[str, Any]:
    """A selection by its name (the newest) or id, and each unit that was looked at with its reason, chosen first.

    ``{"name", "selection_id", "method", "created_at", "chosen", "targets", "left_out", "inputs", "report", "items"}``,
    items ``{"rank", "episode_id", "start", "stop", "weight", "reason"}``; with ``episode`` only that episode's. Raises
    ``RequestError`` where there is no such selection, or it never looked at that episode.
    """
    rows = stored(lake, name)
    items = rows.select("rank", *_KEYS, "weight", "reason")
    chosen = items["rank"].is_not_null()
    targets = int((items["reason"] == "target").sum())
    facts = {key: rows[key][0] for key in ("name", "selection_id", "method", "created_at")}
    counts = {
        "chosen": int(chosen.sum()), "targets": targets, "left_out": len(items) - int(chosen.sum()) - targets,
    }  # fmt: skip
    if episode is not None:
        items = items.filter(pl.col("episode_id") == episode)
        if not len(items):
            raise RequestError(
                f"selection {facts['name']!r} did not look at episode {episode!r}",
                code="unknown_episode",
                fix="see `data-engine query`",
            )
    inputs = _inputs(rows)
    report = inputs.pop("report", None)
    return {**facts, **counts, "inputs": inputs, "report": report, "items": items.to_dicts()}


def compare(lake: Lake, first: str, second: str) -> dict[str, Any]:
    """What two selections (by name or id) have in common and apart, unit by unit, with the reason in each.

    ``{"both", "only_first", "only_second", "reweighed", "inputs", "items"}``: how many units both hold; ids of the
    episodes of which only one holds a unit that the other does not; how many of both weigh otherwise; the inputs that
    differ, each as [first's, second's]; and ``{"episode_id", "start", "stop", "in", "first", "second"}`` of every unit
    that one alone holds, with its reason in the first and in the second (None where that did not look at it). Raises
    ``RequestError`` where there is no such selection.
    """
    one, two = stored(lake, first), stored(lake, second)
    left, right = (
        rows.filter(pl.col("episode_id").is_not_null()).select(*_KEYS, "rank", "weight", "reason")
        for rows in (one, two)
    )
    pairs = left.join(right, on=_KEYS, how="full", coalesce=True, suffix="_2")
    in_one, in_two = pl.col("rank").is_not_null(), pl.col("rank_2").is_not_null()
    both = pairs.filter(in_one & in_two)
    apart = pairs.filter(in_one != in_two).with_columns(
        pl.when(in_one).then(pl.lit("first")).otherwise(pl.lit("second")).alias("in")
    )
    apart = apart.sort("in", pl.min_horizontal("rank", "rank_2"), *_KEYS)
    items = apart.select(*_KEYS, "in", pl.col("reason").alias("first"), pl.col("reason_2").alias("second"))
    inputs = [{key: value for key, value in _inputs(rows).items() if key not in _OF_A_RUN} for rows in (one, two)]
    changed = {
        key: [facts.get(key) for facts in inputs]
        for key in sorted({*inputs[0], *inputs[1]})
        if inputs[0].get(key) != inputs[1].get(key)
    }
    return {
        "both": len(both),
        "only_first": sorted(set(items.filter(pl.col("in") == "first")["episode_id"])),
        "only_second": sorted(set(items.filter(pl.col("in") == "second")["episode_id"])),
        "reweighed": int(((both["weight"] - both["weight_2"]).abs() > 1e-9).sum()),
        "inputs": changed,
        "items": items.to_dicts(),
    }


def _inputs(rows: pl.DataFrame) -> dict[str, Any]:
    return dict(json.loads(rows["inputs"][0] or "{}"))
