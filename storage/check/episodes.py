"""Episodes: each row's steps and frames are where it says, and its own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import polars as pl

from data_engine.errors import EngineError
from data_engine.steps import EPISODE_ID, STEP
from storage.check.look import Look, Problem, problem

__all__ = ["episodes"]


def episodes(look: Look) -> Iterator[Problem]:
    """Every row of every revision."""
    rows = look.readable("episodes")
    known = set(look.readable("datasets")["dataset"])
    twice = rows.filter(pl.struct("episode_id", "revision").is_duplicated())
    for row in twice.unique("episode_id").iter_rows(named=True):
        yield problem(row["episode_id"], "two rows of one revision")
    sound = []
    for row in rows.sort("steps_file", "row_start").iter_rows(named=True):
        file = look.files.get(row["steps_file"])
        if row["dataset"] not in known:
            yield problem(row["episode_id"], f"dataset {row['dataset']!r} has no row")
        if row["n_steps"] != row["row_count"]:
            yield problem(row["episode_id"], f"{row['n_steps']} steps, {row['row_count']} rows")
        if file is None or not file.path.startswith(f"{look.lake.folder('steps/' + row['dataset'])}/"):
            yield problem(row["episode_id"], f"its steps file {row['steps_file']} is not in the steps table")
        elif not 0 <= row["row_start"] <= row["row_start"] + row["row_count"] <= file.rows:
            yield problem(row["episode_id"], f"its rows leave its steps file {file.path}")
        elif file.path not in look.bad:
            sound.append(row)
        yield from _videos(look, row)
    if look.deep and sound:
        yield from _steps(look, pl.DataFrame(sound, schema=rows.schema))


def _steps(look: Look, rows: pl.DataFrame) -> Iterator[Problem]:
    for row, table in look.lake.steps(rows, [EPISODE_ID, STEP]):
        if set(table.column(EPISODE_ID).to_pylist()) - {row["episode_id"]}:
            yield problem(row["episode_id"], f"rows of {row['steps_file']} belong to another episode")
        if not np.array_equal(table.column(STEP).to_numpy(), np.arange(row["n_steps"])):
            yield problem(row["episode_id"], "its steps are not numbered 0, 1, 2, ...")


def _videos(look: Look, row: dict[str, Any]) -> Iterator[Problem]:
    for video in row["videos"] or []:
        path, start, end = video["blob"], video["start_s"], video["end_s"]
        if look.lake.size(path) is None and path not in look.referred:
            yield problem(path, f"missing; {row['episode_id']} shows it")
        elif look.deep and path not in look.bad:
            from data_engine.video import FrameReader

            try:
                reader = FrameReader(look.lake.local(path))
                count = reader.count(start, end)
                reader.close()
            except EngineError as error:
                yield problem(path, error)
                continue
            if count != video["frames"]:
                yield problem(path, f"{count} frames, {video['frames']} are recorded for {row['episode_id']}")
