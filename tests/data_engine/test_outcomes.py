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


def test_the_detectable_difference_is_that_of_the_normal_approximation():
    gaps = [np.array([0.1, 0.3, -0.1, 0.2, 0.0]), np.array([0.0, 0.2, 0.4])]
    found = paired_difference(gaps, [np.zeros(5), np.zeros(3)])
    error = np.sqrt(0.025 / 5 + 0.04 / 3) / 2  # by hand: sample variances 0.025 and 0.04
    assert found.detectable == pytest.approx((1.959964 + 0.841621) * error, rel=1e-5)


def test_the_bootstrap_has_the_variance_of_the_mean():
    gaps = np.random.default_rng(1).normal(0, 1, 6)
    found = paired_difference([gaps], [np.zeros(6)], draws=40_000, level=0.6827)
    error = gaps.std(ddof=1) / np.sqrt(6)
    assert (found.high - found.low) / 2 == pytest.approx(error, rel=0.08)


def test_an_interval_holds_the_truth_about_as_often_as_it_says():
    draw = np.random.default_rng(2)
    held = 0
    for number in range(300):
        gaps = [draw.normal(0.1, 0.2, 6) for _ in range(3)]
        found = paired_difference(gaps, [np.zeros(6)] * 3, draws=500, seed=number)
        held += found.low <= 0.1 <= found.high
    assert 0.88 <= held / 300 <= 0.98


def test_a_true_difference_of_the_detectable_size_is_found_about_as_often_as_the_power():
    draw = np.random.default_rng(3)
    size = (1.959964 + 0.841621) * 0.2 / np.sqrt(24)
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


def test_an_arm_that_won_all_stays_finite_and_one_that_met_nobody_is_in_the_middle():
    found = strengths(np.array([[0, 5.0, 0], [0, 0, 0], [0, 0, 0]]))
    assert np.isfinite(found).all()
    assert found[0] > found[2] > found[1]
