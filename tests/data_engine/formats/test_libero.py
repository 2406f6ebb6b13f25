from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest

from data_engine.formats import Source
from data_engine.formats.robomimic import Robomimic
from tests.data_engine.formats.reading import column, frames, read, scene, stored, through

ENV = {
    "type": 1,
    "env_name": "Libero_Kitchen_Tabletop_Manipulation",
    "env_kwargs": {
        "robots": ["Panda"],
        "control_freq": 20,
        "controller_configs": {"type": "OSC_POSE", "control_delta": True},
    },
}
TEXT = "open the top drawer of the cabinet"


def demo(n: int, seed: int, late: bool) -> dict[str, np.ndarray]:
    """LIBERO's arrays. ``late``: observations of the state after the action, as its own script records them."""
    rng = np.random.default_rng(seed)
    states = rng.normal(size=(n + 1, 47))
    seen = states[1:] if late else states[:-1]
    return {
        "actions": rng.uniform(-1, 1, (n, 7)),
        "states": states[:-1],
        "robot_states": rng.normal(size=(n, 9)),
        "rewards": (np.arange(n) == n - 1).astype(np.uint8),
        "dones": (np.arange(n) == n - 1).astype(np.uint8),
        "obs/agentview_rgb": scene(n, 128, 128, seed),
        "obs/eye_in_hand_rgb": scene(n, 128, 128, seed + 9),
        "obs/ee_pos": (pos := rng.normal(size=(n, 3))),
        "obs/ee_ori": (ori := rng.normal(size=(n, 3))),
        "obs/ee_states": np.hstack([pos, ori]),
        "obs/gripper_states": rng.normal(size=(n, 2)),
        "obs/joint_states": seen[:, 1:8],
    }


def write(path: Path, late: bool = True, **attrs: str) -> dict[str, dict[str, np.ndarray]]:
    demos = {f"demo_{i}": demo(6 + i, i, late) for i in (0, 1, 10)}
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs.update({
            "env_args": json.dumps(ENV), "env_name": ENV["env_name"], "num_demos": 3, "total": 29, "tag": "libero-v1",
            "bddl_file_name": "libero_90/KITCHEN_SCENE1_open_the_top_drawer_of_the_cabinet.bddl",
            "problem_info": json.dumps({"problem_name": "x", "domain_name": "robosuite", "language_instruction": TEXT}),
            "macros_image_convention": "opengl", **attrs,
        })  # fmt: skip
        for key, arrays in demos.items():
            group = data.create_group(key)
            group.attrs.update({"num_samples": str(len(arrays["actions"])), "init_state": arrays["states"][0],
                                "model_file": "<mujoco/>"})  # fmt: skip
            for name, values in arrays.items():
                group[name] = values
    return demos


def test_what_the_files_say(tmp_path: Path) -> None:
    demos = write(tmp_path / "a.hdf5")
    name, probe, episodes = read(tmp_path / "a.hdf5")
    assert name == "libero"
    assert Robomimic().probe(Source(str(tmp_path / "a.hdf5"))) is None
    assert (probe.fps, probe.embodiment, probe.control_mode, probe.provenance) == (20, "Panda", "osc_pose_delta", "sim")
    features = {feature.name: feature for feature in probe.features}
    assert features["observation.state"].components == ("x", "y", "z", "rx", "ry", "rz", "finger_1", "finger_2")
    assert features["action"].components[-1] == "gripper"
    assert list(episodes) == ["demo_0", "demo_1", "demo_10"]
    for key, arrays in demos.items():
        episode = episodes[key]
        assert (episode.task, episode.language) == (TEXT, (TEXT,))
        assert episode.attributes["bddl_file_name"].endswith("cabinet.bddl")
        state = np.hstack([arrays["obs/ee_states"], arrays["obs/gripper_states"]])
        np.testing.assert_array_equal(column(episode, "observation.state"), state)
        names = {"action": "actions", "observation.joint_states": "obs/joint_states", "states": "states",
                 "observation.ee_pos": "obs/ee_pos", "robot_states": "robot_states", "reward": "rewards"}  # fmt: skip
        for ours, theirs in names.items():
            np.testing.assert_array_equal(column(episode, ours), arrays[theirs])
        np.testing.assert_array_equal(frames(episode, "agentview_rgb"), arrays["obs/agentview_rgb"])


@pytest.mark.parametrize(("stated", "noted"), [("opengl", True), ("opencv", False)])
def test_upside_down_images_are_noted_and_kept(tmp_path: Path, stated: str, noted: bool) -> None:
    write(tmp_path / "a.hdf5", macros_image_convention=stated)
    _, probe, _ = read(tmp_path / "a.hdf5")
    assert any("upside down" in note for note in probe.notes) == noted


@pytest.mark.parametrize("late", [True, False])
def test_late_observations_are_told_from_the_states(tmp_path: Path, late: bool) -> None:
    write(tmp_path / "a.hdf5", late)
    _, _, episodes = read(tmp_path / "a.hdf5")
    for episode in episodes.values():
        assert any("after the action" in note for note in episode.notes) == late


def test_other_state_keys(tmp_path: Path) -> None:
    demos = write(tmp_path / "a.hdf5")
    _, _, episodes = read(tmp_path / "a.hdf5", state_keys=["joint_states", "gripper_states"])
    both = np.hstack([demos["demo_0"]["obs/joint_states"], demos["demo_0"]["obs/gripper_states"]])
    np.testing.assert_array_equal(column(episodes["demo_0"], "observation.state"), both)


def test_through_the_lake(tmp_path: Path) -> None:
    demos = write(tmp_path / "a.hdf5")
    receipt, rows = through(tmp_path / "lake", tmp_path / "a.hdf5")
    assert receipt["stored"]["frames"] == {"agentview_rgb": 35 - 6, "eye_in_hand_rgb": 35 - 6}
    assert all(stream["psnr_db"] > 30 for stream in receipt["streams"].values())
    assert rows["demo_1"]["language"] == [TEXT]
    np.testing.assert_array_equal(stored(rows["demo_1"], "action"), demos["demo_1"]["actions"])
