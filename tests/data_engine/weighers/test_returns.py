import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_engine import registry
from data_engine.errors import RequestError
from data_engine.weighers.advantage_weighting import AdvantageWeighting
from data_engine.weighers.return_weighting import ReturnWeighting


@pytest.mark.parametrize("unit", ["step", "episode"])
def test_an_episode_is_drawn_as_its_steps_times_exp_of_its_return(drawn, rates, unit):
    units = drawn([10, 20, 40], rewards=[0.0, 1.0, 4.0], unit=unit)
    weighed = ReturnWeighting(alpha=0.5).weigh(units)
    expected = np.array([10, 20, 40]) * np.exp(np.array([0, 0.25, 1]) / 0.5)  # returns brought to [0, 1]
    np.testing.assert_allclose(rates(units, weighed.values), expected / expected.sum())
    raw = ReturnWeighting(alpha=0.5, normalise=False).weigh(units)
    expected = np.array([10, 20, 40]) * np.exp(np.array([0, 1, 4]) / 0.5)
    np.testing.assert_allclose(rates(units, raw.values), expected / expected.sum())
    assert weighed.report["groups"]["x/x"] == {
        "episodes": 3, "returns": pytest.approx([0.0, 4.0]), "gain": pytest.approx((4 - 5 / 3) ** 2 / 3),
        "uniform": False,
    }  # fmt: skip


@settings(max_examples=25, deadline=None)
@given(equal=st.floats(-1e6, 1e6), steps=st.lists(st.integers(1, 50), min_size=1, max_size=8), advantage=st.booleans())
def test_equal_returns_are_uniform(equal, steps, advantage):
    from tests.data_engine.weighers.conftest import _drawn

    units = _drawn(steps, rewards=[equal] * len(steps), states=np.ones((len(steps), 2)))
    weighed = (AdvantageWeighting() if advantage else ReturnWeighting()).weigh(units)
    np.testing.assert_allclose(weighed.values, 1)
    assert weighed.report["groups"]["x/x"]["uniform"]


def test_a_beginning_from_which_everyone_fares_well_lends_nobody_weight(drawn, rates):
    rng = np.random.default_rng(0)
    begun, skill = rng.normal(size=(40, 3)), rng.normal(size=40)
    returns = 50 * begun[:, 0] - 20 * begun[:, 1] + skill
    units = drawn([7] * 40, rewards=returns.tolist(), states=np.c_[begun, np.ones(40)])  # a constant is no trouble
    x = np.c_[np.ones(40), begun]
    advantage = returns - x @ np.linalg.lstsq(x, returns, rcond=None)[0]
    expected = np.exp((advantage - advantage.max()) / np.ptp(advantage) / 0.1)
    share = rates(units, AdvantageWeighting().weigh(units).values)
    np.testing.assert_allclose(share, expected / expected.sum(), rtol=1e-6, atol=1e-11)
    by_return = rates(units, ReturnWeighting().weigh(units).values)
    ranked = [
        np.corrcoef(np.argsort(np.argsort(one)), np.argsort(np.argsort(skill)))[0, 1] for one in (share, by_return)
    ]
    assert ranked[0] > 0.9 > 0.4 > abs(ranked[1])


def test_each_task_and_dataset_is_weighed_apart_and_keeps_its_share(drawn, rates):
    units = drawn(
        [10, 10, 20, 20], rewards=[0.0, 1.0, 1000.0, 900.0], datasets=["a", "a", "b", "b"], tasks=["s", "s", "s", ""]
    )
    share = rates(units, ReturnWeighting().weigh(units).values)
    assert share[:2].sum() == pytest.approx(1 / 3)
    assert share[1] > 1000 * share[0]
    np.testing.assert_allclose(share[2:], 1 / 3)


def test_what_is_not_known_is_refused_and_never_filled(drawn):
    for rewards in ([1.0, None], [1.0, [0.5, None]], [1.0, [0.5, float("nan")]]):
        with pytest.raises(RequestError, match="1 of 2 units have steps without a reward"):
            ReturnWeighting().weigh(drawn([2, 2], rewards=rewards))
    states = np.random.default_rng(0).normal(size=(3, 5))
    with pytest.raises(RequestError, match=r"V\(s0\) 3 numbers to fit: too few"):
        AdvantageWeighting().weigh(drawn([2] * 3, rewards=[1.0, 2.0, 4.0], states=states))
    with pytest.raises(RequestError, match="first states of x/x are not all known"):
        AdvantageWeighting().weigh(drawn([2] * 2, rewards=[1.0, 2.0], states=[[1.0], [float("nan")]]))
    assert registry.make("weighers", "return_weighting").alpha == 0.1
    assert registry.make("weighers", "advantage_weighting").needs_steps
