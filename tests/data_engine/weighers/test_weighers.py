import numpy as np
import pytest

from data_engine import registry
from data_engine.errors import EngineError
from data_engine.weighers.selection import SelectionWeights
from data_engine.weighers.uniform import Uniform


def test_selection_keeps_the_ratios_at_mean_one(drawn):
    weights = SelectionWeights().weigh(drawn([10, 20, 30], [1.0, 2.0, 6.0])).values
    np.testing.assert_allclose(weights, [1 / 3, 2 / 3, 2.0])


@pytest.mark.parametrize("wrong", [0.0, -1.0, np.nan, np.inf])
def test_selection_refuses_what_is_no_weight(drawn, wrong):
    with pytest.raises(EngineError, match="positive finite"):
        SelectionWeights().weigh(drawn([10, 20], [1.0, wrong]))


def test_uniform_is_ones(drawn):
    assert Uniform().weigh(drawn([10, 20], [1.0, 5.0])).values.tolist() == [1.0, 1.0]


def test_both_are_registered():
    assert [type(registry.make("weighers", name)) for name in ("selection", "uniform")] == [SelectionWeights, Uniform]
