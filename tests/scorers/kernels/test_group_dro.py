import numpy as np
import pytest

from scorers.kernels.group_dro import excess, remix, reweigh


def test_excess_is_the_mean_of_what_exceeds():
    assert excess(np.array([3.0, 1.0, 2.0, 5.0]), np.array([1.0, 1.0, 3.0, 4.0])) == pytest.approx(1.5)
    assert excess(np.array([1.0]), np.array([2.0])) == 0


def test_a_step_by_hand():
    alpha, initial = np.array([0.5, 0.5]), np.array([0.8, 0.2])
    grown = np.array([1.0, np.exp(0.2 * 3.0)])
    np.testing.assert_allclose(
        reweigh(alpha, np.array([1.0, 4.0]), initial, 0.2, 0.05), 0.95 * grown / grown.sum() + 0.05 * initial
    )
    assert np.isfinite(reweigh(alpha, np.array([0.0, 1e6]), initial, 0.2, 0.05)).all()


def test_the_game_ends_at_its_saddle_point():
    """Two domains want 0 and one wants 1: the least worst loss (theta - c)^2 is at theta = 1/2, which the player of
    theta answers to weights 1/2 on the lone domain. Hand-solved; without smoothing, whose pull is not part of the game.
    """
    wanted, initial = np.array([0.0, 0.0, 1.0]), np.full(3, 1 / 3)
    theta, alpha, total = 0.0, initial.copy(), np.zeros(3)
    for _ in range(4000):
        alpha = reweigh(alpha, (theta - wanted) ** 2, initial, 0.02, 0.0)
        theta -= 0.02 * 2 * float(alpha @ (theta - wanted))
        total += alpha
    assert theta == pytest.approx(0.5, abs=0.02)
    np.testing.assert_allclose(total / 4000, [0.25, 0.25, 0.5], atol=0.02)


def problem(kinds, episodes=12, steps=40, seed=0):
    """Domains of episodes whose action is ``kinds``: easy (linear), hard (a fast wave) or a copy of another."""
    rng = np.random.default_rng(seed)
    state = rng.uniform(-1, 1, (len(kinds) * episodes * steps, 3)).astype(np.float32)
    owner = np.repeat(np.arange(len(kinds) * episodes), steps)
    domain = np.repeat(np.arange(len(kinds)), episodes)
    of_step = domain[owner]
    state[:, 2] = of_step  # a policy can tell the domains apart
    easy, hard = 0.5 * state[:, 0], np.sin(4 * state[:, 0] + 3 * state[:, 1])
    action = np.where(np.array([kind == "hard" for kind in kinds])[of_step], hard, easy)
    chunk = action.astype(np.float32).reshape(-1, 1, 1)
    return state, chunk, np.ones((len(state), 1), bool), owner, domain


def test_the_domain_that_takes_longer_to_learn_gets_the_larger_share():
    found = remix(*problem(["easy", "hard", "easy"]), seed=0, iterations=300, reference_iterations=800, hidden=32)
    assert found.alpha[1] > 1.5 / 3
    assert found.alpha.sum() == pytest.approx(1)
    assert found.alpha[[0, 2]].max() < 1 / 3


def test_like_domains_share_alike_and_one_seed_gives_one_answer():
    given = problem(["easy", "easy"], episodes=10)
    first, second = (remix(*given, seed=1, iterations=150, reference_iterations=300, hidden=16) for _ in range(2))
    np.testing.assert_allclose(first.alpha, [0.5, 0.5], atol=0.05)
    np.testing.assert_array_equal(first.alpha, second.alpha)
    assert (first.proxy < 0.05).all()
