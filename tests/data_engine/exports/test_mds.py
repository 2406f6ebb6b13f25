from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_engine.errors import RequestError
from data_engine.exports.mds import MDSExporter
from tests.data_engine.formats.lerobot_sets import write_v3
from tests.mixtures import mixture_of


def test_the_real_set_verifies(shared_data: Path, tmp_path: Path) -> None:
    origin = shared_data / "metaworld_tiers" / "lerobot_v3"
    keys = [f"episode_{i:06d}" for i in (5, 151)]
    mixture = mixture_of(tmp_path / "lake", {"tiers": ("lerobot_v3", origin)}, keys=keys)
    exporter = MDSExporter()
    report = exporter.export(mixture, str(tmp_path / "out"))
    assert exporter.verify(mixture, str(tmp_path / "out")) == []
    index = json.loads((tmp_path / "out" / "tiers" / "train" / "index.json").read_text())
    assert sum(shard["samples"] for shard in index["shards"]) == report.steps


@pytest.mark.parametrize("kind", ["probability", "repeat", "choose"])
def test_each_kind_of_weight_has_its_own_argument(tmp_path: Path, kind: str) -> None:
    write_v3(tmp_path / "set", [4, 4, 4])
    ranges = [(f"episode_{i:06d}", 0, None, weight) for i, weight in enumerate((1.0, 3.0, 1.0))]
    mixture = mixture_of(
        tmp_path / "lake", {"made": ("lerobot_v3", tmp_path / "set")}, ranges=ranges, weight_kind=kind, unit="episode"
    )
    report = MDSExporter().export(mixture, str(tmp_path / "out"))
    told = json.loads((tmp_path / "out" / "streams.json").read_text())["train"]
    key = {"probability": "proportion"}.get(kind, kind)
    expected = {"probability": [0.6, 0.4], "repeat": [3.0, 1.0], "choose": [2, 2]}[kind]
    assert [stream["local"] for stream in told["streams"]] == ["made/train", "made__w1/train"]
    assert [stream[key] for stream in told["streams"]] == pytest.approx(expected)
    assert told.get("epoch_size") == (12 if kind == "probability" else None)
    assert key in report.weights


def test_shards_end_at_their_size(tmp_path: Path) -> None:
    write_v3(tmp_path / "set", [40, 30], wide=True)
    mixture = mixture_of(tmp_path / "lake", {"made": ("lerobot_v3", tmp_path / "set")})
    small = MDSExporter.model_construct(columns="all", images="png", quality=95, shard_mb=0)
    small.export(mixture, str(tmp_path / "small"))
    assert len(list((tmp_path / "small").rglob("*.mds"))) == 70
    assert small.verify(mixture, str(tmp_path / "small")) == []


@pytest.mark.parametrize("damage", ["value", "lost", "streams"])
def test_damage_is_found(tmp_path: Path, damage: str) -> None:
    write_v3(tmp_path / "set", [4, 3])
    mixture = mixture_of(tmp_path / "lake", {"made": ("lerobot_v3", tmp_path / "set")})
    exporter = MDSExporter()
    exporter.export(mixture, str(tmp_path / "out"))
    (path,) = (tmp_path / "out").rglob("*.mds")
    if damage == "value":
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
    elif damage == "lost":
        path.write_bytes(path.read_bytes()[:-7])
    else:
        (tmp_path / "out" / "streams.json").write_text("{}")
    assert exporter.verify(mixture, str(tmp_path / "out"))


def test_names_that_are_added_are_refused(tmp_path: Path, toy: Any) -> None:
    made = toy({"one": [3]})
    feature = made.datasets["one"].features[-1].model_copy(update={"name": "task"})
    features = (*made.datasets["one"].features, feature)
    made.datasets["one"] = made.datasets["one"].model_copy(update={"features": features})
    with pytest.raises(RequestError, match="'task' has the name of one that is added"):
        MDSExporter().export(made.mixture(tmp_path / "cache"), str(tmp_path / "out"))


def test_numbers_are_little_endian_and_flags_are_named(tmp_path: Path) -> None:
    write_v3(tmp_path / "set", [3])
    mixture = mixture_of(tmp_path / "lake", {"made": ("lerobot_v3", tmp_path / "set")})
    report = MDSExporter(columns=("action", "terminated")).export(mixture, str(tmp_path / "out"))
    assert report.notes[0] == "made: terminated are uint8, as MDS knows no bool"
    (path,) = (tmp_path / "out").rglob("*.mds")
    data = path.read_bytes()
    offsets = np.frombuffer(data, "<u4", 4, 4)
    assert offsets[-1] == len(data)
    first = data[offsets[0] + 4 :]  # the size of the task comes first
    np.testing.assert_array_equal(np.frombuffer(first, "<f4", 2), np.array(mixture.steps(0)["action"][0].as_py()))
