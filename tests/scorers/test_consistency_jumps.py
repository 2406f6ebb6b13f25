"""A teleport is a motion: what is foretold wrongly is none, nor is what merely few others do."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from benchmarks.planting import KINDS, Course, Site
from data_engine.model import ACTION, STATE
from scorers import dynamics
from scorers.consistency import Consistency
from scorers.dynamics import leaps
from scorers.kernels.response import Response, rows

SCORER = Consistency()
METRICS = [metric.name for metric in SCORER.spec.metrics]
FPS = 30.0
STEPS, ARM, IDLE = 160, 6, 6


def value(row, name="inconsistency"):
    return row[METRICS.index(name)].value


def scored(batch_of, episodes):
    """The rows of ``episodes`` (state, action) against one another."""
    batch = batch_of([state for state, _ in episodes], [action for _, action in episodes], fps=FPS)
    return SCORER.score(batch, SCORER.fit([batch]))


def spans(row):
    return [(span.start, span.reason) for span in row[0].spans]


def humanoid(draw, count=6, quantum=1e-3):
    """Episodes of two arms told where to be: one follows smooth targets, the other is held, each time elsewhere."""
    made = []
    for _ in range(count):
        phase = draw.uniform(0, 2 * np.pi, ARM)
        want = 0.3 * np.sin(np.arange(STEPS)[:, None] / draw.uniform(8, 14, ARM) + phase)
        want = np.concatenate(
            [want + draw.normal(0, 0.01, want.shape), np.tile(draw.normal(0, 0.05, IDLE), (STEPS, 1))], 1
        )
        at = [want[0]]
        for target in want[:-1]:
            at.append(at[-1] + 0.3 * (target - at[-1]))
        state = np.array(at) + draw.normal(0, 2e-4, want.shape)
        made.append((np.round(state / quantum) * quantum, want + draw.normal(0, 1e-4, want.shape)))
    return made


@pytest.fixture(scope="module")
def arms():
    return humanoid(np.random.default_rng(0))


@pytest.fixture(scope="session")
def g1(shared_data):
    """Six episodes of a Unitree G1 with hands."""
    root = shared_data / "g1_lerobot_v21"
    assert json.loads((root / "meta/info.json").read_text())["fps"] == FPS
    tables = [pq.read_table(path, columns=[STATE, ACTION]) for path in sorted(root.glob("data/*/*.parquet"))]
    return [tuple(np.stack(t[c].to_numpy(zero_copy_only=False)) for c in (STATE, ACTION)) for t in tables]


@pytest.mark.parametrize("seed", range(3))
def test_an_arm_that_is_held_where_no_other_is_does_not_teleport_nor_contradict(batch_of, seed):
    found = scored(batch_of, humanoid(np.random.default_rng(seed)))
    assert [spans(row) for row in found] == [[]] * 6
    assert max(value(row) for row in found) < 0.1


def test_an_arm_that_only_one_episode_uses_does_not_teleport(batch_of):
    draw = np.random.default_rng(1)
    made = [(state, draw.normal(size=action.shape)) for state, action in humanoid(draw, 12)]  # nothing answers those
    state = made[4][0]
    state[40:120, ARM] += np.round(0.2 * (1 - np.cos(np.arange(80) * 2 * np.pi / 80)), 3)
    assert [spans(row) for row in scored(batch_of, made)] == [[]] * 12
    state[90:, ARM] += 0.2  # and now it does
    assert spans(scored(batch_of, made)[4]) == [(90, "teleport")]


def test_a_coarse_encoder_that_flickers_by_one_of_its_steps_does_not_teleport(arms, batch_of):
    still = [np.full((STEPS, 1), 0.01 * i) for i in range(6)]
    still[3][77] += 0.01
    coarse = [(np.concatenate([state, one], axis=1), action) for (state, action), one in zip(arms, still, strict=True)]
    assert [spans(row) for row in scored(batch_of, coarse)] == [[]] * 6
    still[3][77] += 0.1
    coarse[3] = np.concatenate([arms[3][0], still[3]], axis=1), arms[3][1]
    assert spans(scored(batch_of, coarse)[3]) == [(77, "teleport")]


def test_one_that_jumps_is_found_among_six(arms, batch_of):
    states = [state.copy() for state, _ in arms]
    states[2][70:, :2] += 0.25
    found = scored(batch_of, [(state, action) for state, (_, action) in zip(states, arms, strict=True)])
    assert spans(found[2])[0][0] == 70
    assert value(found[2]) == max(value(row) for row in found if value(row) is not None)


def test_few_episodes_are_dealt_out_evenly_whatever_their_hashes(arms, batch_of, monkeypatch):
    key = dynamics.key_of
    monkeypatch.setattr(dynamics, "key_of", lambda seed, *parts: key(seed, *parts) // 5 * 5)  # all of one fold
    found = scored(batch_of, arms[:4])
    assert all(np.isfinite(value(row)) and np.isfinite(value(row, "jump")) for row in found)


def test_nothing_leaps_that_rests_sets_off_or_stops():
    state = np.zeros((40, 1))
    state[10:20, 0] = np.arange(10)  # sets off at once, and stops
    state[19:, 0] = state[19, 0]
    state[30:, 0] += 5.0  # jumps
    course = dynamics.Course(state, np.zeros((40, 1)), np.ones(39), 1 / FPS)
    found = rows(course.state, course.action, course.pace)
    wild = np.full((len(found), 1), 9.0)
    far = leaps(course, found, Response(wild, -wild, wild, found.motion))
    np.testing.assert_array_equal(found.step[far[:, 0] > 0], [29])
    assert far.max() == 5.0
    known = leaps(course, found, Response(np.where(found.step[:, None] == 29, 1.0, wild), 0 * wild, wild, found.motion))
    assert known.max() == 1.0  # and no further than its past does not explain


def test_a_real_humanoid_has_no_findings_and_is_observable(g1, batch_of):
    found = scored(batch_of, g1)
    assert [spans(row) for row in found] == [[]] * 6
    assert all(value(row) < 0.6 and value(row, "jump") < 1.5 for row in found)


@pytest.mark.parametrize("kind", ["joined", "teleported"])
def test_what_is_planted_in_a_real_humanoid_is_found(g1, batch_of, kind):
    courses = [Course(state, action, np.arange(len(state)) / FPS, "") for state, action in g1]
    for i in range(6):
        spoilt = KINDS[kind](courses[i], Site(courses, np.random.default_rng(i), ()))
        some = [spoilt if j == i else course for j, course in enumerate(courses)]
        row = scored(batch_of, [(course.state, course.action) for course in some])[i]
        assert value(row) >= 0.7
        assert {reason for _, reason in spans(row)} <= {"joined", "teleport"}


def test_actions_that_come_late_to_a_real_humanoid_are_named(g1, batch_of):
    late = [
        (state, action[np.maximum(np.arange(len(action)) - 6 * (i == 3), 0)]) for i, (state, action) in enumerate(g1)
    ]
    row = scored(batch_of, late)[3]
    assert row[0].reason == "lagged: actions come 6 steps late"
