"""Streams of different rates on one clock: for each step the newest message at or before it, and how old that is.

Never a later message: a policy could not have seen it. Never an old one unseen: its age is told, and beyond a limit it
is missing. All times are int64 nanoseconds.
"""

from __future__ import annotations

import numpy as np

from data_engine.errors import SourceError

__all__ = ["ages", "even", "gaps", "newest", "order", "rate"]

MOST_STEPS = 20_000_000  # of one episode: stamps that leap by years would otherwise fill the memory


def newest(stamps: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """Index into ``stamps`` [m] (ascending) of the newest at or before each of ``steps`` [n], -1 where there is none.

    Of equal stamps the last counts. O(n log m).
    """
    return np.searchsorted(stamps, steps, side="right") - 1


def ages(stamps: np.ndarray, steps: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """float64 seconds [n] from the chosen message to its step, NaN where ``chosen`` is -1."""
    if not len(stamps):
        return np.full(len(steps), np.nan)
    return np.where(chosen >= 0, (steps - stamps[chosen]) / 1e9, np.nan)


def order(stamps: np.ndarray) -> tuple[np.ndarray | None, int, int]:
    """(stable ascending order, or None where ``stamps`` ascend already; steps back; the longest of them)."""
    back = np.diff(stamps)
    late = back < 0
    if not late.any():
        return None, 0, 0
    return np.argsort(stamps, kind="stable"), int(late.sum()), int(-back.min())


def even(first: int, last: int, fps: float) -> np.ndarray:
    """Steps from ``first`` on, ``fps`` a second, none after ``last``. Raises ``SourceError`` beyond 20 million."""
    count = int((last - first) / 1e9 * fps + 1e-6) + 1
    if count > MOST_STEPS:
        raise SourceError(
            f"the stamps span {(last - first) / 1e9:.0f} s, {count} steps at {fps:g} a second: a clock leaps",
            code="clock_jump",
            fix="give the option stamp: log",
        )
    steps = first + np.rint(np.arange(count) * (1e9 / fps)).astype(np.int64)
    return steps[steps <= last]


def gaps(stamps: np.ndarray, longest: float) -> list[tuple[int, int]]:
    """Spans [start, stop] of ascending ``stamps`` with no gap of more than ``longest`` seconds inside."""
    if not len(stamps):
        return []
    cuts = np.flatnonzero(np.diff(stamps) > longest * 1e9)
    starts, stops = np.concatenate([[0], cuts + 1]), np.concatenate([cuts, [len(stamps) - 1]])
    return [(int(stamps[a]), int(stamps[b])) for a, b in zip(starts, stops, strict=True)]


def rate(stamps: np.ndarray) -> float | None:
    """Steps a second by the median distance of ``stamps``; a whole number within 0.5 %. None for fewer than two."""
    apart = np.diff(np.unique(stamps))
    if not len(apart):
        return None
    found = 1e9 / float(np.median(apart))
    whole = round(found)
    return float(whole) if whole and abs(found - whole) <= 0.005 * whole else round(found, 3)
