"""The intersection of stored selections."""

from __future__ import annotations

import numpy as np

from data_engine.selection.algebra import Algebra

__all__ = ["Intersection"]


class Intersection(Algebra):
    """What all of the selections hold. See ``data_engine.selection.algebra`` for order and weights."""

    name = "intersection"

    def holds(self, inside: np.ndarray) -> np.ndarray:
        """bool [n] of bool [n, selections]."""
        return np.logical_and.reduce(inside, axis=1)
