from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest

from data_engine.formats import SourceEpisode, Unreadable
from tests.data_engine.formats.reading import column, frames, read, scene, stored, through

ENV = {"env_name": "Isaac-Stack-Cube-Franka-IK-Rel-Mimic-v0", "type": 2,
       "sim_args": {"dt": 0.01, "decimation": 5, "render_interval": 2, "num_envs": 1}}  # fmt: skip


def demo(n: int, seed: int, mimic: bool = True) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)

    def values(*shape: int) -> np.ndarray:
        return rng.normal(size=shape).astype(np.float32)

    arrays = {
        "actions": values(n, 7),
        "processed_actions": values(n, 8),
        "obs/actions": values(n, 7),
        "obs/joint_pos": values(n, 9),
        "obs/table_cam": scene(n, 64, 64, seed),
        "states/articulation/robot/joint_position": values(n, 9),
        "states/articulation/robot/root_pose": values(n, 7),
        "states/rigid_object/cube_1/root_pose": values(n, 7),
        "initial_state/articulation/robot/joint_position": values(1, 9),
        "initial_state/rigid_object/cube_1/root_pose": values(1, 7),
    }
    if mimic:
        arrays |= {
            "obs/eef_pos": values(n, 3),
            "obs/eef_quat": values(n, 4),
            "obs/gripper_pos": values(n, 2),
            "obs/object": values(n, 39),
            "obs/datagen_info/eef_pose/franka": values(n, 4, 4),
            "obs/datagen_info/subtask_term_signals/grasp_1": rng.integers(0, 2, n).astype(bool),
        }
    return arrays


def write(path: Path, mimic: bool = True, version: int | None = None) -> dict[str, dict[str, np.ndarray]]:
    demos = {f"demo_{i}": demo(5 + i, i, mimic) for i in range(3)}
    with h5py.File(path, "w") as file:
        if version is not None:
            file.attrs["format_version"] = version
        data = file.create_group("data")
        data.attrs.update({"total": 18, "env_args": json.dumps(ENV)})
        for i, (key, arrays) in enumerate(demos.items()):
            group = data.create_group(key)
            group.attrs.update({"num_samples": 5 + i, "seed": i, "success": i != 1})
            for name, values in arrays.items():
                group.create_dataset(name, data=values, compression="gzip")
    return demos


def test_nested_groups_and_the_initial_state(tmp_path: Path) -> None:
    demos = write(tmp_path / "a.hdf5")
    name, probe, episodes = read(tmp_path / "a.hdf5")
    assert (name, probe.fps, probe.embodiment, probe.control_mode) == ("isaac_lab", 20.0, "Franka", "ik_delta")
    assert any("Franka is read from" in note for note in probe.notes)
    for i, (key, arrays) in enumerate(demos.items()):
        episode = episodes[key]
        assert isinstance(episode, SourceEpisode)
        state = [arrays[f"obs/{part}"] for part in ("eef_pos", "eef_quat", "gripper_pos", "object")]
        np.testing.assert_array_equal(column(episode, "observation.state"), np.hstack(state))
        names = {
            "action": "actions", "processed_actions": "processed_actions", "observation.actions": "obs/actions",
            "states.articulation.robot.root_pose": "states/articulation/robot/root_pose",
            "observation.datagen_info.subtask_term_signals.grasp_1": "obs/datagen_info/subtask_term_signals/grasp_1",
            "observation.datagen_info.eef_pose.franka": "obs/datagen_info/eef_pose/franka",
        }  # fmt: skip
        for ours, theirs in names.items():
            n = len(arrays[theirs])
            np.testing.assert_array_equal(column(episode, ours).reshape(n, -1), arrays[theirs].reshape(n, -1))
        np.testing.assert_array_equal(frames(episode, "table_cam"), arrays["obs/table_cam"])
        assert (episode.success, episode.attributes["seed"]) == (i != 1, i)
        kept = episode.attributes["initial_state"]["rigid_object/cube_1/root_pose"]
        np.testing.assert_array_equal(np.array(kept, np.float32), arrays["initial_state/rigid_object/cube_1/root_pose"])
        assert not any("not read" in note for note in episode.notes)


@pytest.mark.parametrize(("version", "order"), [(None, "w, x, y, z"), (1, "x, y, z, w")])
def test_the_order_of_quaternions_is_noted(tmp_path: Path, version: int | None, order: str) -> None:
    write(tmp_path / "a.hdf5", version=version)
    _, probe, _ = read(tmp_path / "a.hdf5")
    assert any(order in note for note in probe.notes)


def test_without_the_usual_names_every_vector_but_the_last_action(tmp_path: Path) -> None:
    demos = write(tmp_path / "a.hdf5", mimic=False)
    _, _, episodes = read(tmp_path / "a.hdf5")
    np.testing.assert_array_equal(column(episodes["demo_0"], "observation.state"), demos["demo_0"]["obs/joint_pos"])


def test_a_broken_demonstration_leaves_the_rest(tmp_path: Path) -> None:
    write(tmp_path / "a.hdf5")
    with h5py.File(tmp_path / "a.hdf5", "a") as file:
        del file["data/demo_1/obs/object"]
        file["data/demo_1/obs/object"] = np.zeros((2, 39), np.float32)
        file["data/demo_2/initial_state/out"] = h5py.SoftLink("/data")
    _, _, episodes = read(tmp_path / "a.hdf5")
    assert [getattr(item, "code", "ok") for item in episodes.values()] == ["ok", "lengths_differ", "link"]
    assert isinstance(episodes["demo_1"], Unreadable)


def test_through_the_lake(tmp_path: Path) -> None:
    demos = write(tmp_path / "a.hdf5")
    receipt, rows = through(tmp_path / "lake", tmp_path / "a.hdf5")
    assert receipt["stored"]["episodes"] == 3
    np.testing.assert_array_equal(stored(rows["demo_2"], "processed_actions"), demos["demo_2"]["processed_actions"])
    assert [row["success"] for row in rows.values()] == [True, False, True]
