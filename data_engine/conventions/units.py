"""Units of measured components, from what values can and cannot be.

Servo arms of the LeRobot family (SO-100, SO-101, Koch) come in two eras that look alike: degrees, and each joint's
calibrated range as [-100, 100]. A normalised value never leaves its range and stays at exactly +-100 where a joint
reaches its stop; degrees go beyond. Where neither shows, the encoder tells: its ticks (4096 a turn) are steps of 0.088
degrees in every joint, while normalised steps are 200 / (ticks in the range), another one in each joint.

What two units would show alike is ``unknown``: nothing is guessed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["Unit", "angle_unit", "hand_unit", "joint_unit", "length_unit", "named_unit", "same_unit"]

Unit = tuple[str, float, str]  # value, confidence, evidence

UNKNOWN = "unknown"
_TICKS = 4096  # of the servos' encoders, a turn; some software divides by 4095
_STATED = {
    "deg": "deg", "degree": "deg", "degrees": "deg", "rad": "rad", "radian": "rad", "radians": "rad", "mm": "mm",
    "millimetres": "mm", "millimeters": "mm", "metres": "m", "meters": "m", "px": "px", "pixel": "px", "pixels": "px",
    "ticks": "ticks",
}  # fmt: skip
_RATIOS = {"rad": {"deg": np.pi / 180}, "deg": {"rad": 180 / np.pi}, "m": {"mm": 1e-3}, "mm": {"m": 1e3}}


def named_unit(words: frozenset[str]) -> Unit | None:
    """The unit that a part's shared name states (``joint_1_deg``), or None."""
    said = sorted({_STATED[word] for word in words if word in _STATED})
    return (said[0], 0.98, f"the components' names say {said[0]}") if len(said) == 1 else None


def joint_unit(values: np.ndarray) -> Unit:
    """``deg``, ``rad``, ``range_m100_100``, ``range_m1_1``, ``ticks`` or ``unknown`` of joints, finite [n, d]."""
    moving = np.ptp(values, axis=0) > 1e-6
    if len(values) < 8 or not moving.any():
        return UNKNOWN, 0.0, "nothing moves"
    low, high = np.quantile(values, (0.002, 0.998), axis=0)  # a glitch is no joint position
    reach = float(np.maximum(np.abs(low), np.abs(high)).max())
    steps = [step for dim in np.flatnonzero(moving) if (step := _lattice(values[:, dim])) is not None]
    whole = bool((values == np.round(values)).all())
    if whole and low.min() >= 0 and 720 < reach < _TICKS:
        return "ticks", 0.95, f"whole numbers from 0 to {reach:g}"
    if reach > 720:
        return UNKNOWN, 0.0, f"values reach {reach:.4g}, beyond two turns in degrees"
    if reach > 4 * np.pi:
        return _degrees_or_percent(values, moving, steps, reach)
    if reach > 1.0001:
        if reach > 2.02 * np.pi:
            return UNKNOWN, 0.0, f"values reach {reach:.3g}, more than a turn in radians and little in degrees"
        return "rad", 0.95 if reach > 1.2 else 0.8, f"values stay within {reach:.3g}, beyond +-1 and within a turn"
    if _stops(values, 1.0) >= 1:
        return "range_m1_1", 0.9, f"{_stops(values, 1.0)} joints stay at exactly +-1 and none goes beyond"
    ends = np.abs(np.abs([values.min(axis=0), values.max(axis=0)]) - 1).max(axis=0) < 1e-6
    if ends.sum() >= max(2, moving.sum() / 2):
        return "range_m1_1", 0.9, f"{ends.sum()} joints reach from exactly -1 to exactly 1"
    if steps and all(_is_turn(step, 2 * np.pi) for step in steps):
        return "rad", 0.95, f"values lie on the encoder's steps of 2 pi / {_TICKS}"
    return UNKNOWN, 0.0, f"values stay within {reach:.3g}: radians and [-1, 1] look alike"


def angle_unit(values: np.ndarray) -> Unit:
    """``deg``, ``rad`` or ``unknown`` of Euler angles or a rotation vector, finite [n, d]."""
    reach = float(np.quantile(np.abs(values), 0.998)) if values.size else 0.0
    if reach > 4 * np.pi:
        return ("deg", 0.95, f"angles reach {reach:.4g}") if reach <= 720 else (UNKNOWN, 0.0, f"angles reach {reach:g}")
    if 1.2 < reach <= 2.02 * np.pi:
        return "rad", 0.95, f"angles stay within {reach:.3g}, a turn"
    return UNKNOWN, 0.0, f"angles stay within {reach:.3g}: small, or normalised"


def length_unit(values: np.ndarray) -> Unit:
    """``m``, ``mm`` or ``unknown`` of positions in an arm's workspace, finite [n, d]."""
    reach = float(np.quantile(np.abs(values), 0.998)) if values.size else 0.0
    extent = float(np.ptp(values, axis=0).max()) if values.size else 0.0
    if extent < 1e-4:
        return UNKNOWN, 0.0, "nothing moves"
    if _stops(values, 1.0) >= 1 and reach <= 1.0001:
        return "range_m1_1", 0.85, f"{_stops(values, 1.0)} axes stay at exactly +-1 and none goes beyond"
    if 0.05 < reach <= 3:
        return "m", 0.9, f"positions reach {reach:.3g} and move {extent:.3g}: an arm's workspace in metres"
    if 60 < reach <= 3000 and extent > 10:
        return "mm", 0.9, f"positions reach {reach:.4g} and move {extent:.4g}: an arm's workspace in millimetres"
    return UNKNOWN, 0.0, f"positions reach {reach:.3g} and move {extent:.3g}"


def hand_unit(values: np.ndarray) -> Unit:
    """``range_0_1`` or ``unknown`` of the joints of a hand's fingers, finite [n, d]: they close as far as it says."""
    low, high = float(values.min(initial=0.0)), float(values.max(initial=0.0))
    stops = int((((values == 1) | (values == 0)).sum(axis=0) >= 3).sum()) if values.size else 0
    if low >= -1e-3 and 0.5 < high <= 1.0001 and stops >= 2:
        return "range_0_1", 0.85, f"{stops} fingers stay at exactly 0 or 1 and none goes beyond"
    return UNKNOWN, 0.0, f"values from {low:.3g} to {high:.3g}"


def same_unit(known: str, slopes: Sequence[float]) -> str | None:
    """The unit of values that are ``slopes`` times others of unit ``known``, where the slopes agree on one, or None."""
    if not len(slopes):
        return None
    slope = float(np.median(slopes))
    if np.mean(np.abs(np.asarray(slopes) / slope - 1) < 0.25) < 0.6:
        return None
    if 0.8 < slope < 1.25:
        return known
    for other, ratio in _RATIOS.get(known, {}).items():
        if 0.8 < slope * ratio < 1.25:
            return other
    return None


def _degrees_or_percent(values: np.ndarray, moving: np.ndarray, steps: Sequence[float], reach: float) -> Unit:
    beyond = float((np.abs(values) > 100.01).any(axis=1).mean())
    if beyond > 1e-3:
        return "deg", 0.97, f"values reach {reach:.4g}, beyond +-100 in {beyond:.1%} of the steps"
    stops = _stops(values, 100.0)
    if stops:
        return "range_m100_100", 0.97 if stops > 1 else 0.9, f"{stops} joints stay at exactly +-100, none goes beyond"
    if len(steps) >= max(2, int(moving.sum()) // 2):
        if all(_is_turn(step, 360.0) for step in steps):
            return "deg", 0.95, f"{len(steps)} joints lie on the encoder's steps of 360 / {_TICKS}"
        counts = [200 / step for step in steps]
        if max(steps) > 1.02 * min(steps) and all(300 < count < _TICKS + 1 for count in counts):
            told = ", ".join(f"{count:.0f}" for count in counts[:3])
            return "range_m100_100", 0.9, f"joints lie on encoder steps of their own: 200 / {told}, ..."
    return UNKNOWN, 0.0, f"values stay within {reach:.4g}: degrees and [-100, 100] look alike"


def _stops(values: np.ndarray, at: float) -> int:
    """How many dimensions are at exactly +-``at`` more than twice and never beyond."""
    if np.abs(values).max(initial=0.0) > at * (1 + 1e-6):
        return 0
    return int(((np.abs(np.abs(values) - at) <= 1e-6 * at).sum(axis=0) >= 3).sum())


def _is_turn(step: float, turn: float) -> bool:
    return abs(step * _TICKS / turn - 1) < 1.5e-3


def _lattice(x: np.ndarray) -> float | None:
    """The step of the lattice that ``x`` [n] lies on, None where it lies on none or shows too little of it."""
    gaps = np.diff(np.unique(x.round(7)))
    noise = 4e-7 * max(float(np.abs(x).max()), 1.0)
    gaps = gaps[gaps > noise]
    if len(gaps) < 24 or noise * 20 > (least := float(np.quantile(gaps, 0.05))):
        return None
    near = gaps[gaps < 12.5 * least]
    counts = np.maximum(np.round(near / least), 1)
    step = float(near.sum() / counts.sum())
    off = np.abs(near / step - np.round(near / step))
    return step if len(near) >= 16 and float(np.quantile(off, 0.98)) < 0.1 else None
