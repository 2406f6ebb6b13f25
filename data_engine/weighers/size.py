"""Units by their length."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from data_engine.weighers import Drawn, Weigher, Weights

__all__ = ["Size"]


class Size(Weigher):
    """Draw each unit as its steps ** ``power``, whatever the selection said: 1 every step alike, 0 every unit alike."""

    name = "size"

    power: float = Field(1.0, ge=-4, le=4)

    def weigh(self, drawn: Drawn) -> Weights:
        """Raises ``RequestError`` where the mixture draws datasets."""
        return Weights(drawn.per_unit((drawn.n_steps / drawn.n_steps.max()) ** np.float64(self.power)))
