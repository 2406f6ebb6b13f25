from __future__ import annotations

import numpy as np
import pytest
import torch

from scorers.kernels.preference import agreement, item_rewards, train, weigh


def world(seed: int, pairs: int, wrong: float = 0.0, steps: int = 1):
    """Steps whose first feature is all that counts, items of ``steps`` of them, and which of two is better."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(400, 5)).astype(np.float32)
    items = np.arange(400).reshape(-1, steps)
    worth = features[:, 0][items].mean(axis=1)
    chosen = rng.integers(len(items), size=(pairs, 2))
    better = (worth[chosen[:, 1]] > worth[chosen[:, 0]]).astype(float)
    return features, items, chosen, np.where(rng.random(pairs) < wrong, 1 - better, better)


@pytest.mark.parametrize(("steps", "wrong"), [(1, 0.0), (1, 0.1), (4, 0.1)])
def test_it_finds_what_is_preferred_and_says_so_of_steps_it_never_saw(steps, wrong):
    features, items, pairs, target = world(0, 300, wrong, steps)
    weights = train(features, items, pairs, target, np.ones((3, 300)), seed=0, iterations=120)
    unseen = np.random.default_rng(9).normal(size=(500, 5)).astype(np.float32)
    rewards = weigh(weights, unseen)
    some = np.random.default_rng(1).integers(500, size=(1000, 2))
    truth = (unseen[some[:, 1], 0] > unseen[some[:, 0], 0]).astype(float)
    assert agreement(rewards.mean(axis=0), some, truth) > 0.9
    known = weigh(weights, features)
    assert np.allclose(known.mean(axis=1), 0, atol=1e-6) and np.allclose(known.std(axis=1), 1, atol=1e-6)
    assert known.std(axis=0).min() > 0  # the members are not one


def test_one_seed_gives_one_reward_and_a_pair_that_counts_nothing_changes_none():
    torch.set_num_threads(1)
    features, items, pairs, target = world(3, 100)
    weight = np.ones((2, 100))
    weight[1, 50:] = 0
    one, same = (train(features, items, pairs, target, weight, seed=4, iterations=20) for _ in range(2))
    assert all((one[name] == same[name]).all() for name in one)
    target[50:] = 1 - target[50:]
    other = train(features, items, pairs, target, weight, seed=4, iterations=20)
    assert (one["weight0"][1] == other["weight0"][1]).all()
    assert (one["weight0"][0] != other["weight0"][0]).any()


def test_padding_is_no_step():
    items = np.arange(400)[:, None]
    padded = np.concatenate([items, np.full((400, 2), -1)], axis=1)
    rewards = np.arange(400.0)
    assert (item_rewards(rewards, padded) == rewards).all()
    assert (item_rewards(rewards, np.array([[0, 1, -1], [2, 3, 4]])) == [0.5, 3.0]).all()


def test_ties_draw_two_rewards_together():
    features = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]], np.float32)
    items, pairs = np.arange(3)[:, None], np.array([[0, 1], [0, 2]])
    weights = train(features, items, pairs, np.array([1.0, 0.5]), np.ones((4, 2)), seed=0, iterations=200)
    one, up, tied = weigh(weights, features).mean(axis=0)
    assert up - one > 3 * abs(tied - one)


def test_agreement_counts_equal_rewards_half_and_ties_not_at_all():
    pairs = np.array([[0, 1], [1, 0], [0, 2], [1, 2]])
    assert agreement(np.array([0.0, 1.0, 0.0]), pairs, np.array([1.0, 0.0, 1.0, 0.5])) == pytest.approx(2.5 / 3)
    assert agreement(np.zeros(3), pairs[:1], np.array([0.5])) is None


def test_a_member_without_a_pair_is_refused():
    features, items, pairs, target = world(0, 10)
    with pytest.raises(ValueError, match="no pair"):
        train(features, items, pairs, target, np.zeros((1, 10)), seed=0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_says_the_same():
    features, items, pairs, target = world(0, 200)
    weights = train(features, items, pairs, target, np.ones((2, 200)), seed=0, iterations=50)
    assert np.allclose(weigh(weights, features), weigh(weights, features, "cuda"), atol=1e-6)


def test_what_is_made_small_is_not_learned_by_heart():
    """Of few answers, some of them wrong, most of what is seen says nothing; small, it misleads less."""
    rng = np.random.default_rng(5)
    features, items, pairs, target = world(5, 120, 0.1)
    noisy = np.concatenate([features, rng.normal(size=(400, 20)).astype(np.float32)], axis=1)
    unseen = rng.normal(size=(800, 25)).astype(np.float32)
    some = rng.integers(800, size=(3000, 2))
    truth = (unseen[some[:, 1], 0] > unseen[some[:, 0], 0]).astype(float)
    right = []
    for size in (1.0, 0.25):
        emphasis = np.r_[np.ones(5), np.full(20, size)]
        weights = train(noisy, items, pairs, target, np.ones((3, 120)), seed=0, iterations=150, emphasis=emphasis)
        right.append(agreement(weigh(weights, unseen).mean(axis=0), some, truth))
    assert right[1] > right[0] + 0.03
