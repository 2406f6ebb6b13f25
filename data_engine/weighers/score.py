"""The better by a score, the more often."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from data_engine.errors import RequestError
from data_engine.selection.quality_coverage import ranks
from data_engine.weighers import Drawn, Weigher, Weights, mean_one

__all__ = ["Score"]


class Score(Weigher):
    """Multiply the selection's weights by exp(rank / ``tau``), rank the share of the others that a unit is better than.

    Ranks, because a score's scale and outliers mean nothing here: the best weighs exp(1 / ``tau``) times the worst.
    """

    name = "score"

    by: str = Field(min_length=1)
    tau: float = Field(0.5, ge=0.02)

    @property
    def needs_score(self) -> str:
        """``by``."""
        return self.by

    def weigh(self, drawn: Drawn) -> Weights:
        """Raises ``RequestError`` where the score is not known of every unit."""
        scores = np.full(len(drawn), np.nan) if drawn.scores is None else drawn.scores
        unknown = int((~np.isfinite(scores)).sum())
        if unknown:
            raise RequestError(
                f"{self.by} is not known of {unknown} of {len(drawn)} units, which so have no weight by it",
                code="no_scores",
                fix=f"score them, or select where: {self.by} IS NOT NULL",
            )
        return Weights(mean_one(mean_one(drawn.weights) * np.exp((ranks(scores) - 1) / self.tau)))
