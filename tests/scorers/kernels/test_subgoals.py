from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scorers.kernels.subgoals import distances, smoothed, subgoals


def legs(*corners: tuple[float, float], n: int = 40) -> np.ndarray:
    """A point that goes from corner to corner, ``n`` frames a leg, as a path of vectors [m, 2]."""
    points = [np.array(corners[0], float)[None]]
    for a, b in pairwise(corners):
        ramp = (1 - np.cos(np.pi * np.arange(1, n + 1) / n)) / 2
        points.append(np.array(a) + ramp[:, None] * (np.array(b) - np.array(a)))
    return np.concatenate(points)


def plainly(vectors: np.ndarray, times: np.ndarray, least: float, width: float) -> list[int]:
    """The same written from the formulas, frame by frame."""
    goal, found = len(vectors) - 1, [len(vectors) - 1]
    while True:
        d = np.array([np.linalg.norm(vectors[t] - vectors[goal]) for t in range(goal + 1)])
        apart = np.abs(times[: goal + 1, None] - times[None, : goal + 1]) / width
        k = np.where(apart <= 4, np.exp(-0.5 * apart**2), 0.0)
        s = k @ d / k.sum(axis=1)
        peaks = [
            h for h in range(1, goal)
            if s[h - 1] < s[h] > s[h + 1] and times[goal] - times[h] > least and times[h] - times[0] > least
        ]  # fmt: skip
        if not peaks:
            return found[::-1]
        goal = peaks[-1]
        found.append(goal)


def test_a_path_of_three_legs_has_its_corners_as_subgoals():
    # seen from a corner the distance falls back to the corner before, and beyond that it falls again
    path = legs((0, 0), (4, 0), (0, 1), (4, 2))
    times = np.arange(len(path)) / 20
    assert np.abs(subgoals(path, times) - [40, 80, 120]).max() <= 2
    assert subgoals(path, times)[-1] == 120


def test_a_straight_way_has_its_end_alone():
    path = legs((0, 0), (5, 5))
    assert subgoals(path, np.arange(len(path)) / 20).tolist() == [40]


@pytest.mark.parametrize("rate", [5, 10, 60])
def test_the_frame_rate_does_not_change_what_is_found(rate):
    clock = np.arange(0, 6.001, 1 / rate)
    dense = legs((0, 0), (4, 0), (0, 1), (4, 2), n=400)
    path = np.stack([np.interp(clock, np.arange(len(dense)) / 200, column) for column in dense.T], axis=1)
    found = subgoals(path, clock)
    assert np.abs(clock[found] - [2, 4, 6]).max() <= max(1.5 / rate, 0.05)


@settings(max_examples=25)
@given(st.integers(1, 80), st.integers(1, 4), st.floats(0.05, 1.5), st.floats(0.02, 0.5), st.integers(0, 10_000))
def test_is_what_the_formulas_say(count, width, least, smooth, seed):
    draw = np.random.default_rng(seed)
    vectors = np.cumsum(draw.normal(size=(count, width)), axis=0)
    times = np.cumsum(draw.uniform(0.02, 0.2, count))
    wanted = plainly(vectors, times, least, smooth)
    found = subgoals(vectors, times, least_s=least, smooth_s=smooth)
    assert found.tolist() == wanted


@settings(max_examples=25)
@given(st.integers(1, 60), st.floats(0.01, 0.5), st.integers(0, 10_000))
def test_smoothing_is_a_weighted_mean_of_what_is_near(count, width, seed):
    draw = np.random.default_rng(seed)
    values, times = draw.normal(size=count), np.cumsum(draw.uniform(0.01, 0.2, count))
    kernel = np.exp(-0.5 * ((times[:, None] - times[None]) / width) ** 2)
    kernel[np.abs(times[:, None] - times[None]) > 4 * width] = 0
    assert smoothed(values, times, width) == pytest.approx(kernel @ values / kernel.sum(axis=1))
    assert smoothed(np.full(count, 3.0), times, width) == pytest.approx(np.full(count, 3.0))


def test_nothing_and_a_still_picture():
    assert subgoals(np.zeros((0, 3)), np.zeros(0)).tolist() == []
    assert subgoals(np.ones((200, 3)), np.arange(200) / 20).tolist() == [199]
    assert distances(np.eye(2), np.zeros(2)).tolist() == [1.0, 1.0]
