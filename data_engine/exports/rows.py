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

__all__ = ["export_order", "rows_and_steps"]

_GROUPS = 4  # decoded row groups held at a time
_ROWS = 256  # of the mixture, turned into objects at a time


def export_order(mixture: Mixture) -> list[int]:
    """The mixture's rows in the export's order: split by split (``train`` first), then by source.

    Sources are read in their own order, which is how their steps lie on disk, and where they lie does not matter.
    """
    keys = ("split", "dataset", "source_key", "start", "stop", "selection", "weight")
    rows = zip(*(mixture.episodes[key].to_pylist() for key in keys), strict=True)
    ranked = [((split or "") != "train", split or "", *rest) for split, *rest in rows]
    return sorted(range(len(ranked)), key=ranked.__getitem__)


def rows_and_steps(mixture: Mixture, order: Iterable[int]) -> Iterator[tuple[dict[str, Any], pa.Table]]:
    """Each row of ``mixture.episodes`` named by ``order`` and its steps, converted, less ``episode_id`` and ``step``.

    The same as ``mixture.steps(i)`` one by one, without decoding a row group again for every episode in it. Raises
    ``SourceError`` where a steps file does not hold the rows that the mixture names.
    """
    files: LRU[str, pq.ParquetFile] = LRU(16, lambda path: pq.ParquetFile(mixture.local(path)))
    edges: LRU[str, np.ndarray] = LRU(16, lambda path: _edges(files(path)))
    groups: LRU[tuple[str, int], pa.Table] = LRU(_GROUPS, lambda at: _group(files(at[0]), at[1]))
    numbers = list(order)
    for at in range(0, len(numbers), _ROWS):
        some = numbers[at : at + _ROWS]
        for i, row in zip(some, mixture.episodes.take(some).to_pylist(), strict=True):
            path, first, last = row["steps_file"], row["row_start"], row["row_start"] + row["row_count"]
            try:
                bounds = edges(path)
                inside = range(int(np.searchsorted(bounds, first, "right")) - 1, int(np.searchsorted(bounds, last)))
                held = [(groups((path, g)), max(first - bounds[g], 0), last - max(first, bounds[g])) for g in inside]
            except (OSError, pa.ArrowException) as error:
                raise SourceError(f"cannot read {path}: {error}", code="bad_steps_file") from error
            parts = [steps.slice(skip, n) for (_, steps), skip, n in held]
            ids = {ids[int(k)].as_py() for (ids, steps), skip, n in held for k in (skip, min(skip + n, len(ids)) - 1)}
            if sum(part.num_rows for part in parts) != row["row_count"] or ids != {row[EPISODE_ID]}:
                named = f"rows {first} to {last} of {path}"
                raise SourceError(f"{named} are not episode {row[EPISODE_ID]}", code="changed_file")
            steps = parts[0] if len(parts) == 1 else pa.concat_tables(parts)
            yield row, mixture.labelled(i, mixture.converted(path, steps))


def _group(file: pq.ParquetFile, number: int) -> tuple[pa.Array, pa.Table]:
    """A row group: whose each row is, and the steps."""
    table = file.read_row_group(number).combine_chunks()
    ids = table[EPISODE_ID].combine_chunks()
    return ids, table.drop_columns([name for name in (EPISODE_ID, STEP) if name in table.column_names])


def _edges(file: pq.ParquetFile) -> np.ndarray:
    """First row of each row group, and the number of rows: int64 [groups + 1]."""
    return np.cumsum([0] + [file.metadata.row_group(g).num_rows for g in range(file.num_row_groups)])
