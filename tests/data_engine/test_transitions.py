from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_engine.errors import RequestError
from data_engine.loader import MixtureStream
from data_engine.samples import Samples
from data_engine.transitions import Transitions, outcome, to_go
from data_engine.windows import Windows


@given(
    length=st.integers(1, 12),
    n_step=st.integers(1, 6),
    discount=st.sampled_from([0.0, 0.5, 0.99, 1.0]),
    seed=st.integers(0, 10**6),
)
@settings(max_examples=100, deadline=None)
def test_what_follows_is_what_walking_through_the_episode_finds(length, n_step, discount, seed) -> None:
    rng = np.random.default_rng(seed)
    rewards = rng.normal(size=length)
    ends, stops = rng.random((2, length)) < 0.15
    t = np.arange(length)
    at = t[:, None] + np.arange(n_step + 1)
    inside = at.clip(max=length - 1)[:, :-1]
    found = outcome(rewards[inside], ends[inside], stops[inside], at >= length, discount)
    for start in range(length):
        total, steps, terminated, truncated = 0.0, 0, False, False
        while steps < n_step and start + steps < length and not (terminated or truncated):
            total += discount**steps * rewards[start + steps]
            terminated, truncated = bool(ends[start + steps]), bool(stops[start + steps])
            steps += 1
        beyond = start + steps >= length
        assert found.reward[start] == pytest.approx(total)
        assert (found.ahead[start], found.terminated[start], found.is_pad[start]) == (steps, terminated, beyond)
        assert found.truncated[start] == (not terminated and (truncated or beyond))
        assert found.bootstrap[start] == pytest.approx(0.0 if terminated else discount**steps)


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=20), st.sampled_from([0.0, 0.9, 1.0]))
@settings(max_examples=50, deadline=None)
def test_returns_to_go_sum_what_is_left(rewards, discount) -> None:
    wanted = [sum(discount**i * r for i, r in enumerate(rewards[t:])) for t in range(len(rewards))]
    assert to_go(np.array(rewards), discount) == pytest.approx(wanted)


def test_transitions_of_a_mixture(toy, tmp_path) -> None:
    """State of step t of episode e is (e, t); the reward is 1 at the last step, and nothing says that it terminates."""
    mixture = toy({"a": [6, 9]}).mixture(tmp_path, weight_kind="repeat")
    windows = Windows(history=2, transitions=Transitions(n_step=3, discount=0.5, returns=True))
    samples = Samples(mixture, windows)
    batch = samples.read(0, np.arange(samples.size()))
    lengths = {0: 6, 1: 9}
    for i, (episode, t) in enumerate(batch["observation.state"][:, -1].astype(int).tolist()):
        last = lengths[episode] - 1
        after = min(t + 3, last)
        assert batch["next.observation.state"][i].tolist() == [[episode, max(after - 1, 0)], [episode, after]]
        assert batch["reward"][i] == pytest.approx(0.5 ** (last - t) if t + 3 > last else 0.0)
        assert batch["return_to_go"][i] == pytest.approx(0.5 ** (last - t))
        assert batch["next_is_pad"][i] == batch["truncated"][i] == (t + 3 > last)
        assert not batch["terminated"][i]
        assert batch["bootstrap"][i] == pytest.approx(0.5 ** min(3, last + 1 - t))


def test_a_stream_gives_them_as_tensors_and_single_samples_are_the_same(toy, tmp_path) -> None:
    mixture = toy({"a": [6, 9, 4]}).mixture(tmp_path)
    windows = Windows(transitions=Transitions(n_step=2, returns=True))
    (batch,) = MixtureStream(mixture, windows, batch_size=64)
    for one in mixture.samples(windows):
        k = one["index"]
        for name in ("reward", "bootstrap", "next_is_pad", "return_to_go", "next.observation.state"):
            assert np.array_equal(batch[name][k].numpy(), one[name]), name


@pytest.mark.parametrize("wrong", [{"n_step": 0}, {"discount": 1.5}, {"discount": -0.1}])
def test_wrong_requests(wrong) -> None:
    with pytest.raises(RequestError, match="n_step of at least 1"):
        Transitions(**wrong)


def test_without_rewards_there_are_none(toy, tmp_path) -> None:
    made = toy({"a": [6]})
    dataset = made.datasets["a"]
    made.datasets["a"] = dataset.model_copy(
        update={"features": tuple(feature for feature in dataset.features if feature.name != "reward")}
    )
    with pytest.raises(RequestError, match="dataset 'a' has no rewards"):
        Samples(made.mixture(tmp_path), Windows(transitions=Transitions()))
