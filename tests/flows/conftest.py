"""A small recording, a recipe over it, and the means to watch what a run leaves behind."""

from __future__ import annotations

import shutil
from pathlib import Path

import h5py
import numpy as np
import polars as pl
import pytest

from data_engine.recipe import ScoreRecipe, SourceRecipe, SpaceRecipe
from flows.executor import Local
from flows.index import embed, index
from flows.ingest import ingest
from flows.progress import silent
from flows.score import score
from storage.lake import Lake
from tests.recordings import write_recipe, write_robomimic


@pytest.fixture(scope="session")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 demonstrations of two tasks by three operators, as robomimic HDF5."""
    return write_robomimic(tmp_path_factory.mktemp("recording") / "reach.hdf5")


@pytest.fixture
def recipe_path(tmp_path: Path, recording: Path) -> Path:
    """A recipe over the recording that uses every stage."""
    return write_recipe(tmp_path, recording)


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    """An empty lake on a local folder."""
    return Lake.open(str(tmp_path / "lake"), create=True)


@pytest.fixture
def common() -> dict:
    """What every flow is handed."""
    return {"on": Local(), "progress": silent(), "run_id": "run_test"}


@pytest.fixture(scope="session")
def measured(tmp_path_factory: pytest.TempPathFactory, recording: Path) -> Path:
    """A lake that tests only read. ``reach``: 24 episodes of an arm, scored for action divergence (null for some).
    ``hand``: 9 of a hand, not scored, the last without a finite action. Both embedded and indexed together.
    """
    folder = tmp_path_factory.mktemp("measured")
    other = write_robomimic(folder / "hand.hdf5", episodes=9, seed=5)
    with h5py.File(other, "r+") as file:
        file["data/demo_8/actions"][...] = np.nan
    lake = Lake.open(str(folder / "lake"), create=True)
    common = {"on": Local(), "progress": silent(), "run_id": "run_measured"}
    ingest(lake, SourceRecipe(name="reach", uri=str(recording)), **common)
    hand = {"embodiment": "hand", "control_mode": "delta"}
    ingest(lake, SourceRecipe(name="hand", uri=str(other), options=hand), **common)
    episodes = lake.episodes()
    arm = episodes.filter(pl.col("dataset") == "reach")
    score(lake, ScoreRecipe(scorer="action_divergence"), arm, **common)
    embed(lake, SpaceRecipe(), episodes, **common)
    index(lake, "trajectory", episodes)
    return folder / "lake"


@pytest.fixture(scope="session")
def read_only(measured: Path) -> Lake:
    """The lake ``measured``, which a test must not write to."""
    return Lake.open(str(measured))


@pytest.fixture
def filled(tmp_path: Path, measured: Path) -> Lake:
    """A copy of ``measured`` that a test may change."""
    shutil.copytree(measured, tmp_path / "lake")
    return Lake.open(str(tmp_path / "lake"))


@pytest.fixture(scope="session")
def looked(tmp_path_factory: pytest.TempPathFactory, eyes: Path) -> Lake:
    """A lake that tests only read: 64 clips of 16 tasks, every fourth step embedded; their trajectories too."""
    from tests.scenes import scenes, write_scenes

    folder = tmp_path_factory.mktemp("looked")
    common = {"on": Local(), "progress": silent(), "run_id": "run_looked"}
    lake = Lake.open(str(folder / "lake"), create=True)
    ingest(lake, SourceRecipe(name="scenes", uri=str(write_scenes(folder / "s.hdf5", scenes(400)))), **common)
    frames = SpaceRecipe(name="frames", encoder="open_clip", params={"checkpoint": str(eyes), "every_s": 0.4})
    embed(lake, frames, lake.episodes(), **common)
    embed(lake, SpaceRecipe(), lake.episodes(), **common)
    return lake
