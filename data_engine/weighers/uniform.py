"""Every unit alike."""

from __future__ import annotations

import numpy as np

from data_engine.weighers import Drawn, Weigher, Weights

__all__ = ["Uniform"]


class Uniform(Weigher):
    """Weigh every selected unit 1, whatever the selection said."""

    name = "uniform"

    def weigh(self, drawn: Drawn) -> Weights:
        """Ones."""
        return Weights(np.ones(len(drawn), dtype=np.float64))
