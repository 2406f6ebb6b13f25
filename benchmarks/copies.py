"""A recorded LeRobot v3 set many times over, as one set: large enough that what an ingest costs once does not decide.

Values are the recording's own, so that they are as compressible; the state of each copy is scaled by a little, as equal
episodes would be reported as duplicates.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

__all__ = ["copies"]

_DATA = "data/chunk-000/file-{:03d}.parquet"
_EPISODES = "meta/episodes/chunk-000/file-000.parquet"
_FILE_COPIES = 25  # about 80 MB a data file, as LeRobot ends one at 100 MB


def copies(source: Path, out: Path, times: int) -> Path:
    """``times`` copies of the set without video at ``source``, which lies in one data file; ``out``."""
    data, episodes = pq.read_table(source / _DATA.format(0)), pq.read_table(source / _EPISODES)
    for folder in (out / _DATA, out / _EPISODES):
        folder.parent.mkdir(parents=True)
    for first in range(0, times, _FILE_COPIES):
        with pq.ParquetWriter(out / _DATA.format(first // _FILE_COPIES), data.schema, compression="snappy") as writer:
            for copy in range(first, min(first + _FILE_COPIES, times)):
                rows = _scaled(
                    _later(_later(data, "episode_index", copy * len(episodes)), "index", copy * len(data)), copy
                )
                bounds = zip(episodes["dataset_from_index"].to_pylist(), episodes["length"].to_pylist(), strict=True)
                for start, length in bounds:
                    writer.write_table(rows.slice(start, length))  # a row group an episode, as LeRobot has it
    with pq.ParquetWriter(out / _EPISODES, episodes.schema, compression="snappy") as writer:
        for copy in range(times):
            rows = _later(episodes, "episode_index", copy * len(episodes))
            rows = _later(rows, "data/file_index", copy // _FILE_COPIES)
            for name in ("dataset_from_index", "dataset_to_index"):
                rows = _later(rows, name, copy * len(data))
            writer.write_table(rows, row_group_size=10)
    info = json.loads((source / "meta/info.json").read_text())
    counts = {name: info[name] * times for name in ("total_episodes", "total_frames")}
    splits = {"train": f"0:{counts['total_episodes']}"}
    for path in source.glob("meta/*.*"):
        shutil.copyfile(path, out / "meta" / path.name)
    (out / "meta/info.json").write_text(json.dumps({**info, **counts, "splits": splits}))
    return out


def _later(table: pa.Table, name: str, offset: int) -> pa.Table:
    return _with(table, name, pc.add(table[name], offset))


def _scaled(table: pa.Table, copy: int) -> pa.Table:
    state = table["observation.state"].combine_chunks()
    values = state.flatten().to_numpy() * np.float32(1 + copy * 1e-4)
    return _with(table, "observation.state", pa.FixedSizeListArray.from_arrays(values, type=state.type))


def _with(table: pa.Table, name: str, values: pa.Array | pa.ChunkedArray) -> pa.Table:
    at = table.schema.get_field_index(name)
    return table.set_column(at, table.schema.field(at), values)
