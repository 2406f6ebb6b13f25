from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_engine.errors import SourceError
from data_engine.formats.bag.aligned import ages, even, gaps, newest, order, rate

STAMPS = st.lists(st.integers(0, 60), max_size=12)


@settings(max_examples=60, deadline=None)
@given(stamps=STAMPS, steps=st.lists(st.integers(0, 60), min_size=1, max_size=12))
def test_the_newest_at_or_before_each_step_and_its_age(stamps, steps) -> None:
    ranked = np.array(sorted(stamps), np.int64)
    chosen = newest(ranked, np.array(steps, np.int64))
    old = ages(ranked, np.array(steps, np.int64), chosen)
    for step, at, age in zip(steps, chosen, old, strict=True):
        before = [i for i, stamp in enumerate(ranked) if stamp <= step]
        assert at == (before[-1] if before else -1)
        assert np.isnan(age) if not before else age == (step - ranked[before[-1]]) / 1e9


@settings(max_examples=40, deadline=None)
@given(stamps=STAMPS)
def test_out_of_order_stamps_are_counted_and_sorted_stably(stamps) -> None:
    found, late, longest = order(np.array(stamps, np.int64))
    back = [a - b for a, b in pairwise(stamps) if b < a]
    assert (late, longest) == (len(back), max(back, default=0))
    assert found is None if not back else found.tolist() == sorted(range(len(stamps)), key=lambda i: stamps[i])


@settings(max_examples=40, deadline=None)
@given(first=st.integers(0, 10**18), span=st.integers(0, 10**10), fps=st.sampled_from([1.0, 7.5, 29.97, 30.0, 100.0]))
def test_an_even_clock_begins_at_the_first_stamp_and_never_passes_the_last(first, span, fps) -> None:
    steps = even(first, first + span, fps)
    assert steps[0] == first
    assert steps[-1] <= first + span < steps[-1] + 1.001e9 / fps
    np.testing.assert_allclose((steps - first) / 1e9, np.arange(len(steps)) / fps, atol=1e-9)


def test_a_leap_of_years_fills_no_memory() -> None:
    with pytest.raises(SourceError, match="leaps"):
        even(0, 1_700_000_000 * 10**9, 30)


def test_gaps_cut_where_nothing_is_said_for_longer_than_asked() -> None:
    stamps = np.array([0, 1, 2, 8, 9, 20], np.int64) * 10**9
    assert gaps(stamps, 5) == [(0, 2 * 10**9), (8 * 10**9, 9 * 10**9), (20 * 10**9, 20 * 10**9)]
    assert gaps(stamps, 6) == [(0, 9 * 10**9), (20 * 10**9, 20 * 10**9)]
    assert gaps(stamps[:0], 5) == []


@pytest.mark.parametrize(("hertz", "expected"), [(30, 30.0), (29.9, 30.0), (12.5, 12.5), (0.4, 0.4), (1000, 1000.0)])
def test_a_rate_is_the_median_and_whole_where_it_nearly_is(hertz, expected) -> None:
    stamps = (np.arange(50) * 1e9 / hertz).astype(np.int64)
    stamps[30:] += 10**12  # one pause does not count
    assert rate(stamps) == expected
    assert rate(stamps[:1]) is None
