from __future__ import annotations

import json

import pytest

from data_engine.formats.environment import Environment

OSC = {"type": "OSC_POSE", "control_delta": False}


@pytest.mark.parametrize(
    ("config", "mode"),
    [
        (OSC, "osc_pose_absolute"),
        ({"type": "JOINT_POSITION", "input_type": "delta"}, "joint_position_delta"),
        ({"type": "JOINT_VELOCITY"}, "joint_velocity"),
        ([OSC, {"type": "IK_POSE"}], "ik_pose+osc_pose_absolute"),
        ({"type": "BASIC", "body_parts": {"right": OSC, "left": OSC}}, "osc_pose_absolute"),
        ({"type": 3}, None),
        ("default", None),
    ],
)
def test_control_mode(config, mode: str | None) -> None:
    text = json.dumps({"env_name": "Lift", "env_kwargs": {"controller_configs": config}})
    assert Environment.of({"env_args": text}).control_mode == mode


def test_what_is_stated_and_what_is_not() -> None:
    both = Environment.of({"env_info": json.dumps({"env_name": "TwoArmLift", "robots": ["Panda", "Sawyer"]})})
    assert (both.task, both.embodiment, both.control_hz) == ("TwoArmLift", "Panda+Sawyer", None)
    old = Environment.of({"env": "BaxterPegInHole"})
    assert (old.task, old.embodiment, len(old.notes)) == ("BaxterPegInHole", "Baxter", 1)
    for broken in ("{", "[1]", "null", 7):
        assert Environment.of({"env_args": broken}) == Environment()


@pytest.mark.parametrize(
    ("name", "embodiment", "mode"),
    [
        ("Isaac-Stack-Cube-Franka-IK-Rel-Mimic-v0", "Franka", "ik_delta"),
        ("Isaac-Lift-Cube-UR10-IK-Abs-v0", "UR10", "ik_absolute"),
        ("Isaac-PickPlace-GR1T2-Abs-v0", "GR1T2", None),
        ("PickPlacePanda", None, None),
    ],
)
def test_isaac_lab_s_names(name: str, embodiment: str | None, mode: str | None) -> None:
    sim = {"dt": 1 / 120, "decimation": 4}
    found = Environment.of({"env_args": json.dumps({"env_name": name, "type": 2, "sim_args": sim})})
    assert (found.embodiment, found.control_mode, found.control_hz, found.task) == (embodiment, mode, 30.0, name)


def test_libero_s_instruction_is_the_task() -> None:
    for text in ("open the drawer", list("open the drawer")):
        found = Environment.of({"problem_info": json.dumps({"language_instruction": text}), "env": "Kitchen"})
        assert (found.task, found.language) == ("open the drawer", ("open the drawer",))
    for odd in ("{", json.dumps({"language_instruction": 3}), json.dumps({"language_instruction": ""})):
        assert Environment.of({"problem_info": odd, "env": "Kitchen"}).task == "Kitchen"
