"""Groups by the root of their size: between what they have and all alike."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field

from data_engine.weighers import Drawn, Weigher, Weights

__all__ = ["Temperature"]


class Temperature(Weigher):
    """Draw each group ``over`` as steps ** (1 / ``temperature``): 1 as often as it has steps, infinity all alike.

    Temperature sampling as for languages of unlike size (Arivazhagan et al. 2019). Inside a group the selection's
    weights hold.
    """

    name = "temperature"

    temperature: float = Field(2.0, gt=0)
    over: Literal["dataset", "task", "operator"] = "dataset"

    def weigh(self, drawn: Drawn) -> Weights:
        """Raises ``RequestError`` where the mixture draws datasets."""
        names, group = drawn.groups(self.over)
        steps = np.bincount(group, drawn.n_steps).astype(np.float64)
        share = (steps / steps.max()) ** (1 / self.temperature)
        share = np.maximum(share / share.sum(), 1e-12)
        return Weights(
            drawn.share_out(group, share),
            {"share": dict(zip(names, share.tolist(), strict=True))},
        )
