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
