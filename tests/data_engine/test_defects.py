from __future__ import annotations

import numpy as np
import pytest

from data_engine.defects import CODES, of_features, of_frames, of_times
from data_engine.model import ACTION, STATE, Feature

JOINTS = ("shoulder", "lift", "elbow", "flex", "roll", "jaw")


def vector(name: str, components: tuple[str, ...] | None, size: int) -> Feature:
    return Feature(name=name, dtype="float32", shape=(size,), components=components)


def test_an_action_one_joint_short_is_named() -> None:
    (found,) = of_features([vector(STATE, JOINTS, 6), vector(ACTION, JOINTS[:5], 5)])
    assert found.code == "action_short"
    assert "jaw" in found.what


@pytest.mark.parametrize(
    ("state", "action"),
    [
        (JOINTS, JOINTS),
        (JOINTS, ("x", "y", "z")),
        ((*JOINTS, *(f"velocity_{name}" for name in JOINTS)), JOINTS),
        (None, JOINTS),
        (JOINTS, None),
    ],
)
def test_other_names_and_unnamed_vectors_prove_nothing(
    state: tuple[str, ...] | None, action: tuple[str, ...] | None
) -> None:
    assert not of_features([vector(STATE, state, len(state or JOINTS)), vector(ACTION, action, len(action or JOINTS))])


def scene(n: int, moving: bool, noise: int = 2) -> np.ndarray:
    rng = np.random.default_rng(0)
    frames = np.tile(rng.integers(0, 255, (1, 48, 64, 3)), (n, 1, 1, 1))
    for i in range(n if moving else 0):
        frames[i, 10:16, 5 * i : 5 * i + 6] = 250
    return np.clip(frames + rng.integers(-noise, noise + 1, frames.shape), 0, 255).astype(np.uint8)


def test_black_and_frozen_cameras() -> None:
    dark = np.random.default_rng(0).integers(12, 20, (5, 48, 64, 3)).astype(np.uint8)
    assert of_frames(dark, moving=True) == "camera_black"
    assert of_frames(dark[:1], moving=False) == "camera_black"
    assert of_frames(scene(5, moving=False), moving=True) == "camera_frozen"
    assert of_frames(scene(5, moving=False), moving=False) is None
    assert of_frames(scene(2, moving=False), moving=True) is None
    assert of_frames(scene(5, moving=True), moving=True) is None


def test_a_dim_scene_with_something_in_it_is_not_black() -> None:
    frames = np.full((3, 48, 64, 3), 16, np.uint8)
    frames[:, :10, :10] = 120
    assert of_frames(frames, moving=False) is None


def test_clocks_in_other_units_of_another_rate_and_going_back() -> None:
    even = np.arange(5) / 10
    pausing = np.array([0.0, 0.1, 0.2, 3.0, 3.1])
    clocks = [even, even * 1000, pausing, even[::-1], even * 2, np.array([0.0, np.nan, 0.2]), np.zeros(1), even * 1.3]
    offsets = np.cumsum([0, *map(len, clocks)])
    found = of_times(np.concatenate(clocks), offsets, 10.0)
    assert [[seen.code for seen in each] for each in found] == [
        [], ["clock_differs"], [], ["clock_back"], ["clock_differs"], ["clock_back"], [], []
    ]  # fmt: skip
    assert found[1][0].what == "a step takes 100 s, at the rate of the dataset 0.1 s"
    assert of_times(np.zeros(1), np.array([0, 1]), 10.0) == [[]]


def test_every_code_has_a_meaning() -> None:
    assert all(text and text == text.strip() for text in CODES.values())
