"""Quality with diversity: coverage in which the better demonstrations count, and stand for others, more."""

from __future__ import annotations

import dataclasses

import numpy as np
from pydantic import Field

from data_engine.selection import Budget, Candidates, Chosen, resolve_budget
from data_engine.selection.coverage import Coverage
from data_engine.selection.pool import known_scores, reasons_for, vector_pool

__all__ = ["QualityCoverage", "ranks"]


class QualityCoverage(Coverage):
    """Choose ``budget`` candidates for sum_i q_i max_j q_j cos+(i, j): near everything good, by something good.

    q is 1 - ``strength`` + ``strength`` times the candidate's rank by the score ``by`` among the candidates (1 the
    best), so a score's scale and outliers do not matter; ``strength`` 0 is ``coverage``. Still monotone and submodular,
    so greedy keeps its bound. A candidate without the score is left out, and the reason says so.
    """

    name = "quality_coverage"

    by: str = Field(min_length=1)
    strength: float = Field(0.9, ge=0, le=1)

    @property
    def needs_score(self) -> str:
        """``by``."""
        return self.by

    def select(self, candidates: Candidates, targets: Candidates | None, *, budget: Budget | None, seed: int) -> Chosen:
        """``budget`` candidates. Raises ``RequestError`` for ``auto``, and where no vector or no score can be used."""
        scores = known_scores(candidates, self.by)
        pool = vector_pool(candidates)
        known = np.isfinite(scores[pool.rows])
        unknown = dict.fromkeys(pool.rows[~known].tolist(), f"left out: {self.by} is not known of it")
        pool = dataclasses.replace(
            pool, rows=pool.rows[known], vectors=pool.vectors[known], left_out={**pool.left_out, **unknown}
        )
        count = min(resolve_budget(budget, len(candidates)), len(pool))
        if not count:
            reasons = reasons_for(len(candidates), pool.left_out, pool.rows, [])
            return Chosen(pool.rows, np.ones(0), reasons, {"candidates": len(candidates), "chosen": 0, "by": self.by})
        rank = ranks(scores[pool.rows])
        said = [f", better than {share:.0%} by {self.by}" for share in rank.tolist()]
        chosen = self._cover(candidates, pool, 1 - self.strength + self.strength * rank, count, seed, said)
        share = {"chosen": float(rank[np.isin(pool.rows, chosen.order)].mean()), "everything": float(rank.mean())}
        return dataclasses.replace(chosen, report={**chosen.report, "mean_rank": share, "by": self.by})


def ranks(scores: np.ndarray) -> np.ndarray:
    """float64 [n]: the share of the others that each is better than, ties counting half: 0 to 1, and 1 alone."""
    n = len(scores)
    if n < 2:
        return np.ones(n)
    ordered = np.sort(scores)
    below = np.searchsorted(ordered, scores, "left")
    ties = np.searchsorted(ordered, scores, "right") - below
    return (below + (ties - 1) / 2) / (n - 1)
