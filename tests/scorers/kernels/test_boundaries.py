from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from scorers.kernels.boundaries import matched, scattered

times = st.lists(st.floats(0, 20, allow_nan=False), max_size=8).map(lambda x: np.sort(np.array(x)))


def test_each_boundary_is_in_one_pair():
    assert matched(np.array([1.0, 1.1]), np.array([1.05]), 0.2) == 1
    assert matched(np.array([1.0, 1.3]), np.array([0.9, 1.1]), 0.2) == 2
    assert matched(np.array([]), np.array([1.0]), 0.2) == 0


@settings(max_examples=60)
@given(times, times, st.floats(0, 5))
def test_pairs_up_as_many_as_can_be(one, other, tolerance):
    near = np.abs(one[:, None] - other[None]) <= tolerance
    rows, columns = linear_sum_assignment(-near.astype(float))
    assert matched(one, other, tolerance) == matched(other, one, tolerance) == int(near[rows, columns].sum())


def test_scattered_ones_rise_within_the_recording():
    found = scattered(50, 3.0, np.random.default_rng(0))
    assert len(found) == 50
    assert (np.diff(found) >= 0).all()
    assert found[0] > 0
    assert found[-1] < 3
