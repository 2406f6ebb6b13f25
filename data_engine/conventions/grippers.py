"""Grippers: whether they are two states or a width, their range, and whether larger means open or closed.

Polarity comes from names (``gripper_width``, ``gripper_closed``), from the fingers' own positions (two fingers of one
gripper_qpos: their distance is the opening), from LeRobot's convention for its servo arms (0 closed, 100 open), and
for an action from what it does to a state whose polarity is known. What nothing decides is ``unknown``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from data_engine.conventions.motion import Pairs
from data_engine.conventions.roles import vocabulary

__all__ = ["Polarity", "kind_of_gripper", "polarity_by_effect", "polarity_by_name", "polarity_of_fingers", "range_of"]

Polarity = tuple[str, float, str]  # value, confidence, evidence

OPENS, CLOSES = "larger_opens", "larger_closes"
_OPEN = vocabulary("open opened opening openness width aperture")
_CLOSED = vocabulary("close closed closing closedness")
_LEVELS = 4


def kind_of_gripper(values: np.ndarray) -> str:
    """``discrete`` (at most four values), ``continuous``, or ``unknown`` for one that never moves; finite [n]."""
    levels = len(np.unique(values.round(6)))
    return "unknown" if levels < 2 else "discrete" if levels <= _LEVELS else "continuous"


def range_of(values: np.ndarray) -> str:
    """``low..high`` of the values [n]: the usual range whose end they stop at, else what was seen."""
    low, high = float(values.min()), float(values.max())
    for least, most in ((0.0, 1.0), (-1.0, 1.0), (0.0, 100.0), (0.0, 255.0)):
        tolerance = 1e-3 * (most - least)
        inside = low >= least - tolerance and high <= most + tolerance
        if inside and abs(high - most) <= tolerance and (least == 0 or abs(low - least) <= tolerance):
            return f"{least:g}..{most:g}"
    return f"{low:.3g}..{high:.3g}"


def polarity_by_name(words: frozenset[str], joints: frozenset[str], values: np.ndarray) -> Polarity | None:
    """From the words of the component's name; ``joints`` are the words of the column's joints; ``values`` [n]."""
    opens, closes = words & _OPEN, words & _CLOSED
    if bool(opens) != bool(closes):
        return (OPENS if opens else CLOSES), 0.9, f"its name says {min(opens or closes)}"
    servo = joints >= {"shoulder", "elbow", "pan", "lift", "flex"}
    if servo and values.size and values.min() >= -15 and 5 < values.max() <= 130:
        return OPENS, 0.8, "LeRobot's servo arms give the gripper as 0 closed to 100 open"
    return None


def polarity_of_fingers(values: np.ndarray) -> list[Polarity]:
    """Of each finger of a parallel gripper [n, 2] (metres, mirrored or not): an opening moves each away from 0."""
    if np.abs(values).max(initial=0.0) > 0.2 or np.ptp(np.abs(values).sum(axis=1)) < 1e-3:
        return []
    evidence = "two fingers in metres: the further from 0, the wider"
    return [(OPENS if np.median(finger) >= 0 else CLOSES, 0.85, evidence) for finger in values.T]


def polarity_by_effect(pairs: Pairs, act: int, state: Sequence[int], polarity: Sequence[str]) -> Polarity | None:
    """Of the action dimension ``act`` from the state dimensions ``state`` of known ``polarity``, or None.

    ``pairs``: (state, action) of some episodes, finite. The better of: the opening is at the commanded value, or it
    moves with it, within a third of the episode's steps at most 10.
    """
    signs = np.array([1.0 if name == OPENS else -1.0 for name in polarity])
    best = 0.0
    for lag in (0, 2, 5, 10):
        asked, opening, change = [], [], []
        for found, action in pairs:
            if len(found) < 3 * lag + 4:
                continue
            width = found[:, list(state)] @ signs
            asked.append(action[: len(action) - lag, act])
            opening.append(width[lag:])
            change.append(width[lag:] - width[: len(width) - lag])
        if not asked:
            continue
        for answer in (opening, change):
            value = _correlation(np.concatenate(asked), np.concatenate(answer))
            best = value if abs(value) > abs(best) else best
    if abs(best) < 0.35:
        return None
    name = OPENS if best > 0 else CLOSES
    return name, 0.85 if abs(best) > 0.5 else 0.7, f"the opening answers it with correlation {best:.2f}"


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a - a.mean(), b - b.mean()
    size = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / size if size > 1e-12 else 0.0
