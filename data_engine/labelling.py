"""What a labeller is: the protocol of everything that says something of spans of steps, and what it says.

An annotation is a claim with its author: segments, subgoals, keyposes, captions, verdicts, progress, rewards. It is
appended, never changed, and deletes nothing. The numbers that sum an episode's annotations up are its scores.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from data_engine.scoring import EpisodeBatch, Fit, Metric, Producer, ScoreRow, Spec

__all__ = ["Annotation", "LabelSpec", "Labeller", "Labels"]


@dataclass(frozen=True)
class Annotation:
    """What is said of the steps [start, stop) of an episode.

    ``label``: a short category (``gripper_closes``); ``text``: words (a caption, a judge's raw answer); ``value``: a
    number, None where it is not known, never NaN; ``step_values``: float32 [stop - start], a number a step, NaN where
    not known. ``confidence``: 0 to 1, None where the producer has none. ``reason``: why it says so, or why it cannot.
    """

    kind: str
    start: int
    stop: int
    label: str | None = None
    text: str | None = None
    value: float | None = None
    step_values: np.ndarray | None = None
    confidence: float | None = None
    reason: str | None = None


@dataclass(frozen=True)
class LabelSpec(Spec):
    """A labeller's statement of itself: a scorer's, with the kinds of its annotations.

    ``metrics`` are what sums an episode up; there is at least one, and its row says that the episode was labelled, even
    where nothing was found.
    """

    kinds: tuple[str, ...] = ()


@dataclass(frozen=True)
class Labels:
    """What a labeller says of one episode: annotations in any order, and a row for every metric of its spec."""

    annotations: Sequence[Annotation] = ()
    scores: Sequence[ScoreRow] = ()

    @classmethod
    def undefined(cls, metrics: Iterable[Metric], reason: str) -> Labels:
        """Nothing can be said, and why."""
        return cls((), tuple(ScoreRow(metric.name, None, "undefined", reason) for metric in metrics))


class Labeller(Producer):
    """Says something of spans of steps. Its fields are its parameters; ``spec`` is what it says of itself."""

    spec: ClassVar[LabelSpec]

    @abstractmethod
    def label(self, batch: EpisodeBatch, fit: Fit, *, device: str = "cpu") -> list[Labels]:
        """The labels of every episode of ``batch``, in its order. One bad episode never changes another's."""
