"""All that qualify: the flow has applied the ``where`` clause, nothing is left to decide."""

from __future__ import annotations

import numpy as np

from data_engine.errors import RequestError
from data_engine.selection import Budget, Candidates, Chosen, Selector
from data_engine.selection.pool import canonical_order

__all__ = ["Filter"]


class Filter(Selector):
    """Take every candidate, weighed alike, in the order of content hashes.

    A filter ranks nothing, so it has no budget: taking some of what qualifies is ``random``.
    """

    name = "filter"

    def select(self, candidates: Candidates, targets: Candidates | None, *, budget: Budget | None, seed: int) -> Chosen:
        """Every candidate. Raises ``RequestError`` for a budget or when there is no candidate."""
        order = canonical_order(candidates)
        if budget is not None:
            raise RequestError(
                "filter takes all that qualify and has no budget", code="bad_budget", fix="use method random or nearest"
            )
        return Chosen(order, np.ones(len(order)), ["chosen: it qualifies"] * len(order), {"qualify": len(order)})
