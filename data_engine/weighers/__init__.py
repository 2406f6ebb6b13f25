"""How the episodes of a selection are weighed: one weigher a file. Weights in, weights out, nothing of the lake."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import numpy as np

from data_engine.errors import EngineError
from data_engine.registry import Plugin

__all__ = ["Weigher", "mean_one"]


class Weigher(Plugin):
    """A way to weigh what was selected. Its fields are its parameters."""

    name: ClassVar[str]

    @abstractmethod
    def weigh(self, weights: np.ndarray, n_steps: np.ndarray) -> np.ndarray:
        """float64 [k], positive, mean 1: how often each unit is drawn relative to the others.

        ``weights`` float64 [k]: what the selection gave. ``n_steps`` int64 [k]: each unit's length. Raises
        ``EngineError`` for weights that cannot be brought to that form.
        """


def mean_one(weights: np.ndarray) -> np.ndarray:
    """``weights`` as float64 scaled to mean 1. Raises ``EngineError`` unless all are finite and positive."""
    weights = np.asarray(weights, dtype=np.float64)
    if not (np.isfinite(weights).all() and (weights > 0).all()):
        raise EngineError("a weight is not a positive finite number", code="bad_weight")
    return weights / weights.mean() if len(weights) else weights
