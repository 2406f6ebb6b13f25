"""Keyposes of one movement: where the gripper changes, where the arm comes to rest, and its last step.

The rule of James and Davison, "Q-attention" (2022), section on keyframe discovery, and of the tools that follow it. Two
things differ: a rest is one keypose, at its first step, and not one more every few steps; one that is too short, or
that the recording begins with, is none.
"""

from __future__ import annotations

import numpy as np

__all__ = ["keyposes", "ways"]

_BEFORE, _AFTER = 2, 1  # steps around a stop that hold no gripper change


def keyposes(still: np.ndarray, side: np.ndarray, apart: int = 4, least: int = 1) -> tuple[np.ndarray, list[str]]:
    """Steps int64 [k], rising, and why each is one: ``gripper``, ``stop`` or, for the last step, ``end``.

    ``still`` bool [n]: the arm stands still at the step; a stop begins ``least`` such steps or more. ``side`` int
    [n, g]: what each gripper went to last (:func:`ways`). Any two are at least ``apart`` steps from each other: the
    last step comes before a change, a change before a stop, of two changes or stops the earlier one.
    Nothing for no steps. O(n log n).
    """
    count = len(still)
    if count == 0:
        return np.zeros(0, np.int64), []
    found = {count - 1: "end"}

    def take(steps: np.ndarray, why: str) -> None:
        taken = np.array(sorted(found))
        before = -apart
        for step in steps.tolist():
            place = int(np.searchsorted(taken, step))
            near = taken[max(place - 1, 0) : place + 1]
            if step - before >= apart and (np.abs(near - step) >= apart).all():
                found[step] = why
                before = step

    changes = np.flatnonzero((np.diff(side, axis=0) != 0).any(axis=1)) + 1
    take(changes, "gripper")
    edges = np.flatnonzero(np.diff(still.astype(np.int8), append=0, prepend=0))
    starts, ends = edges[::2], edges[1::2]
    stops = starts[(ends - starts >= least) & (starts > 0)]
    busy = np.zeros(count, bool)
    for shift in range(-_AFTER, _BEFORE + 1):  # a step i with a change at i - 2 .. i + 1
        busy[np.clip(changes + shift, 0, count - 1)] = True
    take(stops[~busy[stops] & (stops < count - 2)], "stop")
    steps = np.array(sorted(found), np.int64)
    return steps, [found[step] for step in steps.tolist()]


def ways(values: np.ndarray, least: float) -> np.ndarray:
    """int8 [n]: 1 once ``values`` [n] rose by ``least`` from the lowest since they last turned, -1 once they fell by as
    much from the highest.

    Smaller moves turn nothing, and neither the middle of the range nor its ends count: a gripper that goes from half
    open to closed changes, too. Before the first turn it is the other way; 0 where there is none. O(n).
    """
    found = np.zeros(len(values), np.int8)
    way, low, high = 0, np.inf, -np.inf  # the extremes since the last turn
    for step, value in enumerate(values.tolist()):
        low, high = min(low, value), max(high, value)
        if way != 1 and value - low >= least:
            way, low, high = 1, value, value
        elif way != -1 and high - value >= least:
            way, low, high = -1, value, value
        found[step] = way
    first = np.flatnonzero(found)
    if len(first):
        found[: first[0]] = -found[first[0]]
    return found
