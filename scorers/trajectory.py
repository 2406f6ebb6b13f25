"""The default embedding space: an episode as the path of its state and action, without any learned weights.

With x(u) a coordinate of the view resampled to 64 points of relative time u, and c its first 8 orthonormal cosine
(DCT-II) coefficients over root 64, sum c^2 is the mean square of the smoothed path: so the squared distance of two
episodes is the mean squared distance of their smoothed paths, plus the same of what the path leaves out:

    vector = [c(position), c(action), rough(position), rough(action), speed, end(position), log(duration in s) / 2]

``rough`` is the root mean square of what 8 coefficients miss (jitter, hesitation), ``speed`` the mean absolute view
velocity, ``end`` the last position. Blocks are normalised by the view, each to one size whatever its width; nothing is
whitened, which would lift noise to the rank of signal. Vectors shorter than ``SIZE`` are padded with zeros (distances
unchanged), longer ones projected at random once and for all (Johnson and Lindenstrauss 1984; distances to some 5 %).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

import numpy as np

from data_engine.reference import Reference, episodes
from data_engine.scoring import Clips, Encoded, Encoder, EpisodeBatch, Fit, Metric, Resources, Spec
from data_engine.view import EpisodeView, View, fit_views

__all__ = ["SIZE", "Trajectory"]

SIZE = 256
_POINTS, _ORDERS = 64, 8
_REFERENCE_STEPS = 20_000


class Trajectory(Encoder):
    """Vectors float32 [256] of whole episodes; comparable within one (embodiment, control mode) and fit."""

    spec: ClassVar[Spec] = Spec(
        name="trajectory",
        version="2",
        level="episode",
        metrics=(Metric("vector", "view units", "neither"),),
        resources=Resources(cpus=1),
    )

    def fit(
        self, batches: Iterable[EpisodeBatch], *, base: Fit | None = None, seed: int = 0, device: str = "cpu"
    ) -> Fit:
        """Learn the view of each (embodiment, control mode) and draw the projection where vectors need one."""
        reference = Reference(batches, seed=seed, budget=_REFERENCE_STEPS)
        views = fit_views(reference)
        arrays = {}
        for number, (group, view) in enumerate(views.items()):
            width = len(describe(view.measure(reference.groups[group][0]), reference.groups[group][0].dataset.fps))
            if width > SIZE:
                draw = np.random.default_rng([seed, width]).standard_normal((width, SIZE))
                arrays[f"{number}.projection"] = np.linalg.qr(draw)[0] * np.sqrt(width / SIZE)
        return self.learned(
            reference.seen,
            seed=seed,
            base=base,
            arrays=arrays,
            meta={"views": {group: view.as_dict() for group, view in views.items()}},
        )

    def encode(self, batch: EpisodeBatch, fit: Fit, *, device: str = "cpu") -> list[Encoded]:
        """The vector of each episode; none where it has no finite step, or nothing like it was in the reference."""
        views = {group: View(**found) for group, found in fit.meta["views"].items()}
        numbers = {group: number for number, group in enumerate(views)}
        found = []
        for raw, span in zip(episodes(batch), batch, strict=True):
            if raw.problem is not None or raw.group not in views or not raw.finite.any():
                found.append(Encoded(Clips.none()))
                continue
            full = describe(views[raw.group].measure(raw), raw.dataset.fps)
            projection = fit.arrays.get(f"{numbers[raw.group]}.projection")
            # einsum sums in one fixed order, a threaded matrix product does not
            short = full if projection is None else np.einsum("i,ij->j", full, projection)
            vector = np.pad(short, (0, SIZE - len(short)))
            found.append(Encoded(Clips.whole(span.stop - span.start, vector)))
        return found


def describe(view: EpisodeView, fps: float) -> np.ndarray:
    """The unprojected vector, float64, of an episode with at least one valid step."""
    position, speed = view.state[:, : view.positions], view.state[:, view.positions :]
    when = np.flatnonzero(view.valid)
    blocks, rough = [], []
    for series in (position, view.action):
        path = _resampled(series.astype(np.float64), when)
        coefficients = _COSINES @ path / np.sqrt(_POINTS)
        blocks.append(coefficients.ravel())
        missed = (path**2).mean(axis=0) - (coefficients**2).sum(axis=0)
        rough.append(np.sqrt(np.maximum(missed, 0.0)))
    duration = np.log(len(view.valid) / fps) / 2
    return np.concatenate([*blocks, *rough, np.abs(speed).mean(axis=0), position[-1], [duration]])


def _resampled(series: np.ndarray, when: np.ndarray) -> np.ndarray:
    """``series`` [m, d], known at steps ``when``, at 64 even points between the first and the last, linearly."""
    at = np.linspace(when[0], when[-1], _POINTS)
    right = np.clip(np.searchsorted(when, at), 1, max(len(when) - 1, 1)) if len(when) > 1 else np.zeros(_POINTS, int)
    left = np.maximum(right - 1, 0)
    gap = np.maximum(when[right] - when[left], 1)
    share = ((at - when[left]) / gap)[:, None]
    return series[left] * (1 - share) + series[right] * share


def _cosines() -> np.ndarray:
    order, point = np.arange(_ORDERS)[:, None], np.arange(_POINTS)[None]
    basis = np.cos(np.pi * (point + 0.5) * order / _POINTS) * np.sqrt(2 / _POINTS)
    basis[0] /= np.sqrt(2)
    return basis


_COSINES = _cosines()
