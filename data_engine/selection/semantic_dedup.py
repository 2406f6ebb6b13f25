"""Semantic deduplication: of what is nearly the same, one is kept, and the others say of which they are duplicates.

After SemDeDup (Abbas et al. 2023): k-means cells, cosines inside them. The threshold is an absolute cosine: a quantile
of the nearest cosines, which later code made of it, drops its share of a set without any duplicate.
"""

from __future__ import annotations

import numpy as np
from pydantic import Field

from data_engine.errors import RequestError
from data_engine.selection import Budget, Candidates, Chosen, Selector
from data_engine.selection.neighbours import clusters, directions, nearest
from data_engine.selection.pool import known_scores, reasons_for, vector_pool

__all__ = ["SemanticDedup"]

_ONE_CELL = 4096  # units below which all are compared with all
_CELL = 512  # mean units of a cell above that
_PROBES = 2  # cells that each unit is looked for in: near duplicates may lie on both sides of a border


class SemanticDedup(Selector):
    """Keep every candidate that has no cosine of ``threshold`` or more with a better one that is kept.

    Better is the higher score where ``by`` names one (unknown ones come last), else the nearer to its cell's centroid.
    So no two of the kept are duplicates, and each that is left out has a kept one beside it, which its reason names.
    All pairs are compared up to 4,096 candidates; above, those that share one of their two nearest k-means cells.
    Weights are alike; there is no budget, as the threshold says how many remain.
    """

    name = "semantic_dedup"
    needs_vectors = True

    threshold: float = Field(0.99, gt=0, le=1)
    by: str | None = None

    @property
    def needs_score(self) -> str | None:
        """``by``."""
        return self.by

    def select(self, candidates: Candidates, targets: Candidates | None, *, budget: Budget | None, seed: int) -> Chosen:
        """What remains, best first. Raises ``RequestError`` for a budget, and where no vector or score can be used."""
        if budget is not None:
            raise RequestError(
                "semantic_dedup keeps all that are no duplicates and has no budget",
                code="bad_budget",
                fix="set threshold, or use method coverage with a budget",
            )
        pool = vector_pool(candidates)
        units = directions(pool.vectors).astype(np.float32)
        cells, central = _cells(units, seed)
        if self.by is None:
            order = np.argsort(-central, kind="stable")
        else:
            scores = known_scores(candidates, self.by)[pool.rows]
            order = np.lexsort((-central, -np.where(np.isfinite(scores), scores, -np.inf)))
        kept, of, cosine = _first_of_each(units, cells, order, self.threshold)
        lines = [
            "chosen: no better one is like it"
            if of[i] < 0
            else f"left out: duplicate of {candidates.ids[int(pool.rows[of[i]])]}, cosine {cosine[i]:.4f}"
            for i in range(len(pool))
        ]
        report = {
            "candidates": len(candidates),
            "unusable": len(pool.left_out),
            "chosen": len(kept),
            "duplicates": len(pool) - len(kept),
            "cells": int(cells.max()) + 1,
            "threshold": self.threshold,
        }
        reasons = reasons_for(len(candidates), pool.left_out, pool.rows, lines)
        return Chosen(pool.rows[kept], np.ones(len(kept)), reasons, report)


def _cells(units: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """int64 [n, p]: the cells that each unit lies in, its own first. float64 [n]: its cosine with that one's centroid,
    rounded, so that equal vectors tie.
    """
    if len(units) <= _ONE_CELL:
        centroids = directions(units.mean(axis=0, keepdims=True, dtype=np.float64))
        return np.zeros((len(units), 1), np.int64), np.round(units @ centroids[0], 6)
    centroids = clusters(units, -(-len(units) // _CELL), seed)
    cells, cosines = nearest(centroids, units, _PROBES)
    return np.where(cells >= 0, cells, cells[:, :1]), cosines[:, 0].astype(np.float64)


def _first_of_each(
    units: np.ndarray, cells: np.ndarray, order: np.ndarray, threshold: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The kept int64 [k] in ``order``; of every unit, the kept one nearest to it that made it a duplicate (-1: none),
    int64 [n], and their cosine float64 [n].

    Each unit is compared with those of its cells that were kept before: one product a unit and cell, so memory is that
    of the units whatever the number of duplicates.
    """
    sizes = np.bincount(cells.ravel(), minlength=int(cells.max()) + 1)
    held = [np.empty((0, units.shape[1]), np.float32) for _ in sizes]
    rows: list[list[int]] = [[] for _ in sizes]
    of, cosine = np.full(len(units), -1, dtype=np.int64), np.zeros(len(units))
    kept = []
    for i in order.tolist():
        mine = list(dict.fromkeys(cells[i].tolist()))
        for cell in mine:
            if not rows[cell]:
                continue
            near = np.round(held[cell][: len(rows[cell])] @ units[i], 6)
            best = int(near.argmax())
            if near[best] >= threshold and near[best] > cosine[i]:
                of[i], cosine[i] = rows[cell][best], near[best]
        if of[i] >= 0:
            continue
        kept.append(i)
        for cell in mine:
            count = len(rows[cell])
            if count == len(held[cell]):
                bigger = np.empty((min(max(16, 2 * count), int(sizes[cell])), units.shape[1]), np.float32)
                bigger[:count] = held[cell]
                held[cell] = bigger
            held[cell][count] = units[i]
            rows[cell].append(i)
    return np.asarray(kept, np.int64), of, cosine
