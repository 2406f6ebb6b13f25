from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_engine.errors import RequestError
from data_engine.exports.rlds import RLDSExporter
from data_engine.formats import Source, SourceEpisode, detect
from data_engine.formats.rlds import RLDS
from data_engine.video import FrameReader
from tests.data_engine.formats.lerobot_sets import write_v3
from tests.mixtures import mixture_of


def read(folder: Path) -> tuple[Any, list[SourceEpisode]]:
    form, source = RLDS(), Source(str(folder))
    probe = form.probe(source)
    assert probe is not None
    episodes = list(form.read(source, probe, [ref.key for ref in probe.episodes]))
    assert all(isinstance(episode, SourceEpisode) for episode in episodes), episodes
    return probe, episodes  # type: ignore[return-value]


def test_the_real_set_comes_back_through_our_reader(shared_data: Path, tmp_path: Path) -> None:
    origin = shared_data / "bridge_rlds" / "1.0.0"
    keys = [f"train/00000/{i:06d}" for i in (0, 7)]
    mixture = mixture_of(tmp_path / "lake", {"bridge": ("rlds", origin)}, keys=keys)
    exporter = RLDSExporter(images="png")
    report = exporter.export(mixture, str(tmp_path / "out"))
    assert exporter.verify(mixture, str(tmp_path / "out")) == []
    assert report.frames == {f"image_{i}": 20 for i in range(4)}
    probe, episodes = read(tmp_path / "out" / "bridge")
    assert probe.notes == ("fps is not stated: 5, the published rate of bridge, is taken; option fps wins",)
    form, source = RLDS(), Source(str(origin))
    first = form.probe(source)
    assert first is not None
    rows = {row["source_key"]: row for row in mixture.episodes.to_pylist()}
    for before, after in zip(form.read(source, first, keys), episodes, strict=True):
        assert isinstance(before, SourceEpisode)
        for name in before.steps.column_names:
            if name not in ("timestamp", "truncated"):
                assert after.steps[name].to_pylist() == before.steps[name].to_pylist(), name
        assert after.task == before.task
        assert after.attributes["source_key"] == before.key
        for video in rows[before.key]["videos"]:
            with FrameReader(mixture.local(video["blob"])) as frames:
                expected = frames.at(video["start_s"] + np.array(before.steps["timestamp"]))
            np.testing.assert_array_equal(np.stack(list(after.cameras[video["camera"]].frames())), expected)


def test_a_set_for_each_rate_and_split(tmp_path: Path) -> None:
    write_v3(tmp_path / "set", [4, 6, 5, 3])
    ranges = [(f"episode_{i:06d}", 0, None, weight) for i, weight in enumerate((1.0, 3.0, 1.0, 1.0))]
    mixture = mixture_of(
        tmp_path / "lake", {"Arm-1": ("lerobot_v3", tmp_path / "set")}, ranges=ranges, weight_kind="repeat",
        unit="episode",
    )  # fmt: skip
    exporter = RLDSExporter(shard_mb=1)
    report = exporter.export(mixture, str(tmp_path / "out"))
    assert exporter.verify(mixture, str(tmp_path / "out")) == []
    told = json.loads((tmp_path / "out" / "oxe_mixtures.json").read_text())["train"]
    assert told["balanced"] == [["arm_1", 3.0], ["arm_1__w1", 1.0]]
    assert dict(told["unbalanced"]) == pytest.approx({"arm_1": 18 / 30, "arm_1__w1": 12 / 30})
    assert [len(read(tmp_path / "out" / name)[1]) for name in ("arm_1", "arm_1__w1")] == [1, 3]
    assert any("last 5 %" in note for note in report.notes)


def test_splits_are_the_sets_own(tmp_path: Path) -> None:
    write_v3(tmp_path / "set", [3] * 12)
    splits = {"train": 0.6, "val": 0.4}
    mixture = mixture_of(tmp_path / "lake", {"made": ("lerobot_v3", tmp_path / "set")}, splits=splits)
    exporter = RLDSExporter()
    report = exporter.export(mixture, str(tmp_path / "out"))
    assert exporter.verify(mixture, str(tmp_path / "out")) == []
    _, episodes = read(tmp_path / "out" / "made")
    wanted = sorted((row["split"], row["source_key"]) for row in mixture.episodes.to_pylist())
    assert sorted((episode.labels[0], episode.attributes["source_key"]) for episode in episodes) == wanted
    assert not any("last 5 %" in note for note in report.notes)


@pytest.mark.parametrize("images", ["jpeg", "png"])
def test_dtypes_ranges_and_frames(tmp_path: Path, images: str) -> None:
    write_v3(tmp_path / "set", [5, 4], wide=True, video=True)
    ranges = [("episode_000000", 1, 4, 1.0), ("episode_000001", 0, 4, 1.0)]
    mixture = mixture_of(tmp_path / "lake", {"made": ("lerobot_v3", tmp_path / "set")}, ranges=ranges)
    exporter = RLDSExporter(images=images)
    report = exporter.export(mixture, str(tmp_path / "out"))
    assert exporter.verify(mixture, str(tmp_path / "out")) == []
    assert any(("JPEG of quality 95" if images == "jpeg" else "PNG") in note for note in report.notes)
    probe, episodes = read(tmp_path / "out" / "made")
    kinds = {feature.name: (feature.dtype, feature.shape) for feature in probe.features}
    assert kinds["counter"] == ("uint8", ())
    assert kinds["half"] == ("float16", (2,))
    assert kinds["keypoints"] == ("float32", (3, 2))
    assert kinds["terminated"] == ("bool", ())
    assert kinds["observation.images.top"] == ("image", (64, 80, 3))
    assert episodes[0].steps["counter"].to_pylist() == [1, 2, 3]
    assert episodes[0].attributes["file_path"] == "episode_000000[1:4]"


def test_float64_is_kept_exactly_or_said_to_be_narrowed(tmp_path: Path, toy: Any) -> None:
    mixture = toy({"one": [3]}).mixture(tmp_path / "cache")
    for doubles, dtype in (("bytes", "float64"), ("float32", "float32")):
        exporter = RLDSExporter(doubles=doubles)
        report = exporter.export(mixture, str(tmp_path / doubles))
        assert exporter.verify(mixture, str(tmp_path / doubles)) == []
        probe, _ = read(tmp_path / doubles / "one")
        assert {f.name: f.dtype for f in probe.features}["action"] == dtype
        assert any("float64 columns timestamp, action" in note for note in report.notes)


@pytest.mark.parametrize("damage", ["record", "list", "lost"])
def test_damage_is_found(tmp_path: Path, damage: str) -> None:
    write_v3(tmp_path / "set", [4, 3])
    mixture = mixture_of(tmp_path / "lake", {"made": ("lerobot_v3", tmp_path / "set")})
    exporter = RLDSExporter()
    exporter.export(mixture, str(tmp_path / "out"))
    (path,) = (tmp_path / "out").rglob("*.tfrecord*")
    if damage == "record":
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    elif damage == "list":
        (tmp_path / "out" / "oxe_mixtures.json").write_text("{}")
    else:
        path.unlink()
    assert exporter.verify(mixture, str(tmp_path / "out"))


def test_a_column_that_has_a_name_of_rlds_is_refused(tmp_path: Path, toy: Any) -> None:
    made = toy({"one": [3]})
    feature = made.datasets["one"].features[-1].model_copy(update={"name": "is_first"})
    made.datasets["one"] = made.datasets["one"].model_copy(
        update={"features": (*made.datasets["one"].features, feature)}
    )
    with pytest.raises(RequestError, match="cannot be RLDS' 'is_first'"):
        RLDSExporter().export(made.mixture(tmp_path / "cache"), str(tmp_path / "out"))


def test_the_export_is_a_source_again(tmp_path: Path) -> None:
    write_v3(tmp_path / "set", [4, 3], video=True)
    mixture = mixture_of(tmp_path / "lake", {"made": ("lerobot_v3", tmp_path / "set")})
    RLDSExporter().export(mixture, str(tmp_path / "out"))
    form, probe = detect(Source(str(tmp_path / "out" / "made")))
    assert (form.name, len(probe.episodes)) == ("rlds", 2)
