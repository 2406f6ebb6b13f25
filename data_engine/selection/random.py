"""The baseline that every method must beat: a uniform draw without replacement."""

from __future__ import annotations

import numpy as np

from data_engine.canonical import digest
from data_engine.selection import Budget, Candidates, Chosen, Selector, resolve_budget
from data_engine.selection.pool import unit_keys

__all__ = ["Random", "draw"]


class Random(Selector):
    """Draw uniformly, weighed alike, each unit's place keyed by (seed, content hash).

    Neither names nor row order change the draw, and a larger budget keeps what a smaller one chose.
    """

    name = "random"

    def select(self, candidates: Candidates, targets: Candidates | None, *, budget: Budget | None, seed: int) -> Chosen:
        """``budget`` candidates at random. Raises ``RequestError`` for ``auto`` or when there is no candidate."""
        order = draw(candidates, seed)
        count = resolve_budget(budget, len(order))
        reasons = [""] * len(order)
        for place, i in enumerate(order.tolist(), start=1):
            verdict = "chosen" if place <= count else "left out"
            reasons[i] = f"{verdict}: drawn {place} of {len(order)} at random"
        return Chosen(order[:count], np.ones(count), reasons, {"candidates": len(order), "chosen": count})


def draw(units: Candidates, seed: int) -> np.ndarray:
    """int64 [n]: a permutation of ``units`` that depends on the seed and their content alone."""
    places = [digest(str(seed), key) for key in unit_keys(units)]
    return np.asarray(sorted(range(len(units)), key=lambda i: (places[i], units.ids[i])), dtype=np.int64)
