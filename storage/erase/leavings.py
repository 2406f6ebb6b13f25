"""What an erase leaves behind, and what of it goes: files that no table names any more, here and in the cache."""

from __future__ import annotations

from pathlib import PurePosixPath

import pyarrow.parquet as pq

from data_engine.cache import Cache
from data_engine.references import REFERENCES, VIDEOS, pointer
from storage.erase.plan import PLAN, Plan
from storage.lake import Lake

__all__ = ["delete", "leftovers", "remove"]


def delete(lake: Lake, plan: Plan) -> list[str]:
    """Delete every file that is out of its table, the old videos, and copies of them on this machine.

    Returns old videos that an episode names again: something was ingested meanwhile that shows them.
    """
    for path in plan.drop:
        remove(lake, path)
    for name in lake.tables():
        held, retired = {file.path for file in lake.files(name)}, set(lake.retired(name))
        loose = [path for path in lake.list(lake.folder(name)) if path.endswith(".parquet") and path not in held]
        for path in loose:
            if "_delta_log" not in path and (path in retired or _mentions(lake, path, plan)):
                remove(lake, path)
    rows = lake.scan("episodes").select("videos").collect()
    named = {video["blob"] for videos in rows["videos"].to_list() for video in videos or ()}
    moved = {span["to"]["blob"] for spans in plan.videos.values() for span in spans}
    for blob in sorted(set(plan.videos) - named - moved):
        remove(lake, blob)
        lake.remove(pointer(blob))
    return sorted((set(plan.videos) & named) - moved)


def _mentions(lake: Lake, path: str, plan: Plan) -> bool:
    """Whether a file that was never committed has rows of an erased episode."""
    with lake.fs.open(lake._at(path), "rb") as handle:
        source = pq.ParquetFile(handle, pre_buffer=False)
        groups = (source.read_row_group(index) for index in range(source.num_row_groups))
        return any(plan.traces.rows(group) is not group for group in groups)


def remove(lake: Lake, path: str) -> None:
    """Delete a file of the lake, and what this machine keeps of it."""
    name = PurePosixPath(path).stem.rpartition("-")[2]
    if len(name) == 64:
        Cache().forget(name)
    lake.remove(path)


def leftovers(lake: Lake, plan: Plan) -> list[str]:
    """Documents and logs that still name an erased episode; tables and videos were rewritten row by row."""
    binary = (".parquet", ".faiss", ".safetensors")
    found = []
    for path in lake.list():
        if path == PLAN or path.endswith(binary) or path.startswith((f"{VIDEOS}/", f"{REFERENCES}/")):
            continue
        if plan.traces.names(lake.read_bytes(path).decode(errors="replace")):
            found.append(path)
    return found
