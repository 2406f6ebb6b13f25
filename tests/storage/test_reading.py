from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from data_engine.errors import RequestError, SourceError
from data_engine.model import ACTION, STATE
from storage.lake import Lake


def test_each_episode_comes_with_its_own_steps_in_the_order_asked_for(lake: Lake, filler) -> None:
    fill = filler(lake)
    fill.dataset()
    fill.shard(["a", "bb", "ccc"])
    fill.shard(["dddd"])
    for rows in (
        lake.episodes(),
        lake.episodes().reverse(),
        lake.episodes().sample(fraction=1.0, shuffle=True, seed=1),
    ):
        found = list(lake.steps(rows))
        assert [row["source_key"] for row, _ in found] == rows["source_key"].to_list()
        for row, table in found:
            assert table.equals(fill.steps(row["source_key"], row["n_steps"]))


def test_columns_are_chosen_and_absent_ones_left_out(local_lake: Lake, filler) -> None:
    fill = filler(local_lake)
    fill.dataset()
    fill.shard(["a", "b"])
    _, table = next(iter(local_lake.steps(local_lake.episodes(), [ACTION, "reward"])))
    assert table.column_names == [ACTION]


def test_batches_hold_one_dataset_each_and_are_bounded(local_lake: Lake, filler) -> None:
    fill = filler(local_lake)
    for name in ("arms", "legs"):
        fill.dataset(name)
        fill.shard(["a", "bb", "ccc"], dataset=name)
    batches = list(local_lake.batches(local_lake.episodes(), [STATE, ACTION], batch_steps=12))
    assert [(b.dataset.name, len(b)) for b in batches] == [("arms", 2), ("arms", 1), ("legs", 2), ("legs", 1)]
    assert batches[0].offsets.tolist() == [0, 5, 11] and batches[0].steps.num_rows == 11
    state = batches[0].array(STATE)
    assert state.shape == (11, 3) and np.isnan(state[1]).all() and batches[0].frames is None
    assert batches[0].tasks == ["push", "push"]
    assert [len(b) for b in local_lake.batches(local_lake.episodes())] == [3, 3]


def test_frames_come_from_the_lakes_own_videos(lake: Lake, filler, tmp_path: Path) -> None:
    fill = filler(lake)
    fill.dataset()
    video = fill.video(tmp_path)
    fill.shard(["a"], videos=[{**video, "start_s": 0.2}])
    (batch,) = lake.batches(lake.episodes(), [STATE])
    frames = batch.frames(0, "front", [0.0, 0.3])
    assert frames.shape == (2, 64, 64, 3)
    assert abs(float(frames[0].mean()) - 60) < 4 and abs(float(frames[1].mean()) - 150) < 4
    with pytest.raises(RequestError, match="no camera 'rear'"):
        batch.frames(0, "rear", [0.0])


def test_a_missing_or_damaged_steps_file_is_named(local_lake: Lake, filler) -> None:
    fill = filler(local_lake)
    fill.dataset()
    fill.shard(["a"])
    rows = local_lake.episodes()
    path = Path(local_lake.root, rows["steps_file"][0])
    with pytest.raises(SourceError, match="has 5 rows"):
        list(local_lake.steps(rows.with_columns(row_count=pl.lit(9, pl.Int64))))
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(SourceError, match="damaged"):
        list(local_lake.steps(rows))
    path.unlink()
    with pytest.raises(SourceError, match="missing"):
        list(local_lake.steps(rows))
