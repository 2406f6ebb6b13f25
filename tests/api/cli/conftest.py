"""A small recording, and a lake that a recipe over it was run on."""

from __future__ import annotations

from pathlib import Path

import pytest

from api.cli import main
from tests.recordings import write_recipe, write_robomimic


@pytest.fixture(scope="session")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """18 demonstrations, as robomimic HDF5."""
    return write_robomimic(tmp_path_factory.mktemp("recording") / "reach.hdf5", episodes=18)


@pytest.fixture(scope="session")
def curated(tmp_path_factory: pytest.TempPathFactory, recording: Path) -> Path:
    """A folder with ``recipe.yaml`` and the ``lake`` that it was run on; tests only read it."""
    folder = tmp_path_factory.mktemp("curated")
    recipe = write_recipe(folder, recording)
    with pytest.raises(SystemExit) as ended:
        main(["curate", str(recipe), "--lake", str(folder / "lake"), "--engine", "plain", "--json"])
        raise SystemExit(0)
    assert not ended.value.code
    return folder
