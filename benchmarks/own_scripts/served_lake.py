"""A lake of metadata alone: episodes and their scores, no step of them, for what a service answers from memory."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa

from data_engine import registry
from data_engine.model import EPISODES, SCORES
from storage.lake import Lake

SCORERS = (
    "integrity", "consistency", "action_divergence", "mutual_information", "smoothness", "task_match",
    "transition_diversity", "extraneous", "composite", "diversity",
)  # fmt: skip
VERBS = ("open", "close", "push", "pull", "lift", "turn", "wipe", "place", "stack", "pour")
THINGS = ("the drawer", "the door", "a cup", "the red block", "a towel", "the tap", "a bowl", "the lid")
_AT = datetime(2026, 1, 1, tzinfo=UTC)
_PART = 250_000


def made(folder: Path, episodes: int) -> Lake:
    """A lake of ``episodes`` episodes in ten datasets with ten scores each; kept, and made anew where it is none."""
    done = folder / f".{episodes}"
    if done.exists():
        return Lake.open(str(folder))
    shutil.rmtree(folder, ignore_errors=True)
    lake = Lake.open(str(folder), create=True)
    rng = np.random.default_rng(0)
    names = [f"set{number}" for number in range(10)]
    known = {"embodiment": "arm", "control_mode": "velocity", "fps": 20.0, "features": "[]", "origin": "made",
             "format": "none", "revision": 0, "run_id": "run_made", "ingested_at": _AT}  # fmt: skip
    lake.append_rows("datasets", [{"dataset": name, **known} for name in names], transaction="datasets")
    for start in range(0, episodes, _PART):
        part = _episodes(start, min(start + _PART, episodes), names, rng)
        lake.append("episodes", part, transaction=f"episodes-{start}", run_id="run_made")
        for scorer in SCORERS:
            rows = _scores(part, scorer, rng)
            lake.append("scores", rows, transaction=f"{scorer}-{start}", run_id="run_made")
    done.touch()
    return lake


def _episodes(start: int, stop: int, names: list[str], rng: np.random.Generator) -> pa.Table:
    count = stop - start
    steps = rng.integers(50, 500, count)
    tasks = [f"{verb} {thing}" for verb in VERBS for thing in THINGS]
    pick = rng.integers(0, len(tasks), count)
    known = pl.DataFrame(
        {
            "episode_id": [f"ep_{number:020x}" for number in range(start, stop)],
            "dataset": [names[number % len(names)] for number in range(start, stop)],
            "source_key": [f"demo_{number:08}" for number in range(start, stop)],
            "content_hash": [f"{number:064x}" for number in range(start, stop)],
            "steps_hash": [f"{number:064x}" for number in range(start, stop)],
            "embodiment": ["arm"] * count, "control_mode": ["velocity"] * count, "fps": [20.0] * count,
            "n_steps": steps, "duration_s": steps / 20.0,
            "task": [tasks[each] for each in pick], "success": rng.random(count) < 0.7,
            "operator": [f"operator {each}" for each in rng.integers(0, 40, count)],
            "scene": [f"kitchen {each}" for each in rng.integers(0, 100, count)],
            "provenance": ["real"] * count, "attributes": ["{}"] * count, "steps_file": ["steps/none.parquet"] * count,
            "row_start": [0] * count, "row_count": steps, "revision": [0] * count, "run_id": ["run_made"] * count,
            "ingested_at": [_AT] * count,
        }
    )  # fmt: skip
    return _whole(known, EPISODES)


def _scores(episodes: pa.Table, scorer: str, rng: np.random.Generator) -> pa.Table:
    spec = registry.load("scorers", scorer).spec
    metric, count = spec.metrics[0], episodes.num_rows
    values = rng.gamma(2.0, 0.2, count)
    ranks = values.argsort().argsort() * (100.0 / count)
    lost = rng.random(count) < 0.01
    known = pl.DataFrame(
        {
            "unit_id": pl.Series(episodes["episode_id"].to_pylist()),
            "content_hash": pl.Series(episodes["content_hash"].to_pylist()),
            "start": [0] * count, "stop": pl.Series(episodes["n_steps"].to_pylist()),
            "value": pl.Series(np.where(lost, np.nan, values)).fill_nan(None),
            "percentile": pl.Series(np.where(lost, np.nan, ranks)).fill_nan(None),
            "n_steps": pl.Series(episodes["n_steps"].to_pylist()),
        }
    ).with_columns(
        pl.lit("episode").alias("unit_kind"), pl.lit(scorer).alias("scorer"), pl.lit(metric.name).alias("metric"),
        pl.lit(spec.version).alias("version"), pl.lit("c" * 64).alias("config_hash"), pl.lit("f" * 32).alias("fit_id"),
        pl.lit(metric.better).alias("better"), pl.lit(metric.unit).alias("unit"), pl.lit("ok").alias("status"),
        pl.lit("run_made").alias("run_id"),
    )  # fmt: skip
    return _whole(known, SCORES)


def _whole(known: pl.DataFrame, schema: pa.Schema) -> pa.Table:
    """``known`` under ``schema``, null where nothing is."""
    table = known.to_arrow(compat_level=pl.CompatLevel.oldest())
    return pa.table(
        {
            field.name: table[field.name].cast(field.type)
            if field.name in table.column_names
            else pa.nulls(len(table), field.type)
            for field in schema
        },
        schema=schema,
    )
