"""Every unit alike."""

from __future__ import annotations

import numpy as np

from data_engine.weighers import Weigher

__all__ = ["Uniform"]


class Uniform(Weigher):
    """Weigh every selected unit 1, whatever the selection said."""

    name = "uniform"

    def weigh(self, weights: np.ndarray, n_steps: np.ndarray) -> np.ndarray:
        """Ones, float64 [k]."""
        return np.ones(len(weights), dtype=np.float64)
