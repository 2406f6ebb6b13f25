from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from data_engine.errors import RequestError
from data_engine.exports.opentau import OpenTauExporter
from data_engine.mixture import Mixture
from tests.data_engine.formats.lerobot_sets import write_v2
from tests.mixtures import mixture_of


def made(tmp_path: Path, ranges: list[tuple[str, int, int | None, float]] | None = None, **frozen: Any) -> Mixture:
    write_v2(tmp_path / "set", [4, 6, 5])
    frozen = {"weight_kind": "repeat", "unit": "episode", **frozen}
    return mixture_of(tmp_path / "lake", {"made": ("lerobot_v2", tmp_path / "set")}, ranges=ranges, **frozen)


def test_lists_of_episodes_weigh_their_share_of_draws(tmp_path: Path) -> None:
    whole = [("episode_000000", 0, None, 1.0), ("episode_000001", 0, None, 3.0), ("episode_000002", 0, None, 1.0)]
    exporter = OpenTauExporter(sources={"made": str(tmp_path / "set")}, names={"made": {"state": "observation.state"}})
    mixture = made(tmp_path, whole)
    report = exporter.export(mixture, str(tmp_path / "out"))
    assert exporter.verify(mixture, str(tmp_path / "out")) == []
    assert report.notes == ()
    told = json.loads((tmp_path / "out" / "train.json").read_text())["dataset_mixture"]
    assert told["weights"] == pytest.approx([18 / 27, 9 / 27])
    assert [item["episodes"] for item in told["datasets"]] == [[1], [0, 2]]
    assert told["datasets"][0] == {
        "repo_id": "made",
        "root": str(tmp_path / "set"),
        "episodes": [1],
        "data_features_name_mapping": {"state": "observation.state"},
    }
    assert (told["action_freq"], told["val_split_ratio"]) == (mixture.datasets["made"].fps, 0.0)


def test_parts_of_episodes_are_refused(tmp_path: Path) -> None:
    mixture = made(tmp_path, [("episode_000000", 0, 3, 1.0)])
    with pytest.raises(RequestError, match="takes a part of 'episode_000000' of 'made'") as caught:
        OpenTauExporter(sources={"made": str(tmp_path / "set")}).export(mixture, str(tmp_path / "out"))
    assert caught.value.code == "ranges"
    assert not (tmp_path / "out").exists()


def test_what_opentau_does_not_know_is_named(shared_data: Path, tmp_path: Path) -> None:
    origin = shared_data / "metaworld_tiers" / "lerobot_v3"
    mixture = mixture_of(tmp_path / "lake", {"tiers": ("lerobot_v3", origin)}, keys=["episode_000003"])
    exporter = OpenTauExporter(sources={"tiers": str(origin)})
    report = exporter.export(mixture, str(tmp_path / "out"))
    assert exporter.verify(mixture, str(tmp_path / "out")) == []
    assert len(report.notes) == 2
