from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_engine.outcomes import mcnemar, paired_difference, strengths, wilson


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [  # Newcombe 1998, "Two-sided confidence intervals for the single proportion", table I, method 3
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilsons_interval_is_the_published_one(successes, trials, low, high):
    assert wilson(successes, trials) == pytest.approx((low, high), abs=5e-5)


@settings(max_examples=50)
@given(st.integers(1, 2000), st.data())
def test_its_ends_are_where_the_share_is_just_rejected(trials, data):
    successes = data.draw(st.integers(0, trials))
    low, high = wilson(successes, trials)
    assert 0 <= low <= successes / trials <= high <= 1
    for end in (low, high):
        if 0 < end < 1:
            z = (successes / trials - end) / np.sqrt(end * (1 - end) / trials)
            assert abs(z) == pytest.approx(1.959964, abs=1e-4)
    again = wilson(trials - successes, trials)
    assert again == pytest.approx((1 - high, 1 - low), abs=1e-12)


def test_nothing_tried_says_nothing():
    assert wilson(0, 0) == (0.0, 1.0)


def test_a_paired_difference_is_the_mean_of_the_tasks_and_does_not_see_what_both_share():
    luck = np.random.default_rng(0).normal(0, 10, (2, 8))
    gain = [np.full(8, 0.3), np.full(8, 0.1)]
    found = paired_difference([luck[0] + gain[0], luck[1] + gain[1]], list(luck))
    assert (found.mean, found.low, found.high) == pytest.approx((0.2, 0.2, 0.2))
    assert found.detectable == pytest.approx(0, abs=1e-9)
    other = paired_difference(list(luck), [luck[0] + gain[0], luck[1] + gain[1]])
    assert other.mean == pytest.approx(-0.2)


@pytest.mark.parametrize(
    ("trainings", "quantiles"),  # Student's at 0.975 and 0.8, of any table; the last are nearly the normal ones
    [(2, 12.7062 + 1.3764), (3, 4.3027 + 1.0607), (5, 2.7764 + 0.9410), (31, 2.0423 + 0.8538), (20_000, 2.8016)],
)
def test_the_detectable_difference_is_that_of_so_few_trainings(trainings, quantiles):
    gaps = np.random.default_rng(0).normal(0.1, 0.2, trainings)
    found = paired_difference([gaps], [np.zeros(trainings)], draws=10)
    assert found.detectable == pytest.approx(quantiles * gaps.std(ddof=1) / np.sqrt(trainings), rel=1e-3)


def test_tasks_that_vary_unlike_each_other_have_the_degrees_of_freedom_of_welch():
    gaps = [np.array([0.1, 0.3, -0.1, 0.2, 0.0]), np.array([0.0, 0.2, 0.4])]
    found = paired_difference(gaps, [np.zeros(5), np.zeros(3)])
    error = np.sqrt(0.025 / 5 + 0.04 / 3) / 2  # by hand: sample variances 0.025 and 0.04
    # they are 3.53: between four and three
    assert (2.7764 + 0.9410) * error < found.detectable < (3.1824 + 0.9785) * error


def test_the_bootstrap_has_the_variance_of_the_mean():
    gaps = np.random.default_rng(1).normal(0, 1, 6)
    found = paired_difference([gaps], [np.zeros(6)], draws=40_000, level=0.6827)
    error = gaps.std(ddof=1) / np.sqrt(6) * 1.1105  # Student's quantile of 5 degrees of freedom at one deviation
    assert (found.high - found.low) / 2 == pytest.approx(error, rel=0.08)


@pytest.mark.parametrize("spread", [(0.2, 0.2, 0.2), (0.2, 0.01, 0.01)])  # in the second one task decides alone
def test_an_interval_holds_the_truth_about_as_often_as_it_says(spread):
    draw = np.random.default_rng(2)
    held = 0
    for number in range(400):
        gaps = [draw.normal(0.1, each, 5) for each in spread]
        found = paired_difference(gaps, [np.zeros(5)] * 3, draws=500, seed=number)
        held += found.low <= 0.1 <= found.high
    assert 0.92 <= held / 400 <= 0.98


def test_two_trainings_seldom_show_a_difference_that_is_none():
    draw = np.random.default_rng(4)
    found = [paired_difference([draw.normal(0, 0.2, 2)], [np.zeros(2)], draws=10) for _ in range(400)]
    assert np.mean([abs(each.mean) >= each.detectable for each in found]) < 0.08


def test_a_true_difference_of_the_detectable_size_is_found_about_as_often_as_the_power():
    draw = np.random.default_rng(3)
    size = (2.0687 + 0.8575) * 0.2 / np.sqrt(24)  # Student's quantiles of 23 degrees of freedom
    found = [paired_difference([draw.normal(size, 0.2, 24)], [np.zeros(24)], draws=500).low > 0 for _ in range(300)]
    assert 0.72 <= np.mean(found) <= 0.9


def test_what_does_not_pair_is_refused():
    with pytest.raises(ValueError, match="do not pair"):
        paired_difference([np.zeros(3)], [np.zeros(4)])
    with pytest.raises(ValueError, match="at least two trainings"):
        paired_difference([np.zeros(1)], [np.zeros(1)])


def test_mcnemars_exact_p_is_the_binomial_one():
    assert mcnemar(0, 0) == mcnemar(3, 3) == 1.0
    assert mcnemar(0, 5) == pytest.approx(2 / 2**5)
    assert mcnemar(9, 1) == mcnemar(1, 9) == pytest.approx(2 * (1 + 10) / 2**10)
    assert mcnemar(50_000, 51_000) == pytest.approx(0.00166, rel=0.02)  # by the normal approximation


def test_strengths_of_two_are_the_odds_and_of_many_come_back():
    apart = strengths(np.array([[0, 30.0], [10.0, 0]]), prior=1e-9)
    assert apart[0] - apart[1] == pytest.approx(np.log(3), abs=1e-6)
    true = np.array([1.2, 0.3, -0.4, -1.1])
    chance = 1 / (1 + np.exp(true - true[:, None]))
    games = 1e5 * (1 - np.eye(4))
    assert strengths(games * chance) == pytest.approx(true, abs=1e-3)


def test_strengths_of_many_at_once_are_those_of_each():
    wins = np.random.default_rng(0).integers(0, 9, (2, 3, 4, 4)).astype(float)
    each = [[strengths(wins[i, j]) for j in range(3)] for i in range(2)]
    assert strengths(wins) == pytest.approx(np.array(each), abs=1e-8)


def test_an_arm_that_won_all_stays_finite_and_one_that_met_nobody_is_in_the_middle():
    found = strengths(np.array([[0, 5.0, 0], [0, 0, 0], [0, 0, 0]]))
    assert np.isfinite(found).all()
    assert found[0] > found[2] > found[1]
