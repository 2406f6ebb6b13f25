"""Normalisation statistics of one (embodiment, control mode), in one pass and bounded memory.

Non-finite and missing values are ignored and counted, so one bad episode poisons nobody. Nothing depends on the order
or the grouping in which steps arrive: sums are carried in extended precision and quantiles come from the steps with
the smallest keyed hashes (bottom-k sampling; Cohen, Kaplan 2007), all of them while there are at most 65,536.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from data_engine.arrays import is_numeric, to_array
from data_engine.canonical import round_significant
from data_engine.model import TIMESTAMP
from data_engine.sampling import hash_key, random_bits

__all__ = ["Accumulator", "FeatureStatistics", "GroupStatistics"]

FeatureStatistics = dict[str, list[float | None] | list[int] | int]
"""``mean``, ``std`` (population), ``min``, ``max``, ``q01``, ``q99``: a number a dimension, null where none is finite;
``count``: steps seen; ``missing``: non-finite or null values of each dimension."""

_SAMPLE = 65_536
_SAMPLE_VALUES = 1 << 22  # at most 32 MiB of sampled values a feature, however wide
_NOISE = 1e-12  # a mean this small beside its range is what rounding left of zero


class GroupStatistics:
    """Statistics of every numeric column but time, over the step tables that were added."""

    def __init__(self) -> None:
        self._features: dict[str, Accumulator] = {}
        self._void: Counter[str] = Counter()

    def add(self, steps: pa.Table, content_hash: str, start: int = 0) -> None:
        """Add the steps of one episode from step ``start`` on. ``content_hash`` keys the quantiles' sample."""
        keys = random_bits(hash_key("statistics", content_hash), np.arange(start, start + steps.num_rows))
        for field in steps.schema:
            if is_numeric(field.type) and not pa.types.is_boolean(field.type) and not _is_time(field.name):
                values = to_array(steps.column(field.name), field.name)
                wide = values.astype(np.float64).reshape(steps.num_rows, -1)
                if wide.shape[1] == 0:  # nothing but nulls, not even their width is known
                    self._void[field.name] += steps.num_rows
                    continue
                if field.name not in self._features:
                    self._features[field.name] = Accumulator(wide.shape[1])
                self._features[field.name].add(wide, keys)

    def result(self) -> dict[str, FeatureStatistics]:
        """The statistics of each feature, numbers to 6 significant digits."""
        for name, steps in self._void.items():
            if name in self._features:
                self._features[name].count += steps
        self._void.clear()
        return {name: self._features[name].result() for name in sorted(self._features)}


class Accumulator:
    """Moments, extremes and a quantile sample of one feature of ``width`` dimensions."""

    def __init__(self, width: int) -> None:
        self.count = 0
        self.finite = np.zeros(width, np.int64)
        self.sum = np.zeros(width, np.longdouble)
        self.squares = np.zeros(width, np.longdouble)
        self.low = np.full(width, np.inf)
        self.high = np.full(width, -np.inf)
        self.capacity = min(_SAMPLE, max(_SAMPLE_VALUES // width, 1024))
        self._keys: list[np.ndarray] = []
        self._values: list[np.ndarray] = []

    def add(self, values: np.ndarray, keys: np.ndarray) -> None:
        """Add ``values`` float64 [n, width]; ``keys`` uint64 [n] say which steps the quantile sample keeps."""
        finite = np.isfinite(values)
        filled = np.where(finite, values, 0.0)
        n = finite.sum(0)
        with np.errstate(over="ignore", invalid="ignore"):
            total = filled.sum(0)
            mean = total / np.maximum(n, 1)
            spread = (np.where(finite, values - mean, 0.0) ** 2).sum(0)
            self.squares += spread + n * np.square(mean.astype(np.longdouble))
            self.sum += total
        self.count += len(values)
        self.finite += n
        self.low = np.minimum(self.low, np.where(finite, values, np.inf).min(0, initial=np.inf))
        self.high = np.maximum(self.high, np.where(finite, values, -np.inf).max(0, initial=-np.inf))
        self._keys.append(keys)
        self._values.append(np.where(finite, values, np.nan))
        if sum(map(len, self._keys)) > 2 * self.capacity:
            self._shrink()

    def _shrink(self) -> None:
        keys, values = np.concatenate(self._keys), np.concatenate(self._values)
        if len(keys) > self.capacity:
            kept = np.argpartition(keys, self.capacity)[: self.capacity]
            keys, values = keys[kept], values[kept]
        self._keys, self._values = [keys], [values]

    def result(self) -> FeatureStatistics:
        """The statistics of what was added. O(sample)."""
        n = np.maximum(self.finite, 1)
        mean = self.sum / n
        with np.errstate(over="ignore", invalid="ignore"):
            variance = np.maximum(self.squares / n - mean**2, 0)
        constant = self.low >= self.high
        std = np.where(constant, 0.0, np.sqrt(variance)).astype(np.float64)
        mean = np.where(constant, self.low, mean).astype(np.float64)
        mean[np.abs(mean) < _NOISE * np.maximum(np.abs(self.low), np.abs(self.high))] = 0.0
        self._shrink()
        columns = [column[np.isfinite(column)] for column in self._values[0].T]
        q01, q99 = ([np.quantile(column, q) if len(column) else np.nan for column in columns] for q in (0.01, 0.99))
        empty = self.finite == 0
        found: Mapping[str, np.ndarray] = {
            "mean": mean, "std": std, "min": self.low, "max": self.high, "q01": np.array(q01), "q99": np.array(q99),
        }  # fmt: skip
        rounded: FeatureStatistics = {
            name: [None if gone else round_significant(float(v)) for v, gone in zip(values, empty, strict=True)]
            for name, values in found.items()
        }
        rounded["count"] = self.count
        rounded["missing"] = (self.count - self.finite).tolist()
        return rounded


def _is_time(name: str) -> bool:
    return name == TIMESTAMP or name.startswith("frame_time.")
