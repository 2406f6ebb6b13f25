"""Every dialect that copies steps, on parts of real recordings: each reads back what the mixture holds."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_engine import registry
from data_engine.mixture import Mixture
from tests.data_engine.exports.test_folder import DIALECTS
from tests.mixtures import Range, mixture_of

SETS: dict[str, tuple[str, str, list[Range]]] = {
    "pusht": ("zarr_replay", "pusht_zarr/pusht_cchi_v7_replay.zarr.zip", [("episode_000003", 5, 25, 1.0)]),
    "bridge": ("rlds", "bridge_rlds/1.0.0", [("train/00000/000001", 0, 10, 1.0), ("val/00000/000002", 0, 10, 2.0)]),
    "g1": ("lerobot_v2", "g1_lerobot_v21", [("episode_000001", 10, 16, 1.0), ("episode_000004", 3, 8, 1.0)]),
}
WITHOUT_REWARDS = ("pusht", "g1")


@pytest.fixture(scope="module", params=list(SETS))
def recorded(request: pytest.FixtureRequest, shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Mixture:
    form, path, ranges = SETS[request.param]
    folder = tmp_path_factory.mktemp(request.param) / "lake"
    keys = [key for key, *_ in ranges]
    return mixture_of(folder, {request.param: (form, shared_data / path)}, keys=keys, ranges=ranges)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_reads_back_what_the_mixture_holds(recorded: Mixture, tmp_path: Path, dialect: str) -> None:
    (name,) = recorded.datasets
    options = {"rewards": "nan"} if dialect == "minari" and name in WITHOUT_REWARDS else {}
    exporter = registry.make("exporters", dialect, options)
    report = exporter.export(recorded, str(tmp_path / "out"))
    assert report.steps == int(recorded.rows["row_count"].sum())
    assert set(report.frames) == set(recorded.datasets[name].cameras)
    assert set(report.frames.values()) == {report.steps}
    assert exporter.verify(recorded, str(tmp_path / "out")) == []
