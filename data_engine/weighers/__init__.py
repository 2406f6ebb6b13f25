"""How the units of a selection are weighed: one weigher a file. Arrays and steps in, weights out, nothing of the lake.

What a weight means is the mixture's ``unit``: under ``step`` a unit is drawn as its weight times its length, under
``episode`` as its weight. A weigher that knows how often a unit should be drawn asks :meth:`Drawn.share_out`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from data_engine.errors import EngineError, RequestError
from data_engine.model import Dataset
from data_engine.registry import Plugin
from data_engine.sampling import Unit

__all__ = ["Drawn", "Weigher", "Weights", "mean_one"]


@dataclass(frozen=True)
class Drawn:
    """The k units of one entry of a mixture.

    ``weights`` float64 [k]: what the selection gave. ``n_steps`` int64 [k]. ``unit``: what the mixture draws.
    ``datasets``, ``tasks``, ``operators``, ``kinds`` (embodiment/control mode), ``content_hashes`` [k]; "" where
    unknown. ``described``: the datasets by name. ``scores`` float64 [k]: of the score that the weigher asked for, the
    larger the better, NaN where unknown. ``steps()`` yields (i, the steps of unit i), each unit once, in the order of
    the files. ``seed``: the mixture's.
    """

    weights: np.ndarray
    n_steps: np.ndarray
    unit: Unit = "step"
    datasets: Sequence[str] = ()
    tasks: Sequence[str] = ()
    operators: Sequence[str] = ()
    kinds: Sequence[str] = ()
    content_hashes: Sequence[str] = ()
    described: Mapping[str, Dataset] = field(default_factory=dict)
    scores: np.ndarray | None = None
    steps: Callable[[], Iterator[tuple[int, pa.Table]]] | None = None
    seed: int = 0

    def __len__(self) -> int:
        return len(self.weights)

    def groups(self, over: str) -> tuple[list[str], np.ndarray]:
        """The names [g] of the groups by ``over`` (dataset, task, operator), sorted, and int64 [k] whose each is."""
        named: Sequence[str] = getattr(self, f"{over}s")
        names = sorted(set(named))
        place = {name: number for number, name in enumerate(names)}
        return names, np.array([place[name] for name in named], dtype=np.int64)

    def per_unit(self, share: np.ndarray) -> np.ndarray:
        """Weights float64 [k] under which unit i is drawn as ``share`` [k] says.

        Raises ``RequestError`` where the mixture draws datasets, which such a weight says nothing of.
        """
        if self.unit == "dataset":
            raise RequestError(
                "this weigher says how often an episode is drawn, but the mixture draws datasets",
                code="bad_mixture",
                fix="use unit: step or episode",
            )
        return mean_one(share / self.n_steps if self.unit == "step" else share)

    def share_out(self, group: np.ndarray, share: np.ndarray) -> np.ndarray:
        """Weights float64 [k] under which group g is drawn as ``share`` [g] says; in it, as the selection's weights do.

        ``group`` int64 [k]. Raises ``RequestError`` where the mixture draws datasets.
        """
        mass = mean_one(self.weights) * (self.n_steps if self.unit == "step" else 1)
        return self.per_unit(mass * (share / np.bincount(group, mass, minlength=len(share)))[group])


@dataclass(frozen=True)
class Weights:
    """``values`` float64 [k], positive, mean 1; ``report``: what was found on the way, plain JSON."""

    values: np.ndarray
    report: Mapping[str, Any] = field(default_factory=dict)


class Weigher(Plugin):
    """A way to weigh what was selected. Its fields are its parameters."""

    name: ClassVar[str]
    needs_steps: ClassVar[bool] = False

    @property
    def needs_score(self) -> str | None:
        """The name of the score (as in expressions) that the units are wanted with."""
        return None

    @abstractmethod
    def weigh(self, drawn: Drawn) -> Weights:
        """How often each unit is drawn relative to the others.

        Raises ``EngineError`` for weights that cannot be brought to that form, ``RequestError`` where what they need is
        not known of some unit: nothing is filled in.
        """


def mean_one(weights: np.ndarray) -> np.ndarray:
    """``weights`` as float64 scaled to mean 1. Raises ``EngineError`` unless all are finite and positive."""
    weights = np.asarray(weights, dtype=np.float64)
    if not (np.isfinite(weights).all() and (weights > 0).all()):
        raise EngineError("a weight is not a positive finite number", code="bad_weight")
    return weights / weights.mean() if len(weights) else weights
