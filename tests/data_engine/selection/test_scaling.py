import numpy as np
import ot
import pytest

from data_engine.selection.scaling import first_prices, leftovers, scale


def problem(n, m, seed=0):
    rng = np.random.default_rng(seed)
    return np.linalg.norm(rng.normal(size=(n, 1, 3)) - rng.normal(size=(1, m, 3)), axis=2)


def test_on_all_pairs_it_comes_near_the_exact_solution_and_leaves_little_over():
    cost = problem(200, 20)
    everything = np.tile(np.arange(20), (200, 1))
    moved, prices, left, room = scale(everything, cost, first_prices(cost.copy()), np.full(200, 1 / 200))
    row, column, amount = leftovers(left, room)
    exact = ot.emd2([], [], cost)
    total = moved + cost[row, column] @ amount
    assert exact - 1e-9 <= total <= 1.02 * exact
    assert left.sum() < 0.02
    bound = (cost - prices).min(axis=1).mean() + prices.mean()
    assert 0.97 * exact <= bound <= exact + 1e-9


@pytest.mark.parametrize("seed", range(3))
def test_leftovers_fill_every_room_from_every_row(seed):
    rng = np.random.default_rng(seed)
    left, room = rng.uniform(size=30) * (rng.random(30) > 0.3), rng.uniform(size=7) * (rng.random(7) > 0.3)
    room *= left.sum() / room.sum()
    row, column, amount = leftovers(left, room)
    assert (amount > 0).all()
    np.testing.assert_allclose(np.bincount(row, amount, minlength=30), left, atol=1e-12)
    np.testing.assert_allclose(np.bincount(column, amount, minlength=7), room, atol=1e-12)
    nothing = leftovers(np.zeros(4), np.zeros(2))
    assert [len(part) for part in nothing] == [0, 0, 0]
