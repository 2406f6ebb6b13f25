"""How schedules stand: when each is due next, and what came of the last times."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import takewhile
from typing import Any

import polars as pl

from data_engine.canonical import digest
from storage.lake import Lake
from storage.schedules import Schedule, dues, run_name

__all__ = ["history", "told"]


def told(lake: Lake, schedule: Schedule, runs: pl.DataFrame | None = None) -> dict[str, Any]:
    """A schedule as the service and the command line tell it; ``runs``: the lake's, where they are at hand."""
    past = history(lake, schedule.name, runs).drop("verb").to_dicts()
    over = list(takewhile(lambda run: run["state"] in ("missed", "skipped"), reversed(past)))
    return {
        "name": schedule.name, "state": schedule.state, "when": schedule.when, "cron": schedule.cron,
        "every_s": schedule.every_s, "timezone": schedule.timezone, "by": schedule.by, "since": schedule.since,
        "recipe_hash": digest(schedule.recipe),
        "next_due": next(dues(schedule, datetime.now(UTC))) if schedule.state == "active" else None,
        "last": past[-1] if past else None,
        "passed_over": [run["error"] for run in over][::-1],
    }  # fmt: skip


def history(lake: Lake, name: str, runs: pl.DataFrame | None = None) -> pl.DataFrame:
    """The runs of a schedule, those missed and skipped among them, oldest first: run_id, verb, state, ..."""
    rows = lake.scan("runs").collect() if runs is None else runs
    mine = rows.filter(pl.col("run_id").str.ends_with(run_name(name, datetime.now(UTC))[-9:]))
    mine = mine.sort("started_at", pl.col("ended_at").fill_null(pl.col("started_at")))
    mine = mine.unique("run_id", keep="last", maintain_order=True)
    return mine.select("run_id", "verb", "state", "started_at", "ended_at", "error")
