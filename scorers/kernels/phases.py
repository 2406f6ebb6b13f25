"""At what phase of others' courses a point lies: the time of their nearest step, 0 at the start and 1 at the end."""

from __future__ import annotations

import numpy as np
import torch

from scorers.kernels.neighbours import chunks, squared_distances, to_grid

__all__ = ["phases"]


def phases(points: np.ndarray, steps: np.ndarray, edges: np.ndarray, device: str = "cpu") -> tuple[np.ndarray, ...]:
    """Squared distance and phase, float64 [n, K] each, of the step of each course that is nearest to each of ``points``
    [n, d]; of equals, the earlier.

    Course i is the rows ``edges[i]`` to ``edges[i + 1]`` of ``steps`` [m, d]; one of a single step is all end. Points
    within 16 of the origin, at most 32,768 steps a course: then it is exact, whatever the device. O(n m d).
    """
    x, y = to_grid(points, device), to_grid(steps, device)
    lengths = np.diff(edges)
    distance, phase = np.empty((len(points), len(lengths))), np.empty((len(points), len(lengths)))
    for rows in chunks(len(points), len(steps)):
        squared = squared_distances(x[rows], y)
        for i, n in enumerate(lengths.tolist()):
            mine = squared[:, edges[i] : edges[i + 1]]
            key = (mine * n + torch.arange(n, device=mine.device)).amin(
                dim=1
            )  # unique: the choice is the same anywhere
            at = torch.remainder(key, n)
            distance[rows, i] = ((key - at) / n).cpu().numpy()
            phase[rows, i] = (at / (n - 1)).cpu().numpy() if n > 1 else 1.0
    return distance, phase
