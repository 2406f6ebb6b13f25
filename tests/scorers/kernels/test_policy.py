import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scorers.kernels.policy import action_chunks, module, predict, train


def cloned(members=2, episodes=12, steps=40, horizon=3, **options):
    """Episodes of a linear policy with a chunk head, and an ensemble of it that holds out two episodes a member."""
    draw = np.random.default_rng(0)
    state = draw.normal(size=(episodes * steps, 5)).astype(np.float32)
    action = state @ draw.normal(size=(5, 2)).astype(np.float32)
    owner, time = np.repeat(np.arange(episodes), steps), np.tile(np.arange(steps), episodes)
    chunk, known = action_chunks(action, owner, time, horizon)
    chunk[:] = chunk[:, :1]  # every action of the chunk follows from the state
    stops = np.array([np.isin(np.arange(episodes), (2 * m, 2 * m + 1)) for m in range(members)])
    defaults = {"seed": 1, "hidden": 32, "limit": 600}
    return state, chunk, train(state, chunk, known, owner, ~stops, stops, **{**defaults, **options})


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 12), st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_chunks_end_with_the_episode_and_at_missing_steps(n, horizon, seed):
    draw = np.random.default_rng(seed)
    owner = np.sort(draw.integers(0, 3, n))
    time = np.concatenate([np.sort(draw.choice(30, (owner == o).sum(), replace=False)) for o in range(3)])
    action = draw.normal(size=(n, 2)).astype(np.float32)
    place = {(o, t): i for i, (o, t) in enumerate(zip(owner, time, strict=True))}
    chunk, known = action_chunks(action, owner, time, horizon)
    for i in range(n):
        for ahead in range(horizon):
            whole = all((owner[i], time[i] + step) in place for step in range(ahead + 1))
            assert known[i, ahead] == whole
            np.testing.assert_array_equal(chunk[i, ahead], action[place[owner[i], time[i] + ahead]] if whole else 0)


def test_learns_a_chunk_of_actions():
    state, chunk, training = cloned(members=3)
    assert (training.held_out < 0.02 * chunk.var(axis=0).sum(-1).mean()).all()
    found = predict(training.weights, state)
    assert found.shape == (3, len(state), 3, 2)
    assert ((found - chunk) ** 2).mean() < 0.02 * chunk.var()


def test_one_seed_gives_one_policy_and_members_differ():
    first, again, other = (cloned(limit=50, seed=seed)[2].weights for seed in (1, 1, 2))
    for name in first:
        np.testing.assert_array_equal(first[name], again[name])
    assert np.abs(first["weight0"] - other["weight0"]).max() > 1e-2
    assert np.abs(first["weight0"][0] - first["weight0"][1]).max() > 1e-2


def test_a_member_never_learns_from_what_it_was_not_given():
    draw = np.random.default_rng(3)
    state = draw.normal(size=(120, 3)).astype(np.float32)
    owner = np.repeat([0, 1, 2], 40)
    action = np.where(owner[:, None] == 2, 50.0, state[:, :1]).astype(np.float32)
    chunk, known = action_chunks(action, owner, np.tile(np.arange(40), 3), 1)
    learns = np.array([[True, False, False], [True, False, True]])
    weights = train(state, chunk, known, owner, learns, np.zeros((2, 3), bool), seed=0, hidden=16, limit=600).weights
    apart, mixed = predict(weights, state)[:, :80, 0, 0]
    assert np.abs(apart - action[:80, 0]).max() < 3
    assert mixed.mean() > 10


def test_prediction_is_the_formula():
    state, _, training = cloned(limit=20)
    w = {name: value.astype(np.float64) for name, value in training.weights.items()}
    for member in range(2):
        x = (state.astype(np.float64) - w["mean"]) / w["deviation"]
        for layer in (0, 1):
            z = x @ w[f"weight{layer}"][member] + w[f"bias{layer}"][member]
            x = z / (1 + np.exp(-z))
        out = (x @ w["weight2"][member] + w["bias2"][member]).reshape(len(state), 3, 2)
        np.testing.assert_allclose(predict(training.weights, state)[member], out, atol=1e-6)
        policy = module(training.weights, member)
        inputs = (state - training.weights["mean"]) / training.weights["deviation"]
        with torch.no_grad():
            own = policy(torch.from_numpy(inputs.astype(np.float64))).reshape(len(state), 3, 2)
        np.testing.assert_allclose(own.numpy(), out, atol=1e-5)
    np.testing.assert_array_equal(predict(training.weights, state, [1])[0], predict(training.weights, state)[1])
    assert predict(training.weights, state[:0]).shape == (2, 0, 3, 2)


def test_without_anything_held_out_it_runs_a_fixed_while():
    state, chunk, _ = cloned(limit=1)
    owner = np.repeat(np.arange(12), 40)
    everyone, nobody = np.ones((1, 12), bool), np.zeros((1, 12), bool)
    known = np.ones(chunk.shape[:2], bool)
    training = train(state, chunk, known, owner, everyone, nobody, seed=0, hidden=8, limit=100)
    assert training.iterations == 25
    assert np.isnan(training.held_out).all()
    with pytest.raises(ValueError, match="no step to learn from"):
        train(state, chunk, known, owner, nobody, everyone, seed=0, hidden=8)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA here")
def test_cuda_predicts_the_same():
    state, _, training = cloned(limit=20)
    np.testing.assert_allclose(
        predict(training.weights, state, device="cuda"), predict(training.weights, state), atol=1e-6
    )
