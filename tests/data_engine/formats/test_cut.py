"""What goes to a worker with its episodes does not grow with the episodes that others read."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import zarr

from data_engine.formats import Source, SourceEpisode, detect
from tests.data_engine.formats.lerobot_sets import write_v2, write_v3
from tests.recordings import write_robomimic


def lerobot_v3(folder: Path, n: int) -> Path:
    write_v3(folder, [3] * n)
    return folder


def lerobot_v2(folder: Path, n: int) -> Path:
    write_v2(folder, [3] * n)
    return folder


def robomimic(folder: Path, n: int) -> Path:
    path = write_robomimic(folder / "set.hdf5", episodes=n)
    with h5py.File(path, "a") as file:
        file["mask/train"] = np.array([f"demo_{i}" for i in range(n)], dtype="S16")
    return path


def aloha(folder: Path, n: int) -> Path:
    for i in range(n):
        with h5py.File(folder / f"episode_{i}.hdf5", "w") as file:
            file.attrs["sim"] = True
            for name in ("action", "observations/qpos", "observations/qvel"):
                file[name] = np.random.default_rng(i).normal(size=(3, 14)).astype(np.float32)
    return folder


def d4rl(folder: Path, n: int) -> Path:
    with h5py.File(folder / "set.hdf5", "w") as file:
        for name, width in (("observations", 4), ("actions", 2)):
            file[name] = np.zeros((3 * n, width), np.float32)
        file["rewards"] = np.zeros(3 * n, np.float32)
        file["terminals"] = np.zeros(3 * n, bool)
        file["timeouts"] = np.arange(3 * n) % 3 == 2
    return folder / "set.hdf5"


def replay(folder: Path, n: int) -> Path:
    group = zarr.open_group(str(folder / "set.zarr"), mode="w")
    group["data/state"] = np.zeros((3 * n, 4), np.float32)
    group["data/action"] = np.zeros((3 * n, 2), np.float32)
    group["meta/episode_ends"] = np.arange(3, 3 * n + 1, 3)
    return folder / "set.zarr"


@pytest.mark.parametrize("write", [lerobot_v3, lerobot_v2, robomimic, aloha, d4rl, replay])
def test_a_part_of_a_probe_is_as_large_as_its_episodes(write: Callable[[Path, int], Path], tmp_path: Path) -> None:
    sizes = []
    for n in (20, 90):
        (tmp_path / str(n)).mkdir()
        source = Source(str(write(tmp_path / str(n), n)))
        fmt, probe = detect(source)
        part = probe.cut(probe.episodes[2:5])
        keys = [ref.key for ref in part.episodes]
        read = list(fmt.read(source, pickle.loads(pickle.dumps(part)), keys))
        assert [item.key for item in read] == keys and all(isinstance(item, SourceEpisode) for item in read)
        sizes.append(len(pickle.dumps(part)))
    assert abs(sizes[1] - sizes[0]) < 50, sizes


@pytest.mark.parametrize(("write", "listed"), [(lerobot_v3, "meta/episodes"), (lerobot_v2, "meta/episodes.jsonl")])
def test_what_the_probe_read_of_the_episodes_no_part_reads_again(
    write: Callable[[Path, int], Path], listed: str, tmp_path: Path
) -> None:
    source = Source(str(write(tmp_path / "set", 9)))
    fmt, probe = detect(source)
    (tmp_path / "set" / listed).rename(tmp_path / "gone")
    read = list(fmt.read(source, probe.cut(probe.episodes[4:6]), ["episode_000004", "episode_000005"]))
    assert [(item.key, item.task) for item in read if isinstance(item, SourceEpisode)] == [
        ("episode_000004", "push"),
        ("episode_000005", "push"),
    ]
