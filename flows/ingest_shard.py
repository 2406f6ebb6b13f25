"""One shard of an ingest: its episodes are read, verified, stored, and one that cannot be read is quarantined.

Encoded video is kept byte for byte or where it is, raw frames are encoded once, and the steps of the shard become one
Parquet file. The rows for the ``episodes`` table wait in the ledger until :mod:`flows.ingest` publishes them.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain, compress
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa

from data_engine import registry
from data_engine.defects import Defect
from data_engine.errors import EngineError, RequestError
from data_engine.formats import Format, Probe, Source, Unreadable
from data_engine.model import EPISODES, Dataset
from data_engine.outages import reaching
from data_engine.steps import schema
from flows.apart import Crash, apart, carefully, watched
from flows.ingest_cameras import AS_IT_IS, Cameras
from flows.ingest_probe import CRASH, crashing
from flows.ingest_runs import RunWriter, grouped
from flows.tally import teller
from storage.lake import DataFile, Lake

__all__ = ["ingest_shard", "inside"]

_KILLED = ("SIGKILL", "SIGTERM", "SIGHUP", "SIGQUIT")  # that somebody may send, whatever is read


def ingest_shard(lake: Lake, payload: Mapping[str, Any], fingerprint: str, cpus: int) -> dict[str, Any]:
    """Read, verify and store the episodes of one shard. One that cannot be read becomes a quarantine row.

    So does one over which the library that reads it crashes. Raises ``EngineError`` with code ``unreachable`` where
    that is the network's fault: nothing is quarantined then.
    """
    crashed: dict[str, str] = {}
    doubted = None
    run = carefully
    while True:
        try:
            return run(_reached, lake, {**payload, "crashed": crashed}, fingerprint)
        except Crash as crash:
            run, key = apart, crash.reading
            if key is None or key in crashed:
                raise EngineError(
                    f"the process that read {payload['source']} died ({crash.how})",
                    code="worker_killed",
                    fix="run it again: it goes on",
                ) from None
            if crash.how in _KILLED and doubted != key:  # for want of memory, if it happens again
                doubted = key
            else:
                crashed[key] = crashing(crash)


def _reached(lake: Lake, payload: Mapping[str, Any], fingerprint: str) -> dict[str, Any]:
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
    crashed: Mapping[str, str] = payload["crashed"]
    keys = [ref.key for ref in probe.episodes if ref.key not in crashed]
    dataset = Dataset.model_validate(payload["dataset"])
    cameras = Cameras(
        lake, source, dataset.fps, payload.get("apart", ()), by_reference=payload.get("by_reference", False)
    )
    writer = RunWriter(cameras, dataset)
    rows: list[dict[str, Any]] = []
    unchanged: list[str] = []
    quarantined = [{"key": key, "code": CRASH, "reason": reason} for key, reason in crashed.items()]
    notes: Counter[str] = Counter()
    defects: dict[Defect, list[str]] = {}
    tell = teller(payload.get("ticket"))

    def stored() -> Iterator[tuple[pa.Table, list[int]]]:
        """New steps of some episodes behind one another, and the length of each."""
        row_start = 0
        for run in writer.store(watched(fmt.read(source, probe, keys), keys)):
            if isinstance(run, Unreadable):
                tell(1, 0)
                check()
                quarantined.append({"key": run.key, "code": run.code, "reason": run.reason})
                continue
            tell(len(run.rows), len(run.steps))
            new: list[bool] = []
            for episode, row, seen in zip(run.episodes, run.rows, run.seen, strict=True):
                notes.update(episode.notes)
                for defect in seen:
                    defects.setdefault(defect, []).append(episode.key)
                new.append(payload["known"].get(episode.key) != row["content_hash"])
                if not new[-1]:
                    unchanged.append(episode.key)
                    continue
                revision = payload["revisions"].get(episode.key, -1) + 1
                rows.append(row | {"row_start": row_start, "row_count": row["n_steps"], "revision": revision})
                row_start += row["n_steps"]
            lengths = [row["n_steps"] for row in run.rows]
            steps = run.steps if all(new) else run.steps.filter(pa.array(np.repeat(new, lengths)))
            yield steps, list(compress(lengths, new))

    with cameras:
        stream = grouped(stored())
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
        "frames": _frames(rows),
        "streams": cameras.streams,
        "defects": [{"code": found.code, "what": found.what, "keys": keys} for found, keys in defects.items()],
        "unchanged": len(unchanged),
        "quarantined": quarantined,
        "silent": sorted(set(keys) - found),
        "notes": dict(notes),
        "source_files": [_hashed(source, path, cameras.streams.get(path)) for path in payload["files"]],
    }


def _frames(rows: Sequence[Mapping[str, Any]]) -> Counter[str]:
    """Frames that steps show, by camera."""
    frames: Counter[str] = Counter()
    for row in rows:
        frames.update({video["camera"]: row["n_steps"] for video in row["videos"]})
    return frames


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


def _as_json(file: DataFile) -> dict[str, Any]:
    return {"path": file.path, "bytes": file.bytes, "sha256": file.sha256, "rows": file.rows}


def inside(source: Source, path: str) -> tuple[str, ...]:
    """The parts of ``path`` below the source: none where the source is that file itself."""
    return () if source.is_file else (path,)
