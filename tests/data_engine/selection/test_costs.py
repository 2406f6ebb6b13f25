import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_engine.selection import costs
from data_engine.selection.costs import DenseCosts, UnitCosts, by_block, least
from data_engine.selection.neighbours import directions


def test_unit_costs_are_distances_and_blocks_come_in_order(monkeypatch):
    rng = np.random.default_rng(0)
    ours, theirs = (directions(rng.normal(size=(n, 5))).astype(np.float32) for n in (31, 7))
    found = UnitCosts(ours, theirs)
    distance = np.linalg.norm(ours[:, None] - theirs[None], axis=2)
    np.testing.assert_allclose(found.rows(slice(0, 31)), distance, atol=2e-3)
    np.testing.assert_allclose(found.rows(np.array([4, 2])), distance[[4, 2]], atol=2e-3)
    monkeypatch.setattr(costs, "_CELLS", 20)
    assert found.shape == DenseCosts(distance).shape == (31, 7)
    seen = list(by_block(DenseCosts(distance), lambda block, cost: (block.start, cost)))
    assert [start for start, _ in seen] == sorted(start for start, _ in seen)
    assert len(seen) > 10
    np.testing.assert_array_equal(np.concatenate([cost for _, cost in seen]), distance)


@settings(max_examples=25, deadline=None)
@given(b=st.integers(1, 5), m=st.integers(1, 300), k=st.integers(1, 12), ties=st.booleans(), seed=st.integers(0, 99))
def test_the_least_of_each_row_come_first_to_last(b, m, k, ties, seed):
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 5, (b, m)).astype(float) if ties else rng.normal(size=(b, m))
    k = min(k, m)
    found = least(values, k)
    assert all(len(set(row)) == k for row in found.tolist())
    np.testing.assert_array_equal(np.take_along_axis(values, found, axis=1), np.sort(values, axis=1)[:, :k])


@pytest.mark.parametrize("pairs", [1, 3, 50])
def test_what_a_row_pays_least_for_under_prices(monkeypatch, pairs):
    rng = np.random.default_rng(1)
    ours, theirs = (directions(rng.normal(size=(n, 5))).astype(np.float32) for n in (40, 20))
    prices = rng.normal(size=20) / 5
    monkeypatch.setattr(costs, "_CELLS", 60)
    dense = np.linalg.norm(ours[:, None] - theirs[None], axis=2).astype(np.float64)
    for given_ in (UnitCosts(ours, theirs), DenseCosts(dense)):
        found = given_.cheapest(prices, pairs)
        assert found.target.shape == found.cost.shape == (40, min(pairs, 20))
        np.testing.assert_allclose(found.potential, (dense - prices).min(axis=1), atol=1e-4)
        rows = np.repeat(np.arange(40), found.target.shape[1])
        np.testing.assert_allclose(given_.at(rows, found.target.ravel()), found.cost.ravel(), atol=1e-6)
        np.testing.assert_allclose(found.cost, np.take_along_axis(dense, found.target, axis=1), atol=2e-3)
        some = np.array([7, 3, 7])
        np.testing.assert_array_equal(given_.part(some).rows(slice(0, 3)), given_.rows(some))
