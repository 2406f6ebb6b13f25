import numpy as np
import pytest

from scorers.kernels.smooth import high_frequency_ratio, log_dimensionless_jerk, spectral_arc_length


def reach(n=201, seconds=2.0):
    """The minimum-jerk reach from 0 to 1: [n, 1], and its rate."""
    u = np.linspace(0, 1, n)
    return (10 * u**3 - 15 * u**4 + 6 * u**5)[:, None], (n - 1) / seconds


def test_the_minimum_jerk_reach_has_its_known_jerk():
    # T^3 / v_max^2 times the integral of jerk^2: 720 over (15/8)^2
    position, rate = reach(4001)
    assert log_dimensionless_jerk(position, rate) == pytest.approx(-np.log(720 / (15 / 8) ** 2), abs=0.01)


def test_jerk_has_no_unit_and_tells_rough_from_smooth():
    position, rate = reach()
    smooth = log_dimensionless_jerk(position, rate)
    assert log_dimensionless_jerk(1000 * position, 7 * rate) == pytest.approx(smooth)
    rough = position + 1e-3 * np.random.default_rng(0).normal(size=position.shape)
    assert log_dimensionless_jerk(rough, rate) < smooth - 2


def test_arc_length_is_that_of_the_spectrum():
    position, rate = reach()
    speed = np.abs(np.diff(position[:, 0])) * rate
    size = 2 ** (8 + 4)
    spectrum = [abs(np.sum(speed * np.exp(-2j * np.pi * k * np.arange(len(speed)) / size))) for k in range(420)]
    spectrum = np.array(spectrum) / spectrum[0]
    frequency = np.arange(420) * rate / size
    inside = frequency <= 10
    last = np.flatnonzero(spectrum[inside] >= 0.05)[-1]
    f, s = frequency[: last + 1] / frequency[last], spectrum[: last + 1]
    want = -np.sqrt(np.diff(f) ** 2 + np.diff(s) ** 2).sum()
    assert spectral_arc_length(speed, rate) == pytest.approx(want, rel=1e-9)
    stutter = speed * (np.arange(len(speed)) // 20 % 2)
    assert spectral_arc_length(stutter, rate) < want - 0.5
    assert spectral_arc_length(5 * speed, rate) == pytest.approx(want)


def test_high_frequencies_are_a_share_of_the_energy():
    t = np.arange(400) / 100
    slow, fast = np.sin(2 * np.pi * t), np.sin(2 * np.pi * 20 * t)
    assert high_frequency_ratio(slow[:, None], 100, split=5) == pytest.approx(0, abs=1e-12)
    assert high_frequency_ratio((slow + fast)[:, None], 100, split=5) == pytest.approx(0.5)
    assert high_frequency_ratio(np.stack([slow, 2 * fast], axis=1), 100, split=5) == pytest.approx(0.8)


def test_nothing_is_said_where_there_is_nothing():
    still = np.zeros((50, 2))
    assert log_dimensionless_jerk(still, 10) is None
    assert spectral_arc_length(still[:, 0], 10) is None
    assert high_frequency_ratio(still, 10, split=2) is None
    assert high_frequency_ratio(np.random.default_rng(0).normal(size=(50, 1)), 4, split=2) is None
    assert log_dimensionless_jerk(reach()[0][:4], 10) is None
