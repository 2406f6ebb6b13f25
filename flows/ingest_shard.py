"""One shard of an ingest: its episodes are read, verified, stored, and one that cannot be read is quarantined.

Encoded video is kept byte for byte or where it is, raw frames are encoded once, and the steps of the shard become one
Parquet file. The rows for the ``episodes`` table wait in the ledger until :mod:`flows.ingest` publishes them.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa

from data_engine import registry
from data_engine.canonical import canonical_json
from data_engine.defects import Defect
from data_engine.errors import EngineError, RequestError, SourceError
from data_engine.formats import Format, Probe, Source, SourceEpisode, Unreadable
from data_engine.model import ACTION, EPISODES, STATE, TIMESTAMP, Dataset, episode_id
from data_engine.outages import reaching
from data_engine.steps import EPISODE_ID, STEP, canonical, hashes, schema
from flows.ingest_cameras import AS_IT_IS, Cameras
from storage.lake import DataFile, Lake

__all__ = ["ingest_shard", "inside", "moves"]

_GROUP_STEPS = 1024  # a row group ends with the episode that reaches one of the two
_GROUP_BYTES = 1 << 20


def ingest_shard(lake: Lake, payload: Mapping[str, Any], fingerprint: str, cpus: int) -> dict[str, Any]:
    """Read, verify and store the episodes of one shard. One that cannot be read becomes a quarantine row.

    Raises ``EngineError`` with code ``unreachable`` where that is the network's fault: nothing is quarantined then.
    """
    with reaching(payload["source"]) as check:
        return _ingest_shard(lake, payload, fingerprint, check)


def _ingest_shard(
    lake: Lake, payload: Mapping[str, Any], fingerprint: str, check: Callable[[], None]
) -> dict[str, Any]:
    source = Source(payload["source"])
    if not source.exists():
        raise RequestError(f"no such source: {source.uri}", code="no_source", fix="check the path or URI")
    fmt: Format = registry.make("formats", payload["format"], payload["options"])
    probe: Probe = payload["probe"]
    keys = [ref.key for ref in probe.episodes]
    dataset = Dataset.model_validate(payload["dataset"])
    cameras = Cameras(
        lake, source, dataset.fps, payload.get("apart", ()), by_reference=payload.get("by_reference", False)
    )
    writer = _ShardWriter(cameras, dataset)
    rows: list[dict[str, Any]] = []
    unchanged: list[str] = []
    quarantined: list[dict[str, str]] = []
    notes: Counter[str] = Counter()
    defects: dict[Defect, list[str]] = {}

    def tables() -> Iterator[pa.Table]:
        row_start = 0
        for item in fmt.read(source, probe, keys):
            if isinstance(item, Unreadable):
                check()
                quarantined.append({"key": item.key, "code": item.code, "reason": item.reason})
                continue
            try:
                steps, row, seen = writer.store(item)
            except EngineError as error:
                check()
                quarantined.append({"key": item.key, "code": error.code, "reason": error.message})
                continue
            notes.update(item.notes)
            for defect in seen:
                defects.setdefault(defect, []).append(item.key)
            if payload["known"].get(item.key) == row["content_hash"]:
                unchanged.append(item.key)
                continue
            revision = payload["revisions"].get(item.key, -1) + 1
            row |= {"row_start": row_start, "row_count": len(steps), "revision": revision}
            row_start += len(steps)
            rows.append(row)
            yield steps

    with cameras:
        stream = _grouped(tables())
        head = next(stream, None)
        if head is not None:
            file = lake.write_file(
                f"steps/{dataset.name}", fingerprint, chain([head], stream), schema(dataset.features)
            )
            for row in rows:
                row["steps_file"] = file.path
        lake.write_pending(fingerprint, pa.Table.from_pylist(rows, schema=EPISODES))
    found = {row["source_key"] for row in rows} | set(unchanged) | {bad["key"] for bad in quarantined}
    return {
        "file": _as_json(file) if head is not None else None,
        "episodes": len(rows),
        "steps": sum(row["n_steps"] for row in rows),
        "frames": cameras.frames,
        "streams": cameras.streams,
        "defects": [{"code": found.code, "what": found.what, "keys": keys} for found, keys in defects.items()],
        "unchanged": len(unchanged),
        "quarantined": quarantined,
        "silent": sorted(set(keys) - found),
        "notes": dict(notes),
        "source_files": [_hashed(source, path, cameras.streams.get(path)) for path in payload["files"]],
    }


class _ShardWriter:
    """Turns one source episode at a time into canonical steps, blobs and an episodes row."""

    def __init__(self, cameras: Cameras, dataset: Dataset) -> None:
        self.cameras, self.dataset = cameras, dataset

    def store(self, episode: SourceEpisode) -> tuple[pa.Table, dict[str, Any], list[Defect]]:
        """The steps as stored, the row, and what was seen wrong. Raises ``SourceError`` where it cannot be stored."""
        steps = canonical(episode.steps, self.dataset.features, self.dataset.fps)
        times = steps.column(TIMESTAMP).to_numpy()
        if len(episode.cameras) < len(self.dataset.cameras):
            absent = sorted(set(self.dataset.cameras) - set(episode.cameras))
            raise SourceError(f"camera {absent[0]!r} is declared and absent", code="missing_camera")
        if episode.cameras and not (np.isfinite(times).all() and (np.diff(times) > 0).all()):
            raise SourceError("timestamps do not increase: its frames belong to no step", code="bad_timestamps")
        moving = bool(episode.cameras) and moves(steps)
        videos, digests, seen = self.cameras.store(episode.key, episode.cameras, times, moving)
        whole, alone = hashes(steps, digests)
        identity = episode_id(self.dataset.name, episode.key)
        table = pa.table(
            [pa.array([identity] * len(steps)), pa.array(np.arange(len(steps))), *steps.columns],
            names=[EPISODE_ID, STEP, *steps.column_names],
        ).select(schema(self.dataset.features).names)
        row = {
            "episode_id": identity,
            "dataset": self.dataset.name,
            "source_key": episode.key,
            "content_hash": whole,
            "steps_hash": alone,
            "embodiment": self.dataset.embodiment,
            "control_mode": self.dataset.control_mode,
            "fps": self.dataset.fps,
            "n_steps": len(steps),
            "duration_s": float(times[-1] - times[0] + 1 / self.dataset.fps) if np.isfinite(times).all() else None,
            "task": episode.task,
            "language": list(episode.language),
            "success": episode.success,
            "operator": episode.operator,
            "scene": episode.scene,
            "objects": list(episode.objects),
            "provenance": episode.provenance,
            "labels": list(episode.labels),
            "parent": episode.parent,
            "attributes": canonical_json(episode.attributes),
            "videos": videos,
        }
        return table, row, [*episode.defects, *seen]


def moves(steps: pa.Table) -> bool:
    """Whether any entry of the state, or of the action where there is none, changes over the episode."""
    for name in (STATE, ACTION):
        if name in steps.column_names and not steps.column(name).null_count:
            column = steps.column(name).combine_chunks()
            values = column.flatten() if pa.types.is_list(column.type) else column
            rows = values.to_numpy(zero_copy_only=False).reshape(len(steps), -1)
            return bool(np.ptp(rows, axis=0).max() > 1e-6)
    return False


def _hashed(source: Source, path: str, stream: Mapping[str, Any] | None) -> dict[str, Any]:
    """Size and hash of a file of the source; a video that was hashed to be kept as it is, is not read again."""
    if stream is not None and stream["kept"] in AS_IT_IS:
        return {"path": path, "bytes": stream["bytes"], "sha256": PurePosixPath(stream["blob"]).stem}
    try:
        with source.open(*inside(source, path)) as file:
            sha = hashlib.file_digest(file, "sha256").hexdigest()
            return {"path": path, "bytes": file.tell(), "sha256": sha}
    except (FileNotFoundError, RequestError):
        return {"path": path, "bytes": None, "sha256": None}


def _grouped(episodes: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """Short episodes together: a row group of its own for each would cost more than its values."""
    held: list[pa.Table] = []
    for steps in episodes:
        held.append(steps)
        if sum(map(len, held)) >= _GROUP_STEPS or sum(part.nbytes for part in held) >= _GROUP_BYTES:
            yield pa.concat_tables(held).combine_chunks()
            held = []
    if held:
        yield pa.concat_tables(held).combine_chunks()


def _as_json(file: DataFile) -> dict[str, Any]:
    return {"path": file.path, "bytes": file.bytes, "sha256": file.sha256, "rows": file.rows}


def inside(source: Source, path: str) -> tuple[str, ...]:
    """The parts of ``path`` below the source: none where the source is that file itself."""
    return () if source.is_file else (path,)
