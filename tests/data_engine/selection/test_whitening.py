import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from data_engine.errors import RequestError
from data_engine.selection.nearest import cosines
from data_engine.selection.whitening import REACH, fit_whitening


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), d=st.integers(2, 12), ridge=st.sampled_from([0.0, 1e-5, 1e-2]))
def test_at_full_rank_it_is_the_cholesky_whitening_of_the_paper(seed, d, ridge):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(200, d)) @ rng.normal(size=(d, d)) + 5
    distance = np.linalg.norm(x - np.median(x, axis=0), axis=1)
    assume(distance.max() <= REACH * np.median(distance))
    whitening = fit_whitening(x, variance=1.0, rank_share=1.0, ridge=ridge)
    centred = x - x.mean(axis=0)
    covariance = centred.T @ centred / len(x)
    lower = np.linalg.cholesky(covariance + ridge * np.trace(covariance) / d * np.eye(d))
    expected = centred @ np.linalg.inv(lower).T
    if whitening.rank == d:
        np.testing.assert_allclose(
            cosines(whitening.apply(x), whitening.apply(x)), cosines(expected, expected), atol=1e-5
        )


@pytest.mark.parametrize(("n", "d"), [(400, 30), (60, 200)])
def test_components_are_uncorrelated_with_unit_variance(n, d):
    x = np.random.default_rng(0).normal(size=(n, d)) * np.arange(1, d + 1)
    whitening = fit_whitening(x, variance=0.9, rank_share=0.1, ridge=0.0)
    white = whitening.apply(x)
    np.testing.assert_allclose(white.T @ white / n, np.eye(whitening.rank), atol=1e-8)
    np.testing.assert_allclose(white.mean(axis=0), 0, atol=1e-10)


def test_rank_follows_variance_and_the_number_of_points():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(500, 3)) @ rng.normal(size=(3, 40)) + 1e-3 * rng.normal(size=(500, 40))
    low = fit_whitening(x, variance=0.95, rank_share=0.1, ridge=1e-5)
    assert low.rank <= 3
    assert low.explained >= 0.95
    noise = rng.normal(size=(500, 400))
    assert fit_whitening(noise, variance=0.95, rank_share=0.1, ridge=1e-5).rank == 50
    assert fit_whitening(noise[:15], variance=0.95, rank_share=0.1, ridge=1e-5).rank == 2


def test_is_the_same_at_any_scale():
    x = np.random.default_rng(2).normal(size=(300, 10))
    small, large = (fit_whitening(x * scale, variance=0.95, rank_share=0.1, ridge=1e-3) for scale in (1e-6, 1e6))
    np.testing.assert_allclose(small.apply(x * 1e-6), large.apply(x * 1e6), atol=1e-8)


def test_one_wild_vector_does_not_set_the_space_of_the_others():
    x = np.random.default_rng(3).normal(size=(300, 8)) * np.arange(1, 9)
    spoiled = np.concatenate([x, np.full((1, 8), 1e6)])
    clean, again = (fit_whitening(v, variance=1.0, rank_share=0.1, ridge=1e-5).apply(x) for v in (x, spoiled))
    assert np.corrcoef(cosines(clean, clean).ravel(), cosines(again, again).ravel())[0, 1] > 0.95


def test_more_than_half_equal_vectors_are_no_reason_to_cut():
    x = np.concatenate([np.zeros((10, 3)), np.eye(3)])
    assert fit_whitening(x, variance=1.0, rank_share=1.0, ridge=0.0).rank == 3


def test_equal_vectors_are_refused():
    with pytest.raises(RequestError, match="all vectors are equal"):
        fit_whitening(np.ones((5, 3)), variance=0.95, rank_share=0.1, ridge=1e-5)
