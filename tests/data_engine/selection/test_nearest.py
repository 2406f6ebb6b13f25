import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_engine.errors import RequestError
from data_engine.selection.nearest import Nearest, cosines, layers


def test_cosines_are_cosines_and_no_direction_is_none():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(6, 4)), rng.normal(size=(3, 4))
    expected = [[x @ y / np.linalg.norm(x) / np.linalg.norm(y) for y in b] for x in a]
    np.testing.assert_allclose(cosines(a, b), expected, atol=1e-9)
    a[0] = 0
    a[1] *= 1e-14
    assert (cosines(a, b)[:2] == 0).all()


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 12), st.integers(1, 5), st.integers(0, 1000))
def test_layers_are_the_union_of_the_kth_nearest(n, m, seed):
    similarity = np.random.default_rng(seed).normal(size=(n, m))
    found = layers(similarity)
    for k in range(n):
        union = {i for j in range(m) for i in np.argsort(-similarity[:, j])[: k + 1].tolist()}
        assert set(np.flatnonzero(found <= k).tolist()) == union
    positive = layers(similarity, above=0.0)
    assert (positive == n).tolist() == (similarity <= 0).all(axis=1).tolist()


def test_every_target_gets_its_nearest_before_any_gets_its_second(units):
    targets = np.eye(4)
    candidates = np.concatenate([np.repeat(targets, 5, axis=0) + 0.01 * np.arange(20)[:, None] / 20, -targets])
    chosen = Nearest().select(units(candidates, "c"), units(targets, "t"), budget=8, seed=0)
    assert sorted((chosen.order // 5).tolist()) == [0, 0, 1, 1, 2, 2, 3, 3]
    assert sum(reason.startswith("chosen") for reason in chosen.reasons) == 8
    assert (chosen.weights == 1).all()


def test_neither_names_nor_order_change_the_choice(units, permuted):
    rng = np.random.default_rng(3)
    candidates, targets = units(rng.normal(size=(60, 8)).round(1), "c"), units(rng.normal(size=(5, 8)).round(1), "t")
    first = Nearest().select(candidates, targets, budget=20, seed=0)
    other = permuted(candidates, rng.permutation(60))
    second = Nearest().select(other, permuted(targets, rng.permutation(5)), budget=20, seed=9)
    assert [candidates.content_hashes[i] for i in first.order] == [other.content_hashes[i] for i in second.order]


def test_a_budget_beyond_what_is_usable_takes_all_usable(units):
    vectors = np.ones((4, 2))
    vectors[2] = np.nan
    chosen = Nearest().select(units(vectors, "c"), units(np.ones((1, 2)), "t"), budget=None, seed=0)
    assert sorted(chosen.order.tolist()) == [0, 1, 3]
    assert chosen.reasons[2] == "left out: its vector has a value that is not finite"


def test_auto_is_refused(units):
    with pytest.raises(RequestError, match="budget 'auto'"):
        Nearest().select(units(np.ones((4, 2)), "c"), units(np.ones((1, 2)), "t"), budget="auto", seed=0)
