"""The weights that the selection itself gave."""

from __future__ import annotations

from data_engine.weighers import Drawn, Weigher, Weights, mean_one

__all__ = ["SelectionWeights"]


class SelectionWeights(Weigher):
    """Keep the selection's own weights, say the transport potentials' (see ``data_engine.selection.transport``)."""

    name = "selection"

    def weigh(self, drawn: Drawn) -> Weights:
        """The selection's weights at mean 1. Raises ``EngineError`` where one is not positive and finite."""
        return Weights(mean_one(drawn.weights))
