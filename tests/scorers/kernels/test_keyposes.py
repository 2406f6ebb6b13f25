from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from scorers.kernels.keyposes import keyposes, ways


def still_at(count: int, *runs: tuple[int, int]) -> np.ndarray:
    still = np.zeros(count, bool)
    for start, stop in runs:
        still[start:stop] = True
    return still


def side_of(count: int, *changes: int) -> np.ndarray:
    return np.where(np.searchsorted(np.array(changes), np.arange(count), side="right") % 2, 1, -1)[:, None]


def test_changes_stops_and_the_last_step():
    steps, why = keyposes(still_at(60, (10, 14), (30, 31)), side_of(60, 20, 45))
    assert list(zip(steps.tolist(), why, strict=True)) == [
        (10, "stop"), (20, "gripper"), (30, "stop"), (45, "gripper"), (59, "end"),
    ]  # fmt: skip


def test_a_rest_counts_once_and_not_at_the_beginning():
    steps, why = keyposes(still_at(50, (0, 12), (20, 40)), side_of(50))
    assert (steps.tolist(), why) == ([20, 49], ["stop", "end"])


def test_an_arm_that_stops_to_grip_has_the_grip_alone():
    for change in (21, 22, 23):
        steps, why = keyposes(still_at(60, (20, 28)), side_of(60, change))
        assert (steps.tolist(), why) == ([change, 59], ["gripper", "end"])
    steps, _ = keyposes(still_at(60, (23, 28)), side_of(60, 21))  # two steps after the change
    assert steps.tolist() == [21, 59]
    steps, _ = keyposes(still_at(60, (26, 28)), side_of(60, 21))
    assert steps.tolist() == [21, 26, 59]


def test_the_last_step_is_one_whatever_comes_just_before_it():
    steps, why = keyposes(still_at(20, (18, 20)), side_of(20, 17))
    assert (steps.tolist(), why) == ([19], ["end"])
    assert keyposes(still_at(1), side_of(1))[0].tolist() == [0]
    assert keyposes(still_at(0), np.zeros((0, 1)))[0].tolist() == []


@settings(max_examples=60)
@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.booleans()), max_size=80), st.integers(1, 7))
def test_they_rise_lie_apart_and_end_with_the_last_step(rows, apart):
    still, side = np.array([row[0] for row in rows], bool), np.array([row[1:] for row in rows]).reshape(-1, 2)
    steps, why = keyposes(still, side, apart)
    assert len(why) == len(steps)
    if not rows:
        return
    assert steps[-1] == len(rows) - 1
    assert why.count("end") == 1
    assert (np.diff(steps) >= apart).all()
    for step, name in zip(steps.tolist(), why, strict=True):
        if name == "gripper":
            assert (side[step] != side[step - 1]).any()
        if name == "stop":
            assert still[step] and not still[step - 1]
    changes = np.flatnonzero((side[1:] != side[:-1]).any(axis=1)) + 1
    for change in changes:  # none is passed over without a reason
        assert (np.abs(steps - change) < apart).any()


def test_a_gripper_turns_where_it_moves_far_enough_the_other_way():
    values = np.array([0.5, 0.55, 0.9, 0.6, 0.55, 0.3, 0.45, 0.2, 0.5, 0.8])
    assert ways(values, 0.35).tolist() == [-1, -1, 1, 1, -1, -1, -1, -1, -1, 1]
    assert ways(np.array([0.0, 0.0, 1.0, 1.0]), 0.8).tolist() == [-1, -1, 1, 1]  # from the middle of -1 to 1
    assert ways(np.linspace(1, 0, 11), 0.45).tolist() == [1] * 5 + [-1] * 6
    assert ways(np.full(3, 0.5), 0.1).tolist() == [0, 0, 0]
    assert ways(np.zeros(0), 0.1).tolist() == []


@settings(max_examples=60)
@given(st.lists(st.floats(-1, 1), max_size=60), st.floats(0.05, 1))
def test_between_two_turns_it_moved_by_as_much(values, least):
    found = ways(np.array(values), least)
    turns = np.flatnonzero(np.diff(found)) + 1
    for before, turn in pairwise([0, *turns]):
        part = np.array(values[before : turn + 1])
        moved = part[-1] - part.min() if found[turn] > 0 else part.max() - part[-1]
        assert moved >= least
    if not found.any():
        assert not values or np.ptp(values) < least


def test_a_rest_that_is_too_short_is_none():
    still = still_at(60, (10, 12), (20, 23), (30, 40))
    assert keyposes(still, side_of(60), least=3)[0].tolist() == [20, 30, 59]
    assert keyposes(still, side_of(60), least=4)[0].tolist() == [30, 59]
