"""Set algebra on stored selections: what several of them say becomes one."""

from __future__ import annotations

from abc import abstractmethod

import numpy as np
from pydantic import Field

from data_engine.errors import RequestError
from data_engine.selection import Budget, Candidates, Chosen, Selector
from data_engine.selection.pool import canonical_order

__all__ = ["Algebra"]


class Algebra(Selector):
    """A set operation on the selections named ``of``. The candidates are the units that any of them holds.

    The order is that of the first selection that holds a unit, then of the second, ...; a unit's weight is the mean of
    what the selections that hold it gave. There is no budget: the sets say what is chosen.
    """

    of: tuple[str, ...] = Field(min_length=2)

    @property
    def needs_selections(self) -> tuple[str, ...]:
        """``of``."""
        return self.of

    @abstractmethod
    def holds(self, inside: np.ndarray) -> np.ndarray:
        """bool [n]: which units the result holds. ``inside`` bool [n, len(of)]: which the selections do."""

    def select(self, candidates: Candidates, targets: Candidates | None, *, budget: Budget | None, seed: int) -> Chosen:
        """What the operation leaves. Raises ``RequestError`` for a budget, and where nothing is left."""
        if budget is not None:
            raise RequestError(
                f"{self.name} takes what the sets say and has no budget", code="bad_budget", fix="leave budget out"
            )
        canonical = canonical_order(candidates)
        by_name = {held.name: held for held in candidates.held}
        rank = np.stack([by_name[name].rank for name in self.of], axis=1)
        weight = np.stack([by_name[name].weight for name in self.of], axis=1)
        inside = rank >= 0
        taken = self.holds(inside)
        if not taken.any():
            raise RequestError(f"the {self.name} of {', '.join(self.of)} is empty", code="empty_selection")
        first = inside.argmax(axis=1)
        place = np.lexsort((rank[canonical, first[canonical]], first[canonical]))
        order = canonical[place]
        order = order[taken[order]]
        weights = np.divide(
            np.where(inside, weight, 0.0).sum(axis=1),
            inside.sum(axis=1),
            out=np.ones(len(inside)),
            where=inside.any(axis=1),
        )[order]
        reasons = [
            f"{'chosen' if yes else 'left out'}: in {_names(self.of, row)}"
            + (f", not in {_names(self.of, [not in_it for in_it in row])}" if not all(row) else "")
            for yes, row in zip(taken.tolist(), inside.tolist(), strict=True)
        ]
        report = {
            "candidates": len(candidates),
            "chosen": len(order),
            "held": {name: int(count) for name, count in zip(self.of, inside.sum(axis=0), strict=True)},
        }
        return Chosen(order, weights / weights.mean(), reasons, report)


def _names(of: tuple[str, ...], row: list[bool]) -> str:
    return ", ".join(name for name, in_it in zip(of, row, strict=True) if in_it) or "none"
