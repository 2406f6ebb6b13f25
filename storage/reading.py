"""Steps read back: each episode with its rows, each run of a file once, with a bounded share of it in memory."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import IO, Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from data_engine.errors import RequestError, SourceError
from data_engine.model import EPISODES, Dataset
from data_engine.scoring import EpisodeBatch
from storage.blobs import CHUNK, Blobs

__all__ = ["batches", "steps"]

READERS = 8
KEPT_BYTES = 64 << 20  # of decoded row groups: short episodes share one, in whatever order they are asked for


def steps(
    lake: Blobs, episodes: pl.DataFrame, columns: Sequence[str] | None = None
) -> Iterator[tuple[dict[str, Any], pa.Table]]:
    """Each row of ``episodes`` (as a dict) and its step rows, in the order given.

    ``columns`` names the step columns wanted; one that a dataset lacks is absent. Raises ``SourceError`` for a steps
    file that is missing, damaged or shorter than the episode's row range.
    """
    path, reader = None, None
    try:
        for row in episodes.iter_rows(named=True):
            if row["steps_file"] != path:
                if reader is not None:
                    reader.close()
                path, reader = row["steps_file"], _StepsFile(lake, row["steps_file"], columns)
            assert reader is not None
            yield row, reader.rows(row["row_start"], row["row_count"])
    finally:
        if reader is not None:
            reader.close()


class _StepsFile:
    """One open steps file; the row groups read last are kept, other episodes share them."""

    def __init__(self, lake: Blobs, path: str, columns: Sequence[str] | None) -> None:
        self.path, self.handle = path, _open(lake, path)
        try:
            self.file = pq.ParquetFile(self.handle, pre_buffer=False)
        except (pa.ArrowException, OSError) as error:
            self.handle.close()
            raise SourceError(f"steps file {path} is damaged: {error}", code="damaged") from error
        names = self.file.schema_arrow.names
        self.columns = names if columns is None else [name for name in columns if name in names]
        sizes = [self.file.metadata.row_group(index).num_rows for index in range(self.file.num_row_groups)]
        self.edges = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)]).astype(np.int64)
        self.groups: dict[int, pa.Table] = {}
        self.kept_bytes = 0

    def rows(self, start: int, count: int) -> pa.Table:
        stop = start + count
        if start < 0 or stop > self.edges[-1]:
            raise SourceError(
                f"steps file {self.path} has {self.edges[-1]} rows, not rows {start} to {stop}", code="damaged"
            )
        first = int(np.searchsorted(self.edges, start, side="right")) - 1
        last = max(int(np.searchsorted(self.edges, stop, side="left")), first + 1)
        wanted = range(min(first, len(self.edges) - 2), min(last, len(self.edges) - 1))
        if not wanted:
            return self.file.schema_arrow.empty_table().select(self.columns)
        table = pa.concat_tables([self._group(index) for index in wanted])
        return table.slice(start - int(self.edges[wanted[0]]), count)

    def _group(self, index: int) -> pa.Table:
        table = self.groups.pop(index, None)
        if table is None:
            table = self._read(index)
            self.kept_bytes += table.nbytes
        self.groups[index] = table  # the last one is the one used last
        while self.kept_bytes > KEPT_BYTES and len(self.groups) > 1:
            self.kept_bytes -= self.groups.pop(next(iter(self.groups))).nbytes
        return table

    def _read(self, index: int) -> pa.Table:
        try:
            return self.file.read_row_group(index, columns=self.columns, use_threads=False)
        except (pa.ArrowException, OSError) as error:
            raise SourceError(f"steps file {self.path} is damaged: {error}", code="damaged") from error

    def close(self) -> None:
        self.file.close()
        self.handle.close()


def _open(lake: Blobs, path: str) -> IO[bytes]:
    try:
        return lake.fs.open(lake._at(path), "rb", block_size=8 * CHUNK)
    except FileNotFoundError as error:
        raise SourceError(f"steps file {path} is missing from the lake {lake.uri}", code="missing_file") from error


def batches(
    lake: Blobs,
    datasets: Mapping[str, Dataset],
    episodes: pl.DataFrame,
    columns: Sequence[str] | None = None,
    batch_steps: int = 100_000,
) -> Iterator[EpisodeBatch]:
    """``episodes`` in their order as batches of one dataset each, of at most ``batch_steps`` steps (or one episode)."""
    rows: list[dict[str, Any]] = []
    tables: list[pa.Table] = []
    count = 0
    for row, table in steps(lake, episodes, columns):
        if rows and (row["dataset"] != rows[0]["dataset"] or count + len(table) > batch_steps):
            yield _batch(lake, datasets, rows, tables)
            rows, tables, count = [], [], 0
        rows.append(row)
        tables.append(table)
        count += len(table)
    if rows:
        yield _batch(lake, datasets, rows, tables)


def _batch(
    lake: Blobs, datasets: Mapping[str, Dataset], rows: list[dict[str, Any]], tables: list[pa.Table]
) -> EpisodeBatch:
    name = rows[0]["dataset"]
    if name not in datasets:
        raise SourceError(f"dataset {name!r} has episodes and no description", code="no_dataset")
    return EpisodeBatch(
        dataset=datasets[name],
        episodes=pa.Table.from_pylist(rows, schema=EPISODES),
        steps=pa.concat_tables(tables),
        offsets=np.concatenate([[0], np.cumsum([len(table) for table in tables])]).astype(np.int64),
        frames=_frames(lake, [row.get("videos") or [] for row in rows]),
    )


def _frames(
    lake: Blobs, videos: Sequence[Sequence[Mapping[str, Any]]]
) -> Callable[[int, str, Sequence[float]], np.ndarray] | None:
    if not any(videos):
        return None
    own = threading.local()  # readers are one thread's own, and go with it

    def frames(episode: int, camera: str, times: Sequence[float]) -> np.ndarray:
        from data_engine.video import FrameReader

        video = next((video for video in videos[episode] if video["camera"] == camera), None)
        if video is None:
            raise RequestError(f"episode {episode} of the batch has no camera {camera!r}", code="no_camera")
        blob = video["blob"]
        readers: dict[str, Any] = own.__dict__.setdefault("readers", {})
        if blob not in readers:
            if len(readers) >= READERS:
                readers.pop(next(iter(readers))).close()
            readers[blob] = FrameReader(lake.local(blob))
        return readers[blob].at([video["start_s"] + time for time in times])

    return frames
