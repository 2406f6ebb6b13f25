"""The difference of stored selections."""

from __future__ import annotations

import numpy as np

from data_engine.selection.algebra import Algebra

__all__ = ["Difference"]


class Difference(Algebra):
    """What the first of the selections holds and none of the others.

    See ``data_engine.selection.algebra`` for order and weights.
    """

    name = "difference"

    def holds(self, inside: np.ndarray) -> np.ndarray:
        """bool [n] of bool [n, selections]."""
        return inside[:, 0] & ~inside[:, 1:].any(axis=1)
