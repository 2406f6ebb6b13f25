"""``overview``: what a lake holds to look at: how much, which scores, which embedding spaces."""

from __future__ import annotations

from typing import Any

import polars as pl

from storage.lake import Lake
from storage.snapshot import Snapshot

__all__ = ["overview", "spaces"]


def overview(lake: Snapshot) -> dict[str, Any]:
    """``{"datasets", "episodes", "steps", "hours", "columns", "scores", "spaces"}``.

    ``columns``: of episodes, that expressions may name. ``scores``: ``{"name", "unit", "better", "episodes"}`` of each
    that is measured on episodes, named as expressions name it, a scorer's headline (which is stored first) before its
    other metrics. All of it is told by what is stored: no scorer is imported. O(scores).
    """
    episodes = lake.episodes()
    return {
        "datasets": len(lake.datasets()),
        "episodes": len(episodes),
        "steps": int(episodes["n_steps"].sum() or 0),
        "hours": float(episodes["duration_s"].sum() or 0.0) / 3600,
        "columns": [name for name, kind in episodes.schema.items() if not kind.is_nested()],
        "scores": lake.remembered("measured", lambda: _scores(lake), ("scores",)),
        "spaces": spaces(lake),
    }


def _scores(lake: Lake) -> list[dict[str, Any]]:
    held = lake.scan("scores").filter(pl.col("unit_kind") == "episode")
    counted = held.group_by("scorer", "metric", maintain_order=True).agg(
        pl.col("unit_id").n_unique().alias("episodes"), pl.col("unit").last(), pl.col("better").last()
    )
    rows = counted.collect().with_columns(headline=pl.int_range(pl.len()).over("scorer") == 0)
    name = pl.when("headline").then("scorer").otherwise(pl.concat_str("scorer", "metric", separator="."))
    ordered = rows.with_columns(name=name).sort("scorer", ~pl.col("headline"), "metric")
    return ordered.select("name", "unit", "better", "episodes").to_dicts()


def spaces(lake: Lake) -> list[dict[str, Any]]:
    """``{"space", "groups": [{"embodiment", "control_mode", "episodes"}]}`` of each embedding space, the largest group
    first. Vectors are comparable within a group.
    """
    found = []
    for table in sorted(lake.tables("embeddings/")):
        rows = lake.scan(table).select("episode_id", "embodiment", "control_mode")
        live = rows.join(lake.episodes(columns=["episode_id"]).lazy(), on="episode_id", how="semi")
        counted = live.group_by("embodiment", "control_mode").agg(pl.col("episode_id").n_unique().alias("episodes"))
        ordered = counted.sort("episodes", "embodiment", "control_mode", descending=[True, False, False]).collect()
        found.append({"space": table.removeprefix("embeddings/"), "groups": ordered.to_dicts()})
    return found
