"""Runs of short episodes on their way into the lake: checked, hashed and written together, each as if it were alone.

What is done once a run costs a hundred episodes little more than one; whose fault an error is shows where the episodes
of a run that failed are looked at one by one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from data_engine.canonical import canonical_json
from data_engine.defects import Defect, of_times
from data_engine.errors import EngineError, SourceError
from data_engine.formats import SourceEpisode, Unreadable
from data_engine.model import ACTION, STATE, TIMESTAMP, Dataset, episode_id
from data_engine.steps import EPISODE_ID, STEP, canonical, hashes, schema, steps_hashes
from flows.ingest_cameras import Cameras

__all__ = ["Run", "RunWriter", "grouped", "moves"]

_RUN_BYTES = 8 << 20  # of steps that are checked and hashed at once
_GROUP_STEPS = 1024  # a row group ends with the episode that reaches one of the two
_GROUP_BYTES = 1 << 20


@dataclass(frozen=True)
class Run:
    """Episodes as they go into the lake: their steps behind one another, each one's row and what was seen wrong."""

    episodes: Sequence[SourceEpisode]
    steps: pa.Table
    rows: Sequence[dict[str, Any]]
    seen: Sequence[list[Defect]]


class RunWriter:
    """Turns source episodes into canonical steps, blobs and rows of the episodes table, many short ones at a time."""

    def __init__(self, cameras: Cameras, dataset: Dataset) -> None:
        self.cameras, self.dataset = cameras, dataset
        self.columns = schema(dataset.features).names

    def store(self, items: Iterable[SourceEpisode | Unreadable]) -> Iterator[Run | Unreadable]:
        """``items`` in their order; what cannot be stored as what it claims to be becomes unreadable."""
        for run in _runs(items):
            yield from [run] if isinstance(run, Unreadable) else self._stored(run)

    def _stored(self, run: Sequence[SourceEpisode]) -> Iterator[Run | Unreadable]:
        try:
            stored: Run | Unreadable = self._store(run)
        except EngineError as error:
            if len(run) > 1:  # whose fault it is shows where each is looked at alone
                for episode in run:
                    yield from self._stored([episode])
                return
            stored = Unreadable(run[0].key, error.code, error.message)
        yield stored

    def _store(self, run: Sequence[SourceEpisode]) -> Run:
        """Raises ``SourceError`` where any of ``run`` cannot be stored. Those with cameras come alone."""
        offsets = np.cumsum([0, *(len(episode.steps) for episode in run)])
        together = run[0].steps if len(run) == 1 else pa.concat_tables(episode.steps for episode in run)
        steps = canonical(together, self.dataset.features, self.dataset.fps, offsets)
        times = steps.column(TIMESTAMP).to_numpy()
        given = run[0].cameras
        if len(given) < len(self.dataset.cameras):
            absent = sorted(set(self.dataset.cameras) - set(given))
            raise SourceError(f"camera {absent[0]!r} is declared and absent", code="missing_camera")
        videos: list[dict[str, Any]] = []
        clocks = of_times(times, offsets, self.dataset.fps)
        seen = [[*episode.defects, *clock] for episode, clock in zip(run, clocks, strict=True)]
        if given:
            if not (np.isfinite(times).all() and (np.diff(times) > 0).all()):
                raise SourceError("timestamps do not increase: its frames belong to no step", code="bad_timestamps")
            videos, digests, found = self.cameras.store(run[0].key, given, times, moves(steps))
            seen[0] += found
            hashed = [hashes(steps, digests)]
        else:
            hashed = [(alone, alone) for alone in steps_hashes(steps, offsets)]
        starts, ends = times[offsets[:-1]], times[offsets[1:] - 1]
        finite = np.logical_and.reduceat(np.isfinite(times), offsets[:-1])
        lasts = np.where(finite, ends - starts + 1 / self.dataset.fps, np.nan).tolist()
        rows = [
            self._row(episode, both, len(episode.steps), None if math.isnan(seconds) else seconds, videos)
            for episode, both, seconds in zip(run, hashed, lasts, strict=True)
        ]
        return Run(run, self._identified(steps, rows, offsets), rows, seen)

    def _identified(self, steps: pa.Table, rows: Sequence[Mapping[str, Any]], offsets: np.ndarray) -> pa.Table:
        """``steps`` with the identity of each step, its columns in the order of the table."""
        lengths = np.diff(offsets)
        owner = pa.array(np.repeat(np.arange(len(rows)), lengths))
        identity = pa.array([row["episode_id"] for row in rows]).take(owner)
        step = pa.array(np.arange(len(steps)) - np.repeat(offsets[:-1], lengths))
        names = [EPISODE_ID, STEP, *steps.column_names]
        return pa.table([identity, step, *steps.columns], names=names).select(self.columns)

    def _row(
        self,
        episode: SourceEpisode,
        hashed: tuple[str, str],
        n_steps: int,
        seconds: float | None,
        videos: Sequence[Mapping[str, Any]],
    ) -> dict[str, Any]:
        return {
            "episode_id": episode_id(self.dataset.name, episode.key),
            "dataset": self.dataset.name,
            "source_key": episode.key,
            "content_hash": hashed[0],
            "steps_hash": hashed[1],
            "embodiment": self.dataset.embodiment,
            "control_mode": self.dataset.control_mode,
            "fps": self.dataset.fps,
            "n_steps": n_steps,
            "duration_s": seconds,
            "task": episode.task,
            "language": list(episode.language),
            "success": episode.success,
            "operator": episode.operator,
            "scene": episode.scene,
            "objects": list(episode.objects),
            "provenance": episode.provenance,
            "labels": list(episode.labels),
            "parent": episode.parent,
            "attributes": canonical_json(episode.attributes) if episode.attributes else "{}",
            "videos": videos,
        }


def grouped(runs: Iterator[tuple[pa.Table, list[int]]]) -> Iterator[pa.Table]:
    """Short episodes together: a row group of its own for each would cost more than its values."""
    held: list[pa.Table] = []
    count, size = 0, 0.0
    for steps, lengths in runs:
        width = steps.nbytes / max(len(steps), 1)
        start = stop = 0
        for length in lengths:
            stop, count, size = stop + length, count + length, size + length * width
            if count >= _GROUP_STEPS or size >= _GROUP_BYTES:
                yield pa.concat_tables([*held, steps.slice(start, stop - start)]).combine_chunks()
                held, start, count, size = [], stop, 0, 0.0
        if start < stop:
            held.append(steps.slice(start))
    if held:
        yield pa.concat_tables(held).combine_chunks()


def moves(steps: pa.Table) -> bool:
    """Whether any entry of the state, or of the action where there is none, changes over the episode."""
    for name in (STATE, ACTION):
        if name in steps.column_names and not steps.column(name).null_count:
            column = steps.column(name).combine_chunks()
            values = column.flatten() if pa.types.is_list(column.type) else column
            rows = values.to_numpy(zero_copy_only=False).reshape(len(steps), -1)
            return bool(np.ptp(rows, axis=0).max() > 1e-6)
    return False


def _runs(items: Iterable[SourceEpisode | Unreadable]) -> Iterator[list[SourceEpisode] | Unreadable]:
    """Neighbours with the same columns together. One with cameras is alone, as its files may be gone with the next."""
    run: list[SourceEpisode] = []
    size, width = 0, None
    for item in items:
        alone = isinstance(item, Unreadable) or bool(item.cameras)
        if run and (alone or size >= _RUN_BYTES or item.steps.schema != run[0].steps.schema):
            yield run
            run, size = [], 0
        if isinstance(item, Unreadable):
            yield item
        elif item.cameras:
            yield [item]
        else:
            width = width if run else _width(item.steps.schema)
            size += item.steps.nbytes if width is None else len(item.steps) * width
            run.append(item)
    if run:
        yield run


def _width(columns: pa.Schema) -> int | None:
    """Bytes of a row; None where they are not the same for all. To ask a table for its bytes takes a look at each."""
    bits = [_bits(field.type) for field in columns]
    return None if None in bits else sum(filter(None, bits)) // 8


def _bits(kind: pa.DataType) -> int | None:
    if pa.types.is_fixed_size_list(kind):
        inner = _bits(kind.value_type)
        return None if inner is None else inner * kind.list_size
    return kind.bit_width if pa.types.is_primitive(kind) else None
