"""Preference pairs as samples: two pieces of behaviour, and how likely the second is the better one.

What a reward model is fitted to, or a policy is tuned by (Christiano et al. 2017; Rafailov et al. 2023). One
configuration of the loader: ``Windows(pairs=Pairs(comparisons, steps=25))``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from data_engine.errors import RequestError
from data_engine.preferences import Comparison
from data_engine.sampling import hash_key, permute, uniform

if TYPE_CHECKING:
    from data_engine.mixture import Mixture
    from data_engine.samples import Samples
    from data_engine.windows import Windows

__all__ = ["PairSamples", "Pairs"]

_SIDES = ("first", "second")


@dataclass(frozen=True)
class Pairs:
    """What is compared (:func:`data_engine.preferences.comparisons`), and how many ``steps`` of each are shown.

    Of a longer piece some consecutive steps are drawn, others each epoch; a shorter one is padded with its last step.
    """

    comparisons: tuple[Comparison, ...]
    steps: int = 16

    def __post_init__(self) -> None:
        object.__setattr__(self, "comparisons", tuple(self.comparisons))
        if self.steps < 1:
            raise RequestError(f"pairs of {self.steps} steps", code="bad_windows", fix="at least 1")


class PairSamples:
    """The comparisons whose two pieces both lie in one split of a mixture; each once an epoch, in a keyed order.

    ``left_out``: how many of the comparisons do not. Raises ``RequestError`` where none is left.
    """

    def __init__(self, mixture: Mixture, windows: Windows, *, split: str = "train", seed: int | None = None) -> None:
        from data_engine.samples import Samples

        assert windows.pairs is not None
        self.mixture, self.windows, self.split, self.pairs = mixture, windows, split, windows.pairs
        self._steps: Samples = Samples(mixture, replace(windows, pairs=None), split=split, seed=seed)
        self.seed = self._steps.seed
        found = [(self._place(pair.first), self._place(pair.second), pair) for pair in self.pairs.comparisons]
        kept = [(first, second, pair) for first, second, pair in found if first and second]
        self.left_out = len(found) - len(kept)
        if not kept:
            raise RequestError(
                f"none of {len(found)} comparisons is of steps of split {split!r} of mixture {mixture.name!r}",
                code="no_pairs",
                fix="mix the episodes that were compared",
            )
        self._places = np.array([(first, second) for first, second, _ in kept], np.int64)
        self._said = np.array([(pair.probability, pair.weight) for _, _, pair in kept], np.float32)
        self._tasks = [pair.task for _, _, pair in kept]
        self._key = hash_key(mixture.id, self.seed, split, "pairs")
        self.are_alike = self._steps.are_alike

    def __reduce__(self) -> tuple[Any, ...]:
        return _again, (self.mixture, self.windows, self.split, self.seed)

    def _place(self, item: Any) -> tuple[int, int, int] | None:
        return self._steps.place(item.episode_id, item.start, item.stop)

    def size(self, epoch: int = 0) -> int:
        """Pairs in ``epoch``."""
        return len(self._places)

    def read(self, epoch: int, k: np.ndarray) -> dict[str, Any]:
        """The pairs ``k`` (int64 [n]) of ``epoch``, batch first.

        Of ``first`` and ``second`` each: ``first.<column>`` [n, S, ...], ``first.observation.images.<camera>`` [n, S,
        3, h, w], ``first_is_pad`` bool [n, S], ``first.step`` int64 [n] where it begins, ``first.episode_id``. Beside
        them ``probability`` float32 [n] that the second is better, ``weight`` float32 [n] how much it counts, ``task``
        (None where it was asked of none), ``epoch`` and ``index`` (k). Raises as :meth:`Samples.read` does, and
        ``IndexError`` outside the epoch.
        """
        if len(k) and (k.min() < 0 or k.max() >= len(self._places)):
            raise IndexError(f"pair {int(k.max())} of an epoch of {len(self._places)}")
        chosen = permute(k, len(self._places), hash_key(self._key, epoch))
        out: dict[str, Any] = {}
        for side, name in enumerate(_SIDES):
            rows, start, stop = self._places[chosen, side].T
            spare = np.maximum(stop - start - self.pairs.steps, 0) + 1
            start = start + (uniform(hash_key(self._key, epoch, name), k) * spare).astype(np.int64)
            shown = self._steps.segments(rows, start, np.minimum(stop, start + self.pairs.steps), self.pairs.steps)
            out |= {f"{name}{'' if field == '_is_pad' else '.'}{field}": values for field, values in shown.items()}
        out["probability"], out["weight"] = self._said[chosen].T
        out["task"] = [self._tasks[i] for i in chosen.tolist()]
        out["epoch"], out["index"] = np.full(len(k), epoch, np.int64), k
        return out

    def one(self, epoch: int, k: int) -> dict[str, Any]:
        """Pair ``k`` alone: what :meth:`read` gives, without the batch dimension. Raises as it does."""
        from data_engine.single import only

        return only(self.read(epoch, np.array([k], np.int64)))

    def iterate(self, epoch: int = 0, start: int = 0) -> Iterator[dict[str, Any]]:
        """Pairs ``start``, ``start`` + 1, ... of ``epoch`` one by one, without the batch dimension."""
        for k in range(start, self.size(epoch)):
            yield {name: values[0] for name, values in self.read(epoch, np.array([k])).items()}


def _again(mixture: Mixture, windows: Windows, split: str, seed: int) -> PairSamples:
    return PairSamples(mixture, windows, split=split, seed=seed)
