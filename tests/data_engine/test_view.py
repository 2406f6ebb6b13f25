import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_engine.model import ACTION, STATE, Dataset, Feature
from data_engine.reference import RawEpisode
from data_engine.view import BOUND, View, fit_views


class Sample:
    """A reference of the given episodes."""

    def __init__(self, found):
        self.groups = {"g": found}


def episode(state, action, name="e", **declared):
    features = (
        Feature(name=STATE, dtype="float64", shape=state.shape[1:], **declared),
        Feature(name=ACTION, dtype="float64", shape=action.shape[1:]),
    )
    dataset = Dataset(name="set", fps=10.0, features=features, origin="-", format="-")
    return RawEpisode(name, "g", "t", dataset, state.astype(float), action.astype(float))


def fitted(found) -> View:
    return fit_views(Sample(found))["g"]


def walks(n=12, steps=60, d=3, seed=0):
    draw = np.random.default_rng(seed)
    return [np.cumsum(draw.normal(size=(steps, d)), axis=0) for _ in range(n)], [
        draw.normal(size=(steps, 2)) for _ in range(n)
    ]


def test_a_view_survives_json():
    states, actions = walks()
    found = [episode(s, a, f"e{i}") for i, (s, a) in enumerate(zip(states, actions, strict=True))]
    view = fitted(found)
    again = View(**json.loads(json.dumps(view.as_dict())))
    np.testing.assert_array_equal(view.measure(found[0]).state, again.measure(found[0]).state)
    np.testing.assert_array_equal(view.measure(found[0]).action, again.measure(found[0]).action)
    assert view.measure(found[0]).state.dtype == np.float32


def test_a_wrapped_angle_is_continuous():
    turn = [(np.linspace(0, 9, 60) + i) % (2 * np.pi) for i in range(6)]
    draw = np.random.default_rng(0)
    found = [episode(np.c_[t, draw.normal(size=60)], draw.normal(size=(60, 1)), f"e{i}") for i, t in enumerate(turn)]
    view = fitted(found)
    assert [dim for dim, _ in view.angles[STATE]] == [0]
    steps = np.abs(np.diff(view.measure(found[0]).state[:, :2], axis=0))
    assert steps.max() < 0.3


def test_a_named_angle_needs_no_wrap_and_a_joint_of_another_name_none():
    draw = np.random.default_rng(0)
    state = [np.c_[draw.uniform(0, 6.2, 60), draw.uniform(0, 6.2, 60)] for _ in range(5)]
    still = [np.sort(s, axis=0) for s in state]
    found = [episode(s, draw.normal(size=(60, 1)), f"e{i}", components=("theta", "lift")) for i, s in enumerate(still)]
    assert [dim for dim, _ in fitted(found).angles[STATE]] == [0]


@pytest.mark.filterwarnings("error")
def test_an_infinite_angle_is_left_out_without_a_word():
    draw = np.random.default_rng(0)
    turn = [(np.linspace(0, 9, 60) + i) % (2 * np.pi) for i in range(6)]
    found = [episode(t[:, None].copy(), draw.normal(size=(60, 1)), f"e{i}") for i, t in enumerate(turn)]
    found[0].state[7] = np.inf
    view = fitted(found)
    assert view.angles[STATE]
    assert not np.isfinite(view.unfolded(found[0])[0][7]).any()
    assert len(view.measure(found[0]).state) == 59


def test_quaternions_lose_their_sign():
    draw = np.random.default_rng(0)
    found = []
    for i in range(5):
        q = np.cumsum(draw.normal(size=(40, 4)) * 0.2, axis=0) + draw.normal(size=4)
        q /= np.linalg.norm(q, axis=1, keepdims=True)
        found.append(episode(np.c_[q, draw.normal(size=40)], draw.normal(size=(40, 1)), f"e{i}"))
    view = fitted(found)
    assert list(view.quaternions[STATE]) == [0]
    flipped = found[0].state.copy()
    flipped[::2, :4] *= -1
    turned = episode(flipped, found[0].action)
    np.testing.assert_allclose(view.measure(turned).state, view.measure(found[0]).state, atol=1e-6)


def test_a_target_becomes_relative_even_with_a_fifth_of_the_episodes_spoilt():
    states, _ = walks(d=4)
    draw = np.random.default_rng(1)
    actions = [s[:, [2, 0]] + draw.normal(scale=0.1, size=(len(s), 2)) for s in states]
    actions[0], actions[1] = actions[0][:, ::-1], draw.permutation(actions[1])
    found = [episode(s, a, f"e{i}") for i, (s, a) in enumerate(zip(states, actions, strict=True))]
    assert [tuple(pair) for pair in fitted(found).relative] == [(0, 2), (1, 0)]


def test_idle_dimensions_go_and_grippers_are_discrete():
    states, actions = walks()
    for i, state in enumerate(states):
        state[:, 1] = 5.0 if i else np.arange(len(state))  # moves in one episode only
        actions[i][:, 1] = np.where(np.arange(len(state)) > 30, 0.04, 0.0)
    found = [episode(s, a, f"e{i}") for i, (s, a) in enumerate(zip(states, actions, strict=True))]
    view = fitted(found)
    assert [c[0] for c in view.position] == [0, 2]
    assert [c[3] for c in view.action] == [False, True]
    assert set(np.unique(view.measure(found[3]).action[:, 1] * np.sqrt(2)).round(5)) == {-1.0, 1.0}


def test_one_wild_episode_moves_no_scale_much():
    states, actions = walks(n=20)
    found = [episode(s, a, f"e{i}") for i, (s, a) in enumerate(zip(states, actions, strict=True))]
    clean = fitted(found)
    wild = fitted([*found, episode(np.full_like(states[0], 1e9) * np.arange(60)[:, None], actions[0] * 1e9, "wild")])
    for name in ("position", "velocity", "action"):
        for a, b in zip(getattr(clean, name), getattr(wild, name), strict=True):
            assert b[2] == pytest.approx(a[2], rel=0.35)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.floats(0, 0.5))
def test_missing_steps_are_left_out_and_the_rest_is_bounded(seed, share):
    states, actions = walks(seed=seed, n=5, steps=30)
    found = [episode(s, a, f"e{i}") for i, (s, a) in enumerate(zip(states, actions, strict=True))]
    view = fitted(found)
    draw = np.random.default_rng(seed)
    holed = states[0] * 1e4
    holed[draw.random(30) < share, draw.integers(3)] = np.nan
    seen = view.measure(episode(holed, actions[0]))
    assert len(seen.state) == len(seen.action) == seen.valid.sum() == np.isfinite(holed).all(axis=1).sum()
    assert np.isfinite(seen.state).all()
    assert np.abs(seen.state).max(initial=0) <= BOUND
