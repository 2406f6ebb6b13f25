"""Loops of a course: stretches that end where they began, in units of how far each coordinate goes in a fast step.

What is slow to follow its command comes to rest some steps after it was told to, and starts some steps late. Seen as it
is, it is never twice in one place for as long as the command rested; seen ``ahead``, where it is about to be, it is.

A step is held against the ``longest`` steps after it alone, so everything is O(n longest d) in time.
"""

from __future__ import annotations

import numpy as np

__all__ = ["ahead", "best_cuts", "driven", "gaps", "lost", "response_lag", "through", "units"]

_FAST = 0.9  # quantile of the steps in which a coordinate moves
_MOVES = 1e-3  # of its standard deviation: less is rest
_ANSWERS = 0.1  # share of what its own last change leaves open that actions explain
_OFF = 0.4  # of how far it strayed: what comes back no nearer than this has not come back
_WIDE = 3.0  # times the reach: nor has what is farther off than this, however far it strayed
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

    The straight way takes one for each; with two, a loop takes in nothing of it. 0 for those that are no loops: more
    open than ``reach``, and than two fifths of how far they strayed (three times ``reach`` at most). A slow way onwards
    ends as far off as it ever was, a detour does not.
    """
    taken = np.arange(1, gap.shape[1] + 1, dtype=np.float32)
    strayed = np.maximum.accumulate(np.where(np.isfinite(gap), gap, 0.0), axis=1)
    closed = gap <= np.maximum(reach, np.minimum(_WIDE * reach, _OFF * strayed))
    return np.where(closed, np.maximum(taken - 2 * np.where(closed, gap, 0.0), 0), 0).astype(np.float32)


def through(loss: np.ndarray) -> np.ndarray:
    """float32 [n]: what the loop that takes in each step, wherever it begins, loses at most; ``loss`` as :func:`lost`
    tells it. Which step of a rest another one is most like is chance; that it is of a rest is not."""
    longer = np.maximum.accumulate(loss[:, ::-1], axis=1)[:, ::-1]
    found = longer[:, 0].copy()
    for k in range(1, min(longer.shape[1], len(found))):
        np.maximum(found[k:], longer[:-k, k], out=found[k:])
    return found


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


def driven(courses: list[np.ndarray], actions: list[np.ndarray]) -> np.ndarray:
    """bool [d]: the coordinates of ``courses`` ([n, d] each) that answer ``actions`` ([n, da] each): a tenth of the
    change that their own last one leaves open (least squares, of all episodes together) is explained by them."""
    change = [np.diff(course, axis=0) for course in courses]
    before, after = (np.concatenate([one[rows] for one in change]) for rows in (slice(None, -1), slice(1, None)))
    action = np.concatenate([action[1:-1] for action in actions])
    action = np.c_[action, np.ones(len(action))]
    found = np.zeros(after.shape[1], bool)
    for j, y in enumerate(after.T):
        own, both = np.c_[before[:, j], np.ones(len(y))], np.c_[before[:, j], action]
        left, least = (float(np.square(y - x @ np.linalg.lstsq(x, y, rcond=None)[0]).sum()) for x in (own, both))
        found[j] = left > 0 and 1 - least / left > _ANSWERS
    return found


def ahead(course: np.ndarray, lead: np.ndarray) -> np.ndarray:
    """``course`` [n, d] with each coordinate where it will be ``lead`` [d] steps on, at its present velocity."""
    return course + np.gradient(course, axis=0) * lead if len(course) > 1 else course
