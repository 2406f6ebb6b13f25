import numpy as np
import ot
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import normalized_mutual_info_score, silhouette_score

from scorers.kernels.diversity import (
    bandwidth,
    clusters,
    entropy,
    mmd,
    normalised_information,
    occupied,
    silhouette,
    sinkhorn,
    vendi,
)


def cloud(n, d=2, shift=0.0, seed=0):
    return np.random.default_rng(seed).normal(shift, 1, (n, d))


def test_vendi_counts_what_is_unlike():
    far = np.arange(7)[:, None] * 100.0
    assert vendi(far, 1.0) == pytest.approx(7)
    assert vendi(np.repeat(far[:3], 4, axis=0), 1.0) == pytest.approx(3)
    assert vendi(np.zeros((5, 2)), 1.0) == pytest.approx(1)
    assert bandwidth(np.zeros((5, 2))) == 1.0
    assert bandwidth(np.array([[0.0], [1.0], [3.0]])) == pytest.approx(2)


def test_mmd_is_the_unbiased_formula_and_grows_with_the_shift():
    x, y = cloud(12), cloud(9, shift=1.0, seed=1)

    def kernel(a, b):
        return np.exp(-((a - b) ** 2).sum() / (2 * 1.5**2))

    inside = [np.mean([kernel(a, b) for i, a in enumerate(z) for j, b in enumerate(z) if i != j]) for z in (x, y)]
    want = sum(inside) - 2 * np.mean([kernel(a, b) for a in x for b in y])
    assert mmd(x, y, 1.5) == pytest.approx(want)
    same = [mmd(cloud(60, seed=s), cloud(60, seed=s + 50), 1.5) for s in range(20)]
    assert abs(np.mean(same)) < 0.01
    assert mmd(cloud(60), cloud(60, shift=2, seed=1), 1.5) > 10 * np.std(same)


def test_sinkhorn_agrees_with_a_library_and_is_zero_for_one_set():
    x, y = cloud(30), cloud(20, shift=1.0, seed=1)

    def transport(a, b):
        cost, p, q = ot.dist(a, b) / 2, np.full(len(a), 1 / len(a)), np.full(len(b), 1 / len(b))
        plan = ot.sinkhorn(p, q, cost, 0.25, method="sinkhorn_log", numIterMax=5000)
        return (plan * cost).sum() + 0.25 * (plan * np.log(plan / np.outer(p, q) + 1e-300)).sum()

    want = transport(x, y) - (transport(x, x) + transport(y, y)) / 2
    assert sinkhorn(x, y, 0.5) == pytest.approx(want, rel=1e-3)
    assert sinkhorn(x, x, 0.5) == pytest.approx(0, abs=1e-12)
    assert sinkhorn(x, x + np.array([3, 0]), 0.1) == pytest.approx(4.5, rel=1e-2)  # half the squared shift


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=2, max_size=30), st.integers(0, 2**32 - 1))
def test_information_is_the_plug_in(u, seed):
    u = np.array(u)
    v = np.random.default_rng(seed).integers(0, 3, len(u))
    want = normalized_mutual_info_score(u, v) if len(set(u)) > 1 or len(set(v)) > 1 else 0.0
    assert normalised_information(u, v)[0] == pytest.approx(want, abs=1e-9)


def test_disjoint_parts_give_the_formula_of_shortcuts():
    """Parts that share no values of u or v, independent inside each: NMI = 2 H(C) / (H(u) + H(v))."""
    parts = [(3, 2), (2, 4), (1, 3)]
    u, v, part = [], [], []
    for number, (us, vs) in enumerate(parts):
        pairs = [(10 * number + i, 10 * number + j) for i in range(us) for j in range(vs)] * 5
        u += [pair[0] for pair in pairs]
        v += [pair[1] for pair in pairs]
        part += [number] * len(pairs)
    u, v, part = map(np.array, (u, v, part))
    h = [entropy(np.unique(z, return_counts=True)[1]) for z in (u, v, part)]
    assert normalised_information(u, v)[0] == pytest.approx(2 * h[2] / (h[0] + h[1]))


def test_chance_is_taken_from_the_information():
    draw = np.random.default_rng(0)
    found = [
        normalised_information(draw.integers(0, 20, 100), draw.integers(0, 30, 100), permutations=50, seed=s)
        for s in range(5)
    ]
    assert np.mean([plain for plain, _ in found]) == pytest.approx(0.54, abs=0.06)
    assert max(above for _, above in found) < 0.1
    u = draw.integers(0, 5, 200)
    assert normalised_information(u, u, permutations=20) == pytest.approx((1, 1))
    assert np.isnan(normalised_information(u, u)[1])
    assert normalised_information(np.zeros(5), np.zeros(5), permutations=3)[0] == 0


def test_entropy_has_a_base():
    assert entropy(np.array([5, 5, 0, 5, 5])) == pytest.approx(np.log(4))
    assert entropy(np.array([5, 5]), 4) == pytest.approx(0.5)
    assert entropy(np.array([9]), 1) == 0


def test_occupied_counts_cells():
    x = np.array([[0.0, 0.0], [0.005, 0.0], [0.015, 0.0], [1.0, 1.0], [5.0, 5.0]])
    assert len(occupied(x, np.zeros(2), np.ones(2))) == 3
    with pytest.raises(ValueError, match="more cells"):
        occupied(np.zeros((2, 10)), np.zeros(10), np.ones(10))


def test_silhouette_is_the_library_s():
    x = np.concatenate([cloud(20), cloud(15, shift=3, seed=1)])
    labels = np.repeat([0, 1], [20, 15])
    assert silhouette(x, labels) == pytest.approx(silhouette_score(x, labels))


@pytest.mark.parametrize("seed", range(3))
def test_clusters_are_found_where_there_are_some_and_only_there(seed):
    parts = [cloud(30, 3, seed=seed), cloud(20, 3, shift=6, seed=seed + 9)]
    found = clusters(np.concatenate(parts), seed=seed)
    assert found.tolist() == [0] * 30 + [1] * 20
    three = np.concatenate([*parts, cloud(10, 3, shift=-6, seed=seed + 20)])
    assert clusters(three, seed=seed).max() == 2
    assert clusters(cloud(50, 3, seed=seed) * [5, 1, 1], seed=seed).max() == 0  # a long cloud is one
    assert clusters(np.random.default_rng(seed).uniform(size=(50, 2)), seed=seed).max() == 0
    assert clusters(np.ones((20, 2)), seed=seed).max() == 0
    assert clusters(cloud(4, seed=seed), seed=seed).max() == 0
