"""What every format of arrays promises of damage, whatever the container."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from data_engine.errors import EngineError
from data_engine.formats import RawFrames, Source, SourceEpisode, detect
from flows.apart import Crash, carefully, watched
from tests.data_engine.formats import test_aloha, test_calvin, test_d4rl, test_mapped, test_minari
from tests.data_engine.formats.reading import read


def made(folder: Path, kind: str) -> tuple[Path, dict]:
    """A small source of ``kind`` and the options it is read with."""
    if kind == "aloha":
        folder.mkdir()
        test_aloha.write(folder / "episode_0.hdf5", 3, compress=True)
    elif kind == "d4rl":
        folder.mkdir()
        test_d4rl.write(folder / "a.hdf5", 20, [4], [9])
        return folder / "a.hdf5", {}
    elif kind == "calvin":
        test_calvin.write(folder, [(0, 2)])
    elif kind.startswith("minari"):
        test_minari.write(folder, kind.split()[1], [3, 2], flat=False)
    else:
        path, how, _ = test_mapped.write(folder, kind, [3, 2])
        return path, {"map": test_mapped.MAP, "episodes": how}
    return folder, {}


def outcomes(path: str, options: dict) -> set[str]:
    """What came of reading a source: of its episodes, or of it as a whole."""
    found = set()
    try:
        source = Source(path)
        form, probe = detect(source, options=options)
        keys = [ref.key for ref in probe.episodes]
        for item in watched(form.read(source, probe, keys), keys):
            found.add(type(item).__name__)
            cameras = item.cameras.values() if isinstance(item, SourceEpisode) else ()
            for camera in cameras:
                assert isinstance(camera, RawFrames)
                assert sum(1 for _ in camera.frames()) == item.steps.num_rows
    except EngineError as error:
        found.add("refused")
        assert "\n" not in str(error)
    return found


@pytest.mark.parametrize(
    ("kind", "seeds"),
    [("aloha", 12), ("d4rl", 12), ("calvin", 12), ("minari arrow", 12), ("minari parquet", 12), ("npz files", 12),
     ("zarr groups", 12), ("minari hdf5", 5)],
)  # fmt: skip
def test_random_damage_is_one_line_or_one_bad_episode(tmp_path: Path, kind: str, seeds: int) -> None:
    path, options = made(tmp_path / "set", kind)
    found = set()
    for seed in range(seeds):
        rng = random.Random(seed)
        shutil.rmtree(tmp_path / "copy", ignore_errors=True)
        shutil.copytree(tmp_path / "set", tmp_path / "copy")
        file = rng.choice(sorted(part for part in (tmp_path / "copy").rglob("*") if part.is_file()))
        data = bytearray(file.read_bytes())
        for _ in range(20):
            data[rng.randrange(min(len(data), 4096))] = rng.randrange(256)
        file.write_bytes(data[: rng.randrange(len(data))] if seed % 4 == 0 else data)
        try:  # libhdf5 itself can end the process over damaged rows of variable length
            found |= carefully(outcomes, str(tmp_path / "copy" / path.relative_to(tmp_path / "set")), options)
        except Crash:
            found.add("crash")
    assert found - {"SourceEpisode"}  # some of it was noticed


def test_what_is_left_out_is_not_read(tmp_path: Path) -> None:
    test_aloha.write(tmp_path / "episode_0.hdf5")
    _, probe, episodes = read(tmp_path, leave_out=["observations/images/cam_left*", "observations/e*"])
    names = {feature.name for feature in probe.features}
    assert names == {"observation.state", "observation.qvel", "action", "base_action", "observation.images.cam_high"}
    assert set(episodes["episode_0"].cameras) == {"cam_high"}


def test_columns_are_what_most_episodes_hold(tmp_path: Path) -> None:
    for i in range(4):
        test_aloha.write(tmp_path / f"episode_{i}.hdf5", seed=i)
    with h5py.File(tmp_path / "episode_1.hdf5", "a") as file:
        del file["observations/effort"]
        file["rare"] = np.zeros(12)
    _, probe, episodes = read(tmp_path)
    assert episodes["episode_1"].steps["observation.effort"].null_count == 12
    assert any("no observations/effort" in note for note in episodes["episode_1"].notes)
    assert "rare" in {feature.name for feature in probe.features}
    assert episodes["episode_0"].steps["rare"].null_count == 12
