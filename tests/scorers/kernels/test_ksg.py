import numpy as np
import pytest
import torch
from scipy.special import digamma
from sklearn.neighbors import KDTree

from scorers.kernels.ksg import pointwise


def by_trees(state, action, ks=(5, 6, 7)):
    """The estimate of each point of a set against the others, by sklearn's trees."""
    trees = KDTree(state), KDTree(action)
    distance = np.array(
        [
            np.maximum(np.linalg.norm(state - s, axis=1), np.linalg.norm(action - a, axis=1))
            for s, a in zip(state, action, strict=True)
        ]
    )
    radii = np.sort(distance, axis=1)  # the point itself comes first
    total = np.zeros(len(state))
    for k in ks:
        inside = np.nextafter(radii[:, k], 0)  # strictly within
        counts = [tree.query_radius(x, inside, count_only=True) for tree, x in zip(trees, (state, action), strict=True)]
        total += digamma(k) + digamma(len(state)) - digamma(counts[0]) - digamma(counts[1])
    return total / len(ks)


def correlated(n, rho, seed=0):
    draw = np.random.default_rng(seed)
    x = draw.normal(size=(n, 1))
    return x, rho * x + np.sqrt(1 - rho**2) * draw.normal(size=(n, 1))


def test_agrees_with_trees():
    draw = np.random.default_rng(1)
    state = np.rint(draw.normal(size=(400, 5)) * 2**14) / 2**14
    action = np.rint((state[:, :2] + 0.3 * draw.normal(size=(400, 2))) * 2**14) / 2**14
    own = np.arange(400)
    got = pointwise(state, action, state, action, owner=own, reference_owner=own)
    np.testing.assert_allclose(got, by_trees(state, action), atol=1e-9)


@pytest.mark.parametrize("rho", [0.0, 0.6, 0.9])
def test_measures_the_information_of_gaussians(rho):
    x, y = correlated(2000, rho)
    own = np.arange(2000)
    assert pointwise(x, y, x, y, owner=own, reference_owner=own).mean() == pytest.approx(
        -0.5 * np.log(1 - rho**2), abs=0.06
    )


def test_ties_are_undefined_not_infinite():
    x, y = correlated(100, 0.5)
    x[:20], y[:20] = 0.0, 0.0
    got = pointwise(x, y, x, y, owner=np.arange(100), reference_owner=np.arange(100))
    assert np.isnan(got[:20]).all()
    assert np.isfinite(got[20:]).all()


def test_each_point_is_its_own_question():
    x, y = correlated(300, 0.5)
    whole = pointwise(x, y, x[:100], y[:100])
    np.testing.assert_array_equal(pointwise(x[50:60], y[50:60], x[:100], y[:100]), whole[50:60])
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        np.testing.assert_array_equal(pointwise(x, y, x[:100], y[:100]), whole)
    finally:
        torch.set_num_threads(threads)


def test_too_small_a_batch_is_undefined():
    x, y = correlated(6, 0.5)
    assert np.isnan(pointwise(x, y, x, y)).all()
    assert np.isnan(
        pointwise(np.r_[x, x], np.r_[y, y], np.r_[x, x], np.r_[y, y], owner=np.zeros(12), reference_owner=np.zeros(12))
    ).all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_cuda_gives_the_same_numbers():
    x, y = correlated(300, 0.5)
    np.testing.assert_allclose(pointwise(x, y, x, y, device="cuda"), pointwise(x, y, x, y), atol=1e-9)
