import numpy as np
import pytest

from data_engine import registry
from data_engine.errors import RequestError
from data_engine.selection.filter import Filter


def test_takes_all_in_the_order_of_content(units, permuted):
    candidates = units(None, "c", 20)
    chosen = Filter().select(candidates, None, budget=None, seed=0)
    hashes = [candidates.content_hashes[i] for i in chosen.order]
    assert hashes == sorted(candidates.content_hashes)
    assert (chosen.weights == 1).all()
    assert len(chosen.reasons) == 20
    other = permuted(candidates, np.random.default_rng(0).permutation(20))
    again = Filter().select(other, None, budget=None, seed=1)
    assert [other.content_hashes[i] for i in again.order] == hashes


def test_refuses_a_budget_and_an_empty_request(units):
    with pytest.raises(RequestError, match="no budget"):
        Filter().select(units(None, "c", 3), None, budget=2, seed=0)
    with pytest.raises(RequestError, match="no candidates"):
        Filter().select(units(None, "c", 0), None, budget=None, seed=0)


def test_is_registered():
    assert isinstance(registry.make("selectors", "filter"), Filter)
