from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from scorers.kernels.loops import ahead, best_cuts, driven, gaps, lost, response_lag, through, units

PLAIN = np.zeros(1, bool)


def line(*stops: tuple[float, int]) -> np.ndarray:
    """A coordinate that goes by one a step to each place and waits there for so many steps: [n, 1]."""
    x = [0.0]
    for place, rest in stops:
        while abs(place - x[-1]) > 1e-9:
            x.append(x[-1] + np.clip(place - x[-1], -1, 1))
        x += [x[-1]] * rest
    return np.array(x)[:, None]


def test_a_fast_step_is_that_of_the_moving_steps_and_none_of_what_rests():
    course = np.concatenate([line((20, 30)), np.zeros((51, 1)), np.repeat([[0.0], [1.0]], [25, 26], axis=0)], axis=1)
    unit = units([course], np.array([False, False, True]))
    assert unit[0] == 1 and np.isinf(unit[1])
    assert 0 < unit[2] < 1e-5  # a discrete coordinate that changed is out of every reach


def test_gaps_are_the_farthest_coordinate_in_fast_steps():
    draw = np.random.default_rng(0)
    course, unit = draw.normal(size=(30, 3)), np.array([0.5, 2.0, np.inf])
    found = gaps(course, unit, 7)
    for i in range(30):
        for k in range(7):
            j = i + k + 1
            want = np.max(np.abs(course[j] - course[i]) / unit) if j < 30 else np.inf
            np.testing.assert_allclose(found[i, k], want, rtol=1e-5)
    assert gaps(course[:1], unit, 7).shape == (1, 1) and gaps(course[:4], unit, 100).shape == (4, 3)


def test_a_pause_and_a_way_there_and_back_lose_their_steps_and_going_on_loses_none():
    pause = gaps(line((10, 12), (30, 0)), np.ones(1), 100)
    assert lost(pause, 0.5).max() == 12
    assert best_cuts(lost(pause, 0.5), np.full(len(pause), 5.0)) == [(10, 22)]
    back = gaps(line((10, 0), (18, 0), (10, 0), (-10, 0)), np.ones(1), 100)
    (cut,) = best_cuts(lost(back, 0.5), np.full(len(back), 5.0))
    assert cut[1] - cut[0] >= 16
    assert not best_cuts(lost(gaps(line((40, 0)), np.ones(1), 100), 3.0), np.full(41, 0.5))


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 9), st.integers(1, 5), st.integers(0, 2**31))
def test_cuts_are_the_best_of_all(n, longest, seed):
    draw = np.random.default_rng(seed)
    gain, charge = draw.normal(size=(n, longest)), draw.random(n) * 0.5

    def best(i):
        if i >= n:
            return 0.0
        inside = (gain[i, k] - charge[i] + best(i + k + 1) for k in range(min(longest, n - 1 - i)))
        return max([best(i + 1), *inside])

    cuts = best_cuts(gain, charge)
    assert all(a < b <= c < d for (a, b), (c, d) in pairwise(cuts))
    np.testing.assert_allclose(sum(gain[i, j - i - 1] - charge[i] for i, j in cuts), best(0), atol=1e-9)


def test_the_lag_is_found_and_none_where_nothing_moves():
    draw = np.random.default_rng(1)
    actions = [np.abs(draw.normal(size=(80, 1))) for _ in range(5)]
    courses = [np.cumsum(np.concatenate([np.zeros((3, 1)), action[:-3]]), axis=0) for action in actions]
    assert response_lag(courses, actions, np.ones(1), 8) == 2  # the step after the third is the first to go as far
    assert response_lag([np.zeros((20, 1))], actions[:1], np.ones(1), 8) == 0


def test_a_slow_way_onwards_is_no_loop_and_what_came_back_nearly_all_the_way_is():
    slow = gaps(np.arange(0, 10, 0.1)[:, None], np.ones(1), 60)
    assert lost(slow, 1.0)[0].argmax() + 1 == 10  # one fast step, and no farther
    back = gaps(line((10, 0), (2, 0)), np.ones(1), 60)
    assert lost(back, 1.0)[0, -1] == 18 - 2 * 2  # two steps off after ten
    assert lost(back, 0.5)[0, -1] == 0  # that is more than three times the reach


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 12), st.integers(1, 6), st.integers(0, 2**31))
def test_what_is_lost_through_a_step_is_that_of_the_loop_around_it(n, longest, seed):
    loss = np.random.default_rng(seed).random((n, longest)).astype(np.float32)
    around = [[(i, k) for i in range(at + 1) for k in range(at - i, longest)] for at in range(n)]
    want = [max((loss[i, k] for i, k in some), default=0.0) for some in around]
    np.testing.assert_array_equal(through(loss), np.array(want, np.float32))


def test_a_rest_of_what_follows_late_is_as_long_as_it_was_told_when_it_is_looked_at_ahead():
    draw = np.random.default_rng(2)
    courses, actions = [], []
    for _ in range(4):
        action = draw.uniform(0.5, 1.0, (60, 1))
        action[25:40] = 0
        speed = np.zeros(61)
        for i, told in enumerate(action[:, 0]):
            speed[i + 1] = 0.75 * speed[i] + 0.25 * told
        courses.append(np.c_[np.cumsum(speed)[:-1], draw.normal(size=60).cumsum()])
        actions.append(action)
    assert driven(courses, actions).tolist() == [True, False]
    seen, looked = courses[0], ahead(courses[0], np.array([3.0, 0.0]))
    near = [float(np.abs(np.ptp(x[27:39, 0]))) for x in (seen, looked)]
    assert near[1] < 0.5 * near[0]
    np.testing.assert_array_equal(looked[:, 1], seen[:, 1])
