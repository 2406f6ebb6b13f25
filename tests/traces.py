"""Looking for what must not be there any more: in the bytes of every file of a lake, and in what they decode to."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_engine.video.track import Track
from storage.lake import Lake


def traces(lake: Lake, needles: Mapping[str, bytes]) -> dict[str, list[str]]:
    """The files that hold each of ``needles``, as they are or (Parquet) in their values; none of what no file holds."""
    found: dict[str, list[str]] = {}
    for path in lake.fs.find(lake.root):
        data = lake.fs.cat_file(path)
        for part in (data, *(_values(data) if path.endswith(".parquet") else ())):
            for name, needle in needles.items():
                if needle in part and path not in found.setdefault(name, []):
                    found[name].append(path)
    return {name: paths for name, paths in found.items() if paths}


def _values(data: bytes) -> Iterator[bytes]:
    table = pq.read_table(io.BytesIO(data))
    for column in table.columns:
        array = column.combine_chunks()
        while pa.types.is_list(array.type) or pa.types.is_large_list(array.type):
            array = array.flatten()
        if pa.types.is_floating(array.type):
            yield array.drop_null().to_numpy(zero_copy_only=False).tobytes()
        else:
            yield repr(array.to_pylist()).encode()
    yield repr(table.schema.metadata).encode()


def packets(path: str | Path, start_s: float, end_s: float) -> list[bytes]:
    """The coded packets of the frames shown in [start, end)."""
    track = Track(path)
    try:
        return [track.data(int(i)) for i in track.shown[track.span(start_s, end_s)]]
    finally:
        track.close()


def needles(lake: Lake, episode: str) -> dict[str, bytes]:
    """What an episode is known by in a lake: its id, a step of each wide column, its longest packet of each camera."""
    rows = lake.episodes()
    row = rows.filter(rows["episode_id"] == episode)
    ((facts, steps),) = lake.steps(row)
    found = {f"{episode} id": episode.encode()}
    for name in steps.column_names:
        kind = steps.schema.field(name).type
        if pa.types.is_list(kind) and pa.types.is_floating(kind.value_type):
            last = np.asarray(steps.column(name)[-1].as_py(), kind.value_type.to_pandas_dtype())
            found[f"{episode} {name}"] = last.tobytes()
    for video in facts["videos"] or ():
        coded = packets(lake.local(video["blob"]), video["start_s"], video["end_s"])
        found[f"{episode} {video['camera']}"] = max(coded, key=len)
    return found
