"""The samples of a mixture as numpy arrays, gathered for a whole batch at once. Every loader stands on this; no
torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from data_engine.cache import LRU
from data_engine.drawing import drawing
from data_engine.errors import RequestError, SourceError
from data_engine.frames import Frames
from data_engine.goals import Goals, Peers
from data_engine.mixture import Mixture
from data_engine.model import ACTION, IMAGES, REWARD, STATE, TERMINATED, TIMESTAMP, TRUNCATED
from data_engine.pairs import PairSamples
from data_engine.places import Places
from data_engine.sampling import hash_key
from data_engine.single import Single, only
from data_engine.transitions import Transitions, outcome, to_go
from data_engine.windows import CLOCK, Column, Layout, Span, Windows, span_of

__all__ = ["Samples", "samples_of"]


class Samples:
    """The samples of one split of a mixture under ``windows``: drawn, gathered, normalised.

    Sample k of an epoch is a pure function of (mixture id, seed, split, epoch, k); ``seed`` is the mixture's own unless
    given. Raises ``RequestError`` for an empty split and for a column or camera that no dataset has.
    """

    def __init__(
        self, mixture: Mixture, windows: Windows | None = None, *, split: str = "train", seed: int | None = None
    ) -> None:
        self.mixture, self.windows, self.split = mixture, windows or Windows(), split
        self.seed = mixture.document.seed if seed is None else seed
        rows, coded = mixture.rows, mixture.coded
        names, split_of = coded.codes("split")
        splits = names.to_pylist()
        if split not in splits:
            raise RequestError(
                f"split {split!r} holds no episodes", code="empty_split", fix=f"known: {', '.join(splits)}"
            )
        self._rows = np.flatnonzero(split_of == splits.index(split))
        self._texts: dict[str, tuple[list[Any], np.ndarray]] = {}
        for name in ("task", "dataset", "embodiment", "control_mode"):
            texts, code = coded.codes(name)
            self._texts[name] = texts.to_pylist(), code
        self._episode_ids = coded.ids
        self._files, self._file = coded.codes("steps_file")
        self._first, self._last = rows["row_start"], rows["row_start"] + rows["row_count"] - 1
        self._start = rows["start"]
        datasets, self._dataset = self._texts["dataset"]
        mine = self._rows
        key = hash_key(mixture.document.mixture_id, self.seed, split)
        self._places = Places(drawing(mixture, mine, key), mine)
        self._layouts = [Layout(mixture, dataset, self.windows) for dataset in datasets]
        self._check_names()
        used = np.unique(self._dataset[mine])
        self._absent = {  # by column, bool [datasets]: those that lack it
            name: np.array([not (name in layout.columns and layout.columns[name].size) for layout in self._layouts])
            for name in self.windows.columns
        }
        self.are_alike = all(self._layouts[d].key == self._layouts[used[0]].key for d in used)
        self._frames = (
            Frames(mixture, self.windows.frame_size) if any(layout.cameras for layout in self._layouts) else None
        )
        spans: tuple[Span, ...] = ("past", "future", "here", "ahead")
        self.deltas = {span: self.windows.deltas(span) for span in spans}
        self._goal_key = hash_key(key, "goals")
        self._peers = self._drawn_from() if self.windows.goals else None
        self._to_go: LRU[int, np.ndarray] = LRU(4096, self._returns)
        self._single = Single(self)

    def __reduce__(self) -> tuple[Any, ...]:
        return _again, (self.mixture, self.windows, self.split, self.seed)

    def size(self, epoch: int = 0) -> int:
        """Samples in ``epoch``."""
        return self._places.size(epoch)

    def locate(self, epoch: int, k: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """``(row, offset)`` of samples ``k`` int64 [n]: the mixture's row, and the step counted from its ``start``.

        Raises ``IndexError`` outside the epoch.
        """
        return self._places.of(epoch, k)

    def read(self, epoch: int, k: np.ndarray) -> dict[str, Any]:
        """The samples ``k`` (int64 [n]) of ``epoch``, batch first.

        ``observation.state`` [n, H, ...], ``action`` [n, A, ...] (floats as float32, integers as int64 or uint64),
        ``observation_is_pad`` bool [n, H], ``action_is_pad`` bool [n, A], ``observation.images.<camera>`` uint8 [n,
        H, 3, h, w], other columns [n, ...], ``timestamp`` float64 [n], ``step``, ``epoch`` and ``index`` (k) int64
        [n], and lists of n texts: episode_id, task, dataset, embodiment, control_mode and those asked for. Missing
        values are NaN, those of integers and booleans true in ``<column>_is_missing``, a bool for each number. Where a
        dataset of the mixture lacks a column, ``<column>_is_absent`` bool [n] says whose zeros stand for nothing.
        With transitions and goals what these say; ``goal_distance`` int64 [n] is how many steps later in the same
        range the goal lies, -1 for any other.

        Raises ``RequestError`` where the samples are of datasets with unlike columns, widths or cameras,
        ``SourceError`` for a file that is missing or not what was frozen.
        """
        rows, offsets = self.locate(epoch, k)
        batch = _Batch(self, rows, offsets)
        layout = batch.layout
        out: dict[str, Any] = {}
        for name, column in layout.columns.items():
            span = span_of(name)
            values = batch.window(name, column, span)
            out[name] = values[:, 0] if span == "here" else values
            if not column.has_nan:
                missing = batch.missing(name, column, span)
                out[f"{name}_is_missing"] = missing[:, 0] if span == "here" else missing
            if self._absent[name].any():
                out[f"{name}_is_absent"] = self._absent[name][self._dataset[rows]]
            if name in self.windows.pad_to:
                sizes = np.array([layout.columns[name].size for layout in self._layouts])
                out[f"{name}_dim_is_pad"] = np.arange(column.shape[0]) >= sizes[self._dataset[rows]][:, None]
        out["observation_is_pad"] = batch.reach("past")[1]
        out["action_is_pad"] = batch.reach("future")[1]
        if ACTION in self._absent and self._absent[ACTION].any():
            out["action_is_pad"] = out["action_is_pad"] | self._absent[ACTION][self._dataset[rows]][:, None]
        out |= self._observed(batch, rows, "past", ())
        if self.windows.transitions is not None:
            out |= self._following(self.windows.transitions, batch, rows, offsets)
        if self.windows.goals is not None:
            out |= self._goal(self.windows.goals, epoch, k, rows, offsets)
        for name in self.windows.texts:
            out[name] = batch.text(name)
        out["timestamp"] = batch.window(TIMESTAMP, CLOCK, "here")[:, 0]
        out["step"] = self._start[rows] + offsets
        out["epoch"], out["index"] = np.full(len(k), epoch, np.int64), k
        out["episode_id"] = self._episode_ids[rows].tolist()
        for name, (texts, code) in self._texts.items():
            out[name] = [texts[c] for c in code[rows].tolist()]
        return out

    def one(self, epoch: int, k: int) -> dict[str, Any]:
        """Sample ``k`` alone: what :meth:`read` gives, without the batch dimension. Raises as it does."""
        found = self._single.read(*self._places.one(epoch, k))
        if found is None:
            return only(self.read(epoch, np.array([k], np.int64)))
        return {**found, "epoch": np.array(epoch), "index": np.array(k)}

    def place(self, episode: str, start: int = 0, stop: int | None = None) -> tuple[int, int, int] | None:
        """Where the steps [start, stop) of an episode (to its last step in the range, for None) lie in this split:
        (row, and offsets into it from where to where), or None where they do not.
        """
        for row in self._rows_of(episode):
            first = int(self._start[row])
            length = int(self._last[row] - self._first[row]) + 1
            end = first + length if stop is None else stop
            if first <= start < end <= first + length:
                return row, start - first, end - first
        return None

    @cached_property
    def _by_episode(self) -> tuple[np.ndarray, np.ndarray]:
        ids = self._episode_ids[self._rows]
        order = np.argsort(ids, kind="stable")
        return ids[order], self._rows[order]

    def _rows_of(self, episode: str) -> list[int]:
        ids, rows = self._by_episode
        low, high = np.searchsorted(ids, episode, "left"), np.searchsorted(ids, episode, "right")
        return [int(row) for row in rows[low:high]]

    def segments(self, rows: np.ndarray, start: np.ndarray, stop: np.ndarray, steps: int) -> dict[str, Any]:
        """The steps [start, stop) (int64 [n] each, offsets into mixture rows ``rows``), ``steps`` at most, batch first.

        Every column as [n, steps, ...] and every camera as uint8 [n, steps, 3, h, w], the last step repeated where
        ``_is_pad`` bool [n, steps]; ``step`` and ``episode_id`` of the first. Raises as :meth:`read` does.
        """
        batch = _Batch(self, rows, start, stop - 1, np.arange(steps))
        out = self._observed(batch, rows, "segment", list(batch.layout.columns))
        out |= {"_is_pad": batch.reach("segment")[1], "step": self._start[rows] + start}
        return {**out, "episode_id": self._episode_ids[rows].tolist()}

    def _following(
        self, asked: Transitions, batch: _Batch, rows: np.ndarray, offsets: np.ndarray
    ) -> dict[str, np.ndarray]:
        """What :class:`Transitions` says of the samples of ``batch``."""
        at, beyond = batch.reach("ahead")
        reward, ended, stopped = (batch.plain(name, at[:, :-1]) for name in (REWARD, TERMINATED, TRUNCATED))
        found = outcome(reward, ended == 1, stopped == 1, beyond, asked.discount)
        after = _Batch(self, rows, np.minimum(offsets + found.ahead, self._last[rows] - self._first[rows]))
        out = {f"next.{name}": values for name, values in self._observed(after, rows, "past").items()}
        out |= {REWARD: found.reward.astype(np.float32), "bootstrap": found.bootstrap.astype(np.float32)}
        out |= {TERMINATED: found.terminated, TRUNCATED: found.truncated, "next_is_pad": found.is_pad}
        if asked.returns:
            pairs = zip(rows.tolist(), offsets.tolist(), strict=True)
            out["return_to_go"] = np.array([self._to_go(row)[offset] for row, offset in pairs], np.float32)
        return out

    def _goal(
        self, goals: Goals, epoch: int, k: np.ndarray, rows: np.ndarray, offsets: np.ndarray
    ) -> dict[str, np.ndarray]:
        """What :class:`Goals` says of samples ``k``."""
        assert self._peers is not None
        length = self._last - self._first + 1
        chosen, at = goals.draw(hash_key(self._goal_key, epoch), k, rows, offsets, length, self._peers)
        shown = self._observed(_Batch(self, chosen, at), chosen, "here", goals.columns, goals.cameras)
        later = (chosen == rows) & (at >= offsets)
        return {
            **{f"goal.{name}": values[:, 0] for name, values in shown.items()},
            "goal_distance": np.where(later, at - offsets, -1),
        }

    def _observed(
        self,
        batch: _Batch,
        rows: np.ndarray,
        span: Span,
        columns: Sequence[str] | None = None,
        cameras: Sequence[str] | None = None,
    ) -> dict[str, np.ndarray]:
        """Columns (by default those under ``observation.``) and frames (by default all) of ``batch``, [n, W, ...]."""
        names = [name for name in batch.layout.columns if span_of(name) == "past"] if columns is None else columns
        out: dict[str, np.ndarray] = {}
        for name in names:
            column = batch.layout.columns[name]
            out[name] = batch.window(name, column, span)
            if not column.has_nan:
                out[f"{name}_is_missing"] = batch.missing(name, column, span)
        for camera in batch.layout.cameras if cameras is None else cameras:
            assert self._frames is not None
            times = batch.window(batch.layout.clocks[camera], CLOCK, span)
            out[IMAGES + camera] = self._frames.read(camera, rows, times).transpose(0, 1, 4, 2, 3)
        return out

    def _drawn_from(self) -> Peers:
        """The steps that random goals may be."""
        group = self._dataset[self._rows]
        clusters = self.windows.goals.clusters if self.windows.goals else None
        if isinstance(clusters, str):
            named = self.mixture.clusters(clusters)[self._rows].astype(np.int64)
            group = group * (named.max(initial=0) + 1) + named
        elif clusters is not None:
            ids = self._episode_ids[self._rows].tolist()
            lost = next((name for name in ids if name not in clusters), None)
            if lost is not None:
                raise RequestError(f"episode {lost} is in no cluster of the goals", code="bad_goals")
            named = np.unique([clusters[name] for name in ids], return_inverse=True)[1]
            group = group * (named.max(initial=0) + 1) + named
        return Peers(self._rows, group, self._last - self._first + 1)

    def _returns(self, row: int) -> np.ndarray:
        """The returns to go of each step of a row."""
        assert self.windows.transitions is not None
        reward = self.mixture.array(self._files[self._file[row]].as_py(), REWARD)[
            self._first[row] : self._last[row] + 1
        ]
        return to_go(reward.reshape(-1), self.windows.transitions.discount)

    def iterate(self, epoch: int = 0, start: int = 0) -> Iterator[dict[str, Any]]:
        """Samples ``start``, ``start`` + 1, ... of ``epoch`` one by one, as :meth:`read` without the batch
        dimension.
        """
        at_once = 256 if self.are_alike else 1
        for first in range(start, self.size(epoch), at_once):
            found = self.read(epoch, np.arange(first, min(first + at_once, self.size(epoch))))
            for i in range(len(found["index"])):
                yield {name: values[i] for name, values in found.items()}

    def _check_names(self) -> None:
        known = {name for layout in self._layouts for name in layout.known} | {TIMESTAMP}
        asked = [name for name in self.windows.columns if name not in (STATE, ACTION)]
        for name in self.windows.texts:
            if not any(name in layout.texts for layout in self._layouts):
                raise RequestError(
                    f"no dataset of mixture {self.mixture.name!r} has texts {name!r}",
                    code="unknown_column",
                    fix="have a labeller's in the mixture's columns: {name: NAME, producer: LABELLER, of: text}",
                )
        for name in (*asked, *(IMAGES + camera for camera in self.windows.cameras or ())):
            if name not in known:
                raise RequestError(
                    f"no dataset of mixture {self.mixture.name!r} has {name!r}",
                    code="unknown_column",
                    fix=f"known: {', '.join(sorted(known))}",
                )
        if self.windows.transitions is not None:
            used = {self._layouts[d].dataset: self._layouts[d].known for d in np.unique(self._dataset[self._rows])}
            poor = next((name for name, features in used.items() if REWARD not in features), None)
            if poor is not None:
                raise RequestError(
                    f"dataset {poor!r} has no rewards, which transitions are made of",
                    code="no_rewards",
                    fix="leave it out, or have a labeller's reward in the mixture's columns",
                )


class _Batch:
    """The windows of one batch, gathered file by file. All samples have one layout."""

    def __init__(
        self,
        samples: Samples,
        rows: np.ndarray,
        offsets: np.ndarray,
        last: np.ndarray | None = None,
        segment: np.ndarray | None = None,
    ) -> None:
        """``last``: offset of the last step to be shown, by default the row's. ``segment``: deltas of that span."""
        self.samples = samples
        self.first = samples._first[rows][:, None]
        self.last = samples._last[rows][:, None] if last is None else self.first + last[:, None]
        self.at = self.first + offsets[:, None]
        self.deltas = samples.deltas if segment is None else {**samples.deltas, "segment": segment}
        self._reach: dict[Span, tuple[np.ndarray, np.ndarray]] = {}
        dataset = samples._dataset[rows]
        self.layout = samples._layouts[dataset[0]]
        if not samples.are_alike:
            self._refuse_unlike(np.unique(dataset))
        file = samples._file[rows]
        if len(file) == 1 or (file == file[0]).all():
            parts: list[Any] = [slice(None)]
        else:
            order = np.argsort(file, kind="stable")
            parts = np.split(order, np.flatnonzero(np.diff(file[order])) + 1)
        self.parts = [
            (samples._files[file[part][0]].as_py(), samples._layouts[dataset[part][0]], part) for part in parts
        ]  # a steps file is one dataset's

    def reach(self, span: Span) -> tuple[np.ndarray, np.ndarray]:
        """(file rows int64 [n, W] of a window, kept inside the range; bool [n, W]: where it is beyond)."""
        if span not in self._reach:
            deltas = self.deltas[span]
            if len(deltas) == 1:  # the step itself is never beyond
                self._reach[span] = self.at, np.zeros(self.at.shape, bool)
            else:
                wanted = self.at + deltas
                kept = np.minimum(np.maximum(wanted, self.first), self.last)
                self._reach[span] = kept, kept != wanted
        return self._reach[span]

    def window(self, name: str, column: Column, span: Span) -> np.ndarray:
        """[n, W, *column.shape] of ``column.dtype``, normalised."""
        at = self.reach(span)[0]
        if len(self.parts) == 1 and column.size == column.width:
            found = self._take(self.parts[0][0], name, column, at)
        else:
            found = np.zeros((*at.shape, column.width), column.dtype)
            for file, layout, part in self.parts:
                mine = layout.columns.get(name, column)
                if mine.size:
                    found[part, :, : mine.size] = self._take(file, name, mine, at[part])
        return found.reshape(*at.shape, *column.shape)

    def missing(self, name: str, column: Column, span: Span) -> np.ndarray:
        """bool [n, W, *column.shape]: which numbers of :meth:`window` the recording lacks."""
        at = self.reach(span)[0]
        found = np.ones((*at.shape, column.width), bool)
        for file, layout, part in self.parts:
            size = layout.columns.get(name, column).size
            values = self.samples.mixture.array(file, name) if size else np.zeros(0)
            if size and values.dtype.kind != "f":
                found[part, :, :size] = False
            elif values.size:
                found[part, :, :size] = np.isnan(values.take(at[part], axis=0)).reshape(*at[part].shape, size)
        return found.reshape(*at.shape, *column.shape)

    def text(self, name: str) -> list[str | None]:
        """The text of each sample's own step, None where there is none."""
        found: list[str | None] = [None] * len(self.at)
        for file, layout, part in self.parts:
            if name in layout.texts:
                mine = range(len(found)) if isinstance(part, slice) else part.tolist()
                said = self.samples.mixture.texts(file, name).take(pa.array(self.at[part][:, 0])).to_pylist()
                for i, text in zip(mine, said, strict=True):
                    found[i] = text
        return found

    def plain(self, name: str, at: np.ndarray) -> np.ndarray:
        """float64 [n, W]: a scalar column at file rows ``at``, as it lies there; 0 where a dataset lacks it."""
        found = np.zeros(at.shape)
        for file, layout, part in self.parts:
            if name in layout.known:
                found[part] = self.samples.mixture.array(file, name).reshape(-1)[at[part]]
        return found

    def _take(self, file: str, name: str, column: Column, at: np.ndarray) -> np.ndarray:
        values = self.samples.mixture.array(file, name)
        if values.dtype.kind == "f" and not column.has_nan:
            values = self.samples.mixture.array(file, name, fill=True)
        try:
            found = values.take(at, axis=0)
        except IndexError as error:
            raise SourceError(
                f"{file} has {len(values)} rows, fewer than the mixture needs", code="changed_file"
            ) from error
        if found.dtype != column.dtype:
            if found.dtype.kind == "f" and not column.has_nan:
                raise SourceError(f"{name!r} in {file} holds {found.dtype}, no {column.dtype}", code="wrong_dtype")
            if found.dtype == np.uint64 and column.dtype == np.int64 and found.max(initial=0) >= 2**63:
                raise SourceError(
                    f"{name!r} in {file} holds {found.max()}, other datasets have a sign: no dtype fits both",
                    code="wrong_dtype",
                )
            found = found.astype(column.dtype)
        if values.ndim == 1:
            found = found[..., None]
        if found.shape[-1] != column.size:
            if found.shape[-1]:
                raise SourceError(
                    f"{name!r} in {file} is {found.shape[-1]} wide, not {column.size}", code="wrong_shape"
                )
            void = np.nan if column.has_nan else 0  # the whole file has nothing but nulls
            found = np.full((*at.shape, column.size), void, column.dtype)
        if column.shift is not None:
            found -= column.shift
            found *= column.scale
        return found

    def _refuse_unlike(self, datasets: np.ndarray) -> None:
        first = self.layout
        for other in (self.samples._layouts[d] for d in datasets):
            unlike = sorted(name for name in {*first.key, *other.key} if first.key.get(name) != other.key.get(name))
            if unlike:
                name = unlike[0]
                shapes = " and ".join(str(layout.key.get(name, "none")) for layout in (first, other))
                raise RequestError(
                    f"a batch holds samples of {first.dataset!r} and {other.dataset!r}, whose {name} is {shapes}",
                    code="unlike_samples",
                    fix="choose cameras that all have"
                    if name.startswith(IMAGES)
                    else f"Windows(pad_to={{{name!r}: WIDTH}})",
                )


def samples_of(
    mixture: Mixture, windows: Windows | None = None, *, split: str = "train", seed: int | None = None
) -> Samples | PairSamples:
    """What ``windows`` ask for: steps, or pairs."""
    if windows is not None and windows.pairs is not None:
        return PairSamples(mixture, windows, split=split, seed=seed)
    return Samples(mixture, windows, split=split, seed=seed)


def _again(mixture: Mixture, windows: Windows, split: str, seed: int) -> Samples:
    return Samples(mixture, windows, split=split, seed=seed)
