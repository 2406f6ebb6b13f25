from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import av
import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_engine.recipe import SourceRecipe
from data_engine.video import encode
from flows.ingest_probe import preview
from flows.progress import silent
from flows.survey import survey
from storage.check import check
from tests.data_engine.formats.lerobot_sets import write_v3
from tests.flows.test_ingest import bring
from tests.recordings import write_robomimic

TOP = "observation.images.cam_high"


@pytest.fixture
def g1(shared_data, tmp_path) -> Path:
    """A copy of three episodes of the Unitree set, to tell lies about."""
    source, copy = shared_data / "g1_lerobot_v21", tmp_path / "g1"
    for path in source.rglob("*"):
        if path.is_file() and not any(f"episode_{i:06d}" in path.name for i in (3, 4, 5)):
            target = copy / path.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
    info = json.loads((copy / "meta/info.json").read_text())
    lines = (copy / "meta/episodes.jsonl").read_text().splitlines()[:3]
    (copy / "meta/episodes.jsonl").write_text("\n".join(lines) + "\n")
    lengths = sum(json.loads(line)["length"] for line in lines)
    (copy / "meta/info.json").write_text(json.dumps({**info, "total_episodes": 3, "total_frames": lengths}))
    return copy


def change_info(root: Path, **values) -> None:
    info = json.loads((root / "meta/info.json").read_text())
    (root / "meta/info.json").write_text(json.dumps({**info, **values}))


def codes(receipt) -> dict[str, dict]:
    return {found["code"]: found for found in receipt["defects"]}


def decoded(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def refilm(root: Path, episode: int, frames: list[np.ndarray]) -> None:
    path = next(root.glob(f"videos/*/{TOP}/episode_{episode:06d}.mp4"))
    path.unlink()
    encode(frames, path, 30)


def test_a_real_set_as_it_is_counts_and_hashes_right(lake, g1):
    receipt = bring(lake, g1)
    assert not receipt["defects"]
    assert not receipt["quarantined"]
    assert receipt["in"]["frames"] == receipt["stored"]["frames"]
    assert set(receipt["in"]["frames"].values()) == {receipt["in"]["steps"]}
    for path, stream in receipt["streams"].items():
        data = (g1 / path).read_bytes()
        assert stream["blob"] == f"videos/{hashlib.sha256(data).hexdigest()}.mp4"
        assert stream["bytes"] == len(data)
        frames = decoded(g1 / path)
        assert stream["frames"] == stream["used"] == len(frames)
        assert stream["first"] == hashlib.sha256(frames[0].tobytes()).hexdigest()
        assert stream["last"] == hashlib.sha256(frames[-1].tobytes()).hexdigest()
        assert (stream["codec"], stream["pix_fmt"], stream["width"], stream["height"]) == ("av1", "yuv420p", 640, 480)
    for file in receipt["source"]["files"]:
        assert file["sha256"] == hashlib.sha256((g1 / file["path"]).read_bytes()).hexdigest()
    assert receipt["source"]["bytes"] == sum(file["bytes"] for file in receipt["source"]["files"])
    assert check(lake) == []


def test_absent_episodes(lake, g1):
    change_info(g1, total_episodes=105)
    found = codes(bring(lake, g1))["episodes_absent"]
    assert found["what"] == "declares 105 episodes, 3 present"


def test_another_codec_and_size_than_declared(lake, g1):
    info = json.loads((g1 / "meta/info.json").read_text())
    said = info["features"][TOP].get("info") or info["features"][TOP]["video_info"]
    said.update({"video.codec": "h264", "video.fps": 25, "video.pix_fmt": "yuv444p"})
    info["features"][TOP]["info"] = said
    (g1 / "meta/info.json").write_text(json.dumps(info))
    receipt = bring(lake, g1)
    lies = {what["what"] for what in receipt["defects"] if what["code"] == "declared_differs"}
    assert any("codec h264" in what and "av1" in what for what in lies)
    assert any("fps 25" in what for what in lies)
    assert any("pix_fmt yuv444p" in what for what in lies)
    assert receipt["stored"]["episodes"] == 3


def test_a_video_longer_than_its_rows(lake, g1):
    path = next(g1.glob("data/*/episode_000001.parquet"))
    table = pq.read_table(path)
    pq.write_table(table.slice(0, len(table) - 7), path)
    found = codes(bring(lake, g1))
    assert found["video_longer"]["keys"] == ["episode_000001"]
    assert found["steps_differ"]["keys"] == ["episode_000001"]


def test_a_video_shorter_than_its_rows_is_quarantined(lake, g1):
    frames = decoded(next(g1.glob(f"videos/*/{TOP}/episode_000002.mp4")))
    refilm(g1, 2, frames[:-5])
    receipt = bring(lake, g1)
    assert [(bad["key"], bad["code"]) for bad in receipt["quarantined"]] == [("episode_000002", "frame_missing")]


def test_a_black_and_a_frozen_camera(lake, g1):
    frames = decoded(next(g1.glob(f"videos/*/{TOP}/episode_000000.mp4")))
    refilm(g1, 0, [np.zeros_like(frames[0])] * len(frames))
    frames = decoded(next(g1.glob(f"videos/*/{TOP}/episode_000001.mp4")))
    refilm(g1, 1, [frames[0]] * len(frames))
    found = codes(bring(lake, g1))
    assert found["camera_black"]["keys"] == ["episode_000000"]
    assert found["camera_frozen"]["keys"] == ["episode_000001"]


def test_an_action_one_joint_short(lake, g1):
    info = json.loads((g1 / "meta/info.json").read_text())
    state, action = info["features"]["observation.state"], info["features"]["action"]
    size = action["shape"][0]
    names = [f"joint_{i}" for i in range(size)]
    state["names"], state["shape"] = [names], [size]
    action["names"], action["shape"] = [names[:-1]], [size - 1]
    (g1 / "meta/info.json").write_text(json.dumps(info))
    for path in g1.glob("data/*/*.parquet"):
        table = pq.read_table(path)
        short = [row[:-1] for row in table["action"].to_pylist()]
        at = table.column_names.index("action")
        pq.write_table(table.set_column(at, "action", pa.array(short, pa.list_(pa.float32()))), path)
    assert f"joint_{size - 1}" in codes(bring(lake, g1))["action_short"]["what"]


def test_a_clock_in_milliseconds(lake, tmp_path):
    write_v3(tmp_path / "set", [6, 5])
    (path,) = (tmp_path / "set" / "data").glob("*/*.parquet")
    table = pq.read_table(path)
    at = table.column_names.index("timestamp")
    milliseconds = pa.array(table["timestamp"].to_numpy() * 1000)
    pq.write_table(table.set_column(at, "timestamp", milliseconds), path)
    found = codes(bring(lake, tmp_path / "set"))["clock_differs"]
    assert found["episodes"] == 2
    recipe = SourceRecipe(name="set", uri=str(tmp_path / "set"))
    assert {"clock_differs"} <= {defect["code"] for defect in preview(recipe)["defects"]}
    (seen,) = survey([recipe.uri], progress=silent())["items"]
    assert {"clock_differs"} <= {defect["code"] for defect in seen["defects"]}


def test_discarded_takes_inside_a_shared_video(lake, tmp_path):
    write_v3(tmp_path / "set", [6, 5, 4], video=True)
    episodes = "meta/episodes/chunk-000/file-000.parquet"
    table = pq.read_table(tmp_path / "set" / episodes)
    pq.write_table(table.filter(pa.array([True, False, True])), tmp_path / "set" / episodes)
    receipt = bring(lake, tmp_path / "set")
    assert codes(receipt)["frames_unclaimed"]["what"].endswith("5 of its 15 frames belong to no episode")


def test_the_same_recording_under_two_names_and_encoded_again(lake, g1, tmp_path):
    bring(lake, g1, name="first")
    frames = decoded(next(g1.glob(f"videos/*/{TOP}/episode_000001.mp4")))
    refilm(g1, 1, frames)
    receipt = bring(lake, g1, name="second")
    assert receipt["duplicates"] == [
        {"key": f"episode_{i:06d}", "of": f"first/episode_{i:06d}", "how": "steps" if i == 1 else "content"}
        for i in range(3)
    ]
    assert codes(receipt)["duplicate"]["episodes"] == 3


def test_duplicates_inside_one_source(lake, tmp_path):
    source = write_robomimic(tmp_path / "a.hdf5", episodes=3)
    with h5py.File(source, "r+") as file:
        file.copy("data/demo_1", file["data"], "demo_7")
    assert bring(lake, source)["duplicates"] == [{"key": "demo_7", "of": "reach/demo_1", "how": "content"}]


def test_changes_of_type_are_named(lake, tmp_path):
    source = write_robomimic(tmp_path / "a.hdf5", episodes=3)
    with h5py.File(source, "r+") as file:
        for demo in file["data"].values():
            demo["pressure"] = np.arange(len(demo["actions"]), dtype=np.uint16)
    rows = {row["column"]: row for row in bring(lake, source)["columns"]}
    assert rows["pressure"]["change"] == "uint16 -> int32, exact"
    assert rows["action"]["change"] is None


@pytest.mark.parametrize("what", ["episodes", "steps", "frames"])
def test_a_check_holds_what_receipts_say_against_the_tables(lake, tmp_path, what):
    write_v3(tmp_path / "set", [6, 5], video=True)
    bring(lake, tmp_path / "set")
    assert check(lake) == []

    def lie(table):
        receipt = json.loads(table["receipt"][0].as_py())
        if what == "frames":
            receipt["stored"]["frames"]["top"] += 1
        else:
            receipt["stored"][what] += 1
        text = pa.array([json.dumps(receipt)])
        return table.set_column(table.column_names.index("receipt"), "receipt", text)

    lake.rewrite("receipts", lie, why="a lie")
    told = {"episodes": "3 episodes were stored, 2 are", "steps": "12 steps were stored, 11 are",
            "frames": "12 frames of top were stored, 11 are"}[what]  # fmt: skip
    assert any(f"reach: receipts say {told} there" in problem["what"] for problem in check(lake, deep=False))


def test_encoded_frames_state_their_loss(lake, tmp_path):
    receipt = bring(lake, write_robomimic(tmp_path / "a.hdf5", episodes=3, cameras=True))
    assert len(receipt["streams"]) == 3
    for stream in receipt["streams"].values():
        assert stream["kept"] == "encoded once"
        assert stream["source_frames"] == stream["frames"] == stream["used"]
        assert 30 < stream["psnr_db"] <= 99
        assert stream["settings"]["crf"] >= 0
