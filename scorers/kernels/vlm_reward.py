"""The reward of Rocamonde et al. 2023, "Vision-Language Models are Zero-Shot Reward Models" (VLM-RM).

A frame is worth as much as it lies near the goal prompt, measured on the line from a baseline prompt to the goal as far
as ``alpha`` says: what a frame shows beside the task (the room, the light) is off that line.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["mean_prompt", "reward", "unit"]


def unit(vectors: np.ndarray) -> np.ndarray:
    """float64 ``vectors`` [n, d] of length 1. Raises ``ValueError`` for one that has no direction."""
    rows = np.asarray(vectors, np.float64)
    length = np.linalg.norm(rows, axis=-1, keepdims=True)
    if not np.isfinite(length).all() or (length == 0).any():
        raise ValueError("a vector of zeros, or one that is not finite, has no direction")
    return rows / length


def mean_prompt(vectors: np.ndarray) -> np.ndarray:
    """float64 [d]: several phrasings of one prompt [n, d] as one, each normalised first, then averaged."""
    return unit(vectors).mean(axis=0)


def reward(
    frames: np.ndarray, goal: np.ndarray, baseline: np.ndarray, alpha: float | Sequence[float] | np.ndarray
) -> np.ndarray:
    """R = 1 - 0.5 ||(s - g) P||^2 of each frame, P = alpha d d^T / ||d||^2 + (1 - alpha) I, d = g - b.

    ``frames`` s [n, d] are normalised here; ``goal`` g and ``baseline`` b [d] come from :func:`mean_prompt`. float64
    [n], or [len(alpha), n] for several alphas. Of alpha 0 and a single goal prompt it is the cosine of s and g. Takes
    O(n d): the projection is never formed, ||x P||^2 = (1 - alpha)^2 (||x||^2 - p^2) + p^2 with p = x d / ||d||.

    Raises ``ValueError`` for goal and baseline alike, which leave no direction, and for an alpha outside 0 to 1.
    """
    share = np.asarray(alpha, np.float64)
    if not ((share >= 0) & (share <= 1)).all():
        raise ValueError(f"alpha must lie between 0 and 1, not {alpha}")
    g, b = (np.asarray(prompt, np.float64) for prompt in (goal, baseline))
    along = unit((g - b)[None])[0]
    away = unit(frames) - g
    on_line = (away @ along) ** 2
    off_line = np.maximum(np.einsum("nd,nd->n", away, away) - on_line, 0.0)
    return 1.0 - 0.5 * (on_line + (1 - share[..., None]) ** 2 * off_line).reshape(*share.shape, len(away))
