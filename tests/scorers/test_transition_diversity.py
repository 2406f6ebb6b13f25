from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from data_engine.reference import Reference
from scorers.pool import Pools
from scorers.transition_diversity import TransitionDiversity, _transitions

SCORER = TransitionDiversity(k=5)


def value(rows, metric):
    return np.array([next(r.value for r in row if r.metric == metric) for row in rows], dtype=float)


def walks(noise, count=12, steps=60, seed=0):
    """A point that goes round a circle; the world adds ``noise`` [count] to where each action takes it."""
    draw = np.random.default_rng(seed)
    states, actions = [], []
    for size in noise:
        turn = np.arange(steps + 1) * 0.1 + draw.uniform(0, 2 * np.pi)
        place = np.stack([np.cos(turn), np.sin(turn)], axis=1)
        action = np.diff(place, axis=0) + draw.normal(0, 0.01, (steps, 2))
        states.append(place[:-1] + draw.normal(0, size, (steps, 2)))
        actions.append(action)
    return states, actions


def test_more_noise_in_the_world_is_more_diversity(batch_of):
    calm, wild = batch_of(*walks([0.01] * 12)), batch_of(*walks([0.05] * 12))
    found = [value(SCORER.score(b, SCORER.fit([b])), "transition_diversity") for b in (calm, wild)]
    assert np.isfinite(found).all()
    assert found[1].mean() > 5 * found[0].mean()


def test_is_the_formula(batch_of):
    states, actions = walks([0.03] * 8)
    batch = batch_of(states, actions)
    fit = SCORER.fit([batch])
    (pool,) = next(iter(Pools.load(fit).draws.values()))
    pools = Pools.load(fit)
    reach, radius = fit.meta["limits"][0]
    for (raw, view), row in zip(pools.measure(batch), SCORER.score(batch, fit), strict=True):
        seen = _transitions(view)
        others = pool.owner != pools.owner(view)
        places, changes = pool.state[others].astype(float), pool.action[others].astype(float)
        want = []
        for x in seen.state.astype(float):
            distance = np.sqrt(((places - x) ** 2).sum(1))
            near = np.argsort(distance)[:5]
            near = near[distance[near] <= reach]
            change = changes[near]
            want.append(np.nan if len(near) < 3 else ((change - change.mean(0)) ** 2).sum(1).mean())
        np.testing.assert_allclose(row[0].step_values[:-1], want, rtol=2e-3, equal_nan=True)
        assert np.isnan(row[0].step_values[-1])  # nothing follows the last step
        width = view.state.shape[1]
        close = [
            (np.sqrt(((places[:, :width] - x) ** 2).sum(1)) <= radius).sum() for x in view.state[:-1].astype(float)
        ]
        np.testing.assert_allclose(
            row[1].step_values[:-1], np.array(close) * 1000 / others.sum(), atol=1001 / others.sum()
        )
        assert len(raw.state) == row[-1].value


def test_horizon_is_relative_to_the_task(batch_of):
    states, actions = walks([0.02] * 7)
    batch = batch_of([states[0][:30], *states[1:]], [actions[0][:30], *actions[1:]])
    assert value(SCORER.score(batch, SCORER.fit([batch])), "horizon").tolist() == [0.5] + [1.0] * 6


def test_order_names_and_rewards_change_nothing_and_bad_episodes_nobody(batch_of):
    states, actions = walks([0.02] * 7)
    plain = batch_of(states, actions)
    want = value(SCORER.score(plain, SCORER.fit([plain])), "transition_diversity")
    bad = np.full_like(states[0], np.nan)
    steps = sum(len(s) for s in states) + len(bad)
    other = batch_of(
        [bad, *states[::-1]], [actions[0], *actions[::-1]], name="other", reward=pa.array(np.arange(steps))
    )
    rows = SCORER.score(other, SCORER.fit([other]))
    np.testing.assert_array_equal(value(rows, "transition_diversity")[1:], want[::-1])
    assert (rows[0][0].status, rows[0][0].reason) == ("undefined", "no finite step")


def test_gaps_part_transitions_and_one_episode_is_sparse(batch_of):
    states, actions = walks([0.02] * 6)
    batch = batch_of(states, actions)
    fit = SCORER.fit([batch])
    states[1][7] = np.nan
    row = SCORER.score(batch_of(states, actions), fit)[1][0]
    assert np.flatnonzero(np.isnan(row.step_values)).tolist() == [6, 7, 59]
    alone = batch.one(0)
    row = SCORER.score(alone, SCORER.fit([alone]))[0][0]
    assert row.status == "undefined"
    assert row.reason.startswith("sparse")
    first = batch_of([states[0][:1]], [actions[0][:1]])
    assert SCORER.score(first, fit)[0][0].reason == "no step is followed by another"


def test_transitions_are_changes_of_position(batch_of):
    batch = batch_of(*walks([0.02] * 3))
    reference = Reference([batch], seed=0, budget=1000)
    view = next(iter(Pools.drawn(reference, seed=0, size=64).measure(batch)))[1]
    seen = _transitions(replace(view))
    assert view.positions == 2
    np.testing.assert_allclose(seen.action, np.diff(view.state[:, :2], axis=0), atol=1e-6)
    assert seen.valid.tolist() == [True] * 59 + [False]


@pytest.mark.parametrize("k", [2, 101])
def test_refuses_too_few_or_too_many_neighbours(k):
    with pytest.raises(ValueError, match="k"):
        TransitionDiversity(k=k)
