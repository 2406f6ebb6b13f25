"""The weights that the selection itself gave."""

from __future__ import annotations

import numpy as np

from data_engine.weighers import Weigher, mean_one

__all__ = ["SelectionWeights"]


class SelectionWeights(Weigher):
    """Keep the selection's own weights, say the transport potentials' (see ``data_engine.selection.transport``)."""

    name = "selection"

    def weigh(self, weights: np.ndarray, n_steps: np.ndarray) -> np.ndarray:
        """``weights`` at mean 1. Raises ``EngineError`` where one is not positive and finite."""
        return mean_one(weights)
