from __future__ import annotations

import json
import os
import shutil

import h5py
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_engine.errors import RequestError
from data_engine.recipe import SourceRecipe
from flows.executor import Local
from flows.ingest import ingest
from flows.progress import silent
from storage.check import check, fingerprint
from storage.lake import Lake
from tests.data_engine.formats.lerobot_sets import write_v3
from tests.recordings import write_robomimic


def bring(lake, path, name="reach", **options):
    recipe = SourceRecipe(name=name, uri=str(path), options=options)
    return ingest(lake, recipe, on=Local(), progress=silent(), run_id="run_test")


def test_counts_reconcile_from_the_source_to_the_lake(lake, recording):
    receipt = bring(lake, recording)
    with h5py.File(recording) as file:
        lengths = {name: len(demo["actions"]) for name, demo in file["data"].items()}
        assert receipt["in"] == {"episodes": len(lengths), "steps": sum(lengths.values()), "frames": {}}
        assert receipt["stored"] == {"episodes": len(lengths), "steps": sum(lengths.values()), "frames": {}}
        episodes = lake.episodes()
        assert dict(zip(episodes["source_key"], episodes["n_steps"], strict=True)) == lengths
        for row, steps in lake.steps(episodes):
            demo = file["data"][row["source_key"]]
            np.testing.assert_array_equal(np.array(steps["action"].to_pylist(), np.float32), demo["actions"][:])
            state = np.array(steps["observation.state"].to_pylist(), np.float32)
            np.testing.assert_array_equal(state[:, :3], demo["obs/robot0_eef_pos"][:])
            assert row["operator"] == demo.attrs["operator"]
            assert row["success"] == demo.attrs["success"]
    assert receipt["source"]["files"][0]["bytes"] == os.path.getsize(recording)
    assert check(lake) == []


def test_running_it_again_changes_nothing(lake, recording):
    bring(lake, recording)
    before, versions = fingerprint(lake), {name: lake.version(name) for name in lake.tables()}
    again = bring(lake, recording)
    assert again["stored"]["episodes"] == 0
    assert again["unchanged"] == 24
    assert {name: lake.version(name) for name in lake.tables()} == versions
    assert fingerprint(lake) == before


def test_a_changed_source_adds_only_what_changed(lake, recording, tmp_path):
    source = tmp_path / "copy.hdf5"
    shutil.copy(recording, source)
    bring(lake, source)
    before = {row["source_key"]: row for row in lake.episodes().iter_rows(named=True)}
    with h5py.File(source, "r+") as file:
        file["data/demo_3/actions"][2, 0] += 1
        file.copy("data/demo_5", file["data"], "demo_99")
    receipt = bring(lake, source)
    assert receipt["stored"]["episodes"] == 2
    assert receipt["unchanged"] == 23
    after = {row["source_key"]: row for row in lake.episodes().iter_rows(named=True)}
    assert {key for key in after if after[key] != before.get(key)} == {"demo_3", "demo_99"}
    assert after["demo_3"]["episode_id"] == before["demo_3"]["episode_id"]
    assert after["demo_3"]["revision"] == 1
    assert after["demo_99"]["content_hash"] == after["demo_5"]["content_hash"]
    assert check(lake) == []


def test_a_touched_file_with_the_same_bytes_stores_nothing(lake, recording, tmp_path):
    source = tmp_path / "copy.hdf5"
    shutil.copy(recording, source)
    bring(lake, source)
    os.utime(source, ns=(1, 1))
    assert bring(lake, source)["stored"]["episodes"] == 0
    assert lake.episodes()["revision"].max() == 0


def test_what_went_back_to_an_old_content_is_stored_again(lake, tmp_path):
    source = write_robomimic(tmp_path / "a.hdf5", episodes=6)
    original = source.read_bytes()
    bring(lake, source)
    with h5py.File(source, "r+") as file:
        file["data/demo_0/actions"][0, 0] += 1
    bring(lake, source)
    source.write_bytes(original)
    assert bring(lake, source)["stored"]["episodes"] == 1
    first = lake.scan("episodes").filter((pl.col("source_key") == "demo_0") & (pl.col("revision") == 0)).collect()
    newest = lake.episodes().filter(pl.col("source_key") == "demo_0")
    assert newest["revision"].to_list() == [2]
    assert newest["content_hash"].to_list() == first["content_hash"].to_list()


def test_bad_episodes_are_quarantined_with_a_reason_and_the_rest_goes_in(lake, tmp_path):
    source = write_robomimic(tmp_path / "a.hdf5", episodes=6)
    with h5py.File(source, "r+") as file:
        del file["data/demo_1/actions"]
        del file["data/demo_2/obs/object"]
        del file["data/demo_4/actions"]
        file["data/demo_4/actions"] = np.zeros((0, 3), np.float32)
    receipt = bring(lake, source)
    assert receipt["stored"]["episodes"] == 3
    assert {bad["key"] for bad in receipt["quarantined"]} == {"demo_1", "demo_2", "demo_4"}
    assert all(bad["code"] and bad["reason"] for bad in receipt["quarantined"])
    rows = lake.scan("quarantine").collect()
    assert set(rows["source_key"]) == {"demo_1", "demo_2", "demo_4"}
    assert check(lake) == []


def test_shards_do_not_show_in_the_lake(tmp_path, recording, monkeypatch):
    prints = []
    for size in (256, 5):
        monkeypatch.setattr("flows.ingest._SHARD_EPISODES", size)
        lake = Lake.open(str(tmp_path / f"lake{size}"), create=True)
        bring(lake, recording)
        prints.append(fingerprint(lake))
    assert prints[0] == prints[1]


def test_raw_frames_are_encoded_once_and_found_again(lake, tmp_path):
    source = write_robomimic(tmp_path / "a.hdf5", episodes=3, cameras=True)
    receipt = bring(lake, source)
    (camera,) = receipt["stored"]["frames"]
    steps = receipt["stored"]["steps"]
    assert receipt["stored"]["frames"] == {camera: steps}
    with h5py.File(source) as file:
        for batch in lake.batches(lake.episodes()):
            for i, row in enumerate(batch.episodes.to_pylist()):
                times = batch.steps["timestamp"].to_numpy()[batch.offsets[i] : batch.offsets[i + 1]]
                frames = batch.frames(i, camera, times)
                raw = file[f"data/{row['source_key']}/obs/front_image"][:]
                noise = ((frames.astype(float) - raw) ** 2).mean()
                assert 10 * np.log10(255**2 / noise) > 30  # dB: as the encoder's settings state
    blobs = lake.list("videos")
    os.utime(source, ns=(1, 1))
    bring(lake, source)
    assert lake.list("videos") == blobs
    assert check(lake) == []


def test_refuses_other_columns_under_a_known_name(lake, recording, tmp_path):
    bring(lake, recording)
    other = write_robomimic(tmp_path / "other.hdf5", episodes=3, cameras=True)
    with h5py.File(other, "r+") as file:
        for demo in file["data"].values():
            demo["extra"] = demo["rewards"][:]
            demo["obs/speed"] = demo["rewards"][:]
    before = fingerprint(lake)
    with pytest.raises(RequestError, match="in the lake with other columns"):
        bring(lake, other)
    assert fingerprint(lake) == before


def test_the_same_on_an_object_store(s3, recording, tmp_path):
    remote, local = Lake.open(f"{s3}/lake", create=True), Lake.open(str(tmp_path / "lake"), create=True)
    bring(remote, recording)
    bring(local, recording)
    assert fingerprint(remote) == fingerprint(local)
    assert check(remote) == []


def test_a_receipt_is_kept_and_states_what_was_done(lake, recording):
    receipt = bring(lake, recording, embodiment="arm7", control_mode="delta")
    stored = json.loads(lake.scan("receipts").collect()["receipt"][0])
    assert stored["embodiment"] == "arm7"
    assert stored["control_mode"] == {"mode": "delta", "evidence": "stated"}
    assert {column["column"] for column in stored["columns"]} >= {"observation.state", "action"}
    assert stored["transaction"] == receipt["transaction"]


def test_frames_of_an_uneven_clock_are_found_at_their_own_times(lake, tmp_path):
    root = tmp_path / "set"
    write_v3(root, [12, 9], images=True)
    path = next(root.glob("data/*/*.parquet"))
    table = pq.read_table(path)
    times = np.concatenate([np.cumsum(np.r_[0, 0.02 + 0.1 * (np.arange(n - 1) % 3)]) for n in (12, 9)])
    at = table.column_names.index("timestamp")
    pq.write_table(table.set_column(at, "timestamp", pa.array(times.astype(np.float32))), path)
    receipt = bring(lake, root)
    assert receipt["stored"]["episodes"] == 2, receipt["quarantined"]
    (camera,) = receipt["stored"]["frames"]
    for batch in lake.batches(lake.episodes()):
        for i, rows in enumerate(batch):
            frames = batch.frames(i, camera, batch.steps["timestamp"].to_numpy()[rows])
            assert len(np.unique(frames.mean(axis=(1, 2, 3)).round())) == len(frames)  # each step its own frame
    assert check(lake) == []


def test_a_camera_without_a_clock_is_quarantined(lake, tmp_path):
    root = tmp_path / "set"
    write_v3(root, [12, 9], images=True)
    path = next(root.glob("data/*/*.parquet"))
    table = pq.read_table(path)
    times = table["timestamp"].to_numpy().copy()
    times[3] = np.nan
    at = table.column_names.index("timestamp")
    pq.write_table(table.set_column(at, "timestamp", pa.array(times)), path)
    receipt = bring(lake, root)
    assert receipt["stored"]["episodes"] == 1
    assert receipt["quarantined"][0]["code"] == "bad_timestamps"
