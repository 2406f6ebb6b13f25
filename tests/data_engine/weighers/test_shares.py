"""The weighers that say how often a unit is drawn, held against the mixture's own drawing."""

import numpy as np
import pytest

from data_engine import registry
from data_engine.errors import RequestError
from data_engine.weighers.score import Score
from data_engine.weighers.size import Size
from data_engine.weighers.temperature import Temperature


@pytest.mark.parametrize("unit", ["step", "episode"])
def test_temperature_draws_groups_as_the_root_of_their_steps(drawn, rates, unit):
    given = drawn([10, 30, 60, 300], [1.0, 2.0, 5.0, 1.0], datasets=["a", "a", "a", "b"], unit=unit)
    weighed = Temperature(temperature=2).weigh(given)
    share = rates(given, weighed.values)
    assert share[3] == pytest.approx(300**0.5 / (100**0.5 + 300**0.5))
    inside = np.array([10, 60, 300] if unit == "step" else [1, 2, 5])
    np.testing.assert_allclose(share[:3] / share[:3].sum(), inside / inside.sum())
    assert weighed.report["share"]["b"] == pytest.approx(share[3])
    assert rates(given, Temperature(temperature=1).weigh(given).values)[3] == pytest.approx(0.75)
    assert rates(given, Temperature(temperature=1e9).weigh(given).values)[3] == pytest.approx(0.5)
    assert weighed.values.mean() == pytest.approx(1)


@pytest.mark.parametrize("unit", ["step", "episode"])
def test_size_draws_units_as_a_power_of_their_steps(drawn, rates, unit):
    given = drawn([10, 20, 40], [3.0, 1.0, 1.0], unit=unit)
    for power in (0.0, 1.0, 0.5, -1.0):
        expected = np.array([10.0, 20, 40]) ** power
        np.testing.assert_allclose(
            rates(given, Size(power=power).weigh(given).values), expected / expected.sum(), atol=1e-12
        )


def test_score_prefers_the_better_by_rank_whatever_its_scale(drawn):
    given = drawn([10] * 5, [1.0, 1, 1, 1, 2], scores=np.array([5.0, -1e9, 7.0, 6.0, 1e12]))
    weights = Score(by="composite", tau=0.5).weigh(given).values
    np.testing.assert_allclose(weights / weights[1], [np.exp(0.5), 1, np.exp(1.5), np.exp(1), 2 * np.exp(2)])
    with pytest.raises(RequestError, match="composite is not known of 1 of 2 units"):
        Score(by="composite").weigh(drawn([1, 1], scores=np.array([1.0, np.nan])))
    assert registry.make("weighers", "score", {"by": "composite"}).needs_score == "composite"


def test_what_is_said_of_units_says_nothing_where_datasets_are_drawn(drawn):
    for weigher in (Temperature(), Size()):
        with pytest.raises(RequestError, match="the mixture draws datasets"):
            weigher.weigh(drawn([1, 2], unit="dataset"))
