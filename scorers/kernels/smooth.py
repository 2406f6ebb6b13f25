"""Measures of smoothness of one movement, from its speed over even time.

Hogan and Sternad, "Sensitivity of Smoothness Measures to Movement Duration, Amplitude, and Arrests" (2009) for the
dimensionless jerk; Balasubramanian, Melendez-Calderon and Burdet, "A Robust and Sensitive Metric for Quantifying
Movement Smoothness" (2012) and Balasubramanian, Melendez-Calderon, Roby-Brami and Burdet, "On the analysis of movement
smoothness" (2015) for the spectral arc length.
"""

from __future__ import annotations

import numpy as np

__all__ = ["high_frequency_ratio", "log_dimensionless_jerk", "spectral_arc_length"]


def log_dimensionless_jerk(position: np.ndarray, rate: float) -> float | None:
    """-ln(T^3 / v_max^2 * integral of |jerk|^2 dt) of ``position`` [n, d] at ``rate`` a second; higher is smoother.

    It has no unit: neither duration nor amplitude change it. Derivatives are differences of consecutive samples. None
    below 5 samples and without motion.
    """
    if len(position) < 5:
        return None
    speed = float(np.linalg.norm(np.diff(position, axis=0), axis=1).max()) * rate
    jerk = float((np.diff(position, n=3, axis=0) ** 2).sum()) * rate**6 / rate
    duration = (len(position) - 1) / rate
    if speed <= 0 or jerk <= 0:
        return None
    return -float(np.log(duration**3 / speed**2 * jerk))


def spectral_arc_length(
    speed: np.ndarray, rate: float, *, cutoff: float = 10.0, threshold: float = 0.05, padding: int = 4
) -> float | None:
    """Minus the arc length of the speed's normalised magnitude spectrum up to a cut-off; nearer 0 is smoother.

    ``speed`` [n] at ``rate`` a second. The spectrum is of ``padding`` doublings of the next power of two, divided by
    its value at 0; it is cut at ``cutoff`` Hz (or half the rate), and there at the last frequency that reaches
    ``threshold``. Frequencies are divided by the cut-off that results. None below 3 samples and without motion.
    """
    if len(speed) < 3 or not np.any(speed > 0):
        return None
    size = int(2 ** (np.ceil(np.log2(len(speed))) + padding))
    spectrum = np.abs(np.fft.rfft(speed, size))
    spectrum = spectrum / spectrum[0]
    frequency = np.arange(len(spectrum)) * rate / size
    inside = frequency <= cutoff
    spectrum, frequency = spectrum[inside], frequency[inside]
    last = int(np.flatnonzero(spectrum >= threshold)[-1])
    if last == 0:
        return 0.0
    steps = np.diff(frequency[: last + 1]) / (frequency[last] - frequency[0])
    return -float(np.sqrt(steps**2 + np.diff(spectrum[: last + 1]) ** 2).sum())


def high_frequency_ratio(velocity: np.ndarray, rate: float, *, split: float) -> float | None:
    """The share of the energy of ``velocity`` [n, d], each dimension less its mean, above ``split`` Hz.

    None below 4 samples, without motion, and where ``rate`` shows nothing above ``split``.
    """
    if len(velocity) < 4 or rate / 2 <= split:
        return None
    power = np.abs(np.fft.rfft(velocity - velocity.mean(axis=0), axis=0)) ** 2
    power[1 : (len(velocity) + 1) // 2] *= 2  # all but the first and, of an even number, the last stand for two
    total = float(power.sum())
    frequency = np.fft.rfftfreq(len(velocity), 1 / rate)
    return float(power[frequency > split].sum()) / total if total > 1e-24 else None
