"""Trajectory weighting by return (RW)."""

from __future__ import annotations

import numpy as np

from data_engine.weighers.returns import TrajectoryWeigher

__all__ = ["ReturnWeighting"]


class ReturnWeighting(TrajectoryWeigher):
    """w = exp(G / ``alpha``), G the sum of an episode's rewards: see ``data_engine.weighers.returns``."""

    name = "return_weighting"

    def worth(self, returns: np.ndarray, first_state: np.ndarray | None, where: str) -> np.ndarray:
        """The returns."""
        return returns
