"""Coverage: the few episodes that stand for all of them (facility location over the space's cosines)."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from pydantic import Field

from data_engine.selection import Budget, Candidates, Chosen, Selector, resolve_budget
from data_engine.selection.facility import Facilities, Located, locate
from data_engine.selection.neighbours import directions
from data_engine.selection.pool import Pool, reasons_for, vector_pool
from data_engine.selection.random import draw

__all__ = ["DENSE_BELOW", "Coverage"]

DENSE_BELOW = 2_000
"""Candidates below which every pair counts: 48 MB; above, each candidate's ``neighbours`` nearest do."""


class Coverage(Selector):
    """Choose ``budget`` candidates such that every candidate has one of them near: sum_i max_j cos+(i, j), lazy greedy.

    The set is worth at least 1 - 1/e of the best of its size, and ``report["at_least"]`` says what it is certain to be
    worth here. Cosines are those of the vectors about their mean (``centre``), so that what all have in common tells
    nobody apart; negative ones count as 0. From ``DENSE_BELOW`` candidates on, a candidate is only ever stood for by
    its ``neighbours`` nearest. Choose ``within`` [scene, objects, task, operator] to cover each stratum first.

    ``weigh="represented"`` weighs a chosen one by how many it stands for (Mirzasoleiman et al. 2020, CRAIG: the
    gradients of the chosen then sum to about those of all); by default all alike. A smaller budget is a prefix of a
    larger one.
    """

    name = "coverage"
    needs_vectors = True

    neighbours: int = Field(64, ge=1, le=2048)
    centre: bool = True
    weigh: Literal["alike", "represented"] = "alike"

    def select(self, candidates: Candidates, targets: Candidates | None, *, budget: Budget | None, seed: int) -> Chosen:
        """``budget`` candidates. Raises ``RequestError`` for ``auto`` and where no vector can be used."""
        pool = vector_pool(candidates)
        count = min(resolve_budget(budget, len(candidates)), len(pool))
        return self._cover(candidates, pool, np.ones(len(pool)), count, seed)

    def _cover(
        self,
        candidates: Candidates,
        pool: Pool,
        quality: np.ndarray,
        count: int,
        seed: int,
        said: list[str] | None = None,
    ) -> Chosen:
        """Choose ``count`` of ``pool``, where each counts, and stands for others, by its ``quality`` float64 [u]."""
        units = directions(pool.vectors, self.centre)
        facilities = _pairs(units, self.neighbours).scaled(quality)
        found = locate(facilities, quality, count)
        at_random = np.argsort(_places(candidates, seed)[pool.rows])[:count]
        report: dict[str, Any] = {
            "candidates": len(candidates),
            "unusable": len(pool.left_out),
            "chosen": count,
            "pairs": "all" if len(pool) < DENSE_BELOW else f"{self.neighbours} nearest",
            "coverage": found.value / float(quality.sum()),
            "coverage_at_random": _value(facilities, quality, at_random) / float(quality.sum()),
            "at_least": max(1 - 1 / np.e, found.value / found.bound) if found.bound else 1.0,
            "looks": found.looks,
        }
        weights = np.ones(count)
        if self.weigh == "represented":
            weights = np.maximum(np.bincount(found.by[found.by >= 0], minlength=len(pool))[found.order], 1)
            weights = weights / weights.mean()
        lines = _explain(found, candidates, pool, said or [""] * len(pool))
        return Chosen(
            pool.rows[found.order], weights, reasons_for(len(candidates), pool.left_out, pool.rows, lines), report
        )


def _pairs(units: np.ndarray, neighbours: int) -> Facilities:
    if len(units) >= DENSE_BELOW:
        return Facilities.sparse(units, neighbours)
    cosine = np.round(np.clip(units @ units.T, 0.0, 1.0), 6)  # equal vectors tie, whatever a product's rounding
    np.fill_diagonal(cosine, 1.0)
    return Facilities.dense(cosine.astype(np.float32))


def _value(facilities: Facilities, demand: np.ndarray, rows: np.ndarray) -> float:
    """f of a set that was chosen otherwise."""
    worth = np.zeros(len(facilities))
    for j in rows.tolist():
        mine = slice(facilities.offsets[j], facilities.offsets[j + 1])
        np.maximum.at(worth, facilities.rows[mine], facilities.values[mine])
    return float(worth @ demand)


def _places(candidates: Candidates, seed: int) -> np.ndarray:
    """int64 [n]: where a random draw puts each candidate."""
    place = np.empty(len(candidates), dtype=np.int64)
    place[draw(candidates, seed)] = np.arange(len(candidates))
    return place


def _explain(found: Located, candidates: Candidates, pool: Pool, said: list[str]) -> list[str]:
    """One line for each of the pool."""
    place = dict(zip(found.order.tolist(), range(1, len(found.order) + 1), strict=True))
    stands_for = np.bincount(found.by[found.by >= 0], minlength=len(pool)).tolist()
    lines = []
    for j, more in enumerate(said):
        if j in place:
            gain = found.gains[place[j] - 1]
            lines.append(f"chosen: {place[j]}. pick, adds {gain:.4f}, stands for {stands_for[j]} of {len(pool)}{more}")
        elif found.by[j] < 0:
            lines.append(f"left out: nothing chosen is near it, and it stands for too few{more}")
        else:
            name = candidates.ids[int(pool.rows[found.by[j]])]
            lines.append(f"left out: {name} stands for it, worth {found.worth[j]:.4f}{more}")
    return lines
