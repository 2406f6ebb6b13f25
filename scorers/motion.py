"""How fast an episode moves: its clock, and its path through the continuous coordinates of the view."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from data_engine.reference import RawEpisode
from data_engine.view import View

__all__ = ["clock", "fast", "path", "speeds"]


def clock(raw: RawEpisode) -> tuple[np.ndarray, float]:
    """Seconds float64 [m] of the finite steps, and the median period.

    Where timestamps are missing or do not increase, rows are taken to be even at the dataset's rate.
    """
    rows = np.flatnonzero(raw.finite)
    when = rows / raw.dataset.fps
    if raw.time is not None and np.isfinite(raw.time[rows]).all() and (np.diff(raw.time[rows]) > 0).all():
        when = raw.time[rows]
    steps = np.diff(when) / np.diff(rows)
    return when, float(np.median(steps)) if len(steps) else 1 / raw.dataset.fps


def path(raw: RawEpisode, view: View) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Seconds [m], continuous positions [m, dc] and discrete ones [m, dd] of finite steps, and the median period."""
    measured = view.measure(raw)
    discrete = np.array([levels for *_, levels in view.position], bool)
    position = measured.state[:, : measured.positions].astype(np.float64)
    when, period = clock(raw)
    return when, position[:, ~discrete], position[:, discrete], period


def speeds(when: np.ndarray, position: np.ndarray) -> np.ndarray:
    """Distance to the next step per second [m]; the last step has that of the one before."""
    speed = np.linalg.norm(np.diff(position, axis=0), axis=1) / np.diff(when)
    return np.append(speed, speed[-1:])


def fast(found: Sequence[RawEpisode], view: View) -> float:
    """The fast speed (90 % quantile) of the median episode; 0 where none has two steps."""
    measured = []
    for raw in found:
        when, position, _, _ = path(raw, view)
        if len(when) > 1:
            measured.append(float(np.quantile(speeds(when, position), 0.9)))
    return float(np.median(measured)) if measured else 0.0
