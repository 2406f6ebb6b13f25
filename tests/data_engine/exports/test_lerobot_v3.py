from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_engine.errors import RequestError
from data_engine.exports.lerobot_v3 import LeRobotV3Exporter
from data_engine.formats import Source, SourceEpisode
from data_engine.formats.lerobot_v3 import LeRobotV3
from data_engine.mixture import Mixture
from data_engine.model import ACTION, STATE
from data_engine.video import FrameReader
from tests.data_engine.formats.lerobot_sets import FPS, image, rewrite_info, write_v2, write_v3
from tests.mixtures import mixture_of

DATA = "data/chunk-000/file-000.parquet"
EPISODES = "meta/episodes/chunk-000/file-000.parquet"


@pytest.fixture
def made(tmp_path: Path) -> Mixture:
    """Three episodes with a camera as video."""
    write_v3(tmp_path / "set", [4, 6, 5], video=True, extra={"success": [True, None, False]})
    return mixture_of(tmp_path / "lake", {"made": ("lerobot_v3", tmp_path / "set")})


def exported(mixture: Mixture, out: Path | str, **options: Any) -> Path:
    report = LeRobotV3Exporter(**options).export(mixture, str(out))
    assert report.episodes == mixture.episodes.num_rows
    assert "LeRobot has no weights" in report.weights
    return Path(out)


def read_back(root: Path | str) -> list[SourceEpisode]:
    reader, source = LeRobotV3(), Source(str(root))
    probe = reader.probe(source)
    assert probe is not None
    assert probe.notes == ()
    episodes = list(reader.read(source, probe, [ref.key for ref in probe.episodes]))
    assert all(isinstance(episode, SourceEpisode) for episode in episodes), episodes
    return episodes  # type: ignore[return-value]


def tree(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def test_real_set_survives_the_round_trip(shared_data: Path, tmp_path: Path) -> None:
    origin = shared_data / "metaworld_tiers" / "lerobot_v3"
    mixture = mixture_of(tmp_path / "lake", {"tiers": ("lerobot_v3", origin)})
    exporter = LeRobotV3Exporter()
    report = exporter.export(mixture, str(tmp_path / "out"))
    assert (report.episodes, report.steps, report.frames) == (180, 30568, {})
    assert report.bytes == sum(map(len, tree(tmp_path / "out").values()))
    assert exporter.verify(mixture, str(tmp_path / "out")) == []
    for before, after in zip(read_back(origin), read_back(tmp_path / "out"), strict=True):
        assert after.steps.equals(before.steps.cast(after.steps.schema))
        assert (after.task, after.success, after.notes) == (before.task, before.success, ())


def test_statistics_are_numpys(shared_data: Path, tmp_path: Path) -> None:
    origin = shared_data / "metaworld_tiers" / "lerobot_v3"
    keys = [f"episode_{i:06d}" for i in range(5)]
    mixture = mixture_of(tmp_path / "lake", {"tiers": ("lerobot_v3", origin)}, keys=keys)
    out = exported(mixture, tmp_path / "out")
    episodes, rows = read_back(out), pq.read_table(out / EPISODES).to_pylist()
    for episode, row in zip(episodes, rows, strict=True):
        action = np.array(episode.steps[ACTION].to_pylist(), np.float64)
        expected = {"min": action.min(0), "max": action.max(0), "mean": action.mean(0), "std": action.std(0)}
        expected |= {f"q{q:02d}": np.quantile(action, q / 100, axis=0) for q in (1, 10, 50, 90, 99)}
        for name, value in expected.items():
            np.testing.assert_allclose(row[f"stats/{ACTION}/{name}"], value, atol=1e-12)
        assert row[f"stats/{ACTION}/count"] == [len(action)]
    whole = np.concatenate([np.array(episode.steps[ACTION].to_pylist(), np.float64) for episode in episodes])
    stats = json.loads((out / "meta" / "stats.json").read_text())[ACTION]
    for name, value in {"min": whole.min(0), "max": whole.max(0), "mean": whole.mean(0), "std": whole.std(0)}.items():
        np.testing.assert_allclose(stats[name], value, atol=1e-9)


def test_layout_is_lerobots_own(shared_data: Path, tmp_path: Path) -> None:
    """Schemas and info keys of our writer against those that lerobot 0.4.4 wrote for the same set."""
    origin = shared_data / "metaworld_tiers" / "lerobot_v3"
    out = exported(
        mixture_of(tmp_path / "lake", {"t": ("lerobot_v3", origin)}, keys=["episode_000000"]), tmp_path / "o"
    )
    ours, theirs = (pq.read_schema(root / DATA) for root in (out, origin))
    assert ours.names == theirs.names
    assert [str(kind).replace("element", "item") for kind in ours.types] == [
        str(kind).replace("element", "item") for kind in theirs.types
    ]
    features = [json.loads(schema.metadata[b"huggingface"])["info"]["features"] for schema in (ours, theirs)]
    assert features[0] == features[1]
    assert set(pq.read_schema(origin / EPISODES).names) <= set(pq.read_schema(out / EPISODES).names)
    infos = [json.loads((root / "meta" / "info.json").read_text()) for root in (out, origin)]
    assert infos[0].keys() == infos[1].keys()
    assert infos[0]["features"] == infos[1]["features"]
    assert pq.read_schema(out / "meta/tasks.parquet").names == pq.read_schema(origin / "meta/tasks.parquet").names


def test_frames_stay_with_their_steps_and_packets_are_copied(made: Mixture, tmp_path: Path) -> None:
    out = exported(made, tmp_path / "out")
    assert LeRobotV3Exporter().verify(made, str(out)) == []
    assert json.loads((out / "meta" / "mixture.json").read_text())["transcoded"] == {}
    number = 0
    for episode in read_back(out):
        video = episode.cameras["top"]
        with FrameReader(out / video.path) as frames:  # type: ignore[union-attr]
            shown = frames.at(video.start_s + episode.steps["timestamp"].to_numpy())  # type: ignore[union-attr]
        for frame in shown:
            assert abs(float(frame.mean()) - float(image(number).mean())) < 4
            number += 1
    stats = json.loads((out / "meta" / "stats.json").read_text())["observation.images.top"]
    assert np.shape(stats["mean"]) == (3, 1, 1)
    brightness = np.array([image(i).mean() / 255 for i in range(15)])
    np.testing.assert_allclose(np.ravel(stats["mean"]), brightness.mean(), atol=0.02)
    np.testing.assert_allclose(np.ravel(stats["std"]), brightness.std(), atol=0.02)
    assert [episode.success for episode in read_back(out)] == [True, None, False]


def test_step_ranges_start_at_zero_and_trace_to_their_source(tmp_path: Path) -> None:
    write_v3(tmp_path / "set", [8, 9], video=True)
    ranges = [("episode_000000", 0, 4, 1.0), ("episode_000001", 3, 8, 2.5), ("episode_000001", 4, 9, 1.0)]
    mixture = mixture_of(tmp_path / "lake", {"made": ("lerobot_v3", tmp_path / "set")}, ranges=ranges)
    out = exported(mixture, tmp_path / "out")
    assert LeRobotV3Exporter().verify(mixture, str(out)) == []
    episodes = read_back(out)
    first = [episode.steps[STATE][0].as_py()[0] for episode in episodes]
    assert first == [0.0, 11.0, 12.0]
    assert all(episode.steps["timestamp"][0].as_py() == 0 for episode in episodes)
    for episode, start in zip(episodes, first, strict=True):
        video = episode.cameras["top"]
        with FrameReader(out / video.path) as frames:  # type: ignore[union-attr]
            shown = frames.at([video.start_s])[0]  # type: ignore[union-attr]
        assert abs(float(shown.mean()) - float(image(int(start)).mean())) < 4
    trace = pq.read_table(out / "meta" / "provenance.parquet").to_pylist()
    keys = ("episode_index", "dataset", "source_key", "start", "stop", "weight", "selection")
    assert [tuple(row[key] for key in keys) for row in trace] == [
        (0, "made", "episode_000000", 0, 4, 1.0, "all"),
        (1, "made", "episode_000001", 3, 8, 2.5, "all"),
        (2, "made", "episode_000001", 4, 9, 1.0, "all"),
    ]
    transcoded = json.loads((out / "meta" / "mixture.json").read_text())["transcoded"]
    assert transcoded == {"observation.images.top": {"1": "it does not start on a keyframe"}}


def test_bytes_are_the_same_from_run_to_run(made: Mixture, tmp_path: Path) -> None:
    assert tree(exported(made, tmp_path / "one")) == tree(exported(made, tmp_path / "two"))


def test_files_are_cut_at_their_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_v2(tmp_path / "set", [40, 41, 42], video=True)
    mixture = mixture_of(tmp_path / "lake", {"made": ("lerobot_v2", tmp_path / "set")})
    monkeypatch.setattr("data_engine.exports.lerobot_data._GROUP_ROWS", 1)
    exporter = LeRobotV3Exporter.model_construct(
        columns="all", data_files_size_in_mb=0, video_files_size_in_mb=0, stats_frames=3
    )
    exporter.export(mixture, str(tmp_path / "out"))
    names = {f"chunk-000/file-00{i}" for i in range(3)}
    assert {f"data/{name}.parquet" for name in names} <= tree(tmp_path / "out").keys()
    assert {f"videos/observation.images.top/{name}.mp4" for name in names} <= tree(tmp_path / "out").keys()
    assert exporter.verify(mixture, str(tmp_path / "out")) == []
    whole = exported(mixture, tmp_path / "whole")
    assert sum(name.endswith(".mp4") for name in tree(whole)) == 1
    assert exporter.verify(mixture, str(whole)) == []


def test_splits_are_contiguous_ranges_of_episodes(tmp_path: Path) -> None:
    write_v3(tmp_path / "set", [3] * 20)
    splits = {"val": 0.3, "train": 0.7}
    mixture = mixture_of(tmp_path / "lake", {"made": ("lerobot_v3", tmp_path / "set")}, splits=splits)
    out = exported(mixture, tmp_path / "out")
    info = json.loads((out / "meta" / "info.json").read_text())
    n = mixture.episodes["split"].to_pylist().count("train")
    assert 0 < n < 20
    assert info["splits"] == {"train": f"0:{n}", "val": f"{n}:20"}
    trace = pq.read_table(out / "meta" / "provenance.parquet")["split"].to_pylist()
    assert trace == ["train"] * n + ["val"] * (20 - n)


def test_original_dtypes_and_shapes_come_back(tmp_path: Path) -> None:
    write_v3(tmp_path / "set", [4, 3], wide=True)
    mixture = mixture_of(tmp_path / "lake", {"made": ("lerobot_v3", tmp_path / "set")})
    out = exported(mixture, tmp_path / "out")
    assert LeRobotV3Exporter().verify(mixture, str(out)) == []
    table = pq.read_table(out / DATA)
    kinds = {name: table.schema.field(name).type for name in ("counter", "half", "keypoints", "next.done")}
    assert kinds["counter"] == pa.uint8()
    assert kinds["half"].value_type == pa.float16()
    assert str(kinds["keypoints"]).startswith("list<")
    assert kinds["next.done"] == pa.bool_()
    assert table["keypoints"].to_pylist()[1] == [[6.0, 7.0], [8.0, 9.0], [10.0, 11.0]]


def test_unlike_datasets_are_refused_by_their_first_difference(tmp_path: Path) -> None:
    write_v3(tmp_path / "plain", [3])
    write_v3(tmp_path / "wide", [3], wide=True)
    sources = {"a": ("lerobot_v3", tmp_path / "plain"), "b": ("lerobot_v3", tmp_path / "wide")}
    mixture = mixture_of(tmp_path / "lake", sources)
    with pytest.raises(RequestError, match="'a' has no column 'keypoints'") as raised:
        LeRobotV3Exporter().export(mixture, str(tmp_path / "out"))
    assert raised.value.fix is not None
    assert not list(tmp_path.glob("*out*"))
    out = exported(mixture, tmp_path / "out", columns="common")
    assert LeRobotV3Exporter(columns="common").verify(mixture, str(out)) == []
    assert json.loads((out / "meta" / "mixture.json").read_text())["left_out"] == ["counter", "half", "keypoints"]
    assert len(read_back(out)) == 2
    two = exported(mixture, tmp_path / "two", columns=(ACTION,))
    assert set(read_back(two)[0].steps.column_names) == {ACTION, "timestamp"}
    with pytest.raises(RequestError, match="no column 'nothing'"):
        LeRobotV3Exporter(columns=("nothing",)).export(mixture, str(tmp_path / "three"))


@pytest.mark.parametrize(("key", "value", "what"), [("robot_type", "panda", "embodiment"), ("fps", 20, "fps")])
def test_other_embodiments_and_rates_are_refused(tmp_path: Path, key: str, value: Any, what: str) -> None:
    write_v3(tmp_path / "one", [3])
    rewrite_info(tmp_path / "two", {**write_v3(tmp_path / "two", [3]), key: value})
    sources = {"a": ("lerobot_v3", tmp_path / "one"), "b": ("lerobot_v3", tmp_path / "two")}
    mixture = mixture_of(tmp_path / "lake", sources)
    with pytest.raises(RequestError, match=f"has {what}"):
        LeRobotV3Exporter().export(mixture, str(tmp_path / "out"))


def test_missing_values_and_times_off_the_grid_are_refused(tmp_path: Path) -> None:
    write_v3(tmp_path / "set", [3, 4])
    mixture = mixture_of(tmp_path / "lake", {"made": ("lerobot_v3", tmp_path / "set")})
    path = tmp_path / "lake" / "steps" / "made.parquet"
    whole = pq.read_table(path)
    reward = [1.0, 2.0, 3.0, 4.0, None, 6.0, 7.0]
    actions = [[1.0, 2.0]] * 5 + [None, [1.0, None]]
    for name, values in (("reward", reward), ("action", actions)):
        at = whole.column_names.index(name)
        write_same_size(path, whole.set_column(at, name, pa.array(values, whole.schema.field(name).type)), mixture)
        with pytest.raises(RequestError, match=f"'{name}' lacks values in episode 'episode_000001' of 'made'"):
            LeRobotV3Exporter().export(mixture, str(tmp_path / "out"))
    times = pa.array([0.0, 0.1, 0.2, 0.0, 0.1, 0.25, 0.3])
    at = whole.column_names.index("timestamp")
    write_same_size(path, whole.set_column(at, "timestamp", times), mixture)
    with pytest.raises(RequestError, match=r"'episode_000001'.*leaves the grid of 10.*by up to 0\.05"):
        LeRobotV3Exporter().export(mixture, str(tmp_path / "out"))
    assert not list(tmp_path.glob("*out*"))
    retimed = LeRobotV3Exporter(uneven_clock="retime")
    retimed.export(mixture, str(tmp_path / "out"))
    assert retimed.verify(mixture, str(tmp_path / "out")) == []
    assert json.loads((tmp_path / "out/meta/mixture.json").read_text())["retimed"] == {"1": 0.05}
    assert read_back(tmp_path / "out")[1].steps["timestamp"].to_pylist() == pytest.approx([0.0, 0.1, 0.2, 0.3])
    assert LeRobotV3Exporter().verify(mixture, str(tmp_path / "out")) != []
    lost = pa.array([0.0, 0.1, 0.2, 0.0, 0.1, float("nan"), 0.3])
    write_same_size(path, whole.set_column(at, "timestamp", lost), mixture)
    with pytest.raises(RequestError, match="leaves the grid"):
        retimed.export(mixture, str(tmp_path / "other"))


def test_a_camera_keeps_its_clock(tmp_path: Path) -> None:
    write_v3(tmp_path / "set", [3, 4], video=True)
    mixture = mixture_of(tmp_path / "lake", {"made": ("lerobot_v3", tmp_path / "set")})
    path = tmp_path / "lake" / "steps" / "made.parquet"
    whole = pq.read_table(path)
    times = pa.array([0.0, 0.1, 0.2, 0.0, 0.1, 0.25, 0.3])
    write_same_size(path, whole.set_column(whole.column_names.index("timestamp"), "timestamp", times), mixture)
    with pytest.raises(RequestError, match="without cameras"):
        LeRobotV3Exporter(uneven_clock="retime").export(mixture, str(tmp_path / "out"))


def write_same_size(path: Path, table: pa.Table, mixture: Mixture) -> None:
    """Put ``table`` where a frozen file was, as far as an opened mixture can tell."""
    pq.write_table(table, path)
    size = path.stat().st_size
    mixture._files = {
        name: (size if name.startswith("steps/") else bytes_, sha256)
        for name, (bytes_, sha256) in mixture._files.items()
    }
    mixture._reset()


def test_a_missing_camera_is_refused(tmp_path: Path) -> None:
    write_v2(tmp_path / "set", [3, 3], video=True)
    mixture = mixture_of(tmp_path / "lake", {"made": ("lerobot_v2", tmp_path / "set")})
    videos = mixture.episodes["videos"].to_pylist()
    at = mixture.episodes.column_names.index("videos")
    kind = mixture.episodes.schema.field("videos").type
    mixture.episodes = mixture.episodes.set_column(at, "videos", pa.array([videos[0], []], kind))
    with pytest.raises(RequestError, match="has no camera 'top'"):
        LeRobotV3Exporter().export(mixture, str(tmp_path / "out"))
    exported(mixture, tmp_path / "out", columns=(STATE, ACTION))


def test_verify_names_what_was_changed(made: Mixture, tmp_path: Path) -> None:
    out = exported(made, tmp_path / "out")
    exporter = LeRobotV3Exporter()
    table = pq.read_table(out / DATA)
    flipped = np.array(table[ACTION].to_pylist(), np.float32)
    flipped[5, 1] += 1e-3
    at = table.column_names.index(ACTION)
    column = pa.FixedSizeListArray.from_arrays(pa.array(flipped.reshape(-1)), 2)
    pq.write_table(table.set_column(at, table.schema.field(ACTION), column), out / DATA)
    (line,) = exporter.verify(made, str(out))
    assert "episode_000001" in line
    assert "'action' differs" in line
    pq.write_table(table.slice(0, 14), out / DATA)
    assert any("14" in line or "4 steps" in line for line in exporter.verify(made, str(out)))
    pq.write_table(table, out / DATA)
    assert exporter.verify(made, str(out)) == []
    trace = out / "meta" / "provenance.parquet"
    rows = pq.read_table(trace)
    pq.write_table(rows.slice(1), trace)
    assert any("provenance" in line for line in exporter.verify(made, str(out)))
    assert exporter.verify(made, str(tmp_path / "nowhere")) != []


def test_export_and_verify_on_an_object_store(made: Mixture, s3: str) -> None:
    exporter = LeRobotV3Exporter()
    uri = f"{s3}/exports/one"
    report = exporter.export(made, uri)
    assert (report.episodes, report.steps, report.frames) == (3, 15, {"top": 15})
    assert exporter.verify(made, uri) == []
    assert exporter.export(made, uri) == report
    with pytest.raises(RequestError, match="not empty"):
        LeRobotV3Exporter(stats_frames=2).export(made, uri)


def test_an_occupied_place_is_refused_and_left_alone(made: Mixture, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    exported(made, tmp_path / "out")
    before = tree(tmp_path / "out")
    changed = (tmp_path / "out" / DATA).stat().st_mtime_ns
    exported(made, tmp_path / "out")  # the same again: nothing is done
    assert (tmp_path / "out" / DATA).stat().st_mtime_ns == changed
    with pytest.raises(RequestError, match="not empty"):
        exported(made, tmp_path / "out", stats_frames=3)
    assert tree(tmp_path / "out") == before


def test_exports_run_beside_each_other(made: Mixture, tmp_path: Path) -> None:
    threads = [threading.Thread(target=exported, args=(made, tmp_path / f"out{i}")) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert tree(tmp_path / "out0") == tree(tmp_path / "out1")


def test_fps_of_the_set_is_whole_where_it_is(made: Mixture, tmp_path: Path) -> None:
    info = json.loads((exported(made, tmp_path / "out") / "meta" / "info.json").read_text())
    assert (info["fps"], type(info["fps"])) == (FPS, int)
    assert info["features"]["observation.images.top"]["info"]["video.codec"] == "av1"
    assert info["features"]["observation.images.top"]["shape"] == [64, 80, 3]


def test_two_formats_of_one_robot_become_one_set(shared_data: Path, tmp_path: Path) -> None:
    tiers = shared_data / "metaworld_tiers"
    sources = {"a": ("lerobot_v3", tiers / "lerobot_v3"), "b": ("robomimic", tiers / "robomimic.hdf5")}
    keys = ["episode_000000", "demo_0"]
    mixture = mixture_of(tmp_path / "lake", sources, keys=keys, options={"embodiment": "sawyer"})
    exporter = LeRobotV3Exporter(columns="common")
    exporter.export(mixture, str(tmp_path / "out"))
    assert exporter.verify(mixture, str(tmp_path / "out")) == []
    one, two = read_back(tmp_path / "out")
    assert one.steps[ACTION].equals(two.steps[ACTION])
    names = json.loads((tmp_path / "out" / "meta" / "info.json").read_text())["features"][ACTION]["names"]
    assert names == ["dx", "dy", "dz", "gripper"]
