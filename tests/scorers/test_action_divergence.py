import numpy as np
import pyarrow as pa
import pytest

from data_engine.model import ACTION
from data_engine.scoring import EpisodeBatch
from scorers.action_divergence import ActionDivergence

SCORER = ActionDivergence()


def headline(rows):
    return np.array([np.nan if row[0].value is None else row[0].value for row in rows])


def test_separates_expert_from_worse_in_each_task(tiers, batch_of, auc):
    states, actions, tasks, tier = tiers
    batch = batch_of(states, actions, tasks)
    rows = SCORER.score(batch, SCORER.fit([batch]))
    value = -headline(rows)
    for task in set(tasks):
        own = np.array(tasks) == task
        assert auc(value[own & (tier == "expert")], value[own & (tier == "worse")]) >= 0.95
    assert [row[-1].value for row in rows] == [len(state) for state in states]


@pytest.mark.parametrize("kind", ["shuffled", "lagged", "swapped"])
def test_separates_planted_actions_from_untouched(planted, auc, kind):
    batch, bad = planted(kind)
    value = headline(SCORER.score(batch, SCORER.fit([batch])))
    assert auc(value[bad], value[~bad]) >= 0.9


def some(pusht, n=24):
    return pusht[0][:n], pusht[1][:n]


def test_order_ids_names_and_other_columns_change_nothing(pusht, batch_of):
    states, actions = some(pusht)
    plain = batch_of(states, actions)
    want = headline(SCORER.score(plain, SCORER.fit([plain])))
    order = np.random.default_rng(0).permutation(len(states))
    steps = sum(len(s) for s in states)
    other = batch_of(
        [states[i] for i in order], [actions[i] for i in order], name="renamed", reward=pa.array(np.random.rand(steps))
    )
    halves = [_part(other, range(10)), _part(other, range(10, len(states)))]
    got = headline(SCORER.score(other, SCORER.fit(halves)))
    np.testing.assert_array_equal(got, want[order])


def _part(batch, which):
    low, high = batch.offsets[which.start], batch.offsets[which.stop]
    return EpisodeBatch(
        batch.dataset,
        batch.episodes.slice(which.start, len(which)),
        batch.steps.slice(low, high - low),
        batch.offsets[which.start : which.stop + 1] - low,
    )


def test_a_bad_episode_leaves_the_others_untouched(pusht, batch_of):
    states, actions = some(pusht)
    clean = batch_of(states, actions)
    want = headline(SCORER.score(clean, SCORER.fit([clean])))
    bad = [np.full_like(states[0], np.nan), states[0][:0]]
    batch = batch_of([bad[0], *states, bad[1]], [actions[0], *actions, actions[0][:0]])
    rows = SCORER.score(batch, SCORER.fit([batch]))
    np.testing.assert_array_equal(headline(rows)[1:-1], want)
    assert [rows[i][0].reason for i in (0, -1)] == ["no finite step", "no steps"]
    assert rows[0][0].status == rows[-1][0].status == "undefined"


def test_capped_an_odd_step_counts_as_one_step_that_is_off(pusht, batch_of):
    states, actions = some(pusht)
    fit = SCORER.fit([batch_of(states[1:], actions[1:])])
    odd = actions[0].copy()
    odd[10] = -odd[10]
    plain = batch_of([states[0]] * 2, [actions[0], odd])
    before, after = ({row.metric: row.value for row in rows} for rows in SCORER.score(plain, fit))
    limit = fit.meta["limits"][0]["bad"]
    assert after["own_residual"] - before["own_residual"] > 2 * limit / len(states[0])
    assert 0 < after["own_residual_capped"] - before["own_residual_capped"] <= 2 * limit / len(states[0])
    assert before["own_residual_capped"] <= before["own_residual"]


def test_a_few_missing_steps_stay_missing(pusht, batch_of):
    states, actions = some(pusht)
    fit = SCORER.fit([batch_of(states, actions)])
    holed = [s.copy() for s in states]
    holed[3][5:9] = np.nan
    row = SCORER.score(batch_of(holed, actions), fit)[3][0]
    assert row.status == "ok"
    assert np.flatnonzero(np.isnan(row.step_values)).tolist() == [5, 6, 7, 8]
    assert len(row.step_values) == len(states[3])


def test_sparse_neighbourhoods_are_undefined(pusht, batch_of):
    states, actions = some(pusht, 1)
    batch = batch_of(states, actions)
    row = SCORER.score(batch, SCORER.fit([batch]))[0]
    assert row[0].status == "undefined"
    assert row[0].reason.startswith("sparse")


def test_a_newcomer_is_scored_as_it_would_be_inside(pusht, batch_of):
    states, actions = some(pusht, 40)
    fit = SCORER.fit([batch_of(states, actions)])
    together = headline(SCORER.score(batch_of(states, actions), fit))
    alone = headline(SCORER.score(batch_of(states[7:8], actions[7:8]), fit))
    assert alone[0] == together[7]


def test_a_rare_task_is_held_against_all_and_says_so(pusht, batch_of):
    states, actions = some(pusht)
    batch = batch_of(states, actions, ["push"] * 22 + ["rare"] * 2)
    rows = SCORER.score(batch, SCORER.fit([batch]))
    assert rows[0][0].reason is None
    assert rows[-1][0].reason.startswith("against every task")


def test_missing_actions_and_unknown_robots_have_a_reason(pusht, batch_of):
    states, actions = some(pusht)
    batch = batch_of(states, actions)
    fit = SCORER.fit([batch])
    bare = EpisodeBatch(batch.dataset, batch.episodes, batch.steps.drop_columns([ACTION]), batch.offsets)
    assert SCORER.score(bare, fit)[0][0].reason == "no numeric action"
    wide = batch_of([np.c_[s, s] for s in states], actions)
    assert SCORER.score(wide, fit)[0][0].reason.startswith("no reference for arm/delta/10x2")


CLONING = ActionDivergence(cloning=True, members=1, chunk=2, iterations=200)


def cloning(rows):
    return np.array([next(r.value for r in row if r.metric == "cloning_error") for row in rows], dtype=float)


def test_cloning_error_separates_expert_from_worse(tiers, batch_of, auc):
    states, actions, tasks, tier = tiers
    own = np.flatnonzero((np.array(tasks) == "drawer-open-v3") & (tier != "okay"))[::2]
    batch = batch_of([states[i] for i in own], [actions[i] for i in own])
    rows = CLONING.score(batch, CLONING.fit([batch]))
    value = cloning(rows)
    assert auc(value[tier[own] == "worse"], value[tier[own] == "expert"]) >= 0.95
    for row, i in zip(rows, own, strict=True):
        error, early = row[-2:]
        n = len(states[i])
        assert len(error.step_values) == n
        weight = (n - np.arange(n)) / n
        assert early.value == pytest.approx(weight @ error.step_values / weight.sum(), rel=1e-5)


def test_cloning_depends_on_no_order_and_scores_a_newcomer_as_inside(pusht, batch_of):
    states, actions = some(pusht, 8)
    plain = batch_of(states, actions)
    fit = CLONING.fit([plain])
    want = cloning(CLONING.score(plain, fit))
    other = batch_of(states[::-1], actions[::-1], name="renamed")
    np.testing.assert_array_equal(cloning(CLONING.score(other, CLONING.fit([other]))), want[::-1])
    alone = cloning(CLONING.score(batch_of(states[3:4], actions[3:4]), fit))
    assert alone[0] == want[3]


def test_cloning_of_one_episode_is_undefined(pusht, batch_of):
    batch = batch_of(*some(pusht, 1))
    row = CLONING.score(batch, CLONING.fit([batch]))[0]
    assert (row[-2].status, row[-2].reason.split(":")[0]) == ("undefined", "sparse")
