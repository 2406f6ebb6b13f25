from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from data_engine.errors import RequestError
from data_engine.exports.lerobot_episodes import LeRobotEpisodesExporter
from data_engine.exports.origins import origins, step_rates, stretches
from tests.data_engine.formats.lerobot_sets import write_v3
from tests.mixtures import mixture_of

LEROBOT = ("lerobot_v2", "lerobot_v3")


def test_ranges_that_overlap_add_up(tmp_path: Path) -> None:
    write_v3(tmp_path / "set", [9])
    ranges = [("episode_000000", 1, 5, 2.0), ("episode_000000", 3, 8, 1.0)]
    sources = {"made": ("lerobot_v3", tmp_path / "set")}
    mixture = mixture_of(tmp_path / "lake", sources, ranges=ranges, weight_kind="repeat", unit="episode")
    rate = step_rates(mixture, "train")["made", "episode_000000"]
    assert rate.tolist() == [0, 2, 2, 3, 3, 1, 1, 1]
    assert stretches(rate) == [(1, 3, 2.0), (3, 5, 3.0), (5, 8, 1.0)]
    assert stretches(np.zeros(0)) == []


@pytest.mark.parametrize("wrong", ["nowhere", "unknown", "format"])
def test_a_source_that_is_not_there_is_refused(tmp_path: Path, toy: Any, wrong: str) -> None:
    write_v3(tmp_path / "set", [3])
    mixture = mixture_of(tmp_path / "lake", {"made": ("lerobot_v3", tmp_path / "set")})
    sources = {"made": str(tmp_path / "elsewhere")} if wrong == "nowhere" else {"other": str(tmp_path)}
    if wrong == "format":
        mixture, sources = toy({"one": [3]}).mixture(tmp_path / "cache"), {}
    with pytest.raises(RequestError) as caught:
        origins(mixture, LEROBOT, sources, "LeRobot")
    assert caught.value.code == {"nowhere": "no_source", "unknown": "unknown_dataset", "format": "wrong_format"}[wrong]
    assert caught.value.fix


def test_a_source_that_changed_is_found(tmp_path: Path) -> None:
    write_v3(tmp_path / "set", [4, 3])
    mixture = mixture_of(tmp_path / "lake", {"made": ("lerobot_v3", tmp_path / "set")})
    exporter = LeRobotEpisodesExporter(sources={"made": str(tmp_path / "set")})
    exporter.export(mixture, str(tmp_path / "out"))
    assert exporter.verify(mixture, str(tmp_path / "out")) == []
    (path,) = (tmp_path / "set" / "data").rglob("*.parquet")
    table = pq.read_table(path)
    doubled = (np.array(table["next.reward"]) * 2).astype(np.float32)
    pq.write_table(table.set_column(table.column_names.index("next.reward"), "next.reward", [doubled]), path)
    assert any("no longer what was frozen" in line for line in exporter.verify(mixture, str(tmp_path / "out")))


def test_a_source_with_fewer_steps_is_refused(tmp_path: Path) -> None:
    write_v3(tmp_path / "set", [4, 3])
    write_v3(tmp_path / "cut", [4, 2])
    mixture = mixture_of(tmp_path / "lake", {"made": ("lerobot_v3", tmp_path / "set")})
    with pytest.raises(RequestError, match="has 2 steps of 'episode_000001', the mixture takes 3"):
        LeRobotEpisodesExporter(sources={"made": str(tmp_path / "cut")}).export(mixture, str(tmp_path / "out"))
