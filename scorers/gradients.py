"""An embedding space of what demonstrations would teach: per-sample gradients of a small policy, projected.

TAROT (Feng et al., "TAROT: Targeted Data Selection via Optimal Transport", 2024) chooses by these; the idea that a
sample is what it does to the weights is that of influence functions (Koh and Liang 2017) and TRAK (Park et al. 2023).
The policy is behaviour cloning on the reference set, stopped early: one that has converged leaves of most
demonstrations nothing but their noise. Of each linear layer the gradient of a step's loss is the outer product of the
slope at its output and its input, so both sides are projected before they are multiplied (Choe et al., "What is Your
Data Worth to GPT?", 2024) and the gradient itself is never formed: distances and angles between gradients are kept to
some 1/sqrt of the coordinates (Johnson and Lindenstrauss 1984).

A vector is the mean over the steps of a clip: what the clip teaches, whatever its length. Clips are step ranges, so the
space serves selections of segments; an episode's vector is the mean of its clips', a dataset's that of its episodes'.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import ClassVar

import numpy as np
import torch
from pydantic import Field

from data_engine.reference import Reference, episodes
from data_engine.scoring import Clips, Encoded, Encoder, EpisodeBatch, Fit, Metric, Resources, Spec
from data_engine.view import EpisodeView
from scorers.cloning import Clones, Demonstrations
from scorers.influence import OBJECTIVE, tensors
from scorers.kernels import policy
from scorers.kernels.influence import sides
from scorers.pool import REFERENCE_STEPS, usual

__all__ = ["Gradients"]

_LAYERS = 3  # of the policy
_MEASURED = 20_000  # reference steps of a group that say how large a gradient usually is
_USUAL = 99.0  # percentile


class Gradients(Encoder):
    """Vectors float32 [``members`` x 3 x ``side``^2] of clips of ``steps`` steps; comparable within one (embodiment,
    control mode) and fit.

    The policy expects chunks of ``chunk`` actions and is trained for at most ``iterations``, ``members`` times from
    other beginnings; each has a part of the vector, so a product of two vectors is the mean over the members. Each of
    its layers has ``side`` x ``side`` coordinates, padded with zeros where the layer is smaller. A step's gradient that
    is longer than 99 % of the reference's own is cut to that length: one wild step is not a clip's whole lesson.
    """

    members: int = Field(default=1, ge=1, le=16)
    chunk: int = Field(default=4, ge=1, le=64)
    steps: int = Field(default=16, ge=1)
    side: int = Field(default=16, ge=2, le=64)
    iterations: int = Field(default=300, ge=1)

    spec: ClassVar[Spec] = Spec(
        name="gradients",
        version="2",
        level="step",
        metrics=(Metric("vector", "log-likelihood a weight", "neither"),),
        resources=Resources(cpus=1),
    )

    def fit(
        self, batches: Iterable[EpisodeBatch], *, base: Fit | None = None, seed: int = 0, device: str = "cpu"
    ) -> Fit:
        """Train the policy of each (embodiment, control mode), draw the projections, and measure usual lengths."""
        reference = Reference(batches, seed=seed, budget=REFERENCE_STEPS)
        clones = Clones.fit(
            reference, seed=seed, folds=1, members=self.members, horizon=self.chunk, limit=self.iterations,
            device=device,
        )  # fmt: skip
        arrays, lengths = clones.arrays(), {}
        for number, (group, weights) in enumerate(sorted(clones.weights.items())):
            draw = np.random.default_rng([seed % 2**63, number])
            for member in range(self.members):
                for at, layer in enumerate(_linears(policy.module(weights, member))):
                    arrays[f"{group}.{member}.{at}.left"] = _projection(draw, layer.out_features, self.side)
                    arrays[f"{group}.{member}.{at}.right"] = _projection(draw, layer.in_features + 1, self.side)
            views = usual([clones.views[group].measure(raw) for raw in reference.groups[group]])
            some = Demonstrations.of(views, clones.tasks[group], clones.horizon).thinned(_MEASURED)
            length = np.linalg.norm(self._steps(some, weights, arrays, group, device), axis=1)
            lengths[group] = float(np.percentile(length, _USUAL))
        return self.learned(
            reference.seen, seed=seed, base=base, arrays=arrays, meta=clones.meta() | {"lengths": lengths}
        )

    def encode(self, batch: EpisodeBatch, fit: Fit, *, device: str = "cpu") -> list[Encoded]:
        """The clips of each episode; none where it has no finite step, or there is no policy for what it is."""
        clones = Clones.load(fit)
        found = []
        for raw in episodes(batch):
            if raw.problem is not None or raw.group not in clones.weights or not raw.finite.any():
                found.append(Encoded(Clips.none()))
                continue
            view = clones.views[raw.group].measure(raw)
            vectors = self._steps(clones.steps(view), clones.weights[raw.group], fit.arrays, raw.group, device)
            length = np.linalg.norm(vectors, axis=1, keepdims=True)
            vectors *= np.minimum(1.0, fit.meta["lengths"][raw.group] / np.maximum(length, 1e-300))
            found.append(Encoded(self._clips(view, vectors)))
        return found

    def _clips(self, view: EpisodeView, vectors: np.ndarray) -> Clips:
        """Parts of like length, of the valid steps in each the mean of their ``vectors`` [m, size]."""
        n = len(view.valid)
        edges = np.linspace(0, n, max(round(n / self.steps), 1) + 1).round().astype(np.int64)
        place = np.cumsum(np.r_[0, view.valid])  # of how many valid steps there are before each
        starts, stops, means = [], [], []
        for start, stop in pairwise(edges.tolist()):
            mine = vectors[place[start] : place[stop]]
            if len(mine):
                starts.append(start)
                stops.append(stop)
                means.append(mine.mean(axis=0))
        vectors = np.array(means, np.float32)
        return Clips(np.array(starts, np.int64), np.array(stops, np.int64), (None,) * len(starts), vectors)

    def _steps(
        self,
        steps: Demonstrations,
        weights: Mapping[str, np.ndarray],
        arrays: Mapping[str, np.ndarray],
        group: str,
        device: str,
    ) -> np.ndarray:
        """The projected gradient of each step, float64 [n, members x 3 x side^2]."""
        parts = []
        for member in range(self.members):
            module = policy.module(weights, member).to(device)
            names = [name for name, layer in module.named_modules() if isinstance(layer, torch.nn.Linear)]
            rows = []
            for part in tensors(steps, weights, device):
                found = sides(module, OBJECTIVE, part)
                rows.append(torch.cat([
                    self._outer(*found[name], *(
                        torch.from_numpy(np.asarray(arrays[f"{group}.{member}.{at}.{side}"], np.float64)).to(device)
                        for side in ("left", "right")
                    ))
                    for at, name in enumerate(names)
                ], dim=1))  # fmt: skip
            parts.append(torch.cat(rows).cpu().numpy())
        return np.concatenate(parts, axis=1) / np.sqrt(self.members)

    def _outer(
        self, inputs: torch.Tensor, slopes: torch.Tensor, left: torch.Tensor, right: torch.Tensor
    ) -> torch.Tensor:
        """[n, side^2]: the outer product of both sides, projected."""
        product = torch.einsum("no,ni->noi", slopes @ left, inputs @ right)
        short = (self.side - product.shape[2], self.side - product.shape[1])
        return torch.nn.functional.pad(product, (0, short[0], 0, short[1])).flatten(1)


def _linears(module: torch.nn.Module) -> Sequence[torch.nn.Linear]:
    return [layer for layer in module.modules() if isinstance(layer, torch.nn.Linear)]


def _projection(draw: np.random.Generator, wide: int, narrow: int) -> np.ndarray:
    """[wide, narrow or less]: orthonormal columns, scaled so that lengths are kept on average; nothing to do where it
    is narrow already."""
    if wide <= narrow:
        return np.eye(wide, dtype=np.float32)
    basis = np.linalg.qr(draw.standard_normal((wide, narrow)))[0]
    return (basis * np.sqrt(wide / narrow)).astype(np.float32)
