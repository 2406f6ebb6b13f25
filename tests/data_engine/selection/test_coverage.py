import json
from itertools import combinations

import numpy as np
import pytest

from data_engine import registry
from data_engine.errors import RequestError
from data_engine.selection import coverage
from data_engine.selection.coverage import Coverage
from data_engine.selection.neighbours import directions


def clouds(n=20, d=6, seed=0):
    """``d`` clouds of n vectors each about the axes of a space, in turn."""
    rng = np.random.default_rng(seed)
    return np.tile(5 * np.eye(d), (n, 1)) + 0.3 * rng.normal(size=(n * d, d))


def worth(vectors, chosen):
    units = directions(vectors, centre=True)
    cosine = np.maximum(units @ units.T, 0)
    return cosine[:, list(chosen)].max(axis=1).sum()


def test_one_of_each_cloud_before_a_second_of_any(units):
    candidates = units(clouds(), "c")
    chosen = Coverage().select(candidates, None, budget=6, seed=0)
    assert sorted((chosen.order % 6).tolist()) == [0, 1, 2, 3, 4, 5]
    assert (chosen.weights == 1).all()
    assert chosen.report["coverage"] > 0.95 > chosen.report["coverage_at_random"]
    assert chosen.report["at_least"] > 0.9
    for at, reason in enumerate(chosen.reasons):
        if at in set(chosen.order.tolist()):
            assert ". pick, adds " in reason
        else:
            (mine,) = (i for i in chosen.order.tolist() if i % 6 == at % 6)
            assert f"{candidates.ids[mine]} stands for it" in reason
    json.dumps(chosen.report, allow_nan=False)


@pytest.mark.parametrize("seed", range(4))
def test_holds_its_bound_against_brute_force(units, seed):
    vectors = np.random.default_rng(seed).normal(size=(10, 3))
    chosen = Coverage().select(units(vectors, "c"), None, budget=3, seed=0)
    best = max(worth(vectors, some) for some in combinations(range(10), 3))
    ours = worth(vectors, chosen.order)
    assert (1 - 1 / np.e) * best <= ours <= best + 1e-6
    assert ours >= chosen.report["at_least"] * best - 1e-5


def test_what_all_have_in_common_tells_nobody_apart(units):
    vectors = clouds() + 1000
    centred = Coverage().select(units(vectors, "c"), None, budget=6, seed=0)
    assert len(set((centred.order % 6).tolist())) == 6


def test_by_neighbours_alone_comes_near_all_pairs(units, monkeypatch):
    vectors = np.random.default_rng(2).normal(size=(400, 5))
    whole = Coverage().select(units(vectors, "c"), None, budget=30, seed=0)
    monkeypatch.setattr(coverage, "DENSE_BELOW", 100)
    some = Coverage(neighbours=40).select(units(vectors, "c"), None, budget=30, seed=0)
    assert some.report["pairs"] == "40 nearest"
    assert worth(vectors, some.order) > 0.97 * worth(vectors, whole.order)


def test_represented_weighs_by_how_many_each_stands_for(units):
    vectors = np.concatenate([np.repeat([[5.0, 0, 0]], 9, axis=0), [[0, 5.0, 0]], [[0, 0, 5.0]]])
    chosen = Coverage(weigh="represented").select(units(vectors, "c"), None, budget=3, seed=0)
    assert sorted(np.round(chosen.weights / chosen.weights.min()).tolist()) == [1, 1, 9]
    assert chosen.weights.mean() == pytest.approx(1)


def test_neither_names_nor_order_change_the_choice_and_a_smaller_budget_is_a_prefix(units, permuted):
    rng = np.random.default_rng(5)
    candidates = units(rng.normal(size=(120, 6)).round(1), "c")
    first = Coverage().select(candidates, None, budget=25, seed=2)
    other = permuted(candidates, rng.permutation(120))
    second = Coverage().select(other, None, budget=25, seed=2)
    assert [candidates.content_hashes[i] for i in first.order] == [other.content_hashes[i] for i in second.order]
    assert first.report == second.report
    assert Coverage().select(candidates, None, budget=10, seed=2).order.tolist() == first.order[:10].tolist()


def test_equal_and_bad_vectors_spoil_nothing(units):
    same = Coverage().select(units(np.ones((7, 3)), "c"), None, budget=0.5, seed=0)
    assert len(same.order) == 4
    vectors = np.concatenate([clouds(4), np.full((1, 6), np.nan)])
    chosen = Coverage().select(units(vectors, "c"), None, budget=None, seed=0)
    assert sorted(chosen.order.tolist()) == list(range(24))
    assert chosen.reasons[24] == "left out: its vector has a value that is not finite"
    with pytest.raises(RequestError, match="'auto'"):
        Coverage().select(units(vectors, "c"), None, budget="auto", seed=0)


def test_is_registered():
    assert isinstance(registry.make("selectors", "coverage"), Coverage)
