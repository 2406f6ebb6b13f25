import numpy as np
import pytest

from scorers.ending import Ending

SCORER = Ending()


def value(rows):
    return np.array([row[0].value for row in rows], dtype=float)


def reach(draw, done=1.0, steps=40):
    """A hand that fetches a thing from anywhere and brings it home, as far as ``done`` of the way; then it waits."""
    thing = draw.uniform([0.5, -0.5], [1.0, 0.5])
    t = np.clip(np.linspace(0, 1.05, steps) * done, 0, min(done, 1.0))[:, None]
    hand = np.where(t < 0.5, t * 2 * thing, (1 - t) * 2 * thing) + draw.normal(0, 0.003, (steps, 2))
    lies = np.where(t < 0.5, thing, (1 - t) * 2 * thing)
    return np.concatenate([hand, lies], axis=1), np.gradient(hand, axis=0)


@pytest.mark.parametrize("good", [24, 9])
def test_who_stops_before_the_end_is_unfinished_even_where_most_do(batch_of, good):
    draw = np.random.default_rng(good)
    done = np.r_[np.ones(good), draw.uniform(0.2, 0.6, 30 - good)]
    made = [reach(draw, share) for share in done]
    batch = batch_of([state for state, _ in made], [action for _, action in made])
    rows = SCORER.score(batch, SCORER.fit([batch]))
    found = value(rows)
    assert found[:good].max() < 0.15 < found[good:].min()
    assert [row.metric for row in rows[0]] == ["unfinished", "length"]


def test_a_newcomer_is_held_against_the_reference_and_itself_never(batch_of):
    draw = np.random.default_rng(0)
    made = [reach(draw) for _ in range(12)]
    fit = SCORER.fit([batch_of([state for state, _ in made], [action for _, action in made])])
    new = [reach(draw), reach(draw, 0.4)]
    found = value(SCORER.score(batch_of([s for s, _ in new], [a for _, a in new]), fit))
    assert found[0] < 0.1 and found[1] > 0.5
    cut = made[3][0][:15], made[3][1][:15]  # nearest to the very recording that it was cut from, and that is another
    copy = SCORER.score(batch_of([made[3][0], cut[0]], [made[3][1], cut[1]]), fit)
    assert copy[0][0].value < 0.1 < copy[1][0].value


def test_where_nobody_gets_anywhere_it_is_unobservable(batch_of):
    draw = np.random.default_rng(0)
    turn = np.linspace(0, 40, 120)
    states = [np.stack([np.sin(turn + at), np.cos(turn + at)], axis=1) for at in draw.uniform(0, 6.28, 16)]
    states = [state + draw.normal(0, 0.05, state.shape) for state in states]
    batch = batch_of(states, [np.gradient(state, axis=0) for state in states])
    rows = SCORER.score(batch, SCORER.fit([batch]))
    assert {(row[0].value, row[0].reason.split(":")[0]) for row in rows} == {(None, "unobservable")}


def test_reasons_and_bad_episodes(batch_of):
    draw = np.random.default_rng(0)
    made = [reach(draw) for _ in range(8)]
    states, actions = [state for state, _ in made], [action for _, action in made]
    states[1] = np.full_like(states[1], np.nan)
    batch = batch_of(states, actions, ["fetch"] * 7 + ["alone"])
    rows = SCORER.score(batch, SCORER.fit([batch]))
    assert rows[1][0].reason == "no finite step"
    assert rows[7][0].reason == "fewer than 5 other episodes of its task in the reference"
    assert np.isfinite(value(rows)[[0, *range(2, 7)]]).all()
    few = batch_of(states[2:7], actions[2:7], ["fetch"] * 5)  # four others each
    assert SCORER.score(few, SCORER.fit([few]))[0][0].reason.startswith("fewer than 5 other")
    still = batch_of([np.ones((20, 2))] * 6, [np.random.rand(20, 2) for _ in range(6)])
    assert SCORER.score(still, SCORER.fit([still]))[0][0].value is None


def test_order_and_names_change_nothing(tiers, batch_of):
    states, actions, tasks = (x[:20] for x in tiers[:3])
    batch = batch_of(states, actions, tasks)
    want = [[row.value for row in rows] for rows in SCORER.score(batch, SCORER.fit([batch]))]
    other = batch_of(states[::-1], actions[::-1], tasks[::-1], name="renamed")
    got = [[row.value for row in rows] for rows in SCORER.score(other, SCORER.fit([other]))]
    assert got[::-1] == want
