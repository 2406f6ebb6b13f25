import numpy as np
import pyarrow as pa
import pytest

from scorers.mutual_information import MutualInformation

SCORER = MutualInformation()
QUICK = MutualInformation(passes=1)


def headline(rows):
    return np.array([np.nan if row[0].value is None else row[0].value for row in rows])


def named(rows):
    return {row.metric: row for row in rows}


def test_separates_expert_from_worse_in_each_task(tiers, batch_of, auc):
    states, actions, tasks, tier = tiers
    batch = batch_of(states, actions, tasks)
    rows = SCORER.score(batch, SCORER.fit([batch]))
    value = headline(rows)
    share = np.array([named(row)["uninformative_fraction"].value for row in rows])
    for task in set(tasks):
        own = np.array(tasks) == task
        assert auc(value[own & (tier == "expert")], value[own & (tier == "worse")]) >= 0.95
        assert auc(-share[own & (tier == "expert")], -share[own & (tier == "worse")]) >= 0.85


def test_vae_codes_separate_expert_from_worse(tiers, batch_of, auc):
    states, actions, tasks, tier = tiers
    own = np.flatnonzero((np.array(tasks) == "drawer-open-v3") & (tier != "okay"))[:24]
    batch = batch_of([states[i] for i in own], [actions[i] for i in own])
    scorer = MutualInformation(codes="vae", vae_steps=100, passes=1)
    value = headline(scorer.score(batch, scorer.fit([batch])))
    assert auc(value[tier[own] == "expert"], value[tier[own] == "worse"]) >= 0.9


@pytest.mark.parametrize("kind", ["shuffled", "lagged", "swapped"])
def test_separates_planted_actions_from_untouched(planted, auc, kind):
    batch, bad = planted(kind)
    value = headline(QUICK.score(batch, QUICK.fit([batch])))
    assert auc(value[~bad], value[bad]) >= 0.9


def test_order_ids_names_and_other_columns_change_nothing(pusht, batch_of):
    states, actions = pusht[0][:24], pusht[1][:24]
    plain = batch_of(states, actions)
    want = headline(QUICK.score(plain, QUICK.fit([plain])))
    order = np.random.default_rng(0).permutation(24)
    reward = pa.array(np.random.rand(sum(len(s) for s in states)))
    other = batch_of([states[i] for i in order], [actions[i] for i in order], name="renamed", reward=reward)
    np.testing.assert_array_equal(headline(QUICK.score(other, QUICK.fit([other]))), want[order])


def test_a_bad_episode_leaves_the_others_untouched(pusht, batch_of):
    states, actions = pusht[0][:24], pusht[1][:24]
    clean = batch_of(states, actions)
    want = headline(QUICK.score(clean, QUICK.fit([clean])))
    batch = batch_of([np.full_like(states[0], np.nan), *states, states[0][:0]], [actions[0], *actions, actions[0][:0]])
    rows = QUICK.score(batch, QUICK.fit([batch]))
    np.testing.assert_array_equal(headline(rows)[1:-1], want)
    assert [rows[i][0].reason for i in (0, -1)] == ["no finite step", "no steps"]


def test_frozen_steps_are_tied_and_never_best(pusht, batch_of):
    states, actions = [s.copy() for s in pusht[0][:24]], [a.copy() for a in pusht[1][:24]]
    states[2][30:60], actions[2][30:60] = states[2][30], actions[2][30]
    states[5][:], actions[5][:] = states[5][0], actions[5][0]
    batch = batch_of(states, actions)
    rows = QUICK.score(batch, QUICK.fit([batch]))
    assert np.isnan(rows[2][0].step_values[31:60]).all()
    assert named(rows[2])["tied_fraction"].value == pytest.approx(30 / len(states[2]), abs=2 / len(states[2]))
    assert rows[5][0].status == "undefined"
    assert rows[5][0].reason.startswith("tied")


def test_a_stretch_without_information_is_a_share_of_the_steps(pusht, batch_of):
    states, actions = pusht[0][:24], pusht[1][:24]
    plain = batch_of(states, actions)
    rows = QUICK.score(plain, QUICK.fit([plain]))
    shares = np.array([named(row)["uninformative_fraction"].value for row in rows])
    assert 0.05 < shares.mean() < 0.15
    for row, share in zip(rows, shares, strict=True):
        steps = row[0].step_values
        low = np.sort(steps[np.isfinite(steps)])
        below = round(share * len(low))
        assert below in (0, len(low)) or low[below - 1] < low[below]


def test_one_episode_has_no_reference(pusht, batch_of):
    batch = batch_of(pusht[0][:1], pusht[1][:1])
    row = QUICK.score(batch, QUICK.fit([batch]))[0]
    assert row[0].value is None
    assert "sparse" in row[0].reason
    assert row[-1].value == len(pusht[0][0])
