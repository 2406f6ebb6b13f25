from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_engine.model import EPISODES
from data_engine.scoring import Fit
from storage import indices
from storage.check import check
from storage.lake import Lake


@pytest.fixture
def full(local_lake: Lake, filler, tmp_path: Path) -> Lake:
    """A lake with something of every kind."""
    return _fill(local_lake, filler, tmp_path)


def _fill(lake: Lake, filler, tmp_path: Path) -> Lake:
    fill = filler(lake)
    fill.dataset()
    video = fill.video(tmp_path)
    fill.shard(["a", "bb"], videos=[video])
    fill.shard(["ccc"])
    fill.shard(["a"], revision=1, seed=1)
    lake.put_fit(Fit("p", "1", {}, 0, ("h",), {"w": np.ones(4)}))
    indices.save(lake, "s", indices.build(np.eye(4), list("abcd")))
    sink = io.BytesIO()
    files = [lake.blob(video["blob"]), *lake.files("steps/arms")]
    pq.write_table(pa.Table.from_pylist([file.as_dict() for file in files]), sink)
    lake.write_bytes("mixtures/m/files.parquet", sink.getvalue())
    return lake


def test_a_sound_lake_has_no_problems(full: Lake) -> None:
    assert check(full) == []
    assert check(full, deep=False) == []


def test_a_flipped_byte_in_any_blob_or_table_file_is_found_and_named(full: Lake) -> None:
    paths = [file.path for name in full.tables() for file in full.files(name)] + list(full.list("videos"))
    assert len(paths) == 11
    for number, path in enumerate(paths):
        sound = full.read_bytes(path)
        at = (len(sound) * (number + 1)) // (len(paths) + 1)
        full.write_bytes(path, sound[:at] + bytes([sound[at] ^ 0x40]) + sound[at + 1 :])
        assert path in {problem["path"] for problem in check(full)}, path
        full.write_bytes(path, sound)
    assert check(full) == []


def test_it_looks_through_an_object_store_the_same_way(s3: str, filler, tmp_path: Path) -> None:
    lake = _fill(Lake.open(f"{s3}/lake", create=True), filler, tmp_path)
    assert check(lake) == []
    path = lake.list("videos")[0]
    sound = lake.read_bytes(path)
    lake.write_bytes(path, sound[:-9] + b"?" + sound[-8:])
    assert {problem["path"] for problem in check(lake)} == {path}


def test_a_missing_or_cut_file_is_found_without_reading_all(full: Lake) -> None:
    video, steps = full.list("videos")[0], full.files("steps/arms")[0].path
    sound = full.read_bytes(steps)
    full.write_bytes(steps, sound[:-1])
    assert {problem["path"] for problem in check(full, deep=False)} == {steps}
    full.write_bytes(steps, sound)
    full.remove(video)
    found = check(full, deep=False)
    assert {problem["path"] for problem in found} == {video}
    assert any("shows it" in problem["what"] for problem in found)


def test_damaged_fits_and_indices_are_named(local_lake: Lake) -> None:
    fit = local_lake.put_fit(Fit("p", "1", {}, 0, ("h",), {"w": np.ones(4)}))
    version = indices.save(local_lake, "s", indices.build(np.eye(4), list("abcd")))
    local_lake.write_bytes(f"fits/p/{fit}/fit.json", b"{}")
    local_lake.write_bytes(f"indices/s/{version}/index.faiss", b"")
    assert [problem["path"] for problem in check(local_lake)] == [f"fits/p/{fit}", f"indices/s/{version}"]


def test_a_damaged_log_or_checkpoint_is_named(local_lake: Lake) -> None:
    for number in range(12):
        local_lake.append_rows("runs", [{"run_id": str(number)}], transaction=str(number))
    assert check(local_lake) == []
    log = Path(local_lake.root, "tables/runs/_delta_log")
    entry = log / "00000000000000000003.json"
    sound = entry.read_bytes()
    entry.write_bytes(sound.replace(b'"add"', b'"adt"'))
    assert [problem["path"] for problem in check(local_lake)] == [
        str(log.relative_to(local_lake.root)),
        str(entry.relative_to(local_lake.root)),
    ]
    entry.write_bytes(sound[:40])
    assert any(problem["path"].endswith("3.json") for problem in check(local_lake))
    entry.write_bytes(sound)
    checkpoint = next(log.glob("*.checkpoint.parquet"))
    checkpoint.write_bytes(checkpoint.read_bytes()[:50])
    assert any(problem["path"].startswith("tables/runs") for problem in check(local_lake))


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"row_count": 4, "n_steps": 4}, "numbered"),
        ({"row_start": 1}, "leave"),
        ({"row_count": 3}, "5 steps, 3 rows"),
        ({"steps_file": "tables/steps/arms/none.parquet"}, "not in the steps table"),
        ({"episode_id": "ep_other"}, "another episode"),
        ({"dataset": "nobody"}, "has no row"),
        ({}, "two rows of one revision"),
    ],
)
def test_a_row_that_does_not_fit_its_steps_is_named(local_lake: Lake, filler, change: dict, what: str) -> None:
    fill = filler(local_lake)
    fill.dataset()
    fill.shard(["a"])
    fill.shard(["b"])
    assert check(local_lake) == []
    row = local_lake.episodes().to_dicts()[0] | change
    if what == "numbered":
        row["row_start"] = 1
    local_lake.append("episodes", pa.Table.from_pylist([row], schema=EPISODES), transaction="wrong")
    found = [problem for problem in check(local_lake) if problem["path"] == row["episode_id"]]
    assert any(what in problem["what"] for problem in found)
    assert any("receipts say" in problem["what"] for problem in check(local_lake)) == (change.get("dataset") is None)


def test_a_video_with_other_frames_than_recorded_is_named(local_lake: Lake, filler, tmp_path: Path) -> None:
    fill = filler(local_lake)
    fill.dataset()
    fill.shard(["a"], videos=[fill.video(tmp_path) | {"frames": 9}])
    (problem,) = check(local_lake)
    assert problem["path"].startswith("videos/") and "8 frames, 9 are recorded" in problem["what"]
    assert check(local_lake, deep=False) == []
