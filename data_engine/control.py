"""Control mode: whether an action is an absolute target of the state or a change to it, with the evidence for it.

Names decide where they speak (``dx``, ``delta_x``); otherwise an action is ``absolute`` when nearly all its moving
dimensions follow some state dimension closely in both course and place. What neither shows stays ``unspecified``: an
option of the source states it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from data_engine.model import ACTION, STATE, Feature

__all__ = ["control_mode"]

_MOST = 0.8  # of the moving dimensions; grippers and thumbs often go their own way

_DELTA = re.compile(r"^(d|delta[_.]?)(x|y|z|roll|pitch|yaw|rx|ry|rz|pos|rot|q\d*|joint.*)$", re.IGNORECASE)


def control_mode(features: Sequence[Feature], samples: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[str, str]:
    """``(mode, evidence)``: ``delta``, ``absolute`` or ``unspecified``.

    ``samples`` are (state [n, ds], action [n, da]) of a few episodes, non-finite rows ignored.
    """
    action = next((feature for feature in features if feature.name == ACTION), None)
    if action is None:
        return "none", "the source has no action"
    named = [name for name in action.components or () if _DELTA.match(name)]
    if len(named) >= 3:
        return "delta", f"components are named {', '.join(named[:3])}"
    pairs = [
        (state[ok], act[ok])
        for state, act in samples
        if len(ok := np.isfinite(state).all(1) & np.isfinite(act).all(1)) and ok.sum() >= 8
    ]
    if not pairs:
        return "unspecified", f"no finite {STATE} and {ACTION} to compare"
    state, act = np.concatenate([pair[0] for pair in pairs]), np.concatenate([pair[1] for pair in pairs])
    moving = np.ptp(act, axis=0) > 1e-6
    spread = state.std(0)
    centred = (state - state.mean(0)) / np.where(spread > 1e-9, spread, 1)
    followed, worst = 0, 1.0
    for dim in np.flatnonzero(moving):
        target = (act[:, dim] - act[:, dim].mean()) / act[:, dim].std()
        course = centred.T @ target / len(target)
        offset = np.median(np.abs(state - act[:, dim, None]), axis=0) / np.ptp(act[:, dim])
        fits = np.where(offset < 0.25, course, -1)
        if fits.max() > 0.8:
            followed += 1
            worst = min(worst, float(fits.max()))
    evidence = f"{followed} of {int(moving.sum())} moving action dimensions follow a state dimension"
    if moving.any() and followed >= _MOST * moving.sum():
        return "absolute", f"{evidence} (correlation {worst:.2f} or more)"
    return "unspecified", evidence
