"""Rows of a mixture as LeRobot v3.0 data files: original dtypes, time on the grid, a row group an episode."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_engine.arrays import to_array
from data_engine.errors import RequestError
from data_engine.exports.lerobot_features import DEFAULTS, Columns, hf_features, lerobot_name
from data_engine.exports.lerobot_stats import vector_stats
from data_engine.model import TIMESTAMP, Feature

__all__ = ["CHUNKS_SIZE", "DATA_PATH", "TOLERANCE_S", "DataFiles", "place"]

CHUNKS_SIZE = 1000
DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
TOLERANCE_S = 1e-4  # LeRobot's own default


def place(number: int) -> dict[str, int]:
    """The chunk and file index of a file's running number."""
    return {"chunk_index": number // CHUNKS_SIZE, "file_index": number % CHUNKS_SIZE}


@dataclass
class DataFiles:
    """The data files as they grow, and what is remembered of each episode."""

    folder: Path
    columns: Columns
    max_bytes: int
    rows: list[dict[str, Any]] = field(default_factory=list)
    stats: list[np.ndarray] = field(default_factory=list)
    tasks: dict[str, int] = field(default_factory=dict)
    places: list[tuple[int, int, int]] = field(default_factory=list)  # file, first row, stop row
    starts: list[float] = field(default_factory=list)  # the source's time of the first step
    written: int = 0

    def __post_init__(self) -> None:
        kinds = [(lerobot_name(feature.name), _arrow_type(feature)) for feature in self.columns.steps]
        kinds += [(name, pa.type_for_alias(str(spec["dtype"]))) for name, spec in DEFAULTS.items()]
        info = json.dumps({"info": {"features": hf_features(self.columns.steps)}})
        self.schema = pa.schema(kinds, metadata={"huggingface": info})
        self._file = -1
        self._sink: Any = None
        self._writer: pq.ParquetWriter | None = None

    def add(self, row: dict[str, Any], steps: pa.Table) -> None:
        """Write one episode and remember its place, statistics and task."""
        n, number = steps.num_rows, len(self.rows)
        times = _checked_times(row, steps, self.columns.fps)
        text = (row["language"] or [None])[0] or row["task"] or ""
        task = self.tasks.setdefault(text, len(self.tasks))
        arrays, numbers = [], []
        for feature in self.columns.steps:
            array, values = _restored(row, steps, feature)
            arrays.append(array)
            if values is not None:
                numbers.append(values.reshape(n, -1))
        frame = np.arange(n)
        clock = (frame / self.columns.fps).astype(np.float32)
        derived = [clock, frame, np.full(n, number), frame + self.written, np.full(n, task)]
        arrays += [pa.array(values) for values in derived]
        self.stats.append(vector_stats(np.column_stack([*numbers, *derived]).astype(np.float64, copy=False)))
        table = pa.Table.from_arrays(arrays, schema=self.schema)
        self._writer_for(table.nbytes).write_table(table, row_group_size=max(n, 1))
        self.places.append((self._file, self.written, self.written + n))
        self.starts.append(float(times[0]))
        self.rows.append(row | {"text": text})
        self.written += n

    def close(self) -> None:
        """Finish the file at hand."""
        if self._writer is not None:
            self._writer.close()
            self._sink.close()

    def _writer_for(self, more: int) -> pq.ParquetWriter:
        if self._writer is not None and self._sink.tell() + more > self.max_bytes:
            self.close()
            self._writer = None
        if self._writer is None:
            self._file += 1
            path = self.folder / DATA_PATH.format(**place(self._file))
            path.parent.mkdir(parents=True, exist_ok=True)
            self._sink = pa.OSFile(str(path), "wb")
            repeated = [name for name, kind in zip(self.schema.names, self.schema.types, strict=True) if _repeats(kind)]
            self._writer = pq.ParquetWriter(self._sink, self.schema, compression="snappy", use_dictionary=repeated)
        return self._writer


def _restored(row: dict[str, Any], steps: pa.Table, feature: Feature) -> tuple[pa.Array, np.ndarray | None]:
    """A column of one episode in its original dtype and shape, and as numbers [n] or [n, d] where it is no text.

    Raises ``RequestError`` for a missing value: LeRobot has no place for one, and none is made up.
    """
    if feature.name not in steps.column_names:
        raise RequestError(f"{row['steps_file']} has no column {feature.name!r}", code="missing_column")
    column = steps[feature.name].combine_chunks()
    entries = column.flatten() if hasattr(column.type, "value_type") else column
    lost = column.null_count or entries.null_count
    if lost:
        raise RequestError(
            f"{feature.name!r} lacks {lost} values in episode {row['source_key']!r} of {row['dataset']!r}, and LeRobot"
            " has no missing values",
            code="missing_values",
            fix="leave the column out with the exporter's columns, or the episode with a where",
        )
    if feature.dtype == "string":
        return column, None
    if pa.types.is_decimal(entries.type):
        entries = entries.cast(pa.uint64())
        values = entries.to_numpy().reshape(len(column), -1)
    else:
        values = to_array(steps[feature.name], feature.name)
    values = values.astype(feature.dtype, copy=False)
    flat = pa.array(np.ascontiguousarray(values).reshape(-1), pa.from_numpy_dtype(np.dtype(feature.dtype)))
    return _nested(flat, feature), values


def _nested(flat: pa.Array, feature: Feature) -> pa.Array:
    if feature.size == 1:
        return flat
    if len(feature.shape) == 1:
        return pa.FixedSizeListArray.from_arrays(flat, feature.size)
    for side in reversed(feature.shape):
        offsets = np.arange(len(flat) // side + 1, dtype=np.int32) * side
        flat = pa.ListArray.from_arrays(pa.array(offsets), flat)
    return flat


def _arrow_type(feature: Feature) -> pa.DataType:
    if feature.dtype == "string":
        return pa.string()
    kind = pa.from_numpy_dtype(np.dtype(feature.dtype))
    if feature.size == 1:
        return kind
    if len(feature.shape) == 1:
        return pa.list_(kind, feature.size)
    for _ in feature.shape:
        kind = pa.list_(kind)
    return kind


def _repeats(kind: pa.DataType) -> bool:
    """Whether a dictionary pays: whole numbers and text repeat, measurements do not."""
    return pa.types.is_integer(kind) or pa.types.is_string(kind)


def _checked_times(row: dict[str, Any], steps: pa.Table, fps: float) -> np.ndarray:
    """The stored timestamps, which must be steps of 1 / ``fps``. Raises ``RequestError`` where they are not."""
    times = to_array(steps[TIMESTAMP], TIMESTAMP)
    off = np.abs(times - times[:1] - np.arange(len(times)) / fps)
    if not (off <= TOLERANCE_S).all():
        worst = int(np.nanargmax(off)) if np.isfinite(off).any() else 0
        raise RequestError(
            f"episode {row['source_key']!r} of {row['dataset']!r} leaves the grid of {fps:g} steps a second"
            f" (step {worst} by {off[worst]:.4f} s), which LeRobot requires",
            code="off_grid",
            fix="leave such episodes out with a where, or state the source's true fps at ingest",
        )
    return times
