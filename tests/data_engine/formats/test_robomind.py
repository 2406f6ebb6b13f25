from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from data_engine.formats import SourceEpisode, Unreadable
from tests.data_engine.formats.reading import coded, column, decoded, frames, read, scene, stored, through


def write(path: Path, n: int = 7, seed: int = 0, both: bool = False, fixed: bool = False) -> dict[str, np.ndarray]:
    """One trajectory: JPEG and 16-bit PNG files, each of its own length, or padded into text of a fixed one."""
    rng = np.random.default_rng(seed)
    sides = ("_left", "_right") if both else ("",)
    arrays = {f"{arm}/{name}{side}": rng.normal(size=(n, 7)) for arm in ("puppet", "master")
              for name in ("joint_position", "end_effector") for side in sides}  # fmt: skip
    colour = [coded(frame) for frame in scene(n, seed=seed)]
    depth = rng.integers(0, 65536, (n, 48, 64), dtype=np.uint16)
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for name, values in arrays.items():
            file[name] = values
        for name, files in {
            "rgb_images/camera_top": colour, "depth_images/camera_top": [coded(frame, "PNG") for frame in depth]
        }.items():  # fmt: skip
            if fixed:
                file[f"observations/{name}"] = np.array(files, "S")
                continue
            rows = file.create_dataset(f"observations/{name}", (n,), h5py.vlen_dtype(np.uint8))
            for at, data in enumerate(files):
                rows[at] = np.frombuffer(data, np.uint8)
        file["language_raw"] = np.array([b"put the bread on the plate"], "S")
        file["language_distilbert"] = rng.normal(size=(1, 1, 768)).astype(np.float32)
    return {**arrays, "colour": np.stack([decoded(data) for data in colour]), "depth": depth}


TREE = "bread_on_table/success_episodes/train/{}/data/trajectory.hdf5"


@pytest.mark.parametrize("fixed", [False, True])
def test_a_tree_of_episodes(tmp_path: Path, fixed: bool) -> None:
    written = {}
    for i in range(3):
        path = TREE.format(f"1014_1010{i}") if i < 2 else "bread_on_table/fail_episodes/1014_10999/data/trajectory.hdf5"
        written[path.removesuffix(".hdf5")] = write(tmp_path / path, 1 + 5 * i, i, fixed=fixed)
    name, probe, episodes = read(tmp_path)
    assert (name, probe.fps, probe.provenance) == ("robomind", 30.0, "real")
    assert set(episodes) == set(written)
    assert any("depth_images.camera_top is 48 x 64 numbers a step, kept exactly" in note for note in probe.notes)
    for key, arrays in written.items():
        episode = episodes[key]
        assert isinstance(episode, SourceEpisode)
        names = {
            "observation.state": "puppet/joint_position",
            "observation.end_effector": "puppet/end_effector",
            "action": "master/joint_position",
            "master.end_effector": "master/end_effector",
        }
        for ours, theirs in names.items():
            np.testing.assert_array_equal(column(episode, ours), arrays[theirs])
        np.testing.assert_array_equal(frames(episode, "camera_top"), arrays["colour"])
        depth = column(episode, "observation.depth_images.camera_top")
        assert depth.dtype == np.uint16
        np.testing.assert_array_equal(depth.reshape(arrays["depth"].shape), arrays["depth"])
        assert (episode.task, episode.success) == ("bread_on_table", "success_episodes" in key)
        assert episode.language == ("put the bread on the plate",)
        assert len(episode.attributes["language_distilbert"][0][0]) == 768
        assert any("planes, kept as numbers" in note for note in episode.notes)


def test_two_arms_and_depth_left_out(tmp_path: Path) -> None:
    arrays = write(tmp_path / "trajectory.hdf5", both=True)
    _, probe, episodes = read(tmp_path / "trajectory.hdf5", leave_out=["observations/depth_images/*"])
    assert not any("depth" in feature.name for feature in probe.features)
    both = np.hstack([arrays["master/joint_position_left"], arrays["master/joint_position_right"]])
    np.testing.assert_array_equal(column(episodes["trajectory"], "action"), both)


def test_a_missing_or_odd_picture_is_one_bad_episode(tmp_path: Path) -> None:
    for i in range(3):
        write(tmp_path / TREE.format(i), seed=i)
    with h5py.File(tmp_path / TREE.format(1), "a") as file:
        file["observations/depth_images/camera_top"][3] = np.frombuffer(coded(scene(1)[0]), np.uint8)
    with h5py.File(tmp_path / TREE.format(2), "a") as file:
        file["observations/rgb_images/camera_top"][0] = np.zeros(0, np.uint8)
    _, _, episodes = read(tmp_path)
    found = [getattr(item, "code", "ok") for item in episodes.values()]
    assert found == ["ok", "bad_image", "layout_differs"]
    bad = list(episodes.values())[1]
    assert isinstance(bad, Unreadable)
    assert "step 3" in bad.reason


def test_through_the_lake(tmp_path: Path) -> None:
    arrays = write(tmp_path / "set" / TREE.format(0))
    receipt, rows = through(tmp_path / "lake", tmp_path / "set")
    (row,) = rows.values()
    depth = stored(row, "observation.depth_images.camera_top")
    np.testing.assert_array_equal(depth.reshape(arrays["depth"].shape), arrays["depth"])
    assert row["success"]
    assert all(stream["psnr_db"] > 30 for stream in receipt["streams"].values())
    assert any("PNG files; planes" in note for note in receipt["notes"])
