"""Control mode: whether an action is an absolute target of the state or a change to it, with the evidence for it.

Names decide where they speak (``dx``, ``delta_x``); otherwise an action is ``absolute`` when nearly all its moving
dimensions follow some state dimension closely in both course and place. What neither shows stays ``unspecified``: an
option of the source states it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from data_engine.model import ACTION, STATE, Feature

__all__ = ["Pursuit", "control_mode", "is_named_delta", "mode_of", "pursuit"]

_MOST = 0.8  # of the moving dimensions; grippers and thumbs often go their own way

_DELTA = re.compile(r"^(d|delta[_.]?)(x|y|z|roll|pitch|yaw|rx|ry|rz|pos|rot|q\d*|joint.*)$", re.IGNORECASE)

Pairs = Sequence[tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Pursuit:
    """Which state dimension each action dimension follows in course and place, of the ``moving`` ones; ``worst`` is the
    least correlation among them."""

    moving: int = 0
    worst: float = 1.0
    follows: dict[int, int] = field(default_factory=dict)


def is_named_delta(action: Feature) -> tuple[str, ...]:
    """The component names that say change, where at least three do; else none."""
    named = tuple(name for name in action.components or () if _DELTA.match(name))
    return named if len(named) >= 3 else ()


def pursuit(samples: Pairs) -> Pursuit | None:
    """How the actions follow the states, or None without finite ones. ``samples``: (state [n, ds], action [n, da])."""
    finite = [np.isfinite(state).all(axis=1) & np.isfinite(act).all(axis=1) for state, act in samples]
    pairs = [(state[ok], act[ok]) for (state, act), ok in zip(samples, finite, strict=True) if ok.sum() >= 8]
    if not pairs:
        return None
    state, act = np.concatenate([pair[0] for pair in pairs]), np.concatenate([pair[1] for pair in pairs])
    moving = np.ptp(act, axis=0) > 1e-6
    spread = state.std(0)
    centred = (state - state.mean(0)) / np.where(spread > 1e-9, spread, 1)
    follows, worst = {}, 1.0
    for dim in np.flatnonzero(moving):
        target = (act[:, dim] - act[:, dim].mean()) / act[:, dim].std()
        course = centred.T @ target / len(target)
        offset = np.median(np.abs(state - act[:, dim, None]), axis=0) / np.ptp(act[:, dim])
        fits = np.where(offset < 0.25, course, -1)
        if fits.max(initial=-1.0) > 0.8:
            follows[int(dim)] = int(fits.argmax())
            worst = min(worst, float(fits.max()))
    return Pursuit(int(moving.sum()), worst, follows)


def control_mode(features: Sequence[Feature], samples: Pairs) -> tuple[str, str]:
    """``(mode, evidence)``: ``delta``, ``absolute`` or ``unspecified``; ``none`` without an action.

    ``samples`` are (state [n, ds], action [n, da]) of a few episodes, non-finite rows ignored.
    """
    action = next((feature for feature in features if feature.name == ACTION), None)
    if action is None:
        return "none", "the source has no action"
    return mode_of(action, None if is_named_delta(action) else pursuit(samples))


def mode_of(action: Feature, course: Pursuit | None) -> tuple[str, str]:
    """``(mode, evidence)`` of ``action`` from its names, else from how it follows the state."""
    named = is_named_delta(action)
    if named:
        return "delta", f"components are named {', '.join(named[:3])}"
    if course is None:
        return "unspecified", f"no finite {STATE} and {ACTION} to compare"
    evidence = f"{len(course.follows)} of {course.moving} moving action dimensions follow a state dimension"
    if course.moving and len(course.follows) >= _MOST * course.moving:
        return "absolute", f"{evidence} (correlation {course.worst:.2f} or more)"
    return "unspecified", evidence
