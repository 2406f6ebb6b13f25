import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_engine.errors import RequestError
from data_engine.selection import Candidates
from data_engine.selection.random import Random


def test_neither_names_nor_order_change_the_draw(units, permuted):
    candidates = units(None, "c", 50)
    first = Random().select(candidates, None, budget=0.3, seed=7)
    other = permuted(candidates, np.random.default_rng(1).permutation(50))
    second = Random().select(other, None, budget=15, seed=7)
    assert [candidates.content_hashes[i] for i in first.order] == [other.content_hashes[i] for i in second.order]
    assert len(first.order) == 15
    assert sum(reason.startswith("chosen") for reason in first.reasons) == 15
    assert all(first.reasons)


def test_the_seed_changes_it_and_a_larger_budget_keeps_it(units):
    candidates = units(None, "c", 200)
    small, large = (Random().select(candidates, None, budget=k, seed=3).order for k in (20, 60))
    assert small.tolist() == large[:20].tolist()
    assert small.tolist() != Random().select(candidates, None, budget=20, seed=4).order.tolist()


def test_every_unit_is_as_likely(units):
    candidates = units(None, "c", 30)
    counts = np.zeros(30)
    for seed in range(400):
        counts[Random().select(candidates, None, budget=10, seed=seed).order] += 1
    assert abs(counts / 400 - 1 / 3).max() < 0.12  # five standard deviations


def test_ranges_of_one_episode_are_drawn_apart():
    ids = [f"ep_a:{i}:{i + 10}" for i in range(0, 100, 10)] + [f"ep_b:{i}:{i + 10}" for i in range(0, 100, 10)]
    candidates = Candidates(ids, ["a"] * 10 + ["b"] * 10, np.full(20, 10))
    first = [i < 10 for i in Random().select(candidates, None, budget=None, seed=0).order]
    assert first not in ([True] * 10 + [False] * 10, [False] * 10 + [True] * 10)


@settings(max_examples=30, deadline=None)
@given(
    n=st.integers(1, 40), budget=st.one_of(st.none(), st.integers(1, 60), st.floats(0.01, 1)), seed=st.integers(0, 9)
)
def test_is_a_choice_without_repetition(n, budget, seed):
    candidates = Candidates([str(i) for i in range(n)], [f"h{i}" for i in range(n)], np.ones(n, dtype=np.int64))
    chosen = Random().select(candidates, None, budget=budget, seed=seed)
    assert len(set(chosen.order.tolist())) == len(chosen.order) == len(chosen.weights) <= n
    assert len(chosen.reasons) == n


@pytest.mark.parametrize("budget", ["auto", 0, -1, 1.5, True])
def test_refuses_a_wrong_budget(units, budget):
    with pytest.raises(RequestError) as caught:
        Random().select(units(None, "c", 5), None, budget=budget, seed=0)
    assert caught.value.code == "bad_budget"
