"""Loops of a course: stretches that end where they began, in units of how far each coordinate goes in a fast step.

A step is held against the ``longest`` steps after it alone, so everything is O(n longest d) in time.
"""

from __future__ import annotations

import numpy as np

__all__ = ["best_cuts", "gaps", "lost", "response_lag", "units"]

_FAST = 0.9  # quantile of the steps in which a coordinate moves
_MOVES = 1e-3  # of its standard deviation: less is rest
_OPEN = 1e6  # a discrete coordinate that changed: nothing makes up for that


def units(courses: list[np.ndarray], discrete: np.ndarray) -> np.ndarray:
    """How far each coordinate of ``courses`` ([n, d] each) goes in a fast step, float64 [d]; infinite where it rests.

    A ``discrete`` [d] coordinate has next to none, so that a change of it keeps a loop open.
    """
    step = np.concatenate([np.abs(np.diff(course, axis=0)) for course in courses])
    least = _MOVES * np.concatenate(courses).std(axis=0)
    moving = [column[column > limit] for column, limit in zip(step.T, least, strict=True)]
    fast = np.array([np.quantile(column, _FAST) if len(column) else np.inf for column in moving])
    return np.where(discrete & np.isfinite(fast), fast / _OPEN, fast)


def gaps(course: np.ndarray, unit: np.ndarray, longest: int) -> np.ndarray:
    """float32 [n, longest]: how many fast steps lie between step i of ``course`` [n, d] and the one k + 1 after it, in
    the coordinate that is farthest off; infinite past the end."""
    x = (course / unit).astype(np.float32)
    n, longest = len(x), max(min(longest, len(x) - 1), 1)
    found = np.full((n, longest), np.inf, np.float32)
    for k in range(1, min(longest, n - 1) + 1):
        found[: n - k, k - 1] = np.abs(x[k:] - x[:-k]).max(axis=1, initial=0.0)
    return found


def lost(gap: np.ndarray, reach: float) -> np.ndarray:
    """float32 [n, longest]: the steps that each loop of ``gap`` takes, less two for each fast step that it stays open.

    The straight way takes one for each; with two, a loop takes in nothing of it. 0 for those more open than ``reach``.
    """
    taken = np.arange(1, gap.shape[1] + 1, dtype=np.float32)
    return np.where(gap <= reach, np.maximum(taken - 2 * np.minimum(gap, reach), 0), 0).astype(np.float32)


def best_cuts(gain: np.ndarray, charge: np.ndarray) -> list[tuple[int, int]]:
    """The disjoint stretches [i, j) that gain most: ``gain`` [n, longest] of i and k = j - i - 1, less ``charge`` [n]
    of i for each. By dynamic programming from the end, O(n longest)."""
    n = len(gain)
    value, jump = np.zeros(n + 1), np.zeros(n, np.int64)
    net = gain - charge[:, None]
    hopeful = (net > 0).any(axis=1).tolist()
    for i in range(n - 1, -1, -1):
        if not hopeful[i]:
            value[i] = value[i + 1]
            continue
        reach = min(net.shape[1], n - 1 - i)
        total = net[i, :reach] + value[i + 1 : i + 1 + reach]
        k = int(total.argmax()) if reach else -1
        value[i] = value[i + 1]
        if k >= 0 and net[i, k] > 0 and total[k] > value[i]:
            value[i], jump[i] = total[k], k + 1
    cuts, i = [], 0
    while i < n:
        if jump[i]:
            cuts.append((i, i + int(jump[i])))
        i += int(jump[i]) or 1
    return cuts


def response_lag(courses: list[np.ndarray], actions: list[np.ndarray], unit: np.ndarray, most: int) -> int:
    """After how many steps, ``most`` at most, the course goes as far as the action is large: the best correlation of
    the two in the median episode; 0 where there is none."""
    found = []
    for lag in range(most + 1):
        each = []
        for course, action in zip(courses, actions, strict=True):
            speed = np.minimum(np.abs(np.diff(course, axis=0)) / unit, 10.0).max(axis=1, initial=0.0)[lag:]
            size = np.linalg.norm(action, axis=1)[: len(speed)]
            if len(size) > 8 and np.ptp(size) > 0 and np.ptp(speed) > 0:
                each.append(np.corrcoef(size, speed)[0, 1])
        found.append(np.median(each) if each else 0.0)
    return int(np.argmax(found))
