"""Nearest neighbours of the targets by plain cosine: the baseline of every targeted method."""

from __future__ import annotations

import numpy as np

from data_engine.selection import Budget, Candidates, Chosen, Selector, resolve_budget
from data_engine.selection.pool import reasons_for, vector_pools

__all__ = ["Nearest", "cosines", "layers"]


class Nearest(Selector):
    """Take the 1st, then the 2nd, ... nearest candidate of every target, by cosine of the vectors as they are.

    Within a round the most similar comes first. Weights are alike. Equal recordings keep their places: deduplicate
    first.
    """

    name = "nearest"
    needs_vectors = True
    needs_targets = True

    def select(self, candidates: Candidates, targets: Candidates | None, *, budget: Budget | None, seed: int) -> Chosen:
        """``budget`` candidates. Raises ``RequestError`` for ``auto``, and where vectors or targets cannot be used."""
        pool, wanted = vector_pools(candidates, targets)
        count = min(resolve_budget(budget, len(candidates)), len(pool))
        similarity = cosines(pool.vectors, wanted.vectors)
        best = similarity.max(axis=1)
        layer = layers(similarity)
        order = np.lexsort((-best, layer))
        chosen = np.zeros(len(pool), dtype=bool)
        chosen[order[:count]] = True
        lines = [
            f"{'chosen' if taken else 'left out'}: {round_ + 1}. nearest of a target, cosine {cosine:.4f}"
            for taken, round_, cosine in zip(chosen.tolist(), layer.tolist(), best.tolist(), strict=True)
        ]
        report = {
            "candidates": len(candidates),
            "unusable": len(pool.left_out),
            "targets": len(wanted),
            "chosen": count,
            "mean_cosine": float(best[order[:count]].mean()),
        }
        reasons = reasons_for(len(candidates), pool.left_out, pool.rows, lines)
        return Chosen(pool.rows[order[:count]], np.ones(count), reasons, report)


def cosines(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """float64 [n, m]: cosine of every row of ``first`` [n, d] with every row of ``second`` [m, d].

    A row that is zero, or rounding beside the others, has no direction and cosine 0. Rounded to 9 digits, so that equal
    vectors tie instead of being ordered by a product's rounding.
    """
    return np.round(np.clip(_unit(first) @ _unit(second).T, -1.0, 1.0), 9)


def layers(similarity: np.ndarray, above: float | None = None) -> np.ndarray:
    """int64 [n]: the round in which each candidate is first reached, 0 being the nearest of some target.

    ``similarity`` [n, m]. The sort is stable, so ties go to the earlier row. A pair not ``above`` the bound never
    counts; a candidate without any pair gets n.
    """
    n, m = similarity.shape
    found = np.full(n, n, dtype=np.int64)
    for j in range(m):
        order = np.argsort(-similarity[:, j], kind="stable")
        if above is not None:
            order = order[similarity[order, j] > above]
        found[order] = np.minimum(found[order], np.arange(len(order)))
    return found


def _unit(vectors: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    floor = 1e-9 * np.median(norms)
    return np.divide(vectors, norms, out=np.zeros_like(vectors), where=norms > floor)
