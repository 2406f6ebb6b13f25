import numpy as np
import pytest
from sklearn.covariance import empirical_covariance

from scorers.kernels.discriminant import log_likelihoods


def test_it_is_the_gaussian_of_the_shrunk_covariance():
    draw = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], [30, 10, 5])
    samples = draw.normal(size=(45, 4)) * [1, 2, 3, 4] + labels[:, None]
    x = draw.normal(size=4)
    within = np.mean(
        [empirical_covariance(samples[labels == k]) * (n / (n - 1)) for k, n in ((0, 30), (1, 10), (2, 5))], 0
    )
    shrunk = 0.7 * within + 0.3 * np.trace(within) / 4 * np.eye(4)
    away = [x - samples[labels == k].mean(0) for k in range(3)]
    want = [-0.5 * a @ np.linalg.inv(shrunk) @ a for a in away]
    np.testing.assert_allclose(log_likelihoods(x, samples, labels, 3, 0.3), want, rtol=1e-9)


def test_a_class_without_samples_has_no_likelihood():
    samples, labels = np.eye(3), np.array([0, 0, 2])
    found = log_likelihoods(np.zeros(3), samples, labels, 3, 0.5)
    assert found[1] == -np.inf
    assert np.isfinite(found[[0, 2]]).all()


@pytest.mark.parametrize("shrinkage", [0.1, 1.0])
def test_equal_samples_leave_a_sphere(shrinkage):
    samples, labels = np.array([[0.0, 0.0]] * 3 + [[2.0, 0.0]] * 3), np.repeat([0, 1], 3)
    found = log_likelihoods(np.array([0.5, 0.0]), samples, labels, 2, shrinkage)
    assert found[0] > found[1]
