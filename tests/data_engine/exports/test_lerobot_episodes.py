from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from data_engine.exports.lerobot_episodes import LeRobotEpisodesExporter
from tests.data_engine.formats.lerobot_sets import write_v2, write_v3
from tests.mixtures import mixture_of


def test_lists_and_weights_of_the_real_set(shared_data: Path, tmp_path: Path) -> None:
    origin = shared_data / "metaworld_tiers" / "lerobot_v3"
    keys = [f"episode_{i:06d}" for i in (5, 70, 151)]
    mixture = mixture_of(tmp_path / "lake", {"tiers": ("lerobot_v3", origin)}, keys=keys)
    exporter = LeRobotEpisodesExporter(sources={"tiers": str(origin)})
    report = exporter.export(mixture, str(tmp_path / "out"))
    assert exporter.verify(mixture, str(tmp_path / "out")) == []
    told = json.loads((tmp_path / "out" / "episodes.json").read_text())["train"]["tiers"]
    assert told == {"root": str(origin), "episodes": [5, 70, 151], "frames": report.steps, "ranges": {}}
    table = pq.read_table(tmp_path / "out" / "weights/train/tiers.parquet")
    source = pq.read_table(origin / "data", columns=["index", "episode_index"])
    wanted = np.isin(source["episode_index"], [5, 70, 151])
    np.testing.assert_array_equal(np.sort(np.array(source["index"])[wanted]), table["index"])
    np.testing.assert_allclose(table["weight"], 1.0)


@pytest.mark.parametrize("version", ["lerobot_v2", "lerobot_v3"])
def test_ranges_splits_and_weights(tmp_path: Path, version: str) -> None:
    (write_v2 if version == "lerobot_v2" else write_v3)(tmp_path / "set", [4, 6, 5])
    ranges = [("episode_000001", 2, 5, 1.0), ("episode_000001", 4, 6, 2.0), ("episode_000002", 0, 5, 3.0)]
    sources = {"made": (version, tmp_path / "set")}
    mixture = mixture_of(tmp_path / "lake", sources, ranges=ranges, weight_kind="repeat", unit="episode")
    exporter = LeRobotEpisodesExporter(sources={"made": str(tmp_path / "set")})
    report = exporter.export(mixture, str(tmp_path / "out"))
    assert exporter.verify(mixture, str(tmp_path / "out")) == []
    assert report.notes == ("1 episodes are taken in part: episodes.json names them whole, the weights do not",)
    told = json.loads((tmp_path / "out" / "episodes.json").read_text())["train"]["made"]
    assert (told["episodes"], told["frames"], told["ranges"]) == ([1, 2], 9, {"1": [[2, 6]]})
    table = pq.read_table(tmp_path / "out" / "weights/train/made.parquet").to_pydict()
    assert table == {"index": [6, 7, 8, 9, *range(10, 15)], "weight": [1, 1, 3, 2, *[3] * 5]}


def test_a_changed_weight_is_found(tmp_path: Path) -> None:
    write_v3(tmp_path / "set", [4, 6])
    mixture = mixture_of(tmp_path / "lake", {"made": ("lerobot_v3", tmp_path / "set")})
    exporter = LeRobotEpisodesExporter(sources={"made": str(tmp_path / "set")})
    exporter.export(mixture, str(tmp_path / "out"))
    path = tmp_path / "out" / "weights/train/made.parquet"
    pq.write_table(pq.read_table(path).slice(0, 9), path)
    assert exporter.verify(mixture, str(tmp_path / "out")) == ["weights/train/made.parquet is not the mixture's"]
