import numpy as np
import pytest

from data_engine import registry
from data_engine.errors import RequestError
from data_engine.selection import Candidates
from data_engine.selection.top_fraction import TopFraction


def candidates(scores):
    n = len(scores)
    return Candidates(
        [f"ep_{i}" for i in range(n)], [f"{9 - i}" for i in range(n)], np.ones(n), scores=np.asarray(scores, float)
    )


def test_takes_the_best_in_order_and_of_equals_by_content():
    chosen = TopFraction(by="composite").select(candidates([1, 5, np.nan, 5, 3, 0]), None, budget=0.5, seed=0)
    assert chosen.order.tolist() == [3, 1, 4]  # content hashes fall with the index
    assert chosen.reasons[4] == "chosen: 3. of 5 by composite"
    assert chosen.reasons[0] == "left out: 4. of 5 by composite"
    assert chosen.reasons[2] == "left out: composite is not known of it"
    assert (chosen.weights == 1).all()


def test_never_takes_what_has_no_score():
    chosen = TopFraction(by="x").select(candidates([np.nan, 2, np.nan]), None, budget=None, seed=0)
    assert chosen.order.tolist() == [1]
    assert chosen.report == {"candidates": 3, "unscored": 2, "chosen": 1, "by": "x"}
    assert len(TopFraction(by="x").select(candidates([np.nan]), None, budget=1, seed=0).order) == 0


def test_refusals():
    with pytest.raises(RequestError, match="'auto'"):
        TopFraction(by="x").select(candidates([1, 2]), None, budget="auto", seed=0)
    with pytest.raises(RequestError, match="by is missing"):
        registry.make("selectors", "top_fraction")
