import numpy as np
import ot
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_engine.selection import pricing
from data_engine.selection.costs import DenseCosts, UnitCosts
from data_engine.selection.neighbours import directions
from data_engine.selection.pricing import solve_priced


def clusters(n, m, seed=0, d=8, k=6, lopsided=True):
    """Candidates and targets about the same centres; ``lopsided``: of unlike sizes, so that mass has far to go."""
    rng = np.random.default_rng(seed)
    centres = 3 * rng.normal(size=(k, d))
    odds = np.arange(1, k + 1) / np.arange(1, k + 1).sum() if lopsided else np.full(k, 1 / k)
    ours, theirs = rng.choice(k, n, p=odds), rng.choice(k, m)
    points = (centres[label] + rng.normal(size=(len(label), d)) for label in (ours, theirs))
    return UnitCosts(*(directions(one).astype(np.float32) for one in points))


def dense(costs):
    return costs.rows(slice(0, costs.shape[0])).astype(np.float64)


@pytest.fixture
def small(monkeypatch):
    """So few cells solved whole that small problems are priced, too."""
    monkeypatch.setattr(pricing, "_SMALL", 400)


@pytest.mark.parametrize(("n", "m"), [(600, 40), (300, 60), (90, 80), (40, 200)])
@pytest.mark.parametrize("lopsided", [True, False])
def test_is_within_its_gap_of_pots_exact_distance(small, n, m, lopsided):
    costs = clusters(n, m, lopsided=lopsided)
    exact = ot.emd2([], [], dense(costs))
    found = solve_priced(costs, ot, gap=0.002, rounds=20)
    assert found.gap <= 0.002
    assert exact * (1 - 1e-5) <= found.distance <= exact * 1.0021
    assert found.bound <= exact * (1 + 1e-5)
    assert found.sample == n


@settings(max_examples=15, deadline=None)
@given(n=st.integers(1, 60), m=st.integers(1, 60), seed=st.integers(0, 99))
def test_any_size_has_an_answer_between_its_bounds(n, m, seed):
    before, pricing._SMALL = pricing._SMALL, 30
    try:
        costs = DenseCosts(np.random.default_rng(seed).uniform(0, 2, (n, m)))
        found = solve_priced(costs, ot, gap=0.01, pairs=3)
    finally:
        pricing._SMALL = before
    exact = ot.emd2([], [], dense(costs))
    assert found.bound <= exact + 1e-6
    assert exact - 1e-5 <= found.distance
    np.testing.assert_allclose(found.potential, (dense(costs) - found.prices).min(axis=1), atol=1e-5)


def test_a_sample_sets_the_prices_of_all(small, monkeypatch):
    costs = clusters(3000, 20)
    monkeypatch.setattr(pricing, "_SCALED", 6000)
    found = solve_priced(costs, ot, pairs=6)
    exact, log = ot.emd2([], [], dense(costs), log=True)
    assert found.sample == 1000
    assert found.bound <= exact * (1 + 1e-5)
    assert found.bound >= 0.97 * exact
    truth = (dense(costs) - log["v"]).min(axis=1)
    assert np.corrcoef(truth, found.potential)[0, 1] > 0.99


def test_where_the_pairs_are_too_many_for_the_simplex_all_rows_are_scaled(small, monkeypatch):
    costs = clusters(4000, 24)
    monkeypatch.setattr(pricing, "_SIMPLEX", 100)
    monkeypatch.setattr(pricing, "_GROWTH", 2)  # several samples, each larger than the one before
    found = solve_priced(costs, ot, pairs=6, gap=1e-9)
    exact = ot.emd2([], [], dense(costs))
    assert (found.sample, found.rounds) == (4000, 0)
    assert found.bound <= exact * (1 + 1e-5)
    assert exact * (1 - 1e-5) <= found.distance <= 1.02 * exact
    assert found.gap < 0.02


def test_one_seed_gives_one_answer(small):
    first, second = (solve_priced(clusters(500, 50), ot) for _ in range(2))
    assert (first.distance, first.rounds) == (second.distance, second.rounds)
    np.testing.assert_array_equal(first.potential, second.potential)
