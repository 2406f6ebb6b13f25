"""Rotations in columns: which dimensions are angles that wrap, which are quaternions, in which order, and rot6d.

Angles and quaternions are found by what they do, over several episodes, so that one broken episode hides nothing. The
view (:mod:`data_engine.view`) and the conventions share these functions: there is one truth of what an angle is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = [
    "LEVELS", "Order", "angles", "evenly", "matrices", "order_of_quaternion", "quaternions", "rot6d", "sign_flips",
    "turns_of",
]  # fmt: skip

LEVELS = 8  # a dimension of at most so many values is discrete
_ROWS = 64  # rows of an episode that are looked at: every episode counts alike
Order = tuple[str, float, str]  # value, confidence, evidence
_TO_XYZW = {"xyzw": [0, 1, 2, 3], "wxyz": [1, 2, 3, 0]}


def evenly(x: np.ndarray) -> np.ndarray:
    """At most 64 evenly spaced rows of ``x`` [n, ...], so that every episode counts alike."""
    return x if len(x) <= _ROWS else x[np.linspace(0, len(x) - 1, _ROWS).round().astype(int)]


def angles(found: Sequence[np.ndarray], hints: set[int]) -> list[tuple[int, float]]:
    """Dimensions that wrap, with their period (2 pi or 360), from episodes [n, d].

    They stay in one turn, and either jump by more than three quarters of it in two episodes or are in ``hints`` (named
    as angles) and fill more than half of it.
    """
    rows = np.concatenate([evenly(x) for x in found])
    result = []
    lows, highs = np.percentile(rows, [0.5, 99.5], axis=0)
    for period in (2 * np.pi, 360.0):
        slack = period * 1e-3
        jumps = sum((np.abs(np.diff(x, axis=0)) > 0.75 * period).any(axis=0).astype(int) for x in found if len(x) > 1)
        for dim in range(rows.shape[1]):
            low, high = lows[dim], highs[dim]
            turn = (low >= -slack and high <= period + slack) or (
                low >= -period / 2 - slack and high <= period / 2 + slack
            )
            wraps = np.broadcast_to(jumps, rows.shape[1])[dim] >= 2
            named = dim in hints and high - low > period / 2
            if turn and (wraps or named) and len(np.unique(rows[:, dim])) > LEVELS:
                result.append((dim, float(period)))
    return sorted(result)


def quaternions(found: Sequence[np.ndarray]) -> list[int]:
    """First dimensions of runs of four that have norm 1 in nearly all rows and are not all of few values (one-hot)."""
    rows = np.concatenate(found)
    result: list[int] = []
    for dim in range(rows.shape[1] - 3):
        if result and dim < result[-1] + 4:
            continue
        four = rows[:, dim : dim + 4]
        unit = np.mean(np.abs(np.linalg.norm(four, axis=1) - 1) < 1e-3) > 0.95
        if unit and sum(len(np.unique(four[:, i])) > LEVELS for i in range(4)) >= 2:
            result.append(dim)
    return result


def rot6d(rows: np.ndarray) -> list[int]:
    """First dimensions of runs of six that are two orthonormal axes (Zhou et al. 2019) in nearly all rows [n, d]."""
    result: list[int] = []
    for dim in range(rows.shape[1] - 5):
        if result and dim < result[-1] + 6:
            continue
        one, two = rows[:, dim : dim + 3], rows[:, dim + 3 : dim + 6]
        error = np.abs(np.stack([(one * one).sum(1) - 1, (two * two).sum(1) - 1, (one * two).sum(1)])).max(axis=0)
        varied = sum(len(np.unique(rows[:, dim + i])) > LEVELS for i in range(6))
        if np.mean(error < 2e-3) > 0.95 and varied >= 3:
            result.append(dim)
    return result


def sign_flips(found: Sequence[np.ndarray]) -> int:
    """Steps at which a quaternion [n, 4] goes on as its negative: the same rotation, a jump of the numbers."""
    return int(sum(((x[1:] * x[:-1]).sum(axis=1) < -0.5).sum() for x in found))


def order_of_quaternion(
    axes: Sequence[str],
    spoken: frozenset[str],
    found: Sequence[np.ndarray],
    spins: Sequence[np.ndarray] | None = None,
) -> Order:
    """``xyzw``, ``wxyz`` or ``unknown`` for quaternions [n, 4] of some episodes, with confidence and evidence.

    In turn: the letters of the components; the words of the name (robosuite documents its ``*_eef_quat`` as xyzw);
    ``spins`` [n, 3], commanded changes of rotation, which correlate with the rotation that the right order implies;
    the one entry of the two candidates that is never negative while the others change sign (a canonical sign is w's);
    a turn about one axis alone, which is the vertical's for things that stand; the one that is near 1 at rest, which
    proves little: a gripper that points down has w near 0.
    """
    letters = "".join(axes)
    if letters in _TO_XYZW:
        return letters, 0.98, f"components are named {', '.join(axes)}"
    if spoken >= {"eef", "quat"} and any(word.startswith("robot") for word in spoken):
        return "xyzw", 0.85, "robosuite writes its eef_quat as x, y, z, w"
    if spins is not None:
        fits = {order: _follows(found, spins, order) for order in _TO_XYZW}
        best, other = sorted(fits, key=fits.__getitem__, reverse=True)
        if fits[best] > 0.4 and fits[best] - fits[other] > 0.2:
            return (
                best,
                0.9,
                f"its rotation follows the commanded one (correlation {fits[best]:.2f}, {fits[other]:.2f})",
            )
    rows = np.concatenate(found)
    never = [i for i in (0, 3) if rows[:, i].min() >= 0]
    turned = [i for i in range(4) if rows[:, i].min() < -0.05 and rows[:, i].max() > 0.05]
    if len(never) == 1 and len(turned) >= 2 and rows[:, never[0]].min() < 0.3:
        name = "wxyz" if never[0] == 0 else "xyzw"
        return name, 0.75, f"entry {never[0]} is never negative, {len(turned)} others change sign"
    rest = np.median(np.abs(rows), axis=0)
    idle = np.flatnonzero(rest < 0.02).tolist()
    if idle in ([0, 1], [1, 2]):
        name = "xyzw" if idle == [0, 1] else "wxyz"
        turning = [i for i in range(4) if i not in idle]
        if np.ptp(np.quantile(np.abs(rows[:, turning]), [0.05, 0.95], axis=0), axis=0).min() > 0.1:
            return name, 0.75, f"it turns about one axis only, the vertical if the order is {name}"
        return "unknown", 0.0, "it turns about one axis, by less than tells the order"
    near = [i for i in (0, 3) if rest[i] > 0.95]
    if len(near) == 1:
        name = "wxyz" if near[0] == 0 else "xyzw"
        return name, 0.5, f"entry {near[0]} is near 1 (median {rest[near[0]]:.2f})"
    return "unknown", 0.0, "neither names nor values tell the order"


def matrices(q: np.ndarray, order: str = "xyzw") -> np.ndarray:
    """Rotation matrices [n, 3, 3] of unit quaternions [n, 4]."""
    x, y, z, w = q[:, _TO_XYZW[order]].T
    rows: list[Any] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    return np.moveaxis(np.array(rows), 2, 0)


def turns_of(q: np.ndarray, order: str) -> np.ndarray:
    """The rotation from each step to the next in the fixed frame, as rotation vectors [n - 1, 3] (small angles)."""
    r = matrices(q, order)
    step = r[1:] @ np.swapaxes(r[:-1], 1, 2)
    return (
        np.stack([step[:, 2, 1] - step[:, 1, 2], step[:, 0, 2] - step[:, 2, 0], step[:, 1, 0] - step[:, 0, 1]], 1) / 2
    )


def _follows(found: Sequence[np.ndarray], spins: Sequence[np.ndarray], order: str) -> float:
    """How the rotation under ``order`` correlates with the commanded one, the best of three lags, mean of the axes."""
    best = 0.0
    for lag in (0, 1, 2):
        made, asked = [], []
        for q, spin in zip(found, spins, strict=True):
            turn = turns_of(q, order)
            made.append(turn[lag:])
            asked.append(spin[: max(len(turn) - lag, 0)])
        a, b = np.concatenate(made), np.concatenate(asked)
        if len(a) < 16:
            return 0.0
        a, b = a - a.mean(axis=0), b - b.mean(axis=0)
        size = np.sqrt((a * a).sum(axis=0) * (b * b).sum(axis=0))
        moving = size > 1e-12
        if moving.any():
            best = max(best, float(((a * b).sum(axis=0)[moving] / size[moving]).mean()))
    return best
