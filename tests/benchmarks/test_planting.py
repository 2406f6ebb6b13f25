import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.planting import CONSISTENCY, INTEGRITY, KINDS, Course, spoil

GRIPPER = 2


def courses(count=10, seed=0):
    draw = np.random.default_rng(seed)
    made = []
    for i in range(count):
        n = int(draw.integers(40, 60))
        action = draw.normal(size=(n, 3)).astype(np.float32)
        action[:, GRIPPER] = np.sign(action[:, GRIPPER])
        state = np.cumsum(action, axis=0, dtype=np.float32)
        made.append(Course(state, action, np.arange(n) / 20, ("open", "close")[i % 2]))
    return made


def planted(kind, seed=0):
    clean = courses()
    spoilt, bad = spoil(clean, kind, share=0.3, seed=seed, gripper=(GRIPPER,))
    return [(a, b) for a, b, is_bad in zip(clean, spoilt, bad, strict=True) if is_bad]


@pytest.mark.parametrize("kind", KINDS)
@given(seed=st.integers(0, 2**32))
@settings(max_examples=5, deadline=None)
def test_the_share_is_spoilt_and_nothing_else(kind, seed):
    clean = courses()
    before = [(c.state.copy(), c.action.copy()) for c in clean]
    spoilt, bad = spoil(clean, kind, share=0.3, seed=seed, gripper=(GRIPPER,))
    assert bad.sum() == 3
    for course, other, is_bad, (state, action) in zip(clean, spoilt, bad, before, strict=True):
        np.testing.assert_array_equal(course.state, state)
        np.testing.assert_array_equal(course.action, action)
        assert len(other.state) == len(other.action) == len(other.time)
        if not is_bad:
            assert other is course
            continue
        same = (
            other.task == course.task
            and np.array_equal(other.state, course.state)
            and np.array_equal(other.action, course.action)
        )
        assert not same
    again, _ = spoil(clean, kind, share=0.3, seed=seed, gripper=(GRIPPER,))
    for one, two in zip(spoilt, again, strict=True):
        np.testing.assert_array_equal(one.state, two.state)
        np.testing.assert_array_equal(one.action, two.action)


@pytest.mark.parametrize("kind", [*CONSISTENCY, "frozen"])
def test_length_and_task_do_not_give_it_away(kind):
    for course, other in planted(kind):
        assert len(other) == len(course)
        assert other.task == course.task


@pytest.mark.parametrize("kind", ["lagged", "swapped", "negated", "wrong_units", "foreign", "gripper_flipped"])
def test_the_motion_stays_what_it_was(kind):
    for course, other in planted(kind):
        assert other.state is course.state


@pytest.mark.parametrize("kind", ["teleported", "frozen"])
def test_the_actions_stay_what_they_were(kind):
    for course, other in planted(kind):
        assert other.action is course.action


@pytest.mark.parametrize("seed", range(5))
def test_a_lag_is_3_to_8_steps(seed):
    for course, other in planted("lagged", seed):
        (lag,) = (k for k in range(1, 20) if np.array_equal(other.action[k:], course.action[:-k]))
        assert 3 <= lag <= 8


def test_axes_are_exchanged_or_negated_and_the_gripper_is_spared():
    for course, other in planted("swapped"):
        np.testing.assert_array_equal(other.action, course.action[:, [1, 0, GRIPPER]])
    for course, other in planted("negated"):
        np.testing.assert_array_equal(np.abs(other.action), np.abs(course.action))
        np.testing.assert_array_equal(other.action[:, GRIPPER], course.action[:, GRIPPER])
    for course, other in planted("wrong_units"):
        factor = np.median(other.action[:, :2] / course.action[:, :2])
        np.testing.assert_allclose(other.action[:, :2], course.action[:, :2] * factor, rtol=1e-5)
        assert factor > 50 or factor < 1 / 50


def test_a_flipped_gripper_is_flipped_in_one_run():
    for course, other in planted("gripper_flipped"):
        np.testing.assert_array_equal(other.action[:, :GRIPPER], course.action[:, :GRIPPER])
        flipped = np.flatnonzero(other.action[:, GRIPPER] == -course.action[:, GRIPPER])
        assert flipped[-1] - flipped[0] + 1 == len(flipped)
        assert 0.2 <= len(flipped) / len(course) <= 0.6 + 1 / len(course)


def test_halves_and_foreign_actions_come_from_others_in_the_set():
    clean = courses()
    steps = {row.tobytes(): i for i, course in enumerate(clean) for row in course.state}
    for _, other in planted("joined"):
        half = len(other) // 2
        sources = [steps[row.tobytes()] for row in other.state]
        assert len(set(sources[:half])) == len(set(sources[half:])) == 1
        assert sources[0] != sources[-1]
    commands = {row.tobytes(): i for i, course in enumerate(clean) for row in course.action}
    for _, other in planted("foreign"):
        assert len({commands[row.tobytes()] for row in other.action}) == 1
        assert commands[other.action[0].tobytes()] != steps[other.state[0].tobytes()]


def test_reversed_truncated_duplicated_mislabelled():
    for course, other in planted("reversed"):
        np.testing.assert_array_equal(other.state[::-1], course.state)
        np.testing.assert_array_equal(other.time, course.time)
    for course, other in planted("truncated"):
        np.testing.assert_array_equal(other.state, course.state[: len(other)])
        assert len(other) <= 0.15 * len(course) + 1
    recordings = {course.state.tobytes() for course in courses()}
    for course, other in planted("duplicated"):
        assert other.state.tobytes() in recordings - {course.state.tobytes()}
    for course, other in planted("mislabelled"):
        assert {course.task, other.task} == {"open", "close"}


def test_not_finite_spoils_one_run_of_one_dimension():
    for _, other in planted("not_finite"):
        wrong = ~np.isfinite(np.concatenate([other.state, other.action], axis=1))
        assert wrong.any(axis=0).sum() == 1
        steps = np.flatnonzero(wrong.any(axis=1))
        assert steps[-1] - steps[0] + 1 == len(steps)


def test_no_room_is_said():
    clean = courses()
    for kind, some, gripper, reason in (
        ("gripper_flipped", clean, (), "gripper dimension"),
        ("swapped", clean, (1, 2), "axes"),
        ("mislabelled", clean[::2], (2,), "tasks"),
        ("foreign", clean[:1], (2,), "episodes"),
        ("misspelt", clean, (2,), "none of"),
    ):
        with pytest.raises(ValueError, match=reason):
            spoil(some, kind, share=0.2, seed=0, gripper=gripper)


def test_every_kind_has_a_place():
    assert set(INTEGRITY) | set(CONSISTENCY) | {"mislabelled"} == set(KINDS)
