"""The best by a score: a count or a share of the candidates, in each stratum apart where the recipe says ``within``."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from data_engine.selection import Budget, Candidates, Chosen, Selector, resolve_budget
from data_engine.selection.pool import canonical_order, known_scores

__all__ = ["TopFraction"]


class TopFraction(Selector):
    """Take the ``budget`` best by the score ``by`` in its better direction, weighed alike; of equals, by content hash.

    A share is one of all candidates, also of those without the score, which are left out with that reason.
    """

    name = "top_fraction"

    by: str = Field(min_length=1)

    @property
    def needs_score(self) -> str:
        """``by``."""
        return self.by

    def select(self, candidates: Candidates, targets: Candidates | None, *, budget: Budget | None, seed: int) -> Chosen:
        """The best ``budget``. Raises ``RequestError`` for ``auto`` and where the score is known of no candidate."""
        canonical = canonical_order(candidates)
        scores = known_scores(candidates, self.by)
        order = canonical[np.argsort(-scores[canonical], kind="stable")]  # NaN sorts last
        known = int(np.isfinite(scores).sum())
        count = min(resolve_budget(budget, len(candidates)), known)
        reasons = [""] * len(candidates)
        for place, at in enumerate(order.tolist(), start=1):
            if place > known:
                reasons[at] = f"left out: {self.by} is not known of it"
            else:
                verdict = "chosen" if place <= count else "left out"
                reasons[at] = f"{verdict}: {place}. of {known} by {self.by}"
        report = {"candidates": len(candidates), "unscored": len(candidates) - known, "chosen": count, "by": self.by}
        return Chosen(order[:count], np.ones(count), reasons, report)
