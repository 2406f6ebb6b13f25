"""Does a clip show what its instruction says, rather than what the other instructions of the dataset say?

Every text is liked by a model's images in general more or less, so a clip's likeness to a text counts against that of
the reference clips to the same text: z = (c t - mean_j c_j t) / std_j c_j t, c the mean of the clip's frame vectors, t
the text's. What is compared is one model's images and texts (CLIP, Radford et al. 2021).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

import numpy as np
from pydantic import Field

from data_engine.model import TIMESTAMP
from data_engine.reference import key_of
from data_engine.scoring import Clips, EpisodeBatch, Fit, Metric, Needs, Resources, Scorer, ScoreRow, Spec
from scorers.open_clip import Beside, instructions

__all__ = ["InstructionMatch"]

_CLIPS = 1024  # of the reference that say how much a text is liked in general
_TEXTS = 4096  # that a clip is held against
_SPEC = Spec(
    name="instruction_match",
    version="2",
    level="episode",
    metrics=(
        Metric("match", "fraction of other instructions", "higher"),
        Metric("margin", "standard deviations", "higher"),
    ),
    needs=Needs(columns=(TIMESTAMP,), spaces=("open_clip",)),
    resources=Resources(cpus=1, memory_mb=4096),
)


class InstructionMatch(Beside, Scorer):
    """How a clip's own instruction does against the others of the reference set.

    ``space``, ``camera`` and the model as of :class:`scorers.open_clip.Beside`. An instruction whose
    vector has a cosine of at least ``same`` with the clip's own says the same and is not held against it.

    Metrics: ``match``, the fraction of other instructions that fit the clip worse than its own (0.5 is chance);
    ``margin``, z of its own less z of the best other, which ``reason`` names where it is the better one. Undefined
    where there are no frames, no instruction, or no other one.
    """

    same: float = Field(default=0.98, gt=0, le=1)

    spec: ClassVar[Spec] = _SPEC

    def fit(
        self, batches: Iterable[EpisodeBatch], *, base: Fit | None = None, seed: int = 0, device: str = "cpu"
    ) -> Fit:
        """Keep the reference's instructions and, of some of its clips, the vectors."""
        clips: dict[int, np.ndarray] = {}
        texts: dict[int, str] = {}
        seen = []
        for batch in batches:
            rows = batch.episodes.select(["task", "language", "content_hash"]).to_pylist()
            for row, found in zip(rows, batch.spaces[self.space], strict=True):
                seen.append(row["content_hash"])
                if (vector := self._clip(found)) is not None:
                    _keep(clips, _CLIPS, key_of(seed, found.hash), vector)
                for text in instructions(row):
                    _keep(texts, _TEXTS, key_of(seed, text), text)
        said = sorted(texts.values())
        vectors = self.towers.texts(said, device)
        held = [clips[key] for key in sorted(clips)]
        return Fit(
            self.spec.name, self.spec.version, self.config, seed, tuple(seen),
            arrays={"texts": vectors, "clips": np.array(held, np.float32).reshape(len(held), -1)},
            meta={"texts": said, "model": self.towers.model_version()}, base=base.id if base else None,
        )  # fmt: skip

    def score(self, batch: EpisodeBatch, fit: Fit, *, device: str = "cpu") -> list[list[ScoreRow]]:
        """Match and margin of every episode."""
        known = dict(zip(fit.meta["texts"], fit.arrays["texts"], strict=True))
        rows = [instructions(row) for row in batch.episodes.select(["task", "language"]).to_pylist()]
        new = sorted({text for texts in rows for text in texts} - set(known))
        known |= dict(zip(new, self.towers.texts(new, device), strict=True))
        return [
            self._rows(self._clip(found), np.array([known[text] for text in texts], np.float64), texts, fit)
            for found, texts in zip(batch.spaces[self.space], rows, strict=True)
        ]

    def _clip(self, clips: Clips) -> np.ndarray | None:
        mine = self.shown(clips)
        return mine.vectors.mean(axis=0, dtype=np.float64) if len(mine) else None

    def _rows(self, clip: np.ndarray | None, own: np.ndarray, said: list[str], fit: Fit) -> list[ScoreRow]:
        texts, clips = fit.arrays["texts"].astype(np.float64), fit.arrays["clips"].astype(np.float64)
        if clip is None or not said or len(clips) < 2:
            problem = "no frames in the space" if clip is None else "no instruction" if not said else "no other clips"
            return [ScoreRow(metric.name, None, "undefined", problem) for metric in self.spec.metrics]
        other = (texts @ own.T).max(axis=1) < self.same
        if not other.any():
            return [ScoreRow(metric.name, None, "undefined", "no other instruction") for metric in self.spec.metrics]
        mine = _z(clip, clips, own).max()
        theirs = _z(clip, clips, texts[other])
        best = fit.meta["texts"][int(np.flatnonzero(other)[theirs.argmax()])]
        below = float((theirs < mine).mean() + 0.5 * (theirs == mine).mean())
        margin = float(mine - theirs.max())
        reason = f"it looks more like: {best}" if margin < 0 else None
        return [ScoreRow("match", below, reason=reason), ScoreRow("margin", margin, reason=reason)]


def _z(clip: np.ndarray, clips: np.ndarray, texts: np.ndarray) -> np.ndarray:
    """[k] how much a clip [d] is like each of ``texts`` [k, d], in deviations of ``clips`` [n, d] from their mean."""
    usual = clips @ texts.T
    return (texts @ clip - usual.mean(axis=0)) / np.maximum(usual.std(axis=0), 1e-9)


def _keep(held: dict, most: int, key: int, value: object) -> None:
    """Hold ``value`` while its key is among the ``most`` least: a sample that depends on no order."""
    held[key] = value
    if len(held) > most:
        del held[max(held)]
