"""What a held command, a gripper's say, brings about is asked half a second later."""

from dataclasses import replace

import numpy as np
import pytest

from scorers.consistency import Consistency

SCORER = Consistency()
STEPS = 90
REST = slice(30, 70)  # the steps in which a recorded command is turned


def fingers(told, start=1.0):
    """Openings of a finger that goes where it is told (-1 open, 1 closed) within a dozen steps, against its stops."""
    at, speed, found = start, 0.0, []
    for command in told:
        found.append(at)
        speed = 0.7 * speed - 0.03 * command
        at = float(np.clip(at + speed, 0.0, 1.0))
        speed = speed if 0.0 < at < 1.0 else 0.0
    return np.array(found)


def episode(draw, command, finger=True, extra=()):
    """A hand in the plane that follows its own noisy commands, and a finger that follows the held ``command``."""
    arm = 0.3 * np.sin(np.arange(STEPS)[:, None] / 9 + draw.uniform(0, 6, 2)) + draw.normal(0, 0.1, (STEPS, 2))
    hand = np.cumsum(np.concatenate([draw.normal(0, 0.1, (1, 2)), 0.1 * arm]), axis=0)[:-1]
    seen = [hand, fingers(command)[:, None] + draw.normal(0, 1e-5, (STEPS, 1))] if finger else [hand]
    return np.concatenate(seen, axis=1), np.column_stack([arm, command, *extra])


def sets(draw, **how):
    """Sixteen episodes of a task that keeps the finger open, and sixteen of one that closes it from the start."""
    made = [episode(draw, np.full(STEPS, told), **how) for told in [-1.0] * 16 + [1.0] * 16]
    return [state for state, _ in made], [action for _, action in made], ["open"] * 16 + ["close"] * 16


def values(batch_of, states, actions, tasks):
    batch = batch_of(states, actions, tasks, fps=20.0)
    rows = SCORER.score(batch, SCORER.fit([batch]))
    return np.array([np.nan if row[0].value is None else row[0].value for row in rows]), rows


def turned(actions, which):
    """``actions`` with the held command of ``which`` turned for a while, in the record alone."""
    found = [action.copy() for action in actions]
    for i in which:
        found[i][REST, 2] *= -1
    return found


@pytest.mark.parametrize("share", [1, 3, 6])
def test_a_held_command_that_moved_nothing_is_found_though_nobody_varies_it_within_a_task(batch_of, share):
    states, actions, tasks = sets(np.random.default_rng(0))
    bad = [*range(share), *range(16, 16 + share)]
    found, rows = values(batch_of, states, turned(actions, bad), tasks)
    good = np.setdiff1d(np.arange(32), bad)
    assert found[bad].min() >= 0.7
    assert found[good].max() < 0.6
    for i in bad:
        assert {span.reason for span in rows[i][0].spans} == {"contradicted"}
        assert all(span.stop > REST.start - 12 and span.start < REST.stop for span in rows[i][0].spans)


def test_the_same_command_where_no_state_shows_the_finger_says_nothing(batch_of):
    states, actions, tasks = sets(np.random.default_rng(1), finger=False)
    plain, _ = values(batch_of, states, actions, tasks)
    bad = [0, 1, 16, 17]
    found, _ = values(batch_of, states, turned(actions, bad), tasks)
    assert found.max() < 0.6
    np.testing.assert_allclose(found[bad], plain[bad], atol=0.1)


def test_flags_and_what_is_never_used_are_no_commands(batch_of):
    draw = np.random.default_rng(2)
    made = []
    for i in range(32):
        ends = np.zeros(STEPS)
        if i % 4:  # a quarter was stopped by hand: nobody raised the flag
            ends[-int(draw.integers(1, 12)) :] = 1.0
        base = np.zeros(STEPS)
        if i == 5:  # somebody touched the base's lever, and the base is not in the state
            base[40:60] = 1.0
        told = np.full(STEPS, -1.0 if i < 16 else 1.0)
        made.append(episode(draw, told, extra=(ends, base)))
    found, _ = values(batch_of, [s for s, _ in made], [a for _, a in made], ["open"] * 16 + ["close"] * 16)
    assert found.max() < 0.6


def test_an_arm_that_a_task_leaves_alone_and_a_finger_that_is_pushed_a_little_are_no_fault(batch_of):
    draw = np.random.default_rng(3)
    states, actions, tasks = sets(draw)
    both = []
    for i, state in enumerate(states):
        state = state.copy()
        state[:, 2] += draw.normal(0, 2e-4, STEPS)  # it trembles
        if i in (2, 9):
            state[50:62, 2] -= 0.04  # and something is in its way
        other = np.column_stack([np.full((STEPS, 2), 0.5), np.full(STEPS, 0.2)]) + draw.normal(0, 1e-5, (STEPS, 3))
        both.append(np.concatenate([state, other], axis=1))
    idle = np.column_stack([np.zeros((STEPS, 2)), np.full(STEPS, 1.0)])
    found, _ = values(batch_of, both, [np.concatenate([a, idle], axis=1) for a in actions], tasks)
    assert found.max() < 0.6


def test_a_gripper_that_is_held_wrongly_is_named_by_its_name(batch_of):
    states, actions, tasks = sets(np.random.default_rng(4))
    batch = batch_of(states, turned(actions, [3]), tasks, fps=20.0)
    features = tuple(
        feature.model_copy(update={"components": ("x", "y", "gripper")}) if feature.name == "action" else feature
        for feature in batch.dataset.features
    )
    named = replace(batch, dataset=batch.dataset.model_copy(update={"features": features}))
    rows = SCORER.score(named, SCORER.fit([named]))
    assert {span.reason for span in rows[3][0].spans} == {"gripper"}
