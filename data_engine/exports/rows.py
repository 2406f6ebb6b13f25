"""A mixture's steps in the order of its rows, each row group of a steps file decoded once for its neighbours too."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_engine.cache import LRU
from data_engine.errors import SourceError
from data_engine.mixture import Mixture
from data_engine.steps import EPISODE_ID, STEP

__all__ = ["rows_and_steps"]

_GROUPS = 4  # decoded row groups held at a time


def rows_and_steps(mixture: Mixture, order: Iterable[int]) -> Iterator[tuple[dict[str, Any], pa.Table]]:
    """Each row of ``mixture.episodes`` named by ``order`` and its steps as stored, without ``episode_id`` and ``step``.

    The same as ``mixture.steps(i)`` one by one, without decoding a row group again for every episode in it. Raises
    ``SourceError`` where a steps file does not hold the rows that the mixture names.
    """
    files = LRU(16, lambda path: pq.ParquetFile(mixture.local(path)))
    edges = LRU(16, lambda path: _edges(files(path)))
    groups = LRU(_GROUPS, lambda at: files(at[0]).read_row_group(at[1]).combine_chunks())
    for i in order:
        row = mixture.episodes.slice(i, 1).to_pylist()[0]
        path, first, last = row["steps_file"], row["row_start"], row["row_start"] + row["row_count"]
        try:
            bounds = edges(path)
            inside = np.flatnonzero((bounds[:-1] < last) & (bounds[1:] > first)).tolist()
            parts = [
                groups((path, g)).slice(max(first - int(bounds[g]), 0), last - max(first, int(bounds[g])))
                for g in inside
            ]
        except (OSError, pa.ArrowException) as error:
            raise SourceError(f"cannot read {path}: {error}", code="bad_steps_file") from error
        table = pa.concat_tables(parts) if parts else pa.table({})
        ids = table[EPISODE_ID] if parts else None
        if ids is None or len(ids) != row["row_count"] or {ids[0].as_py(), ids[-1].as_py()} != {row[EPISODE_ID]}:
            raise SourceError(
                f"rows {first} to {last} of {path} are not episode {row[EPISODE_ID]}", code="changed_file"
            )
        yield row, table.drop_columns([name for name in (EPISODE_ID, STEP) if name in table.column_names])


def _edges(file: pq.ParquetFile) -> np.ndarray:
    """First row of each row group, and the number of rows: int64 [groups + 1]."""
    return np.cumsum([0] + [file.metadata.row_group(g).num_rows for g in range(file.num_row_groups)])
