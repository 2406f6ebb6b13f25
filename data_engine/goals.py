"""Goals for a sample, drawn with hindsight: a step that its episode reached later, or any other.

Andrychowicz et al., "Hindsight Experience Replay" (2017); the shares of kinds as in Park et al., "OGBench" (2025).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from data_engine.errors import RequestError
from data_engine.model import STATE
from data_engine.sampling import hash_key, uniform

__all__ = ["Goals", "Peers"]

_KINDS = ("future", "final", "here", "random")


@dataclass(frozen=True)
class Goals:
    """How the goal of a sample at step t of a range [start, stop) is drawn.

    ``future``, ``final``, ``here`` and ``random`` are the shares of each kind and sum to 1. ``future``: one of the
    steps t + 1 to stop - 1 (the last step has itself), uniformly, or with ``discount`` geometrically, step t + d at a
    chance of (1 - discount) discount^(d - 1), what lies beyond the range at its last step. ``final``: the last step.
    ``here``: t itself. ``random``: any step of the same split and dataset, each alike; with ``clusters`` of
    episodes of the same cluster alone: the name of those that were frozen with the mixture (its recipe's ``clusters``),
    or your own (episode id -> number).

    ``columns`` and ``cameras``: what the goal is shown by, ``goal.<column>`` and ``goal.observation.images.<camera>``.
    """

    future: float = 1.0
    final: float = 0.0
    here: float = 0.0
    random: float = 0.0
    discount: float | None = None
    columns: tuple[str, ...] = (STATE,)
    cameras: tuple[str, ...] = ()
    clusters: str | Mapping[str, int] | None = None

    def __post_init__(self) -> None:
        shares = self.shares
        if not np.isfinite(shares).all() or (shares < 0).any() or not math.isclose(shares.sum(), 1.0, abs_tol=1e-9):
            said = ", ".join(f"{kind} {share:g}" for kind, share in zip(_KINDS, shares, strict=True))
            raise RequestError(f"shares of goals do not sum to 1: {said}", code="bad_goals")
        if self.discount is not None and not 0 < self.discount < 1:
            raise RequestError(f"discount {self.discount:g} is not between 0 and 1", code="bad_goals")

    @property
    def shares(self) -> np.ndarray:
        """float64 [4]: future, final, here, random."""
        return np.array([getattr(self, kind) for kind in _KINDS], np.float64)

    def draw(
        self, key: int, k: np.ndarray, rows: np.ndarray, offsets: np.ndarray, length: np.ndarray, peers: Peers
    ) -> tuple[np.ndarray, np.ndarray]:
        """``(row, offset)`` int64 [n] of the goals of samples ``k``, which are at ``offsets`` of ``rows``.

        ``length`` int64 [R]: steps of each row. A pure function of ``key`` and k for each sample.
        """
        kind = np.searchsorted(np.cumsum(self.shares)[:-1], uniform(hash_key(key, "kind"), k), side="right")
        place = uniform(hash_key(key, "place"), k)
        last = length[rows] - 1
        if self.discount is None:
            ahead = 1 + (place * (last - offsets)).astype(np.int64)
        else:
            steps = np.log1p(-place) / math.log(self.discount)  # the geometric's inverse
            ahead = 1 + np.minimum(steps, last).astype(np.int64)
        found = np.choose(kind, [np.minimum(offsets + ahead, last), last, offsets, offsets])
        chosen = rows.copy()
        elsewhere = np.flatnonzero(kind == _KINDS.index("random"))
        if len(elsewhere):
            chosen[elsewhere], found[elsewhere] = peers.draw(rows[elsewhere], place[elsewhere])
        return chosen, found


class Peers:
    """The steps that a random goal may be: of each row, those of rows of the same group. ``group`` int64 [m] of the
    ``rows`` [m] of a split, ``length`` [R] of every row."""

    def __init__(self, rows: np.ndarray, group: np.ndarray, length: np.ndarray) -> None:
        order = np.argsort(group, kind="stable")
        self.rows = rows[order]
        self.stops = np.cumsum(length[self.rows])  # steps of all groups behind one another
        ends = np.append(np.flatnonzero(np.diff(group[order])), len(order) - 1) if len(order) else np.zeros(0, int)
        self.ends = self.stops[ends]
        self.group = np.full(len(length), -1, np.int64)
        self.group[rows] = np.unique(group, return_inverse=True)[1]

    def draw(self, rows: np.ndarray, place: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """``(row, offset)`` of the step at ``place`` (in [0, 1)) of the groups of ``rows``."""
        group = self.group[rows]
        low = np.where(group > 0, self.ends[group - 1], 0)
        step = np.minimum(low + (place * (self.ends[group] - low)).astype(np.int64), self.ends[group] - 1)
        at = np.searchsorted(self.stops, step, side="right")
        return self.rows[at], step - np.where(at > 0, self.stops[at - 1], 0)
