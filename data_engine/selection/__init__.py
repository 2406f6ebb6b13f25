"""How a subset is chosen: one selector a file. Arrays in, an order with weights and reasons out.

A selector never sees the lake. The flow hands it candidates (and targets, which are never candidates) of ONE
(embodiment, control mode), with their vectors in the embedding space where the selector needs one.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np

from data_engine.errors import RequestError
from data_engine.registry import Plugin
from data_engine.scoring import Clips

__all__ = ["Budget", "Candidates", "Chosen", "Held", "Selector", "resolve_budget"]

Budget = int | float | Literal["auto"]


@dataclass(frozen=True)
class Held:
    """What a stored selection holds of some candidates: ``rank`` int64 [n], -1 where it does not hold one, and
    ``weight`` float64 [n]."""

    name: str
    rank: np.ndarray
    weight: np.ndarray


@dataclass(frozen=True)
class Candidates:
    """Units to choose from, or targets to choose towards.

    ``ids`` [n]: episode ids, or ``id:start:stop`` for step ranges. ``content_hashes`` [n]: what randomness is keyed by,
    so that neither names nor row order change a choice. ``vectors`` float32 [n, d] or None. ``n_steps`` int64 [n].
    ``scores`` float64 [n]: of the score that the selector asked for, turned so that larger is better, NaN where it is
    not known. ``held``: the stored selections that the selector asked for. ``clips``: reads the vectors of the parts
    of some of the units, by their rows, one :class:`~data_engine.scoring.Clips` each: of frames there are too many to
    hold them all.
    """

    ids: Sequence[str]
    content_hashes: Sequence[str]
    n_steps: np.ndarray
    vectors: np.ndarray | None = None
    scores: np.ndarray | None = None
    held: Sequence[Held] = ()
    clips: Callable[[Sequence[int]], Sequence[Clips]] | None = None

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Chosen:
    """What was chosen: ``order`` int64 [k], indices into the candidates, best first; ``weights`` float64 [k], positive,
    mean 1.

    ``reasons`` has one line for every candidate, chosen or not. ``report`` is what the method measured on the way
    (plain JSON: the curve of the automatic budget, ranks kept, the baselines' figures). ``spans`` int64 [k, 2]: the
    steps [start, stop) of each that were chosen, where they are parts of candidates; one may then be in ``order`` more
    than once.
    """

    order: np.ndarray
    weights: np.ndarray
    reasons: Sequence[str]
    report: Mapping[str, Any] = field(default_factory=dict)
    spans: np.ndarray | None = None


class Selector(Plugin):
    """A way to choose. Its fields are its parameters.

    ``needs_vectors``: one vector a unit; ``needs_clips``: those of its parts. A selector of clips is offered whole
    episodes and chooses parts of them; ``segments`` cut its targets only.
    """

    name: ClassVar[str]
    needs_vectors: ClassVar[bool] = False
    needs_clips: ClassVar[bool] = False
    needs_targets: ClassVar[bool] = False
    has_auto_budget: ClassVar[bool] = False

    @property
    def needs_score(self) -> str | None:
        """The name of the score (as in expressions) that candidates are wanted with."""
        return None

    @property
    def needs_selections(self) -> tuple[str, ...]:
        """Names of the stored selections whose units are the candidates."""
        return ()

    @abstractmethod
    def select(self, candidates: Candidates, targets: Candidates | None, *, budget: Budget | None, seed: int) -> Chosen:
        """Choose from ``candidates``. ``budget``: a count, a share in (0, 1], ``auto``, or None for all of them."""


def resolve_budget(budget: Budget | None, n: int) -> int:
    """A count out of ``n``: None is all, an int is capped at n, a float in (0, 1] a share (at least one, rounded).

    Raises ``RequestError`` for what is neither, ``auto`` included (a selector that knows it resolves it itself).
    """
    if budget is None:
        return n
    if isinstance(budget, bool) or budget == "auto" or not isinstance(budget, int | float):
        raise RequestError(f"budget {budget!r} is not a count or a share", code="bad_budget", fix="give 50 or 0.5")
    if isinstance(budget, int):
        if budget < 1:
            raise RequestError(f"budget {budget} chooses nothing", code="bad_budget", fix="give at least 1")
        return min(budget, n)
    if not 0 < budget <= 1:
        raise RequestError(
            f"budget {budget} is not a share in (0, 1]", code="bad_budget", fix="give 0.5, or 50 for a count"
        )
    return min(max(round(budget * n), 1), n)
