"""Subgoals of one video from its frame embeddings, and what distance to them says of every frame.

Zhang et al., "Universal Visual Decomposer: Long-Horizon Manipulation Made Easy" (2024): seen from a goal, the distance
of the frames before it falls steadily back to where the subtask began, and rises again beyond. Their rule counts in
frames; times are seconds here, so that what is found does not hang on the frame rate.
"""

from __future__ import annotations

import numpy as np

__all__ = ["distances", "smoothed", "subgoals"]

_REACH = 4.0  # standard deviations of the smoothing kernel beyond which nothing counts


def subgoals(vectors: np.ndarray, times: np.ndarray, *, least_s: float = 0.9, smooth_s: float = 0.125) -> np.ndarray:
    """Frames int64 [k] at which a subtask ends, rising; the last is the last frame. Nothing for no frames.

    ``vectors`` [m, d] at the rising ``times`` [m] in seconds. Backwards from the last frame: the distance of every
    earlier frame to the goal is smoothed, and its latest local maximum more than ``least_s`` from both the goal and the
    beginning is the subgoal before. The authors' 18 frames and kernel exp(-0.08 x^2), a standard deviation of 2.5
    frames, are 0.9 s and 0.125 s at 20 frames a second. O(k m d).
    """
    if not len(vectors):
        return np.zeros(0, np.int64)
    goal = len(vectors) - 1
    found = [goal]
    while True:
        curve = smoothed(distances(vectors[: goal + 1], vectors[goal]), times[: goal + 1], smooth_s)
        peaks = _peaks(curve)
        kept = peaks[(times[goal] - times[peaks] > least_s) & (times[peaks] - times[0] > least_s)]
        if not len(kept):
            return np.array(found[::-1], np.int64)
        goal = int(kept[-1])
        found.append(goal)


def distances(vectors: np.ndarray, goal: np.ndarray) -> np.ndarray:
    """float64 [m]: the Euclidean distance of each row of ``vectors`` [m, d] to ``goal`` [d]."""
    return np.linalg.norm(vectors.astype(np.float64) - goal.astype(np.float64), axis=1)


def smoothed(values: np.ndarray, times: np.ndarray, width: float) -> np.ndarray:
    """``values`` [m] by regression with a Gaussian kernel of standard deviation ``width`` seconds (Nadaraya 1964).

    At the ends it is one-sided. O(m times the frames within four standard deviations); ``width`` 0 leaves all as it is.
    """
    if width <= 0 or len(values) < 2:
        return values.astype(np.float64)
    total, weight = values.astype(np.float64).copy(), np.ones(len(values))
    for shift in range(1, len(values)):
        apart = (times[shift:] - times[:-shift]) / width
        if apart.min() > _REACH:
            break
        near = np.where(apart <= _REACH, np.exp(-0.5 * apart**2), 0.0)
        total[shift:] += near * values[:-shift]
        total[:-shift] += near * values[shift:]
        weight[shift:] += near
        weight[:-shift] += near
    return total / weight


def _peaks(curve: np.ndarray) -> np.ndarray:
    """Indices of the local maxima of ``curve``; of a flat top the last."""
    change = np.diff(curve)
    moves = np.flatnonzero(change != 0)
    turns = (change[moves[:-1]] > 0) & (change[moves[1:]] < 0)
    return moves[1:][turns]
