from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_engine.selection.facility import Facilities, locate
from data_engine.selection.neighbours import directions


def problem(n, seed, ties=False):
    rng = np.random.default_rng(seed)
    units = directions(rng.normal(size=(n, 3)))
    similarity = np.maximum(units @ units.T, 0)
    return (similarity.round(1) if ties else similarity), rng.uniform(0.1, 1, n)


def value(similarity, demand, chosen):
    return float(similarity[:, list(chosen)].max(axis=1) @ demand) if len(chosen) else 0.0


def plain_greedy(similarity, demand, count):
    chosen, gains = [], []
    for _ in range(count):
        now = value(similarity, demand, chosen)
        gain = [-1.0 if j in chosen else value(similarity, demand, [*chosen, j]) - now for j in range(len(similarity))]
        chosen.append(int(np.argmax(np.round(gain, 12))))
        gains.append(max(gain))
    return chosen, gains


@settings(max_examples=25, deadline=None)
@given(n=st.integers(1, 9), share=st.floats(0.1, 1), seed=st.integers(0, 999))
def test_is_within_1_less_1_over_e_of_the_best_set_and_the_bound_is_one(n, share, seed):
    similarity, demand = problem(n, seed)
    count = max(1, round(share * n))
    found = locate(Facilities.dense(similarity), demand, count)
    best = max(value(similarity, demand, chosen) for chosen in combinations(range(n), count))
    assert found.value == pytest.approx(value(similarity, demand, found.order), abs=1e-9)
    assert (1 - 1 / np.e) * best <= found.value + 1e-9
    assert found.value <= best + 1e-9
    assert best <= found.bound + 1e-9


@settings(max_examples=25, deadline=None)
@given(n=st.integers(1, 25), seed=st.integers(0, 999))
def test_lazy_greedy_is_greedy(n, seed):
    similarity, demand = problem(n, seed)
    found = locate(Facilities.dense(similarity), demand, n)
    chosen, gains = plain_greedy(similarity, demand, n)
    counted = int((np.asarray(gains) > 1e-9).sum())  # what adds nothing may come in any order
    assert found.order[:counted].tolist() == chosen[:counted]
    np.testing.assert_allclose(found.gains, gains, atol=1e-9)


def test_a_problem_solved_by_hand():
    similarity = np.array([[1.0, 0.9, 0.0, 0.0], [0.9, 1.0, 0.8, 0.0], [0.0, 0.8, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]])
    found = locate(Facilities.dense(similarity), np.ones(4), 2)
    assert found.order.tolist() == [1, 3]  # 1 stands for the first three: 0.9 + 1 + 0.8
    np.testing.assert_allclose(found.gains, [2.7, 1.0])
    assert found.by.tolist() == [1, 1, 1, 3]
    assert found.bound == pytest.approx(3.7 + 0.2 + 0.1)
    better = locate(Facilities.dense(similarity).scaled(np.array([1.0, 0.3, 1.0, 1.0])), np.ones(4), 2)
    assert better.order.tolist() == [0, 2]  # 1 + 0.9 beats 1 + 0.8; then 2 and 3 add 1 each


def test_equal_gains_go_to_the_earlier_and_looks_are_few():
    similarity, demand = problem(400, 1, ties=True)
    found = locate(Facilities.dense(similarity), demand * 0 + 1, 40)
    assert found.order.tolist() == plain_greedy(similarity, demand * 0 + 1, 40)[0]
    assert found.looks < 0.25 * 400 * 40


def test_neighbours_alone_come_near_all_pairs_and_are_all_pairs_where_k_is_all():
    units = directions(np.random.default_rng(0).normal(size=(300, 4)))
    dense = Facilities.dense(np.maximum(units @ units.T, 0).round(6))
    whole, some = Facilities.sparse(units, 299), Facilities.sparse(units, 30)
    full = locate(dense, np.ones(300), 20)
    assert locate(whole, np.ones(300), 20).value == pytest.approx(full.value, rel=1e-5)
    near = locate(some, np.ones(300), 20).order
    assert np.maximum(units @ units[near].T, 0).max(axis=1).sum() > 0.95 * full.value
