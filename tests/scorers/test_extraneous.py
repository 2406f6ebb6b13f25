import numpy as np

from scorers.extraneous import Extraneous

SCORER = Extraneous()


def acted(draw, pause=None):
    """A hand that is driven through three places; it stops for ``pause`` (start, steps) when told to."""
    places = np.array([[1.0, 0.0], [1.0, 1.0], [0.0, 1.5]])
    hand, goal, states, actions, extra = np.zeros(2), 0, [], [], []
    while goal < 3 and len(states) < 200:
        away = places[goal] - hand
        resting = pause is not None and pause[0] <= len(states) < sum(pause)
        action = np.zeros(2) if resting else away / max(np.linalg.norm(away), 0.1) + draw.normal(0, 0.05, 2)
        states.append(hand.copy())
        actions.append(action)
        extra.append(resting)
        hand = hand + 0.05 * action
        goal += int(np.linalg.norm(away) < 0.08)
    return np.array(states), np.array(actions), np.array(extra)


def test_a_pause_that_others_do_not_make_is_dropped(batch_of):
    draw = np.random.default_rng(0)
    made = [acted(draw) for _ in range(8)] + [acted(draw, (15 + 3 * i, 20)) for i in range(4)]
    batch = batch_of([s for s, _, _ in made], [a for _, a, _ in made], ["reach"] * 12)
    rows = SCORER.score(batch, SCORER.fit([batch]))
    for row, (_, _, extra) in zip(rows, made, strict=True):
        dropped = row[0].step_values == 0
        if not extra.any():
            assert dropped.mean() < 0.05
            continue
        assert (dropped & extra).sum() / (
            dropped | extra
        ).sum() >= 0.6  # where nobody else turns back, the bend after the pause is taken in
        assert {span.reason for span in row[0].spans} == {"extraneous"}
        assert row[0].value == dropped.mean()
        assert 0 < row[1].value <= 1


def test_reasons(batch_of):
    draw = np.random.default_rng(0)
    made = [acted(draw)[:2] for _ in range(6)]
    states, actions = [s for s, _ in made], [a for _, a in made]
    states[3] = np.full_like(states[3], np.nan)
    batch = batch_of(states, actions, ["reach"] * 4 + ["alone", None])
    rows = SCORER.score(batch, SCORER.fit([batch]))
    assert [row[0].status for row in rows] == ["ok"] * 3 + ["undefined"] * 3
    assert rows[3][0].reason == "only 0 finite steps, of 8 at least"
    assert rows[4][0].reason == rows[5][0].reason == "no other episode of its task in the reference"
    assert (rows[0][1].value, rows[0][1].reason) == (None, "nothing is dropped")


def test_a_task_in_which_nothing_moves_and_a_very_long_episode_have_reasons(batch_of):
    still = [np.ones((20, 2)) for _ in range(3)]
    long = np.cumsum(np.ones((50_001, 1)), axis=0) % 7
    rows = SCORER.score(batch := batch_of(still, still, ["wait"] * 3), SCORER.fit([batch]))
    assert {row[0].reason for row in rows} == {"nothing moves in the reference of its task"}
    batch = batch_of([long, long[:40], long[:50]], [long, long[:40], long[:50]], ["go"] * 3)
    rows = SCORER.score(batch, SCORER.fit([batch]))
    assert rows[0][0].reason == "more than 50000 steps" and rows[1][0].status == "ok"


def test_order_and_names_change_nothing(tiers, batch_of):
    states, actions, tasks = (x[:16] for x in tiers[:3])
    batch = batch_of(states, actions, tasks)
    want = [[row.value for row in rows] for rows in SCORER.score(batch, SCORER.fit([batch]))]
    other = batch_of(states[::-1], actions[::-1], tasks[::-1], name="renamed")
    got = [[row.value for row in rows] for rows in SCORER.score(other, SCORER.fit([other]))]
    assert got[::-1] == want
