"""Trajectory weighting by advantage (AW): by return less what its first state promised."""

from __future__ import annotations

import numpy as np

from data_engine.errors import RequestError
from data_engine.weighers.returns import TrajectoryWeigher

__all__ = ["AdvantageWeighting"]


class AdvantageWeighting(TrajectoryWeigher):
    """w = exp((G - V(s0)) / ``alpha``), V linear in the first state by least squares, as the paper has it.

    A beginning from which everyone fares well lends nobody weight. Refused where there are no more episodes than
    numbers to fit: V would explain every return, and what is left be rounding.
    """

    name = "advantage_weighting"

    @property
    def needs_state(self) -> bool:
        """True."""
        return True

    def worth(self, returns: np.ndarray, first_state: np.ndarray | None, where: str) -> np.ndarray:
        """The advantages. Raises ``RequestError`` for too few episodes."""
        assert first_state is not None
        spread = first_state.std(axis=0)
        varied = spread > 1e-9 * np.maximum(np.abs(first_state).max(axis=0), 1e-12)
        x = (first_state[:, varied] - first_state[:, varied].mean(axis=0)) / spread[varied]
        x = np.concatenate([np.ones((len(x), 1)), x], axis=1)
        value, _, rank, _ = np.linalg.lstsq(x, returns, rcond=1e-9)
        if rank >= len(returns) > 1:
            raise RequestError(
                f"{where} has {len(returns)} episodes, and V(s0) {rank} numbers to fit: too few",
                code="too_few",
                fix="use weigher: return_weighting, or more episodes",
            )
        advantage = returns - x @ value
        tiny = np.abs(advantage).max() <= 1e-9 * max(float(np.abs(returns).max()), 1e-300)
        return np.zeros_like(advantage) if tiny else np.asarray(advantage, dtype=np.float64)
