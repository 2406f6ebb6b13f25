"""What a selector may choose from: usable units, in an order that follows from content and not from names or rows."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from data_engine.errors import RequestError
from data_engine.selection import Candidates

__all__ = ["Pool", "canonical_order", "known_scores", "reasons_for", "unit_keys", "vector_pool", "vector_pools"]

_RANGE = re.compile(r":\d+:\d+$")


@dataclass(frozen=True)
class Pool:
    """The units that have a usable vector, in canonical order.

    ``rows`` int64 [u]: their indices in the caller's order. ``vectors`` float64 [u, d]: finite, none of them zero.
    ``left_out``: the caller's index of every other unit, and why.
    """

    rows: np.ndarray
    vectors: np.ndarray
    left_out: Mapping[int, str]

    def __len__(self) -> int:
        return len(self.rows)


def unit_keys(units: Candidates) -> list[str]:
    """What identifies each unit's content: its content hash, and its step range where the id names one."""
    if not len(units):
        raise RequestError(
            "there are no candidates to choose from", code="no_candidates", fix="loosen the where clause"
        )
    ranges = (match.group() if (match := _RANGE.search(name)) else "" for name in units.ids)
    return [key + span for key, span in zip(units.content_hashes, ranges, strict=True)]


def canonical_order(units: Candidates) -> np.ndarray:
    """int64 [n]: the units sorted by content; only equal recordings fall back on their names."""
    keys = unit_keys(units)
    return np.asarray(sorted(range(len(units)), key=lambda i: (keys[i], units.ids[i])), dtype=np.int64)


def vector_pools(candidates: Candidates, targets: Candidates | None) -> tuple[Pool, Pool]:
    """The usable candidates and targets of a selector that works on vectors.

    Left out with a reason: a non-finite or zero vector, and a candidate that is the same recording as a target. Raises
    ``RequestError`` where nothing usable remains on either side, or where their vectors differ in length.
    """
    if targets is None or not len(targets):
        raise RequestError(
            "this method needs targets", code="no_targets", fix="give --target, as in \"success AND operator = 'a'\""
        )
    wanted = _usable(targets, "target")
    pool = _usable(candidates, "candidate", exclude=frozenset(unit_keys(targets)))
    if pool.vectors.shape[1] != wanted.vectors.shape[1]:
        raise RequestError(
            f"candidates have {pool.vectors.shape[1]} numbers a vector and targets {wanted.vectors.shape[1]}",
            code="unlike_spaces",
            fix="embed both with the same encoder version",
        )
    return pool, wanted


def vector_pool(candidates: Candidates) -> Pool:
    """The usable candidates of a selector that works on vectors and needs no targets: see :func:`vector_pools`."""
    return _usable(candidates, "candidate")


def known_scores(candidates: Candidates, by: str) -> np.ndarray:
    """float64 [n], the larger the better, NaN where unknown. Raises ``RequestError`` where they came without."""
    if candidates.scores is None:
        raise RequestError(f"the candidates come without {by}", code="no_scores", fix="score them first")
    return np.asarray(candidates.scores, dtype=np.float64)


def reasons_for(n: int, left_out: Mapping[int, str], rows: np.ndarray, lines: Sequence[str]) -> list[str]:
    """One line for each of ``n`` candidates: ``lines`` [u] for ``rows`` [u], ``left_out`` for the others."""
    said = {**left_out, **dict(zip(rows.tolist(), lines, strict=True))}
    return [said[i] for i in range(n)]


def _usable(units: Candidates, role: str, exclude: Collection[str] = ()) -> Pool:
    keys, order = unit_keys(units), canonical_order(units)
    if units.vectors is None:
        raise RequestError(
            f"the {role}s have no vectors", code="no_vectors", fix="run embed first, or choose another method"
        )
    vectors = np.asarray(units.vectors, dtype=np.float64)
    finite = np.logical_and.reduce(np.isfinite(vectors), axis=1)
    nonzero = np.logical_or.reduce(vectors != 0, axis=1)
    left_out: dict[int, str] = {}
    for i in order.tolist():
        if keys[i] in exclude:
            left_out[i] = "left out: the same recording as a target"
        elif not finite[i]:
            left_out[i] = "left out: its vector has a value that is not finite"
        elif not nonzero[i]:
            left_out[i] = "left out: its vector is zero"
    rows = np.asarray([i for i in order.tolist() if i not in left_out], dtype=np.int64)
    if not len(rows):
        why = next(iter(left_out.values())).removeprefix("left out: ")
        raise RequestError(f"none of the {len(units)} {role}s can be used: {why}", code="no_usable_vectors")
    return Pool(rows, vectors[rows], left_out)
