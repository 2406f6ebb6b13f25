"""The union of stored selections."""

from __future__ import annotations

import numpy as np

from data_engine.selection.algebra import Algebra

__all__ = ["Union"]


class Union(Algebra):
    """What any of the selections holds. See ``data_engine.selection.algebra`` for order and weights."""

    name = "union"

    def holds(self, inside: np.ndarray) -> np.ndarray:
        """bool [n] of bool [n, selections]."""
        return np.logical_or.reduce(inside, axis=1)
