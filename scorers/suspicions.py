"""What would explain that an episode's actions did not cause its motion: each suspicion is tried, the best one named.

A suspicion is a change of the recorded actions after which they would agree with the motion again: another time, other
signs, two dimensions exchanged, another unit, or the whole episode run backwards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from data_engine.reference import RawEpisode
from scorers.dynamics import Course, Dynamics
from scorers.kernels.response import respond

__all__ = ["LAGS", "Suspicion", "together", "what_explains"]

LAGS = 12  # steps that actions may be early or late by
_HELPS = 0.02  # more agreement, below which a change explains nothing
_PAIRS = 66  # exchanges of two dimensions that are tried at most
_FACTORS = {
    "degrees for radians": 180 / np.pi,
    "radians for degrees": np.pi / 180,
    "100 times too large": 100.0,
    "100 times too small": 0.01,
    "1000 times too large": 1000.0,
    "1000 times too small": 0.001,
}


@dataclass(frozen=True)
class Suspicion:
    """A reason code and one line of words. ``agreement`` is what the episode's would be if it were so."""

    reason: str
    words: str
    agreement: float


def together(surprise: np.ndarray, call: np.ndarray, weight: np.ndarray) -> float:
    """The concordance of all coordinates together, [m, ds] with ``weight`` [ds]; 0 where there is nothing."""
    size = float((weight * (surprise**2 + call**2)).sum())
    return 2 * float((weight * surprise * call).sum()) / size if size > 0 else 0.0


def what_explains(raw: RawEpisode, dynamics: Dynamics, weight: np.ndarray, device: str = "cpu") -> Suspicion:
    """The change that explains the episode best, ``foreign_action`` where nothing does and nothing agrees, else
    ``contradicted``: some of it agrees. ``weight`` [ds]: see :meth:`scorers.dynamics.Dynamics.weight`."""
    seen = np.flatnonzero(weight)
    dynamics, weight = dynamics.only(seen), weight[seen]
    model = dynamics.model(raw.motion_hash)

    def agreement(course: Course, shift: int = 0) -> float:
        found = dynamics.rows(course, shift)
        if not len(found):
            return 0.0
        response = respond(found, model, device)
        return together(response.surprise, response.call, weight)

    usual = float((weight * dynamics.agreement[0]).sum() / weight.sum())
    course = dynamics.course(raw)
    now = agreement(course)
    tried = [
        Suspicion("lagged", f"actions come {abs(lag)} steps {'late' if lag > 0 else 'early'}", agreement(course, lag))
        for lag in range(-LAGS, LAGS + 1)
        if lag
    ]
    backwards = Course(course.state[::-1], course.action[::-1], course.pace[::-1], course.period)
    tried.append(Suspicion("reversed", "it runs backwards in time", agreement(backwards)))
    tried.append(_negated(raw, dynamics, agreement, now))
    for first, second in _pairs(dynamics, raw.action.shape[1]):
        action = raw.action.copy()
        action[:, [first, second]] = action[:, [second, first]]
        words = f"actions {first} and {second} are swapped"
        tried.append(Suspicion("swapped", words, agreement(dynamics.course(raw, action))))
    for words, factor in _FACTORS.items():
        course = dynamics.course(raw, raw.action / factor)
        tried.append(Suspicion("rescaled", f"actions are {words}", agreement(course)))
    best = max(tried, key=lambda suspicion: suspicion.agreement)
    if best.agreement - now >= max(0.5 * (usual - now), _HELPS) and best.agreement >= 0.5 * usual:
        return best
    if now < 0.25 * usual:
        return Suspicion("foreign_action", "actions have nothing to do with the motion", now)
    return Suspicion("contradicted", "some of the motion contradicts the actions", now)


def _negated(raw: RawEpisode, dynamics: Dynamics, agreement: Callable[[Course], float], now: float) -> Suspicion:
    """Signs turned one after the other, as long as it helps."""
    sign, best = np.ones(raw.action.shape[1]), now
    improved = True
    while improved:
        improved = False
        for dim in range(len(sign)):
            turned = np.where(np.arange(len(sign)) == dim, -sign, sign)
            found = agreement(dynamics.course(raw, raw.action * turned))
            if found > best + _HELPS:
                sign, best, improved = turned, found, True
    dims = ", ".join(str(dim) for dim in np.flatnonzero(sign < 0))
    return Suspicion("negated", f"actions {dims} have the other sign", best)


def _pairs(dynamics: Dynamics, width: int) -> Iterator[tuple[int, int]]:
    """Pairs of action dimensions, at most ``_PAIRS``; of a wide action those that something moves by."""
    dims = range(width)
    if width * (width - 1) // 2 > _PAIRS:
        dims = sorted({int(dim) for dim in dynamics.command[dynamics.driven] if dim < width})  # type: ignore[assignment]
    return (pair for _, pair in zip(range(_PAIRS), combinations(dims, 2), strict=False))
