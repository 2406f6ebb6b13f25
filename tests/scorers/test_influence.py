import numpy as np
import pyarrow as pa
import pytest
import torch

from data_engine.errors import RequestError
from scorers.influence import Influence
from tests.scorers.strategies import detours

SCORER = Influence(members=2, chunk=2, iterations=300)


def value(rows, metric="influence"):
    return np.array([next(r.value for r in row if r.metric == metric) for row in rows], dtype=float)


def mixed(seed=0):
    """24 demonstrations past the obstacle; the commands of the last eight turn the other way for 15 steps."""
    states, actions = detours([1.0] * 24, seed)
    for action in actions[16:]:
        action[12:27] = -action[12:27]
    return states, actions


@pytest.fixture(scope="module")
def training(batch_of):
    return batch_of(*mixed())


@pytest.fixture(scope="module")
def base(batch_of):
    torch.set_num_threads(1)
    return SCORER.fit([batch_of(*detours([1.0] * 6, seed=30))])


@pytest.fixture(scope="module")
def fit(training, base):
    return SCORER.fit([training], base=base)


def test_demonstrations_that_teach_otherwise_are_the_least_helpful(training, fit, auc):
    rows = SCORER.score(training, fit)
    assert auc(value(rows)[:16], value(rows)[16:]) >= 0.95
    for row in rows[16:]:
        steps = row[0].step_values
        assert steps[12:27].mean() < np.r_[steps[:12], steps[27:49]].mean()
        assert row[1].value == pytest.approx((steps < 0).mean())
        low, high = next(iter(fit.meta["limits"].values()))[0]
        assert row[0].value == pytest.approx(np.clip(steps, low, high).mean(), rel=1e-3)
    spans = [span for row in rows[16:] for span in row[0].spans]
    assert {span.reason for span in spans} == {"harmful_to_the_targets"}
    assert np.mean([span.start >= 10 and span.stop <= 29 for span in spans]) >= 0.7


def test_the_fit_knows_what_it_saw(training, base, fit, batch_of):
    assert fit.base == base.id
    assert fit.reference == tuple(sorted([*training.content_hashes, *base.reference]))
    other = SCORER.fit([batch_of(*detours([1.0] * 3, seed=30))])
    assert other.id != base.id
    states, actions = mixed()
    reward = pa.array(np.random.rand(24 * 50))
    again = SCORER.fit([batch_of(states[::-1], actions[::-1], name="renamed", reward=reward)], base=base)
    assert again.id == fit.id
    for name, array in fit.arrays.items():
        np.testing.assert_array_equal(again.arrays[name], array)


def test_a_newcomer_is_measured_alone_and_a_bad_episode_by_nobody(training, fit, batch_of):
    states, actions = mixed()
    want = value(SCORER.score(training, fit))[3]
    bad = np.full_like(states[0], np.nan)
    rows = SCORER.score(batch_of([bad, states[3]], [actions[0], actions[3]]), fit)
    assert rows[1][0].value == want
    assert (rows[0][0].status, rows[0][0].reason) == ("undefined", "no finite step")
    wide = batch_of([np.c_[states[0], states[0]]], [actions[0]])
    assert SCORER.score(wide, fit)[0][0].reason.startswith("no policy or no target for arm/delta/4x2")


def test_tasks_have_their_own_targets(base, batch_of):
    sides = [1.0, -1.0] * 6
    tasks = ["above" if side > 0 else "below" for side in sides]
    targets = SCORER.fit([batch_of(*detours([1.0] * 3, seed=31), ["above"] * 3)])
    batch = batch_of(*detours(sides, seed=32), tasks)
    rows = SCORER.score(batch, SCORER.fit([batch], base=targets))
    assert rows[0][0].reason is None
    assert rows[1][0].reason == "against every target: none is of this task"


def test_targets_of_another_robot_are_refused(training, batch_of):
    states, actions = detours([1.0] * 3, seed=30)
    other = SCORER.fit([batch_of([np.c_[s, s] for s in states], actions)])
    with pytest.raises(RequestError, match="no target is of a robot"):
        SCORER.fit([training], base=other)


def test_without_a_base_it_only_keeps_the_demonstrations(base):
    assert base.base is None
    assert len(base.meta["targets"]) == 6
    assert base.arrays["0.state"].shape == (50, 2)


def test_targets_less_others_are_the_difference_of_both(training, base, batch_of, auc):
    """f is a mean over the wanted less a mean over the unwanted, so with one policy influences subtract."""
    unwanted = SCORER.fit([batch_of(*[part[16:20] for part in mixed(seed=40)])])
    both = SCORER.less(base, unwanted)
    assert both.reference == tuple(sorted([*base.reference, *unwanted.reference]))
    assert both.id not in (base.id, unwanted.id)
    apart = [SCORER.fit([training], base=fit) for fit in (base, unwanted, both)]
    steps = [np.concatenate([row[0].step_values for row in SCORER.score(training, fit)]).astype(float) for fit in apart]
    np.testing.assert_allclose(steps[2], steps[0] - steps[1], rtol=1e-3, atol=1e-3 * np.abs(steps[0]).max())
    value_of = value(SCORER.score(training, apart[2]))
    assert auc(value_of[:16], value_of[16:]) >= 0.95
