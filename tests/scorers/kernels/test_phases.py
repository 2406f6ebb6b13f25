import numpy as np
import pytest
import torch

from scorers.kernels.phases import nearest_of_each, phases


def test_it_is_the_phase_of_the_nearest_step_and_of_equals_the_earlier():
    draw = np.random.default_rng(0)
    courses = [draw.normal(size=(n, 3)) for n in (1, 2, 30, 47)]
    courses[3][40] = courses[3][7]
    points = np.concatenate([draw.normal(size=(20, 3)), courses[3][[40]]])
    steps, edges = np.concatenate(courses), np.r_[0, np.cumsum([len(course) for course in courses])]
    distance, phase = phases(points, steps, edges)
    for row, point in enumerate(points):
        for i, course in enumerate(courses):
            apart = ((course - point) ** 2).sum(axis=1)
            at = apart.argmin()
            assert distance[row, i] / 2**28 == pytest.approx(apart[at], abs=1e-3)
            assert phase[row, i] == (at / (len(course) - 1) if len(course) > 1 else 1.0)
    assert phase[-1, 3] == 7 / 46


def test_a_course_of_no_steps_has_no_nearest():
    distance, index = nearest_of_each(np.zeros((2, 1)), np.array([[1.0], [0.5], [2.0]]), np.array([0, 0, 2, 3]))
    assert np.isinf(distance[:, 0]).all() and index.tolist() == [[-1, 1, 2]] * 2


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_the_device_does_not_matter():
    draw = np.random.default_rng(1)
    steps, points = draw.normal(size=(5000, 20)), draw.normal(size=(700, 20))
    edges = np.arange(0, 5001, 250)
    for one, other in zip(phases(points, steps, edges), phases(points, steps, edges, "cuda"), strict=True):
        np.testing.assert_array_equal(one, other)
