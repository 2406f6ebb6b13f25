import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_engine import registry
from data_engine.errors import RequestError
from data_engine.selection import Candidates, Held


def candidates(*held):
    """Units of which each ``held`` {index: (rank, weight)} is a selection: a, b, c."""
    n = max(at for one in held for at in one) + 1
    sets = []
    for name, one in zip("abc", held, strict=False):
        rank, weight = np.full(n, -1), np.zeros(n)
        for at, (place, heavy) in one.items():
            rank[at], weight[at] = place, heavy
        sets.append(Held(name, rank, weight))
    names = [f"ep_{i}" for i in range(n)]
    return Candidates(names, names, np.ones(n), held=sets)


def made(name, given, of=("a", "b")):
    return registry.make("selectors", name, {"of": of}).select(given, None, budget=None, seed=0)


def test_order_weights_and_reasons_solved_by_hand():
    given = candidates({0: (1, 1.0), 1: (0, 3.0)}, {1: (0, 1.0), 2: (1, 2.0)})
    union = made("union", given)
    assert union.order.tolist() == [1, 0, 2]
    np.testing.assert_allclose(union.weights, np.array([2.0, 1.0, 2.0]) / (5 / 3))
    assert union.reasons == ["chosen: in a, not in b", "chosen: in a, b", "chosen: in b, not in a"]
    assert made("intersection", given).order.tolist() == [1]
    difference = made("difference", given)
    assert difference.order.tolist() == [0]
    assert difference.reasons[1] == "left out: in a, b"
    assert made("difference", given, ("b", "a")).order.tolist() == [2]
    assert difference.report == {"candidates": 3, "chosen": 1, "held": {"a": 2, "b": 2}}


@settings(max_examples=30, deadline=None)
@given(sets=st.lists(st.sets(st.integers(0, 12), min_size=1), min_size=3, max_size=3))
def test_they_are_the_sets_that_python_makes(sets):
    given_ = candidates(*({at: (place, 1.0) for place, at in enumerate(sorted(one))} for one in sets))
    expected = {
        "union": set.union(*sets), "intersection": set.intersection(*sets), "difference": sets[0] - sets[1] - sets[2],
    }  # fmt: skip
    for name, result in expected.items():
        if result:
            assert set(made(name, given_, ("a", "b", "c")).order.tolist()) == result
        else:
            with pytest.raises(RequestError, match=f"the {name} of a, b, c is empty"):
                made(name, given_, ("a", "b", "c"))


def test_refuses_a_budget_and_a_single_set():
    with pytest.raises(RequestError, match="has no budget"):
        registry.make("selectors", "union", {"of": ["a", "b"]}).select(
            candidates({0: (0, 1.0)}, {0: (0, 1.0)}), None, budget=1, seed=0
        )
    with pytest.raises(RequestError, match="of: "):
        registry.make("selectors", "union", {"of": ["a"]})
