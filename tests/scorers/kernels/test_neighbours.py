import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scorers.kernels import neighbours
from scorers.kernels.neighbours import GRID, nearest, within


def brute(queries, pool, k, owner, pool_owner):
    """Neighbours by whole-number arithmetic and a stable sort."""
    x, y = (np.rint(np.asarray(z, np.float64) * GRID).astype(np.int64) for z in (queries, pool))
    square = ((x[:, None] - y[None]) ** 2).sum(axis=2).astype(float)
    square[owner[:, None] == pool_owner[None]] = np.inf
    order = np.argsort(square, axis=1, kind="stable")[:, :k]
    distance = np.sqrt(np.take_along_axis(square, order, axis=1)) / GRID
    return distance, np.where(np.isfinite(distance), order, -1)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(8, 60), st.integers(1, 6))
def test_agrees_with_brute_force_ties_included(seed, n, m, d):
    draw = np.random.default_rng(seed)
    queries, pool = draw.integers(-3, 4, (n, d)) / 4, draw.integers(-3, 4, (m, d)) / 4
    owner, pool_owner = draw.integers(0, 4, n), draw.integers(0, 4, m)
    distance, index = nearest(queries, pool, 7, owner=owner, pool_owner=pool_owner)
    want_distance, want_index = brute(queries, pool, 7, owner, pool_owner)
    np.testing.assert_array_equal(index, want_index)
    np.testing.assert_allclose(distance, want_distance, rtol=1e-6)


def test_chunks_and_threads_change_nothing(monkeypatch):
    draw = np.random.default_rng(0)
    queries, pool = draw.normal(size=(500, 40)) / 3, draw.normal(size=(300, 40)) / 3
    whole = nearest(queries, pool, 10)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        monkeypatch.setattr(neighbours, "_CELLS", 300 * 7)
        parts = nearest(queries, pool, 10)
    finally:
        torch.set_num_threads(threads)
    for a, b in zip(whole, parts, strict=True):
        np.testing.assert_array_equal(a, b)


def test_fewer_than_k_is_said():
    distance, index = nearest(np.zeros((2, 3)), np.ones((1, 3)), 3)
    assert index.tolist() == [[0, -1, -1]] * 2
    assert np.isinf(distance[:, 1:]).all()
    assert nearest(np.zeros((0, 3)), np.ones((1, 3)), 3)[0].shape == (0, 3)


def test_beyond_the_exact_range_is_refused():
    with pytest.raises(ValueError, match="exact"):
        nearest(np.full((1, 2), 100.0), np.ones((4, 2)), 1)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_cuda_gives_the_same_numbers():
    draw = np.random.default_rng(0)
    queries, pool = draw.normal(size=(500, 40)) / 3, draw.normal(size=(300, 40)) / 3
    for a, b in zip(nearest(queries, pool, 10), nearest(queries, pool, 10, device="cuda"), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_counts_within_a_radius_of_other_owners():
    draw = np.random.default_rng(0)
    x, y = draw.normal(size=(30, 3)), draw.normal(size=(50, 3))
    own, pool_own = draw.integers(0, 4, 30), draw.integers(0, 4, 50)
    distance = np.sqrt(((x[:, None] - y[None]) ** 2).sum(2))
    want = ((distance <= 1.2) & (own[:, None] != pool_own[None])).sum(1)
    np.testing.assert_array_equal(within(x, y, 1.2, owner=own, pool_owner=pool_own), want)
    np.testing.assert_array_equal(within(x, y, 1.2), (distance <= 1.2).sum(1))
    assert within(x[:0], y, 1.0).shape == (0,)
