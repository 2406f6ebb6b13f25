from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scorers.kernels.vlm_reward import mean_prompt, reward, unit


def written_out(frames: np.ndarray, goals: np.ndarray, baselines: np.ndarray, alpha: float) -> np.ndarray:
    """The formula as the paper prints it, one frame at a time with the whole projection matrix, float64."""
    g = np.mean([goal / np.sqrt(sum(x * x for x in goal)) for goal in goals], axis=0)
    b = np.mean([base / np.sqrt(sum(x * x for x in base)) for base in baselines], axis=0)
    d = g - b
    projection = alpha * np.outer(d, d) / d.dot(d) + (1 - alpha) * np.eye(len(d))
    found = []
    for frame in frames:
        s = frame / np.sqrt(sum(x * x for x in frame))
        found.append(1 - 0.5 * float(np.linalg.norm((s - g) @ projection)) ** 2)
    return np.array(found)


@st.composite
def problems(draw):
    seed, n, d = draw(st.integers(0, 10_000)), draw(st.integers(1, 12)), draw(st.integers(2, 40))
    prompts = draw(st.integers(1, 4))
    rng = np.random.default_rng(seed)
    scale = draw(st.sampled_from([1e-3, 1.0, 1e3]))
    return (
        rng.normal(size=(n, d)) * scale,
        rng.normal(size=(prompts, d)) * scale,
        rng.normal(size=(prompts, d)),
        draw(st.floats(0, 1)),
    )


@settings(max_examples=60, deadline=None)
@given(problems())
def test_it_is_the_papers_formula(problem):
    frames, goals, baselines, alpha = problem
    found = reward(frames, mean_prompt(goals), mean_prompt(baselines), alpha)
    np.testing.assert_allclose(found, written_out(frames, goals, baselines, alpha), rtol=0, atol=1e-12)


@settings(max_examples=20, deadline=None)
@given(problems())
def test_alpha_0_is_the_cosine_and_alpha_1_sees_only_the_line(problem):
    frames, goals, baselines, _ = problem
    g, b = mean_prompt(goals[:1]), mean_prompt(baselines[:1])
    np.testing.assert_allclose(reward(frames, g, b, 0.0), unit(frames) @ g, atol=1e-12)
    p = (unit(frames) - g) @ (g - b) / np.linalg.norm(g - b)
    np.testing.assert_allclose(reward(frames, g, b, 1.0), 1 - 0.5 * p**2, atol=1e-12)


def test_several_alphas_are_each_alone():
    rng = np.random.default_rng(0)
    frames, g, b = rng.normal(size=(7, 9)), rng.normal(size=9), rng.normal(size=9)
    alphas = [0.0, 0.25, 1.0]
    np.testing.assert_array_equal(reward(frames, g, b, alphas), [reward(frames, g, b, alpha) for alpha in alphas])


def test_the_goal_itself_is_worth_most():
    rng = np.random.default_rng(1)
    g, b = mean_prompt(rng.normal(size=(1, 8))), mean_prompt(rng.normal(size=(1, 8)))
    found = reward(np.stack([b, (g + b) / 2, g]), g, b, 0.5)
    assert found[2] == pytest.approx(1.0)
    assert list(np.argsort(found)) == [0, 1, 2]


def test_what_has_no_direction_is_refused():
    frames, g = np.eye(3), np.eye(3)[0]
    with pytest.raises(ValueError, match="no direction"):
        reward(frames, g, g, 0.5)
    with pytest.raises(ValueError, match="no direction"):
        reward(np.zeros((1, 3)), g, -g, 0.5)
    with pytest.raises(ValueError, match="no direction"):
        unit(np.array([[np.nan, 1.0]]))
    with pytest.raises(ValueError, match="between 0 and 1"):
        reward(frames, g, -g, 1.5)
