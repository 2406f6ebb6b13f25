from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import minari
import numpy as np
import pytest

from data_engine.errors import RequestError
from data_engine.exports.minari import MinariExporter
from data_engine.exports.rows import export_order
from data_engine.mixture import Mixture
from tests.data_engine.exports.holes import with_holes
from tests.data_engine.formats.lerobot_sets import write_v3
from tests.mixtures import mixture_of


@pytest.fixture
def opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Exports a mixture and opens a dataset of it with Minari itself."""

    def do(mixture: Mixture, name: str, **options: Any) -> minari.MinariDataset:
        exporter = MinariExporter(**options)
        exporter.export(mixture, str(tmp_path / "out"))
        assert exporter.verify(mixture, str(tmp_path / "out")) == []
        monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "out"))
        return minari.load_dataset(name)

    return do


def test_minari_serves_the_real_set(shared_data: Path, tmp_path: Path, opened: Any) -> None:
    origin = shared_data / "metaworld_tiers" / "lerobot_v3"
    keys = [f"episode_{i:06d}" for i in (5, 151)]
    mixture = mixture_of(tmp_path / "lake", {"tiers": ("lerobot_v3", origin)}, keys=keys)
    held = opened(mixture, "tiers/train-v0")
    assert (held.total_episodes, held.total_steps) == (2, int(mixture.rows["row_count"].sum()))
    for i, episode in zip(export_order(mixture), held.iterate_episodes(), strict=True):
        steps = mixture.steps(i)
        assert episode.actions.tolist() == steps["action"].to_pylist()
        assert episode.rewards.tolist() == steps["reward"].to_pylist()
        assert episode.observations["state"][:-1].tolist() == steps["observation.state"].to_pylist()
        np.testing.assert_array_equal(episode.observations["state"][-1], episode.observations["state"][-2])
        assert episode.terminations[-1] or episode.truncations[-1]


def test_minari_serves_dtypes_and_frames(tmp_path: Path, opened: Any) -> None:
    write_v3(tmp_path / "set", [4, 3], wide=True, video=True, extra={"success": [True, False]})
    mixture = mixture_of(tmp_path / "lake", {"made": ("lerobot_v3", tmp_path / "set")})
    held = opened(mixture, "made/train-v0")
    episode = held[1]
    assert episode.observations["top"].shape == (4, 64, 80, 3)
    assert held.observation_space["top"].dtype == np.uint8
    assert episode.infos["counter"].dtype == np.uint8
    assert episode.infos["keypoints"].shape == (3, 3, 2)
    assert [bool(item["success"]) for item in held.storage.get_episode_metadata([0, 1])] == [True, False]


def test_splits_and_embodiments_are_datasets_of_their_own(tmp_path: Path, toy: Any, opened: Any) -> None:
    mixture = toy({"one": [3] * 8, "two": [4] * 8}, {"two": 5}).mixture(
        tmp_path / "cache", splits={"train": 0.5, "val": 0.5}
    )
    held = opened(mixture, "two/val-v0")
    wanted = [row for row in mixture.episodes.to_pylist() if (row["dataset"], row["split"]) == ("two", "val")]
    assert held.total_episodes == len(wanted)
    assert held.action_space.shape == (5,)
    assert held.action_space.dtype == np.float64


def test_rewards_are_not_made_up(tmp_path: Path, toy: Any, opened: Any) -> None:
    made = toy({"one": [3]})
    features = made.datasets["one"].features[:2]
    made.datasets["one"] = made.datasets["one"].model_copy(update={"features": features})
    mixture = made.mixture(tmp_path / "cache")
    with pytest.raises(RequestError, match="has no reward, and Minari wants one a step"):
        MinariExporter().export(mixture, str(tmp_path / "out"))
    assert np.isnan(opened(mixture, "one/train-v0", rewards="nan")[0].rewards).all()


def test_a_range_that_ends_early_is_truncated_there(tmp_path: Path, opened: Any) -> None:
    write_v3(tmp_path / "set", [8])
    mixture = mixture_of(
        tmp_path / "lake", {"made": ("lerobot_v3", tmp_path / "set")}, ranges=[("episode_000000", 2, 5, 1.0)]
    )
    episode = opened(mixture, "made/train-v0")[0]
    assert episode.truncations.tolist() == [False, False, True]
    report = MinariExporter().export(mixture, str(tmp_path / "out"))
    assert any(note.startswith("1 episodes end where their source says neither") for note in report.notes)


@pytest.mark.parametrize("damage", ["value", "frame", "rate", "lost"])
def test_damage_is_found(tmp_path: Path, damage: str) -> None:
    write_v3(tmp_path / "set", [4, 3], video=True)
    mixture = mixture_of(tmp_path / "lake", {"made": ("lerobot_v3", tmp_path / "set")})
    exporter = MinariExporter()
    exporter.export(mixture, str(tmp_path / "out"))
    with h5py.File(tmp_path / "out" / "made" / "train-v0" / "data" / "main_data.hdf5", "r+") as file:
        if damage == "value":
            file["episode_1/actions"][0, 0] += 1
        elif damage == "frame":
            file["episode_0/observations/top"][1, 2, 3] ^= 1
        elif damage == "rate":
            file["episode_0"].attrs["rate"] = 9.0
        else:
            del file["episode_1"]
    assert exporter.verify(mixture, str(tmp_path / "out"))


def test_missing_values_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError) as caught:
        MinariExporter().export(with_holes(tmp_path), str(tmp_path / "out"))
    assert caught.value.code == "missing_values"
