"""One sample alone, cut out of mapped columns: the arrays of a batch cost more than all that one sample holds.

It is for windows of floats, as states and actions mostly are. Whatever else is asked for (frames, texts, goals,
transitions, masks of what is missing, absent or padded) is read as a batch of one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from data_engine.cache import LRU
from data_engine.model import TIMESTAMP
from data_engine.windows import CLOCK, Column, Span, span_of

if TYPE_CHECKING:
    from data_engine.samples import Samples

__all__ = ["Single", "only"]

_FILES = 1024  # whose columns are kept at hand

Window = tuple[int, int]  # its first step relative to the sample's own, and how many there are


@dataclass(frozen=True, slots=True)
class _Cut:
    """How a column of one steps file is cut: ``values`` [N] or [N, d]; ``shape`` as delivered, None where it is so."""

    name: str
    values: np.ndarray
    window: Window
    shape: tuple[int, ...] | None
    column: Column

    def __call__(self, at: int, first: int, last: int) -> np.ndarray:
        """The window about file row ``at``, kept inside [first, last]: a copy."""
        low = at + self.window[0]
        high = low + self.window[1]
        if low >= first and high <= last + 1:
            found = np.array(self.values[low:high], self.column.dtype)
        else:
            found = self.values.take(np.arange(low, high).clip(first, last), axis=0).astype(self.column.dtype)
        if self.column.shift is not None:
            found = found.reshape(len(found), -1)
            found -= self.column.shift
            found *= self.column.scale
        return found if self.shape is None else found.reshape(self.shape)


class Single:
    """The samples of ``samples`` one by one."""

    def __init__(self, samples: Samples) -> None:
        asked = samples.windows
        more = asked.transitions or asked.goals or asked.texts or asked.pad_to
        self._samples = samples
        self._is_plain = not more and not any(absent.any() for absent in samples._absent.values())
        self._past, self._future = _window(samples, "past"), _window(samples, "future")
        self._cuts: LRU[tuple[int, int], list[_Cut] | None] = LRU(_FILES, self._of_file)

    def read(self, row: int, offset: int) -> dict[str, Any] | None:
        """What the mixture's ``row`` shows at ``offset``, without the sample's number; None where a batch has to."""
        samples = self._samples
        key = samples._file.item(row), samples._dataset.item(row)
        cuts = self._cuts(key) if self._is_plain else None
        first, last = samples._first.item(row), samples._last.item(row)
        if cuts is None or last >= len(cuts[-1].values):
            return None
        at = first + offset
        found: dict[str, Any] = {cut.name: cut(at, first, last) for cut in cuts}
        found["observation_is_pad"] = _beyond(self._past, at, first, last)
        found["action_is_pad"] = _beyond(self._future, at, first, last)
        found["step"] = np.array(samples._start.item(row) + offset)
        found["episode_id"] = samples._episode_ids.item(row)
        for name, (texts, code) in samples._texts.items():
            found[name] = texts[code.item(row)]
        return found

    def _of_file(self, key: tuple[int, int]) -> list[_Cut] | None:
        """The cuts of a steps file of a dataset, its clock last; None where a column is more than plain numbers."""
        samples, (file, dataset) = self._samples, key
        path, layout = samples._files[file].as_py(), samples._layouts[dataset]
        if layout.cameras:
            return None
        cuts = []
        for name, column in (*layout.columns.items(), (TIMESTAMP, CLOCK)):
            if not column.has_nan or column.size != column.width:
                return None
            values = samples.mixture.array(path, name)
            each = () if values.ndim == 1 and column.size == 1 else (column.size,)
            if values.dtype.kind not in "fiub" or values.shape[1:] != each:
                return None
            span = span_of(name)
            window = _window(samples, span)
            wanted = column.shape if span == "here" else (window[1], *column.shape)
            given = (window[1], *values.shape[1:])
            as_given = wanted == given and column.shift is None
            cuts.append(_Cut(name, values, window, None if as_given else wanted, column))
        same = len({len(cut.values) for cut in cuts}) == 1
        return cuts if same else None


def only(batch: Mapping[str, Any]) -> dict[str, Any]:
    """The sample of a batch of one: its arrays without the batch dimension."""
    return {name: values[0, ...] if isinstance(values, np.ndarray) else values[0] for name, values in batch.items()}


def _window(samples: Samples, span: Span) -> Window:
    deltas = samples.deltas[span]
    return int(deltas[0]), len(deltas)


def _beyond(window: Window, at: int, first: int, last: int) -> np.ndarray:
    """bool [W]: which steps of the window about ``at`` lie outside of [first, last]."""
    low = at + window[0]
    high = low + window[1]
    if low >= first and high <= last + 1:
        return np.zeros(window[1], bool)
    steps = np.arange(low, high)
    return (steps < first) | (steps > last)
