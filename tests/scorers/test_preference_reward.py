from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from data_engine.model import PREFERENCES
from data_engine.preferences import Item, Preference
from data_engine.scoring import Clips, EpisodeBatch
from scorers.preference_reward import PreferenceReward
from tests.scorers.conftest import make_batch


def pushes(count: int, seed: int, **facts) -> EpisodeBatch:
    """Episodes in which one dimension of three comes forward, or goes to and fro."""
    rng = np.random.default_rng(seed)
    states, actions = [], []
    for number in range(count):
        n = 20 + int(rng.integers(5))
        line = np.linspace(0, 1, n) if number % 3 else 0.4 + 0.3 * np.sin(np.linspace(0, 6, n))
        place = line * rng.uniform(0.8, 1.1) + rng.uniform(-0.1, 0.1)
        states.append(np.column_stack([place, rng.uniform(-1, 1, (n, 2))]))
        actions.append(np.diff(place, append=place[-1])[:, None] + rng.normal(0, 1e-3, (n, 1)))
    return make_batch(states, actions, ["push"] * count, **facts)


def item(batch: EpisodeBatch, episode: int, start: int, steps: int = 1) -> Item:
    return Item("", start, start + steps, None, batch.content_hashes[episode])


def told(batch: EpisodeBatch, pairs: int = 120, steps: int = 1, seed: int = 0) -> list[Preference]:
    """Pairs of items, the better one further in the first dimension."""
    rng, state = np.random.default_rng(seed), batch.array("observation.state")
    found = []
    for number in range(pairs):
        items, worth = [], []
        for episode in rng.integers(len(batch), size=2):
            start = int(rng.integers(batch.offsets[episode + 1] - batch.offsets[episode] - steps + 1))
            items.append(item(batch, int(episode), start, steps))
            first = int(batch.offsets[episode]) + start
            worth.append(state[first : first + steps, 0].mean())
        found.append(Preference.pair(*items, float(worth[1] > worth[0]), own_id=str(number)))
    return found


def with_preferences(batch: EpisodeBatch, preferences) -> EpisodeBatch:
    rows = [one.row() for one in preferences]
    return replace(batch, preferences=pa.Table.from_pylist(rows, schema=PREFERENCES))


def values(labels, kind="reward"):
    return [next(one.step_values for one in each.annotations if one.kind == kind) for each in labels]


FAST = PreferenceReward(iterations=120)


def accuracy(batch: EpisodeBatch, labels) -> float:
    reward, place = np.concatenate(values(labels)), batch.array("observation.state")[:, 0]
    pairs = np.random.default_rng(3).integers(len(place), size=(2000, 2))
    ahead = place[pairs[:, 1]] - place[pairs[:, 0]]
    return float(np.mean((reward[pairs[:, 1]] - reward[pairs[:, 0]]) * ahead > 0))


@pytest.mark.parametrize("steps", [1, 6])
def test_it_rewards_what_is_preferred_in_episodes_it_never_saw(steps):
    batch, other = pushes(15, 0), pushes(6, 1)
    fit = FAST.fit([with_preferences(batch, told(batch, steps=steps))], seed=0)
    labels = FAST.label(other, fit)
    assert accuracy(other, labels) > 0.85
    assert all(one.annotations[0].confidence == fit.meta["nets"][0]["accuracy"] > 0.8 for one in labels)
    scores = {row.metric: row for row in labels[1].scores}
    assert scores["final_reward"].value > scores["mean_reward"].value
    assert scores["uncertainty"].value > 0 and "learned from 120 preferences" in scores["mean_reward"].reason
    assert set(fit.reference) == set(batch.content_hashes)


def test_neither_order_nor_batches_nor_names_change_it():
    batch = pushes(9, 2)
    said = told(batch, 60)
    one = FAST.fit([with_preferences(batch, said)], seed=1)
    parts = [with_preferences(batch.one(i), said[::-1]) for i in reversed(range(9))]
    other = FAST.fit(parts, seed=1)
    assert one.id == other.id and one.meta["nets"] == other.meta["nets"]
    assert np.allclose(np.concatenate(values(FAST.label(batch, one))), np.concatenate(values(FAST.label(batch, other))))


def test_a_bad_episode_harms_no_other():
    batch = pushes(9, 2)
    said = told(batch, 60)
    state = [batch.array("observation.state")[rows].copy() for rows in batch]
    action = [batch.array("action")[rows] for rows in batch]
    clean = make_batch(state, action, ["push"] * 9)
    fit = FAST.fit([with_preferences(clean, said)], seed=0)
    state[4][3:] = np.nan
    state.append(np.full((7, 3), np.nan))
    spoilt = make_batch(state, [*action, np.zeros((7, 1))], ["push"] * 10)
    found = FAST.label(spoilt, fit)
    expected = values(FAST.label(clean, fit))
    for place in (0, 1, 8):
        assert np.array_equal(found[place].annotations[0].step_values, expected[place])
    assert np.isnan(found[4].annotations[0].step_values[3:]).all()
    assert np.isfinite(found[4].annotations[0].step_values[:3]).all()
    assert {row.metric: row.status for row in found[4].scores}["final_reward"] == "undefined"
    assert found[9].annotations == () and {row.status for row in found[9].scores} == {"undefined"}
    with_hole = FAST.fit([with_preferences(spoilt, told(spoilt, 60))], seed=0)  # items without a step are no items
    assert np.isfinite(np.concatenate(values(FAST.label(clean, with_hole)))).all()


def test_what_a_second_judge_denies_does_not_count():
    batch = pushes(12, 4)
    right = told(batch, 60)
    wrong = [replace(one, probability=1 - one.probability, ranks=one.ranks[::-1], own_id=f"wrong {place}")
             for place, one in enumerate(told(batch, 60, seed=5))]  # fmt: skip
    denials = [Preference.pair(*one.items, 1 - one.probability, reviews=one.id, contradicts=True) for one in wrong]
    agreed = [Preference.pair(*one.items, one.probability, reviews=one.id, contradicts=False) for one in right]
    everything = with_preferences(batch, [*right, *wrong, *denials, *agreed])
    fit = FAST.fit([everything])
    assert fit.meta["nets"][0]["pairs"] == 60
    assert fit.meta["left_out"]["contradicted"] == 60
    assert accuracy(batch, FAST.label(batch, fit)) > 0.85
    trusting = PreferenceReward(iterations=20, contradicted=True)
    assert trusting.fit([everything]).meta["nets"][0]["pairs"] == 120


def test_each_task_and_kind_of_robot_has_its_own_and_without_enough_there_is_none():
    batch = pushes(9, 6)
    few = with_preferences(batch, told(batch, 5))
    labels = FAST.label(batch, FAST.fit([few]))
    assert {row.reason for row in labels[0].scores} == {"5 preferences for 'push' of arm/delta/3x1"}
    other = replace(batch, episodes=batch.episodes.set_column(
        batch.episodes.schema.get_field_index("task"), "task", pa.array(["pull"] * 9)))  # fmt: skip
    fit = FAST.fit([with_preferences(batch, told(batch, 40))])
    assert {row.reason for row in FAST.label(other, fit)[0].scores} == {"no preferences for 'pull' of arm/delta/3x1"}
    pulled = FAST.fit([with_preferences(batch, [replace(one, task="pull") for one in told(batch, 40)])])
    assert FAST.label(other, pulled)[0].annotations and not FAST.label(batch, pulled)[0].annotations

    hand = pushes(9, 7)
    hand = replace(hand, episodes=hand.episodes.set_column(
        hand.episodes.schema.get_field_index("embodiment"), "embodiment", pa.array(["hand"] * 9)))  # fmt: skip
    across = [Preference.pair(item(batch, i, 3), item(hand, i, 3), 1.0, own_id=str(i)) for i in range(9)]
    said = [*told(batch, 40), *across, Preference.pair(item(batch, 0, 0), item(batch, 1, 0), None)]
    left_out = FAST.fit([with_preferences(one, said) for one in (batch, hand)]).meta["left_out"]
    assert left_out == {"contradicted": 0, "undecided": 1, "not among the episodes, or of unlike robots": 9}


def test_rankings_winners_and_soft_answers_teach_too():
    batch = pushes(12, 8)
    state, rng = batch.array("observation.state"), np.random.default_rng(0)
    said = []
    for number in range(40):
        episodes = rng.choice(12, 4, replace=False)
        items = tuple(item(batch, int(e), int(rng.integers(18))) for e in episodes)
        worth = np.array([state[int(batch.offsets[e]) + one.start, 0] for e, one in zip(episodes, items, strict=True)])
        ranks = tuple(int(rank) for rank in (-worth).argsort().argsort())
        if number % 2:
            said.append(Preference(items, ranks, "ranking"))
        else:
            said.append(Preference(items, tuple(int(rank > 0) for rank in ranks), "winner"))
    fit = FAST.fit([with_preferences(batch, said)])
    assert fit.meta["nets"][0]["pairs"] == 20 * 6 + 20 * 3
    assert accuracy(batch, FAST.label(batch, fit)) > 0.85


def test_it_sees_the_vectors_of_a_space_where_it_is_told_to():
    batch = pushes(12, 9)
    state = batch.array("observation.state")
    spaces = []
    for rows in batch:
        n = rows.stop - rows.start
        starts = np.arange(0, n, 2)
        vectors = np.column_stack([state[rows][starts, 0], np.ones(len(starts))]).astype(np.float32)
        cameras = ("front",) * len(starts) + ("wrist",) * len(starts)
        both = np.concatenate([vectors, np.zeros_like(vectors)])
        spaces.append(Clips(np.tile(starts, 2), np.tile(starts + 1, 2), cameras, both))
    batch = replace(batch, spaces={"eyes": spaces})
    labeller = PreferenceReward(space="eyes", iterations=120)
    assert labeller.needs.spaces == ("eyes",) and labeller.needs.preferences == "default"
    fit = labeller.fit([with_preferences(batch, told(batch))])
    assert accuracy(batch, labeller.label(batch, fit)) > 0.85
    blind = PreferenceReward(space="eyes", camera="wrist", iterations=20)
    fit = blind.fit([with_preferences(batch, told(batch))])
    assert all(np.ptp(reward) < 1e-6 for reward in values(blind.label(batch, fit)))
