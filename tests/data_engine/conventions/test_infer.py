from __future__ import annotations

import numpy as np
import pytest

from data_engine.conventions import CONFIDENT, Finding, infer
from data_engine.conventions.roles import parts
from data_engine.formats import Source, detect
from data_engine.model import ACTION, STATE, Feature
from flows.ingest_conventions import conventions
from tests.data_engine.conventions.generated import path, recording


def feature(name: str, *components: str) -> Feature:
    return Feature(name=name, dtype="float64", shape=(len(components),), components=components)


def told(findings: tuple[Finding, ...], column: str = ACTION) -> dict[str, Finding]:
    return {finding.kind: finding for finding in findings if finding.column == column}


def test_parts_of_real_names():
    cases = {
        ("shoulder_pan.pos", "wrist_roll.pos", "gripper.pos"): ["joint", "gripper"],
        ("kLeftShoulderPitch", "kLeftElbow", "kLeftHandPinky"): ["joint", "hand"],
        ("robot0_eef_pos.0", "robot0_eef_pos.1", "robot0_eef_pos.2", *(f"robot0_eef_quat.{i}" for i in range(4)),
         "robot0_gripper_qpos.0", "robot0_gripper_qpos.1"): ["position", "quaternion", "gripper", "gripper"],
        ("dx", "dy", "dz", "droll", "dpitch", "dyaw", "gripper"): ["position", "rotation", "gripper"],
        ("x", "y", "z", "qx", "qy", "qz", "qw"): ["position", "quaternion"],
        ("J1", "J2", "q3"): ["joint"],
        ("left_x", "left_y", "left_z", "right_x", "right_y", "right_z"): ["position", "position"],
        ("joint_velocities.0", "joint_velocities.1"): ["rate"],
        ("state.0", "state.1"): [],
    }  # fmt: skip
    for names, roles in cases.items():
        assert [part.role for part in parts(feature(STATE, *names))] == roles, names


def test_an_action_of_another_unit_than_the_state():
    made = recording("rad_continuous", 3)
    state, action = made.features
    joints = [i for part in parts(action) if part.role == "joint" for i in part.components]
    for episode in made.episodes:
        episode[ACTION][:, joints] *= 180 / np.pi
    found = infer((state, action), made.episodes, 30.0)
    assert (told(found, STATE)["unit"].value, told(found)["unit"].value) == ("rad", "deg")


def test_small_changes_take_their_unit_from_the_way_the_state_goes():
    rng = np.random.default_rng(0)
    names = tuple(f"joint_{i}" for i in range(6))
    episodes = []
    for _ in range(4):
        state = path(rng.uniform(-160, 160, (6, 6)), rng)
        episodes.append({STATE: state[:-1], ACTION: np.diff(state, axis=0)})
    found = told(infer((feature(STATE, *names), feature(ACTION, *names)), episodes, 20.0, mode="delta"))
    assert found["unit"].value == "deg"
    assert "1 times" in found["unit"].evidence
    assert found["latency"].value == "1"


@pytest.mark.parametrize("lag", [1, 3, 7])
def test_latency_in_steps_and_milliseconds(lag):
    rng = np.random.default_rng(lag)
    names = tuple(f"joint_{i}" for i in range(6))
    episodes = []
    for _ in range(4):
        action = path(rng.uniform(-2, 2, (8, 6)), rng)
        episodes.append({STATE: np.concatenate([np.repeat(action[:1], lag, 0), action])[: len(action)], ACTION: action})
    found = told(infer((feature(STATE, *names), feature(ACTION, *names)), episodes, 20.0))
    assert found["latency"].value == str(lag)
    assert f"{lag * 50} ms" in found["latency"].evidence
    assert found["action_mode"].value == "absolute"


def grasping(closes: bool, binary: bool) -> list[dict[str, np.ndarray]]:
    """Arm positions and two finger positions, and an action whose last entry opens or closes them."""
    rng = np.random.default_rng(0)
    episodes = []
    for _ in range(4):
        arm = path(rng.uniform(-0.4, 0.4, (6, 3)), rng)
        wanted = np.repeat(rng.permutation([0.0, 1.0, 0.0, 1.0]), len(arm) // 4 + 1)[: len(arm)]  # 1 is open
        width = np.empty(len(arm))
        width[0] = wanted[0]
        for t in range(1, len(arm)):
            width[t] = width[t - 1] + np.clip(wanted[t - 1] - width[t - 1], -0.15, 0.15)
        fingers = np.stack([0.04 * width, -0.04 * width], axis=1)
        command = (1 - wanted if closes else wanted) * (2 if binary else 1) - (1 if binary else 0)
        episodes.append(
            {STATE: np.concatenate([arm, fingers], axis=1), ACTION: np.append(arm, command[:, None], axis=1)}
        )
    return episodes


@pytest.mark.parametrize("closes", [True, False])
@pytest.mark.parametrize("binary", [True, False])
def test_a_grippers_polarity_from_its_fingers(closes, binary):
    place = ("eef_pos.0", "eef_pos.1", "eef_pos.2")
    state = feature(STATE, *place, "robot0_gripper_qpos.0", "robot0_gripper_qpos.1")
    found = infer((state, feature(ACTION, *place, "gripper")), grasping(closes, binary), 20.0)
    assert [f.value for f in found if f.column == STATE and f.kind == "gripper_polarity"] == [
        "larger_opens", "larger_closes",
    ]  # fmt: skip
    action = told(found)
    assert action["gripper_polarity"].value == ("larger_closes" if closes else "larger_opens")
    assert action["gripper_polarity"].confidence >= CONFIDENT
    assert (action["gripper"].value, action["gripper_range"].value) == ("discrete", "-1..1" if binary else "0..1")


@pytest.mark.parametrize(
    ("name", "value"),
    [("gripper_width", "larger_opens"), ("gripper_closed", "larger_closes"), ("gripper", "unknown")],
)
def test_a_grippers_polarity_from_its_name(name, value):
    episodes = [{STATE: episode[STATE][:, :3], ACTION: episode[ACTION]} for episode in grasping(True, True)]
    place = ("x", "y", "z")
    found = told(infer((feature(STATE, *place), feature(ACTION, *place, name)), episodes, 20.0))
    assert found["gripper_polarity"].value == value


def test_the_frame_of_commanded_translations():
    rng = np.random.default_rng(0)
    for inside in (True, False):
        episodes = []
        for _ in range(4):
            yaw = np.cumsum(rng.normal(0, 0.05, 300)) + rng.uniform(-3, 3)
            asked = rng.normal(0, 0.02, (300, 3))
            c, s = np.cos(yaw), np.sin(yaw)
            turned = np.stack(
                [c * asked[:, 0] - s * asked[:, 1], s * asked[:, 0] + c * asked[:, 1], asked[:, 2]], axis=1
            )
            place = np.cumsum(np.concatenate([[[0.4, 0, 0.2]], turned if inside else asked]), axis=0)[:-1]
            q = np.stack([0 * yaw, 0 * yaw, np.sin(yaw / 2), np.cos(yaw / 2)], axis=1)
            episodes.append({STATE: np.concatenate([place, q], axis=1), ACTION: asked})
        state = feature(STATE, "ee_x", "ee_y", "ee_z", "qx", "qy", "qz", "qw")
        found = told(infer((state, feature(ACTION, "dx", "dy", "dz")), episodes, 20.0))
        assert found["frame"].value == ("end_effector" if inside else "base")


def test_nothing_to_see_is_no_error():
    names = ("x", "y", "z", "gripper")
    features = (feature(STATE, *names), feature(ACTION, *names))
    assert infer(features, [], 10.0) == ()
    assert infer(features, [{}], 10.0) == ()
    empty, bad = np.empty((0, 4)), np.full((30, 4), np.nan)
    assert infer(features, [{STATE: empty, ACTION: empty}, {STATE: bad, ACTION: bad}], 10.0) == ()
    for values in (np.zeros((40, 4)), np.zeros((1, 4))):
        found = infer(features, [{STATE: values, ACTION: values}], 10.0)
        assert {finding.value for finding in found if finding.kind == "unit"} == {"unknown"}


def real(uri: str) -> dict[str, dict[str, Finding]]:
    source = Source(uri)
    fmt, probe = detect(source)
    found = conventions(fmt, probe, source, probe.fps).features
    return {f.name: {f"{x.kind}@{x.components[0]}": x for x in f.findings} | {"unit": f.unit} for f in found}


def test_the_humanoids_arms_are_in_radians_and_its_hands_in_a_range(shared_data):
    found = real(str(shared_data / "g1_lerobot_v21"))
    for column in (STATE, ACTION):
        assert found[column]["unit@0"].value == "rad"
        assert found[column]["unit@14"].value == "range_0_1"
        assert found[column]["unit"] is None  # not one unit
    assert found[ACTION]["action_mode@0"].value == "absolute"


def test_pixels_are_no_unit_and_the_blocks_angle_wraps(shared_data):
    found = real(str(shared_data / "pusht_zarr" / "pusht_cchi_v7_replay.zarr.zip"))
    assert {found[column]["unit@0"].value for column in (STATE, ACTION)} == {"unknown"}
    assert found[STATE]["wraps@4"].value == "6.28319"
    assert found[ACTION]["latency@0"].value == "2"  # 200 ms at 10 steps a second


def test_meta_world_is_in_metres_and_its_actions_in_a_range(shared_data):
    root = shared_data / "metaworld_tiers"
    assert real(str(root / "robomimic.hdf5"))[STATE]["unit@0"].value == "m"
    found = real(str(root / "lerobot_v3"))
    assert found[ACTION]["unit"] == "range_m1_1"
    assert found[ACTION]["action_mode@0"].value == "delta"


def test_mujocos_quaternions_are_never_read_the_wrong_way_round(shared_data):
    values = []
    for name in ("SawyerLift", "lift_panda", "stack_panda", "pick-place_panda"):
        state = real(str(shared_data / "robosuite_hdf5" / f"{name}_demo.hdf5"))[STATE]
        values += [x.value for key, x in state.items() if key.startswith("quaternion@")]
    assert set(values) == {"wxyz", "unknown"}  # simulator states: w first
