import numpy as np
import pyarrow as pa
import pytest
from sklearn.metrics import adjusted_mutual_info_score

from data_engine.reference import episodes
from data_engine.scoring import Fit
from scorers.diversity import Diversity, _course, _load
from tests.scorers.strategies import STEPS, detours

SCORER = Diversity()
SETS = [metric.name for metric in SCORER.spec.set_metrics]


def value(rows, metric="mode_id"):
    return np.array([next(r.value for r in row if r.metric == metric) for row in rows], dtype=float)


def two_ways(count=40, seed=0):
    sides = [1.0 if number % 5 < 3 else -1.0 for number in range(count)]
    return sides, *detours(sides, seed)


def as_set(batch, fit):
    rows = SCORER.score_set([batch], fit)
    assert [row.metric for row in rows] == SETS
    return {row.metric: row.value for row in rows}, {row.metric: row.reason for row in rows}


@pytest.mark.parametrize("seed", range(3))
def test_two_ways_that_succeed_are_two_modes(batch_of, seed):
    sides, states, actions = two_ways(seed=seed)
    batch = batch_of(states, actions)
    rows = SCORER.score(batch, SCORER.fit([batch]))
    assert {len(state) for state in states} == {STEPS}  # length says nothing
    mode = value(rows)
    known = np.isfinite(mode)
    assert known.mean() > 0.9
    assert adjusted_mutual_info_score(np.array(sides)[known], mode[known]) >= 0.8
    assert set(mode[np.array(sides) > 0]) == {0.0}  # the commoner way
    assert value(rows, "mode_share")[0] == pytest.approx(0.6, abs=0.02)


def reaching(draw, side):
    """A hand that sets out to one side, reaches a thing anywhere, and turns it to one of three angles at the end."""
    thing, angle = draw.uniform([-0.5, 1.5], [0.5, 2.5]), draw.integers(3) * 2.0
    t = np.linspace(0, 1, 60)[:, None]
    aside = np.where(t < 0.3, np.sin(t / 0.3 * np.pi), 0) * np.array([[0.4 * side, 0]])
    hand = t * thing + aside + draw.normal(0, 0.005, (60, 2))
    rests = np.tile(np.r_[thing, 0.0], (60, 1))
    rests[50:, 2] = angle + draw.normal(0, 0.05)
    return np.concatenate([hand, rests], axis=1), np.gradient(hand, axis=0)


def test_ways_that_part_for_a_while_are_modes_and_what_becomes_of_things_is_none(batch_of):
    draw = np.random.default_rng(4)
    sides = np.array([1.0, -1.0] * 15)
    for asked in (sides, np.ones(30)):
        made = [reaching(draw, side) for side in asked]
        batch = batch_of([state for state, _ in made], [action for _, action in made])
        mode = value(SCORER.score(batch, SCORER.fit([batch])))
        known = np.isfinite(mode)
        assert known.mean() > 0.9
        if asked is sides:
            assert adjusted_mutual_info_score(sides[known], mode[known]) >= 0.8
        else:
            assert set(mode[known]) == {0.0}


def pressing(draw, side):
    """A hand that passes a thing at one side and then goes down on it: along most of its course one axis rests."""
    thing = draw.uniform([-0.3, 0.9], [0.3, 1.1])
    t = np.linspace(0, 1, 80)[:, None]
    near, down = np.clip(t / 0.3, 0, 1), np.clip((t - 0.3) / 0.7, 0, 1)
    aside = np.sin(np.pi * near) * side * draw.uniform(0.35, 0.5)
    hand = np.concatenate([near * thing[0] + aside, near * thing[1], 1 - down], axis=1)
    hand += draw.normal(0, 0.0005, hand.shape)
    return np.concatenate([hand, np.tile(thing, (80, 1))], axis=1), np.gradient(hand, axis=0)


@pytest.mark.parametrize("seed", range(3))
def test_ways_part_in_coordinates_that_rest_for_most_of_the_course(batch_of, seed):
    draw = np.random.default_rng(seed)
    sides = np.array([1.0, -1.0] * 12)
    made = [pressing(draw, side) for side in sides]
    batch = batch_of([state for state, _ in made], [action for _, action in made])
    mode = value(SCORER.score(batch, SCORER.fit([batch])))
    known = np.isfinite(mode)
    assert known.mean() > 0.9
    assert adjusted_mutual_info_score(sides[known], mode[known]) >= 0.8


def test_where_a_thing_lies_makes_no_mode(batch_of):
    draw = np.random.default_rng(5)
    made = [pressing(draw, 1.0) for _ in range(24)]
    batch = batch_of([state for state, _ in made], [action for _, action in made])
    mode = value(SCORER.score(batch, SCORER.fit([batch])))
    assert set(mode[np.isfinite(mode)]) == {0.0}


def test_one_way_is_one_mode(batch_of):
    batch = batch_of(*detours([1.0] * 30))
    assert set(value(SCORER.score(batch, SCORER.fit([batch])))) == {0.0}


def test_those_who_know_how_go_one_way(tiers, batch_of):
    """Failures may part from the rest as a mode of their own: success is not seen. Experts do not part."""
    states, actions, tasks, tier = tiers
    own = np.flatnonzero(np.array(tasks) == "drawer-open-v3")
    batch = batch_of([states[i] for i in own], [actions[i] for i in own])
    mode = value(SCORER.score(batch, SCORER.fit([batch])))
    assert set(mode[(tier[own] == "expert") & np.isfinite(mode)]) == {0.0}


def test_a_newcomer_has_the_mode_of_its_like_and_a_stranger_none(batch_of):
    _, states, actions = two_ways()
    fit = SCORER.fit([batch_of(states, actions)])
    new, moves = detours([1.0, -1.0, 1.0], seed=77)
    new[2] = new[2] + np.linspace(0, 5, STEPS)[:, None]
    rows = SCORER.score(batch_of(new, moves), fit)
    assert [row[0].value for row in rows] == [0.0, 1.0, None]
    assert rows[2][0].reason.startswith("novel")


def test_order_names_and_rewards_change_nothing_and_bad_episodes_nobody(batch_of):
    _, states, actions = two_ways(20)
    plain = batch_of(states, actions)
    fit = SCORER.fit([plain])
    want = value(SCORER.score(plain, fit))
    reward = pa.array(np.random.rand(20 * STEPS))
    other = batch_of(states[::-1], actions[::-1], name="renamed", reward=reward)
    again = SCORER.fit([other])
    for name, array in fit.arrays.items():
        np.testing.assert_array_equal(again.arrays[name], array)
    np.testing.assert_array_equal(value(SCORER.score(other, again)), want[::-1])
    assert as_set(plain, fit)[0] == as_set(other, again)[0]
    bad = batch_of([np.full_like(states[0], np.nan), *states], [actions[0], *actions])
    rows = SCORER.score(bad, SCORER.fit([bad]))
    np.testing.assert_array_equal(value(rows)[1:], want)
    assert (rows[0][0].status, rows[0][0].reason) == ("undefined", "no finite step")


def test_a_set_of_both_ways_is_more_diverse_than_one(batch_of):
    sides, states, actions = two_ways(40)
    fit = SCORER.fit([batch_of(states, actions)])
    pick = [np.flatnonzero(np.array(sides) > 0)[:12], np.r_[0:12]]
    one, both = (as_set(batch_of([states[i] for i in p], [actions[i] for i in p]), fit)[0] for p in pick)
    assert one["vendi"] < both["vendi"] <= 12
    assert one["spread"] < 0.5 < both["spread"]
    assert one["behaviour_entropy"] == 0
    assert both["behaviour_entropy"] > 0.9
    assert one["disparity"] > 5 * abs(both["disparity"])
    assert one["disparity_sinkhorn"] > 2 * both["disparity_sinkhorn"] >= 0
    whole, said = as_set(batch_of(states, actions), fit)
    assert whole["spread"] == pytest.approx(1)
    assert whole["disparity"] is None
    assert said["disparity"] == "the reference holds too few other episodes"


def test_behaviour_that_the_start_decides_has_no_entropy_left(batch_of):
    """The way depends on where it begins: plain entropy is high, given the start it is low."""
    draw = np.random.default_rng(3)
    states, actions = [], []
    for number in range(40):
        side = 1.0 if number % 2 else -1.0
        t = np.linspace(0, 1, STEPS)[:, None]
        bend = np.sin(np.pi * t) * np.array([[0.0, side, -side]]) * (1 + side * 0.5) + t * np.array([[2.0, 0, 0]])
        start = np.array([[0.0, 0.0, side]]) + draw.normal(0, 0.05, (1, 3))
        state = start * (1 - t) + bend + draw.normal(0, 0.02, (STEPS, 3))
        states.append(state)
        actions.append(np.gradient(state, axis=0))
    batch = batch_of(states, actions)
    fit = SCORER.fit([batch])
    found, _ = as_set(batch, fit)
    (group,) = _load(fit).values()
    assert len(group.courses[""].starts) == 2
    assert found["behaviour_entropy_given_start"] <= found["behaviour_entropy"]


def test_coverage_counts_cells_or_says_that_it_cannot(batch_of):
    draw = np.random.default_rng(0)
    states = [np.repeat(draw.integers(0, 4, (10, 2)), 20, axis=0).astype(float) for _ in range(8)]
    actions = [np.diff(s, axis=0, append=s[-1:]) for s in states]
    batch = batch_of(states, actions)
    fit = Diversity(dims=2).fit([batch])
    found, _ = as_set(batch, fit)
    assert found["coverage"] == pytest.approx(1)
    assert as_set(batch_of(states[:1], actions[:1]), fit)[0]["coverage"] < 0.7
    _, states, actions = two_ways(10)
    smooth = batch_of(states, actions)
    found, said = as_set(smooth, Diversity(dims=6).fit([smooth]))
    assert found["coverage"] is None
    assert said["coverage"].startswith("saturated")


def test_few_episodes_and_strangers_have_reasons(batch_of):
    states, actions = detours([1.0] * 3)
    batch = batch_of(states, actions)
    fit = SCORER.fit([batch])
    assert SCORER.score(batch, fit)[0][0].reason == "fewer than 5 reference episodes of arm/delta/2x2"
    assert {row.status for row in SCORER.score_set([batch], fit)} == {"undefined"}
    _, states, actions = two_ways(20)
    fit = SCORER.fit([batch_of(states, actions, ["pass"] * 20)])
    other = batch_of(states[:1], actions[:1], ["fetch"])
    assert SCORER.score(other, fit)[0][0].reason == "fewer than 5 reference episodes of its task"


def test_a_course_is_sixteen_moments(batch_of):
    _, states, actions = two_ways(20)
    batch = batch_of(states, actions)
    fit = SCORER.fit([batch])
    (group,) = _load(Fit("x", "1", {}, 0, (), arrays=fit.arrays, meta=fit.meta)).values()
    view = group.view.measure(next(iter(episodes(batch))))
    course = _course(view).reshape(16, 2)
    moments = np.linspace(0, STEPS - 1, 16)
    for dim in range(2):
        np.testing.assert_allclose(course[:, dim], np.interp(moments, np.arange(STEPS), view.state[:, dim]), atol=1e-6)


def test_an_episode_of_one_step_breaks_nothing(batch_of):
    states, actions = detours([1.0])
    alone = batch_of([states[0][:1]], [actions[0][:1]])
    fit = SCORER.fit([alone])
    assert SCORER.score(alone, fit)[0][0].status == "undefined"
    _, states, actions = two_ways(20)
    batch = batch_of([*states, states[0][:1]], [*actions, actions[0][:1]])
    rows = SCORER.score(batch, SCORER.fit([batch]))
    assert rows[-1][-1].value == 1
