from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from data_engine.conventions import CONFIDENT, infer
from data_engine.conventions.units import UNKNOWN, angle_unit, hand_unit, joint_unit, length_unit, named_unit, same_unit
from tests.data_engine.conventions.generated import ERAS, recording

SETS = 100  # of each of the ten eras


@pytest.mark.parametrize("era", ERAS)
def test_generated_sets_read_as_what_they_are(era):
    found: Counter[str] = Counter()
    for seed in range(SETS):
        made = recording(era, seed)
        for finding in infer(made.features, made.episodes, 30.0):
            if finding.kind == "unit" and finding.components[0] == 0:
                right = finding.value == made.unit
                found["right" if right else "unsure" if finding.confidence < CONFIDENT else finding.value] += 1
    assert sum(found.values()) == 2 * SETS  # state and action
    assert found["right"] >= 0.99 * sum(found.values()), found
    assert found["right"] + found["unsure"] == sum(found.values()), found  # never sure and wrong


def walk(low: float, high: float, n: int = 400, d: int = 5, seed: int = 0) -> np.ndarray:
    """Smooth values [n, d] that fill [low, high] and lie on no lattice."""
    t = np.linspace(0, 6, n)[:, None]
    return low + (high - low) * (0.5 + 0.5 * np.sin(t * np.arange(1, d + 1) + seed))


@pytest.mark.parametrize(
    ("values", "unit"),
    [
        (walk(-160, 170), "deg"),
        (walk(-2.5, 2.8), "rad"),
        (np.clip(walk(-130, 130), -100, 100), "range_m100_100"),
        (np.clip(walk(-1.3, 1.3), -1, 1), "range_m1_1"),
        (walk(100, 3900).round(), "ticks"),
        (walk(-70, 80), UNKNOWN),  # degrees or [-100, 100]
        (walk(-0.7, 0.7), UNKNOWN),  # radians or [-1, 1]
        (walk(-9, 9), UNKNOWN),
        (walk(-3000, 5000), UNKNOWN),
        (np.full((50, 5), 0.3), UNKNOWN),
        (walk(-1, 1, n=4), UNKNOWN),
    ],
)
def test_joints(values, unit):
    assert joint_unit(values)[0] == unit


def test_the_encoder_tells_degrees_from_a_range():
    """Both stay within +-80: the one moves in steps of 360 / 4096, the other in a step of its own for each joint."""
    degrees = np.round(walk(-70, 80) / (360 / 4096)) * (360 / 4096)
    assert joint_unit(degrees)[0] == "deg"
    steps = 200 / np.array([1500.0, 1730.0, 2011.0, 2200.0, 2390.0])
    assert joint_unit(np.round(walk(-70, 80) / steps) * steps)[0] == "range_m100_100"
    assert joint_unit(np.round(walk(-70, 80), 1))[0] == UNKNOWN  # decimals are no encoder
    turn = 2 * np.pi / 4096
    assert joint_unit(np.round(walk(-0.7, 0.7) / turn) * turn)[0] == "rad"


def test_one_glitch_does_not_change_a_unit():
    values = walk(-2.5, 2.8, n=2000)
    values[77, 2] = 4000.0
    assert joint_unit(values)[0] == "rad"


def test_lengths_angles_and_hands():
    assert length_unit(walk(-0.3, 0.6, d=3))[0] == "m"
    assert length_unit(walk(-300, 600, d=3))[0] == "mm"
    assert length_unit(walk(-5, 6, d=3))[0] == UNKNOWN
    assert length_unit(np.clip(walk(-1.4, 1.4, d=3), -1, 1))[0] == "range_m1_1"
    assert angle_unit(walk(-3, 3, d=3))[0] == "rad"
    assert angle_unit(walk(-170, 170, d=3))[0] == "deg"
    assert angle_unit(walk(-0.2, 0.2, d=3))[0] == UNKNOWN
    assert hand_unit(np.clip(walk(-0.2, 1.2), 0, 1))[0] == "range_0_1"
    assert hand_unit(walk(0, 1.7))[0] == UNKNOWN


def test_names_and_ratios():
    assert named_unit(frozenset({"joint", "deg"}))[0] == "deg"
    assert named_unit(frozenset({"deg", "rad"})) is None
    assert same_unit("rad", [57.1, 57.4, 56.9]) == "deg"
    assert same_unit("m", [1.01, 0.98]) == "m"
    assert same_unit("range_m100_100", [3.0, 3.1]) is None
    assert same_unit("rad", [1.0, 57.0, 0.2]) is None
    assert same_unit("rad", []) is None
