from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import yaml

from data_engine.errors import RequestError
from data_engine.exports.rows import export_order
from data_engine.exports.webdataset import WebDatasetExporter
from data_engine.formats import Source, SourceEpisode, detect
from data_engine.video import FrameReader
from tests.data_engine.formats.lerobot_sets import image, write_v3
from tests.mixtures import mixture_of


def members(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as tar:
        return {entry.name: tar.extractfile(entry).read() for entry in tar}  # type: ignore[union-attr]


def test_the_real_video_is_copied_and_served_by_our_reader(shared_data: Path, tmp_path: Path) -> None:
    origin = shared_data / "g1_lerobot_v21"
    ranges = [("episode_000000", 0, 40, 1.0), ("episode_000003", 51, 71, 1.0)]
    mixture = mixture_of(tmp_path / "lake", {"g1": ("lerobot_v2", origin)}, ranges=ranges)
    exporter = WebDatasetExporter()
    report = exporter.export(mixture, str(tmp_path / "out"))
    assert exporter.verify(mixture, str(tmp_path / "out")) == []
    assert set(report.frames.values()) == {60}
    held = members(tmp_path / "out" / "g1" / "train-000000.tar")
    told = [json.loads(held[f"00000000{i}.json"]) for i in range(2)]
    assert [(item["start"], item["stop"]) for item in told] == [(0, 40), (51, 71)]
    assert all(video["copied"] for video in told[0]["videos"].values())
    assert not any(video["copied"] for video in told[1]["videos"].values())  # 51 is no keyframe of these files (g=2)
    source = Source(str(tmp_path / "out" / "g1"))
    proposal = detect(source)[1].proposal
    form, probe = detect(source, "webdataset", proposal)
    episodes = list(form.read(source, probe, [ref.key for ref in probe.episodes]))
    for episode, i in zip(episodes, export_order(mixture), strict=True):
        assert isinstance(episode, SourceEpisode), episode
        mine = mixture.steps(i)
        assert episode.steps["action"].to_pylist() == mine["action"].to_pylist()


def test_frames_stay_with_their_steps(tmp_path: Path) -> None:
    write_v3(tmp_path / "set", [8, 9], video=True)
    ranges = [("episode_000000", 0, 4, 1.0), ("episode_000001", 3, 8, 2.5)]
    mixture = mixture_of(tmp_path / "lake", {"made": ("lerobot_v3", tmp_path / "set")}, ranges=ranges)
    WebDatasetExporter().export(mixture, str(tmp_path / "out"))
    numbers = {"000000000": range(4), "000000001": range(11, 16)}
    for path in (tmp_path / "out").rglob("*.tar"):
        held = members(path)
        for key in {name.split(".")[0] for name in held}:
            (tmp_path / "film.mp4").write_bytes(held[f"{key}.top.mp4"])
            start = json.loads(held[f"{key}.json"])["videos"]["top"]["start_s"]
            times = np.load(io.BytesIO(held[f"{key}.timestamp.npy"]))
            assert times[0] == 0
            with FrameReader(tmp_path / "film.mp4") as frames:
                shown = frames.at(start + times)
            for frame, number in zip(shown, numbers[key], strict=True):
                assert abs(float(frame.mean()) - float(image(number).mean())) < 4


@pytest.mark.parametrize(("kind", "blend", "weights"), [
    ("repeat", "blend_epochized", [{"repetitions": 3.0}, {"repetitions": 1.0}]),
    ("probability", "blend", [{"weight": 3.0}, {"weight": 2.0}]),
])  # fmt: skip
def test_energon_gets_the_mixtures_weights(tmp_path: Path, kind: str, blend: str, weights: list) -> None:
    write_v3(tmp_path / "set", [4, 4, 4])
    ranges = [(f"episode_{i:06d}", 0, None, weight) for i, weight in enumerate((1.0, 3.0, 1.0))]
    mixture = mixture_of(
        tmp_path / "lake", {"made": ("lerobot_v3", tmp_path / "set")}, ranges=ranges, weight_kind=kind, unit="episode"
    )
    WebDatasetExporter().export(mixture, str(tmp_path / "out"))
    told = yaml.safe_load((tmp_path / "out" / "metadataset.yaml").read_text())["splits"]["train"][blend]
    assert [item["path"] for item in told] == ["./made", "./made__w1"]
    for item, weight in zip(told, weights, strict=True):
        ((key, value),) = weight.items()
        share = 1 if kind == "repeat" else sum(item["weight"] for item in told) / 5
        assert item[key] / share == pytest.approx(value)
    split = yaml.safe_load((tmp_path / "out" / "made__w1" / ".nv-meta" / "split.yaml").read_text())
    assert split["split_parts"] == {"train": ["train-000000.tar"]}


@pytest.mark.parametrize("damage", ["value", "film", "lost", "blend"])
def test_damage_is_found(tmp_path: Path, damage: str) -> None:
    write_v3(tmp_path / "set", [6, 6], video=True)
    mixture = mixture_of(tmp_path / "lake", {"made": ("lerobot_v3", tmp_path / "set")})
    exporter = WebDatasetExporter()
    exporter.export(mixture, str(tmp_path / "out"))
    path = tmp_path / "out" / "made" / "train-000000.tar"
    held = members(path)
    if damage == "blend":
        (tmp_path / "out" / "metadataset.yaml").write_text("splits: {}")
    elif damage == "lost":
        held = {name: data for name, data in held.items() if name.startswith("000000000")}
    elif damage == "film":
        held["000000000.top.mp4"] = held["000000001.top.mp4"]
    else:
        held["000000001.action.npy"] = held["000000000.action.npy"]
    with tarfile.open(path, "w") as tar:
        for name, data in held.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    assert exporter.verify(mixture, str(tmp_path / "out"))


def test_shards_end_at_their_size(tmp_path: Path) -> None:
    write_v3(tmp_path / "set", [4, 5, 6])
    mixture = mixture_of(tmp_path / "lake", {"made": ("lerobot_v3", tmp_path / "set")})
    exporter = WebDatasetExporter.model_construct(columns="all", shard_mb=0)
    exporter.export(mixture, str(tmp_path / "out"))
    assert sorted(path.name for path in (tmp_path / "out").rglob("*.tar")) == [f"train-{i:06d}.tar" for i in range(3)]
    assert exporter.verify(mixture, str(tmp_path / "out")) == []


def test_an_unknown_column_is_refused(tmp_path: Path) -> None:
    write_v3(tmp_path / "set", [4])
    mixture = mixture_of(tmp_path / "lake", {"made": ("lerobot_v3", tmp_path / "set")})
    with pytest.raises(RequestError, match="has no column 'speed'"):
        WebDatasetExporter(columns=("speed",)).export(mixture, str(tmp_path / "out"))
