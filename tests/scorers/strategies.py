"""A point mass that passes an obstacle on the way to a goal, on the one side or the other: both ways succeed."""

from __future__ import annotations

import numpy as np

STEPS = 50


def detour(draw: np.random.Generator, side: float) -> tuple[np.ndarray, np.ndarray]:
    """(position [STEPS, 2], command [STEPS, 2]): straight on from (-1, 0), then past the obstacle above (+1) or below
    (-1), then to (1, 0). Both ways are of one length and look alike until they part.
    """
    position = np.array([-1.0, 0.0]) + draw.normal(0, 0.03, 2)
    waypoints = [np.array([-0.6, 0.0]), np.array([0.0, 0.6 * side]), np.array([1.0, 0.0])]
    states, actions = [], []
    for _ in range(STEPS):
        if len(waypoints) > 1 and position[0] > waypoints[0][0]:
            waypoints.pop(0)
        away = waypoints[0] - position
        action = 0.05 * away / max(np.linalg.norm(away), 0.05) + draw.normal(0, 0.002, 2)
        states.append(position)
        actions.append(action)
        position = position + action + draw.normal(0, 0.004, 2)
    return np.array(states), np.array(actions)


def detours(sides: list[float], seed: int = 0) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """States and actions of one episode for each of ``sides``."""
    draw = np.random.default_rng(seed)
    made = [detour(draw, side) for side in sides]
    return [state for state, _ in made], [action for _, action in made]
