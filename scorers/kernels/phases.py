"""At what phase of others' courses a point lies: the time of their nearest step, 0 at the start and 1 at the end."""

from __future__ import annotations

import numpy as np
import torch

from scorers.kernels.neighbours import chunks, squared_distances, to_grid

__all__ = ["nearest_of_each", "phases"]


def nearest_of_each(
    points: np.ndarray, steps: np.ndarray, edges: np.ndarray, device: str = "cpu"
) -> tuple[np.ndarray, np.ndarray]:
    """Squared distance, float64 [n, K], and row of ``steps``, int64 [n, K], of the step of each course that is nearest
    to each of ``points`` [n, d]; of equals, the earlier. Infinity and -1 for a course of no steps.

    Course i is the rows ``edges[i]`` to ``edges[i + 1]`` of ``steps`` [m, d]. Points within 16 of the origin, at most
    32,768 steps a course: then it is exact, whatever the device. O(n m d).
    """
    x, y = to_grid(points, device), to_grid(steps, device)
    lengths = np.diff(edges)
    distance, index = np.full((len(points), len(lengths)), np.inf), np.full((len(points), len(lengths)), -1)
    for rows in chunks(len(points), len(steps)):
        squared = squared_distances(x[rows], y)
        for i in np.flatnonzero(lengths):
            n = int(lengths[i])
            mine = squared[:, edges[i] : edges[i + 1]]
            key = (mine * n + torch.arange(n, device=mine.device)).amin(
                dim=1
            )  # unique: the choice is the same anywhere
            at = torch.remainder(key, n)
            distance[rows, i] = ((key - at) / n).cpu().numpy()
            index[rows, i] = edges[i] + at.cpu().numpy().astype(np.int64)
    return distance, index


def phases(points: np.ndarray, steps: np.ndarray, edges: np.ndarray, device: str = "cpu") -> tuple[np.ndarray, ...]:
    """Squared distance and phase, float64 [n, K] each, of the step of each course that is nearest to each of ``points``
    [n, d], as :func:`nearest_of_each` finds it; a course of a single step is all end."""
    distance, index = nearest_of_each(points, steps, edges, device)
    last = np.diff(edges) - 1
    return distance, np.where(last > 0, (index - edges[:-1]) / np.maximum(last, 1), 1.0)
