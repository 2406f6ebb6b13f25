"""Which step the k-th sample of an epoch is: counter-based draws and keyed permutations, nothing stored, nothing
shuffled.

Sample k is a pure function of (key, epoch, k), so any rank, worker or restart computes its own samples and none has to
replay another's. The generator is splitmix64 (Steele, Lea, Flood 2014) read at a counter; the permutation is a Feistel
network over the next power of two, walked until it lands inside (Black, Rogaway 2002).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from data_engine.canonical import digest
from data_engine.errors import RequestError

__all__ = ["Draws", "Epoch", "Unit", "Units", "WeightKind", "hash_key", "permute", "uniform"]

WeightKind = Literal["probability", "repeat", "choose"]
Unit = Literal["episode", "step", "dataset"]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_ROUNDS = 6


def hash_key(*parts: object) -> int:
    """A 64-bit key out of ``parts`` (by their text)."""
    return int(digest([str(part) for part in parts], length=16), 16)


def _mix(x: np.ndarray) -> np.ndarray:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def random_bits(key: int | np.ndarray, counter: np.ndarray) -> np.ndarray:
    """uint64 at ``counter`` (int64, >= 0) of the stream ``key``; arrays broadcast."""
    with np.errstate(over="ignore"):
        return _mix(np.asarray(key, np.uint64) + (np.asarray(counter).astype(np.uint64) + np.uint64(1)) * _GOLDEN)


def uniform(key: int | np.ndarray, counter: np.ndarray) -> np.ndarray:
    """float64 in [0, 1) at ``counter`` of the stream ``key``, 53 bits."""
    return (random_bits(key, counter) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def permute(index: np.ndarray, size: int | np.ndarray, key: int | np.ndarray) -> np.ndarray:
    """Where ``index`` (int64 in [0, size)) goes under the keyed permutation of [0, size).

    Bijective for every ``size`` up to 2**62 and every ``key``; ``size`` and ``key`` may be arrays beside ``index``.
    O(1) memory and, on average, under two walks of six rounds an index.
    """
    out = np.atleast_1d(np.asarray(index, np.uint64)).copy()
    sizes = np.broadcast_to(np.asarray(size, np.uint64), out.shape)
    keys = np.broadcast_to(np.asarray(key, np.uint64), out.shape)
    bits = np.maximum(np.frexp(np.maximum(sizes.astype(np.float64) - 1, 0))[1], 2).astype(np.uint64)
    walking = np.arange(out.size)
    while walking.size:
        out[walking] = _feistel(out[walking], bits[walking], keys[walking])
        walking = walking[out[walking] >= sizes[walking]]
    return out.astype(np.int64).reshape(np.shape(index))


def _feistel(x: np.ndarray, bits: np.ndarray, key: np.ndarray) -> np.ndarray:
    one = np.uint64(1)
    low = bits >> one
    high = bits - low
    with np.errstate(over="ignore"):
        for number in range(_ROUNDS):  # an even number: the halves differ by a bit and swap each round
            right = x & ((one << low) - one)
            left = (x >> low) ^ (_mix(right + key + np.uint64(number + 1) * _GOLDEN) & ((one << high) - one))
            x = (right << high) | left
            low, high = high, low
    return x


@dataclass(frozen=True)
class Units:
    """What is drawn from: R ranges of steps. ``entry`` and ``dataset`` int64 [R], ``weight`` float64 [R] inside its
    entry, ``length`` int64 [R] steps; ``entry_weights`` float64 [E].
    """

    entry: np.ndarray
    dataset: np.ndarray
    weight: np.ndarray
    length: np.ndarray
    entry_weights: np.ndarray


class Draws:
    """The drawing of a mixture: what its weights mean.

    ``probability``: an entry by its weight, in it a unit by its weight, in it a step, independently for each sample,
    ``epoch_size`` samples an epoch (default: as many as there are steps). ``repeat``: a unit is passed over entry
    weight x its own weight times an epoch. ``choose``: as many units of the entry an epoch as the entry's weight
    says, shared out by their own weights. In the last two a fraction of a pass falls to some units an epoch, other
    ones the next, and the epoch is shuffled by a keyed permutation.

    A unit is a ``step``, an ``episode`` (range) drawn whole, or all that an entry takes from one ``dataset``, which
    weighs the mean of its rows; inside a dataset, steps of a ``probability`` draw follow the rows' weights.
    """

    def __init__(
        self,
        units: Units,
        kind: WeightKind,
        unit: Unit,
        epoch_size: int | None,
        key: int,
        factors: Callable[[np.ndarray], np.ndarray] | None = None,
    ) -> None:
        """``factors``: of the samples float64 [R] that each row would give, what to multiply them with: quotas."""
        if not len(units.length):
            raise RequestError("there is nothing to draw from: no episode", code="empty_mixture")
        self.units, self.kind, self.key = units, kind, key
        self.by_step = unit == "step"
        self.size = int(units.length.sum()) if epoch_size is None else epoch_size
        self.group, shares, expected = _shares(units, unit)
        if kind == "probability":
            shares = shares * units.entry_weights[units.entry]
            self.cumulative = np.cumsum(shares if factors is None else shares * factors(shares))
            self.cumulative /= self.cumulative[-1]
        else:
            self.passes = _passes(units, kind, unit, self.group, expected)
            if factors is not None:
                self._scale(factors)

    def epoch(self, number: int) -> Epoch:
        """The samples of epoch ``number``. O(R)."""
        if self.kind == "probability":
            return Epoch(self, number, self.size, self.cumulative)
        return Epoch(self, number, *self._counted(number))

    def rates(self) -> np.ndarray:
        """How often an epoch draws each step of each row, in expectation: float64 [R].

        It is all of the weights that a rule without the mixture's own drawing can keep: what differs is the scatter
        around it (independent draws against whole passes).
        """
        if self.kind == "probability":
            return np.diff(self.cumulative, prepend=0.0) * self.size / self.units.length
        passes = self.passes[self.group]
        return passes / self.units.length if self.by_step else passes

    def _scale(self, factors: Callable[[np.ndarray], np.ndarray]) -> None:
        """Multiply the passes with ``factors`` of the samples that they come to."""
        passes = self.passes[self.group]
        factor = factors(passes if self.by_step else passes * self.units.length)
        first = np.unique(self.group, return_index=True)[1]
        if not np.allclose(factor, factor[first][self.group], rtol=1e-9):
            raise RequestError(
                f"a dataset holds several provenances, and {self.kind} draws it whole, so no quota can be met",
                code="bad_mixture",
                fix="use unit: episode or step",
            )
        self.passes = self.passes * factor[first]

    def _counted(self, number: int) -> tuple[int, np.ndarray]:
        """How many samples each row gives this epoch, cumulated: whole passes, and a keyed choice of who gets one
        more.
        """
        units = self.units
        first = np.unique(self.group, return_index=True)[1]
        key = hash_key(self.key, "counts", number)
        order = np.lexsort((random_bits(key, np.arange(len(first))), units.entry[first]))
        start = uniform(key, np.array([len(first)]))[0]
        reached = np.floor(np.round(np.cumsum(self.passes[order]), 9) + start)
        counts = np.empty(len(first), np.int64)
        counts[order] = np.diff(reached, prepend=np.floor(start)).astype(np.int64)
        samples = counts if self.by_step else counts[self.group] * units.length
        cumulative = np.cumsum(samples)
        return int(cumulative[-1]), cumulative


class Epoch:
    """One epoch: ``len`` samples, and which step each of them is."""

    def __init__(self, draws: Draws, number: int, size: int, cumulative: np.ndarray) -> None:
        self.draws, self.size, self.cumulative = draws, size, cumulative
        self.row_key, self.step_key = (hash_key(draws.key, part, number) for part in ("row", "step"))

    def __len__(self) -> int:
        return self.size

    def at(self, k: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """``(row, offset)`` of samples ``k`` (int64 in [0, len)): the range and the step in it, counted from its start.

        The same for any grouping of ``k``. Raises ``IndexError`` outside the epoch.
        """
        k = np.asarray(k, np.int64)
        if len(k) and (k.min() < 0 or k.max() >= self.size):
            raise IndexError(f"sample {int(k.max())} of an epoch of {self.size}")
        length = self.draws.units.length
        if self.draws.kind == "probability":
            row = np.searchsorted(self.cumulative, uniform(self.row_key, k), side="right")
            row = np.minimum(row, len(length) - 1)
            size = length[row]
            return row, np.minimum((uniform(self.step_key, k) * size).astype(np.int64), size - 1)
        place = permute(k, self.size, self.row_key)
        row = np.searchsorted(self.cumulative, place, side="right")
        before = np.where(row > 0, self.cumulative[row - 1], 0)
        size = length[row]
        offset = (place - before) % size
        if self.draws.by_step:  # the last, partial pass takes any of the row's steps, not its first ones
            offset = permute(offset, size, random_bits(self.step_key, row))
        return row, offset


def _shares(units: Units, unit: Unit) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(group [R] of rows that are drawn together, share [R] of each row in its entry, weight [G] of each group)."""
    entries = len(units.entry_weights)
    mass = units.weight * units.length
    if unit == "dataset":
        pair = units.entry * (units.dataset.max() + 1) + units.dataset
        first, group = np.unique(pair, return_index=True, return_inverse=True)[1:]
        mean = np.bincount(group, units.weight) / np.bincount(group)
        entry_total = np.bincount(units.entry[first], mean, minlength=entries)
        inside = mass / np.bincount(group, mass)[group]
        return group, mean[group] / entry_total[units.entry] * inside, mean
    weight = mass if unit == "step" else units.weight
    total = np.bincount(units.entry, weight, minlength=entries)
    return np.arange(len(weight)), weight / total[units.entry], weight


def _passes(units: Units, kind: WeightKind, unit: Unit, group: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """How often each group is drawn an epoch, on average [G]: in steps where the unit is a step, else in whole
    passes.
    """
    first = np.unique(group, return_index=True)[1]
    entry = units.entry[first]
    if unit == "dataset" and not np.allclose(units.weight, weight[group], rtol=1e-6):
        raise RequestError(
            f"weights differ inside a dataset, which {kind} draws whole",
            code="bad_mixture",
            fix="use unit: episode or step, or weigher: uniform",
        )
    if kind == "repeat":
        return units.entry_weights[entry] * weight
    return units.entry_weights[entry] * weight / np.bincount(entry, weight, minlength=len(units.entry_weights))[entry]
