"""How far motion follows actions at a place, as other episodes of the task show it: contact resists everybody.

A hand that pushes does not go where it is told, and that is no fault of the recording. A defect is what one episode
does that others in the same place do not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np

from data_engine.reference import RawEpisode, key_of
from data_engine.view import View
from scorers.kernels.phases import nearest_of_each
from scorers.kernels.response import Response, Rows

__all__ = ["Places"]

_EPISODES = 128  # of a task
_STEPS = 8192  # of them all
_LEAST = 3  # other episodes, below which nothing is known of a place
_NEAREST = 8  # other episodes, each by its nearest step
_KIND = 0.75  # quantile of what they show: the benefit of the doubt is not that of defects that many share
_WINDOW = 9  # steps that agree together


@dataclass(frozen=True)
class Places:
    """What the reference of one task shows: ``place`` float32 [m, dp], the positions of its steps; ``owner`` [m], whose
    they are, sorted; ``agreed`` float32 [m, ds], the concordance of motion and call in the nine steps around; ``key``
    uint64 [E], whose recording is whose."""

    place: np.ndarray
    owner: np.ndarray
    agreed: np.ndarray
    key: np.ndarray

    @staticmethod
    def learn(found: Sequence[tuple[RawEpisode, Rows, Response]], view: View, seed: int) -> Places:
        """Of at most 128 episodes of a task, drawn by motion hash, every so many steps."""
        drawn = sorted(found, key=lambda one: key_of(seed, one[0].motion_hash, "places"))[:_EPISODES]
        every = slice(None, None, max(-(-sum(len(rows) for _, rows, _ in drawn) // _STEPS), 1))
        return Places(
            place=np.concatenate([_place(raw, rows, view) for raw, rows, _ in drawn])[every],
            owner=np.repeat(np.arange(len(drawn)), [len(rows) for _, rows, _ in drawn])[every],
            agreed=np.concatenate([_agreed(response) for _, _, response in drawn])[every],
            key=np.array([_key(raw) for raw, _, _ in drawn], np.uint64),
        )

    def expected(
        self, raw: RawEpisode, rows: Rows, response: Response, view: View, device: str = "cpu"
    ) -> np.ndarray | None:
        """The concordance [ds] that others would show where ``raw`` was: at each step the upper quartile of the eight
        nearest other episodes, weighed by how much moves or is called for there. None where there are fewer than three.

        O(steps x reference steps).
        """
        edges = np.searchsorted(self.owner, np.arange(len(self.key) + 1))
        others = (self.key != _key(raw)) & (np.diff(edges) > 0)
        if others.sum() < _LEAST:
            return None
        distance, index = nearest_of_each(_place(raw, rows, view), self.place, edges, device)
        nearest = np.argsort(distance[:, others], axis=1, kind="stable")[:, :_NEAREST]
        shown = self.agreed[np.take_along_axis(index[:, others], nearest, axis=1)]
        size = response.surprise**2 + response.call**2
        total = size.sum(axis=0)
        return (size * np.quantile(shown, _KIND, axis=1)).sum(axis=0) / np.where(total > 0, total, 1.0)

    def arrays(self) -> dict[str, np.ndarray]:
        """Every field."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @staticmethod
    def load(arrays: Mapping[str, np.ndarray]) -> Places:
        """What :meth:`arrays` kept."""
        return Places(**{field.name: arrays[field.name] for field in fields(Places)})


def _key(raw: RawEpisode) -> np.uint64:
    return np.uint64(key_of(0, raw.motion_hash, "place"))


def _place(raw: RawEpisode, rows: Rows, view: View) -> np.ndarray:
    """float32 [m, dp]: where everything is at the predictable steps."""
    measured = view.measure(raw)
    return measured.state[(np.cumsum(measured.valid) - 1)[rows.step], : measured.positions]


def _agreed(response: Response) -> np.ndarray:
    """float32 [m, ds]: concordance of motion and call around each step; 0 where nothing moves or is called for."""
    both, size = (_around(x) for x in (response.surprise * response.call, response.surprise**2 + response.call**2))
    return np.where(size > 0, 2 * both / np.where(size > 0, size, 1.0), 0.0).astype(np.float32)


def _around(x: np.ndarray) -> np.ndarray:
    """Sums [m, ds] over the ``_WINDOW`` steps around each."""
    half = _WINDOW // 2
    total = np.concatenate([np.zeros((1, x.shape[1])), np.cumsum(x, axis=0)])
    at = np.arange(len(x))
    return total[np.minimum(at + half + 1, len(x))] - total[np.maximum(at - half, 0)]
