"""Rows of a mixture as LeRobot v3.0 data files: original dtypes, time on the grid, whole episodes in a row group."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_engine.arrays import to_array
from data_engine.errors import RequestError
from data_engine.exports.lerobot_features import DEFAULTS, Columns, hf_features, lerobot_name
from data_engine.exports.lerobot_stats import episode_stats
from data_engine.exports.values import arrow_type, nested, restored
from data_engine.model import TIMESTAMP, Feature

__all__ = ["CHUNKS_SIZE", "DATA_PATH", "TOLERANCE_S", "DataFiles", "place", "task_text"]

CHUNKS_SIZE = 1000
DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
TOLERANCE_S = 1e-4  # LeRobot's own default
_GROUP_ROWS = 4096  # a row group ends with the episode that reaches one of the two
_GROUP_BYTES = 8 << 20


def place(number: int) -> dict[str, int]:
    """The chunk and file index of a file's running number."""
    return {"chunk_index": number // CHUNKS_SIZE, "file_index": number % CHUNKS_SIZE}


@dataclass
class DataFiles:
    """The data files as they grow, and what is remembered of each episode (``rows`` and the lists beside it).

    ``retimed``: by how many seconds an episode's clock left LeRobot's even one, by its index; empty without ``retime``.
    """

    folder: Path
    columns: Columns
    max_bytes: int
    retime: bool = False
    retimed: dict[int, float] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    stats: list[np.ndarray] = field(default_factory=list)
    tasks: dict[str, int] = field(default_factory=dict)
    places: list[tuple[int, int, int]] = field(default_factory=list)  # file, first row, stop row
    starts: list[float] = field(default_factory=list)  # the source's time of the first step
    written: int = 0

    def __post_init__(self) -> None:
        kinds = [(lerobot_name(feature.name), arrow_type(feature)) for feature in self.columns.steps]
        kinds += [(name, pa.type_for_alias(str(spec["dtype"]))) for name, spec in DEFAULTS.items()]
        info = json.dumps({"info": {"features": hf_features(self.columns.steps)}})
        self.schema = pa.schema(kinds, metadata={"huggingface": info})
        self._pending: list[tuple[dict[str, Any], pa.Table]] = []
        self._file = -1
        self._sink: Any = None
        self._writer: pq.ParquetWriter | None = None

    def add(self, row: dict[str, Any], steps: pa.Table) -> None:
        """Take one episode; a row group is written when enough have come. Raises as the exporter says."""
        lacking = [feature.name for feature in self.columns.steps if feature.name not in steps.column_names]
        if lacking:
            raise RequestError(f"{row['steps_file']} has no column {lacking[0]!r}", code="missing_column")
        self._pending.append((row, steps.select([feature.name for feature in self.columns.steps] + [TIMESTAMP])))
        if sum(steps.num_rows for _, steps in self._pending) >= _GROUP_ROWS or steps.nbytes >= _GROUP_BYTES:
            self._flush()

    def close(self) -> None:
        """Write what is pending and finish the file at hand."""
        self._flush()
        self._finish()

    def _flush(self) -> None:
        if not self._pending:
            return
        rows = [row for row, _ in self._pending]
        lengths = np.array([steps.num_rows for _, steps in self._pending])
        steps = pa.concat_tables([steps for _, steps in self._pending])
        self._pending = []
        stops = np.cumsum(lengths)
        starts = stops - lengths
        frame = np.arange(stops[-1]) - np.repeat(starts, lengths)
        times, late = _checked_times(rows, steps, frame, starts, self.columns.fps, self.retime)
        self.retimed |= {len(self.rows) + number: round(seconds, 4) for number, seconds in late.items()}
        texts = [task_text(row) for row in rows]
        tasks = [self.tasks.setdefault(text, len(self.tasks)) for text in texts]
        arrays, numbers = [], []
        for feature in self.columns.steps:
            array, values = _restored(rows, starts, steps, feature)
            arrays.append(array)
            if values is not None:
                numbers.append(values.reshape(len(frame), -1))
        clock = (frame / self.columns.fps).astype(np.float32)
        episode = np.repeat(np.arange(len(self.rows), len(self.rows) + len(rows)), lengths)
        derived = [clock, frame, episode, np.arange(len(frame)) + self.written, np.repeat(tasks, lengths)]
        matrix = np.column_stack([*numbers, *derived]).astype(np.float64, copy=False)
        table = pa.Table.from_arrays([*arrays, *(pa.array(values) for values in derived)], schema=self.schema)
        self._writer_for(table.nbytes).write_table(table, row_group_size=len(frame))
        self.stats.extend(episode_stats(matrix, starts))
        for row, first, stop in zip(rows, starts.tolist(), stops.tolist(), strict=True):
            self.places.append((self._file, self.written + first, self.written + stop))
            self.starts.append(float(times[first]))
            self.rows.append(row)
        self.written += len(frame)

    def _finish(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._sink.close()
            self._writer = None

    def _writer_for(self, more: int) -> pq.ParquetWriter:
        if self._writer is not None and self._sink.tell() + more > self.max_bytes:
            self._finish()
        if self._writer is None:
            self._file += 1
            path = self.folder / DATA_PATH.format(**place(self._file))
            path.parent.mkdir(parents=True, exist_ok=True)
            self._sink = pa.OSFile(str(path), "wb")
            repeated = [name for name, kind in zip(self.schema.names, self.schema.types, strict=True) if _repeats(kind)]
            self._writer = pq.ParquetWriter(self._sink, self.schema, compression="snappy", use_dictionary=repeated)
        return self._writer


def task_text(row: Mapping[str, Any]) -> str:
    """The text that LeRobot calls the task: the first language instruction, else the task, else empty."""
    return next(iter(row["language"] or ()), None) or row["task"] or ""


def _restored(
    rows: Sequence[Mapping[str, Any]], starts: np.ndarray, steps: pa.Table, feature: Feature
) -> tuple[pa.Array, np.ndarray | None]:
    """A column of several episodes in its original dtype and shape, as numbers [n] or [n, d] where it is no text."""
    values = restored(rows, starts, steps, feature, "LeRobot")
    if feature.dtype == "string":
        return steps[feature.name].combine_chunks(), None
    flat = values.reshape(-1)
    return nested(pa.array(flat, pa.from_numpy_dtype(flat.dtype)), feature), values


def _repeats(kind: pa.DataType) -> bool:
    """Whether a dictionary pays: whole numbers and text repeat, measurements do not."""
    return pa.types.is_integer(kind) or pa.types.is_string(kind)


def _checked_times(
    rows: Sequence[Mapping[str, Any]],
    steps: pa.Table,
    frame: np.ndarray,
    starts: np.ndarray,
    fps: float,
    retime: bool,
) -> tuple[np.ndarray, dict[int, float]]:
    """The stored timestamps, and where they leave steps of 1 / ``fps``: episode of ``rows`` -> by how many seconds.

    Raises ``RequestError`` where they do without ``retime``, and for a time that is no number.
    """
    times = to_array(steps[TIMESTAMP], TIMESTAMP)
    off = np.abs(times - np.repeat(times[starts], np.diff([*starts, len(frame)])) - frame / fps)
    worst = np.maximum.reduceat(off, starts)
    late = {int(number): float(worst[number]) for number in np.flatnonzero(~(worst <= TOLERANCE_S))}
    for number, seconds in late.items():
        if not (retime and np.isfinite(seconds)):
            raise RequestError(
                f"episode {rows[number]['source_key']!r} of {rows[number]['dataset']!r} leaves the grid of {fps:g}"
                f" steps a second, which LeRobot requires, by up to {seconds:.4f} s",
                code="off_grid",
                fix="leave such episodes out with a where, state the source's true fps at ingest, or, without cameras,"
                " give the export the option uneven_clock: retime",
            )
    return times, late
