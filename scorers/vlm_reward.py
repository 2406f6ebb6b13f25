"""A reward a step from the frames and two prompts (VLM-RM, Rocamonde et al. 2023): nearer the goal is worth more."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import BeforeValidator, Field, model_validator

from data_engine.errors import RequestError
from data_engine.labelling import Annotation, Labeller, Labels, LabelSpec
from data_engine.scoring import Clips, EpisodeBatch, Fit, Metric, Resources, ScoreRow
from scorers.kernels.vlm_reward import mean_prompt, reward
from scorers.open_clip import Beside

__all__ = ["VLMReward"]


def _phrasings(given: Any) -> Any:
    """One prompt as the only phrasing."""
    return (given,) if isinstance(given, str) else given


_Prompts = Annotated[tuple[str, ...], BeforeValidator(_phrasings)]


class VLMReward(Beside, Labeller):
    """R = 1 - 0.5 ||(s - g) P||^2 of each step's stored frame vector s, goal prompts g, baseline prompts b.

    ``goal``: what is to be seen in the end; ``baseline``: what is to be seen without it; of several phrasings each is
    normalised and the mean taken. ``alpha``: how far only the line from b to g counts, 0 (plain cosine) to 1.
    ``space``, ``camera`` and the model as of :class:`scorers.open_clip.Beside`; without a camera it is the mean over
    cameras. Frames are never encoded here: another prompt costs a few texts and one pass over the stored vectors. A
    vector's reward is that of every step it stands for.

    Annotations: one ``reward`` an episode, a value a step, NaN where no frame was looked at. Scores: ``final`` (mean of
    the last tenth), ``gain`` (that less the mean of the first tenth), ``mean``.
    """

    goal: _Prompts = Field(min_length=1)
    baseline: _Prompts = Field(min_length=1)
    alpha: float = Field(default=0.5, ge=0, le=1)

    spec: ClassVar[LabelSpec] = LabelSpec(
        name="vlm_reward",
        version="1",
        level="step",
        metrics=(
            Metric("final", "reward", "higher"),
            Metric("gain", "reward", "higher"),
            Metric("mean", "reward", "higher"),
        ),
        resources=Resources(cpus=1, memory_mb=4096),
        learns=False,
        kinds=("reward",),
    )

    @model_validator(mode="after")
    def _says_something(self) -> VLMReward:
        if not all(text.strip() for text in (*self.goal, *self.baseline)):
            raise ValueError("an empty prompt says nothing")
        return self

    def fit(
        self, batches: Iterable[EpisodeBatch], *, base: Fit | None = None, seed: int = 0, device: str = "cpu"
    ) -> Fit:
        """The two prompts as vectors. Raises ``RequestError`` where they are the same to the model."""
        goal, baseline = (mean_prompt(self.towers.texts(texts, device)) for texts in (self.goal, self.baseline))
        if np.allclose(goal, baseline, atol=1e-6):
            raise RequestError(
                "goal and baseline mean the same to the model", code="bad_prompt", fix="word the baseline differently"
            )
        return Fit(
            self.spec.name, self.spec.version, self.config, seed, (),
            arrays={"goal": goal, "baseline": baseline}, meta={"model": self.towers.model_version()},
        )  # fmt: skip

    def label(self, batch: EpisodeBatch, fit: Fit, *, device: str = "cpu") -> list[Labels]:
        """The reward of every step of every episode, and what sums it up."""
        return [
            self._labels(clips, span.stop - span.start, fit)
            for clips, span in zip(batch.spaces[self.space], batch, strict=True)
        ]

    def _labels(self, clips: Clips, n: int, fit: Fit) -> Labels:
        mine = self.shown(clips)
        if not len(mine):
            return Labels.undefined(self.spec.metrics, "no frames in the space" + _of(self.camera))
        found = reward(mine.vectors, fit.arrays["goal"], fit.arrays["baseline"], self.alpha)
        total, seen = np.zeros(n), np.zeros(n)
        for start, stop, value in zip(mine.starts, mine.stops, found, strict=True):
            total[start:stop] += value
            seen[start:stop] += 1
        steps = np.divide(total, seen, out=np.full(n, np.nan), where=seen > 0)
        known = steps[seen > 0]
        tenth = max(len(known) // 10, 1)
        final, first, mean = float(known[-tenth:].mean()), float(known[:tenth].mean()), float(known.mean())
        return Labels(
            [Annotation("reward", 0, n, label=self.camera, text=" | ".join(self.goal), value=mean, step_values=steps)],
            [ScoreRow("final", final, step_values=steps), ScoreRow("gain", final - first), ScoreRow("mean", mean)],
        )


def _of(camera: str | None) -> str:
    return f" of camera {camera}" if camera else ""
