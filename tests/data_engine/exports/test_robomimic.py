from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from data_engine.errors import RequestError
from data_engine.exports.robomimic import RobomimicExporter
from data_engine.formats import Source, SourceEpisode
from data_engine.formats.robomimic import Robomimic
from tests.data_engine.formats.lerobot_sets import write_v3
from tests.mixtures import mixture_of


def test_the_real_set_comes_back_through_our_reader(shared_data: Path, tmp_path: Path) -> None:
    keys = [f"demo_{i}" for i in (0, 7, 100)]
    source = shared_data / "metaworld_tiers" / "robomimic"
    origin = next(iter(sorted(shared_data.glob("metaworld_tiers/**/*.hdf5"))), source)
    mixture = mixture_of(tmp_path / "lake", {"tiers": ("robomimic", origin)}, keys=keys)
    exporter = RobomimicExporter()
    report = exporter.export(mixture, str(tmp_path / "out"))
    assert report.episodes == 3
    assert exporter.verify(mixture, str(tmp_path / "out")) == []
    reader = Robomimic(state_keys=("state",))
    there = Source(str(tmp_path / "out" / "demos.hdf5"))
    probe = reader.probe(there)
    assert probe is not None
    assert probe.fps == mixture.datasets["tiers"].fps
    before = {}
    form = Robomimic()
    first = form.probe(Source(str(origin)))
    assert first is not None
    for episode in form.read(Source(str(origin)), first, keys):
        assert isinstance(episode, SourceEpisode)
        before[episode.key] = episode
    for episode in reader.read(there, probe, [ref.key for ref in probe.episodes]):
        assert isinstance(episode, SourceEpisode)
        assert "train" in episode.labels
        old = before[episode.attributes["source_key"]]
        for name in ("observation.state", "action", "reward"):
            assert episode.steps[name].to_pylist() == old.steps[name].to_pylist()


def test_masks_and_weights_are_those_of_the_mixture(tmp_path: Path) -> None:
    write_v3(tmp_path / "set", [3] * 20)
    ranges = [(f"episode_{i:06d}", 0, None, 1.0 + 2 * (i % 2)) for i in range(20)]
    splits = {"val": 0.3, "train": 0.7}
    mixture = mixture_of(
        tmp_path / "lake",
        {"made": ("lerobot_v3", tmp_path / "set")},
        ranges=ranges,
        splits=splits,
        weight_kind="repeat",
        unit="episode",
    )
    RobomimicExporter().export(mixture, str(tmp_path / "out"))
    told = json.loads((tmp_path / "out" / "train.json").read_text())["train"]
    assert told["normalize_weights_by_ds_size"] is False
    assert [(item["filter_key"], item["weight"]) for item in told["data"]] == [
        ("train__made", 3.0),
        ("train__made__w1", 1.0),
    ]
    rows = mixture.episodes.to_pylist()
    with h5py.File(tmp_path / "out" / "demos.hdf5") as file:
        masks = {key: {name.decode() for name in file["mask"][key][()]} for key in file["mask"]}
        assert len(masks["train"]) == sum(row["split"] == "train" for row in rows)
        assert masks["train"] == masks["train__made"] | masks["train__made__w1"]
        assert not masks["train"] & masks["valid"]
        weights = {name: file["data"][name].attrs["weight"] for name in file["data"]}
    assert all(weights[name] == 3.0 for name in masks["train__made"])
    assert all(weights[name] == 1.0 for name in masks["train__made__w1"])


def test_original_dtypes_frames_and_time_are_there(tmp_path: Path) -> None:
    write_v3(tmp_path / "set", [4, 3], wide=True, video=True)
    mixture = mixture_of(tmp_path / "lake", {"made": ("lerobot_v3", tmp_path / "set")})
    report = RobomimicExporter().export(mixture, str(tmp_path / "out"))
    assert report.frames == {"top": 7}
    with h5py.File(tmp_path / "out" / "demos.hdf5") as file:
        demo = file["data/demo_1"]
        kinds = {name: (demo[name].dtype, demo[name].shape) for name in ("counter", "half", "keypoints", "dones")}
        assert kinds == {
            "counter": (np.uint8, (3,)),
            "half": (np.float16, (3, 2)),
            "keypoints": (np.float32, (3, 3, 2)),
            "dones": (np.bool_, (3,)),
        }
        np.testing.assert_allclose(demo["timestamp"][()], [0, 0.1, 0.2], atol=1e-6)
        assert demo["obs/top"].shape == (3, 64, 80, 3)
        assert file["data"].attrs["total"] == 7


@pytest.mark.parametrize("damage", ["value", "frame", "mask", "weight", "demonstration"])
def test_damage_is_found(tmp_path: Path, damage: str) -> None:
    write_v3(tmp_path / "set", [4, 3], video=True)
    mixture = mixture_of(tmp_path / "lake", {"made": ("lerobot_v3", tmp_path / "set")})
    exporter = RobomimicExporter()
    exporter.export(mixture, str(tmp_path / "out"))
    with h5py.File(tmp_path / "out" / "demos.hdf5", "r+") as file:
        if damage == "value":
            file["data/demo_1/actions"][2, 1] += 1
        elif damage == "frame":
            file["data/demo_0/obs/top"][3, 5, 5, 0] ^= 1
        elif damage == "mask":
            file["mask/train"][0] = b"demo_7"
        elif damage == "weight":
            file["data/demo_0"].attrs["weight"] = 7.0
        else:
            del file["data/demo_1"]
    assert exporter.verify(mixture, str(tmp_path / "out"))


def test_names_that_collide_are_refused(tmp_path: Path, toy: Any) -> None:
    made = toy({"one": [3]})
    dataset = made.datasets["one"]
    renamed = tuple(
        feature.model_copy(update={"name": "rewards"}) if feature.name == "reward" else feature
        for feature in dataset.features
    )
    both = dataset.model_copy(update={"features": (*dataset.features, renamed[-1])})
    made.datasets["one"] = both
    with pytest.raises(RequestError, match="cannot be robomimic's 'rewards'"):
        RobomimicExporter().export(made.mixture(tmp_path / "cache"), str(tmp_path / "out"))
