"""One shard of an ingest: its episodes are read, verified, stored, and one that cannot be read is quarantined.

Encoded video is kept byte for byte, raw frames are encoded once, and the steps of the shard become one Parquet file.
The rows for the ``episodes`` table wait in the ledger until :mod:`flows.ingest` publishes them.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from fractions import Fraction
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa

from data_engine.canonical import canonical_json, digest
from data_engine.errors import EngineError, SourceError
from data_engine.formats import EncodedVideo, RawFrames, Source, SourceEpisode, Unreadable, detect
from data_engine.model import EPISODES, TIMESTAMP, Dataset, episode_id
from data_engine.steps import EPISODE_ID, STEP, canonical, content_hash, schema
from data_engine.video import EncodeSettings, FrameReader, encode, encode_timed, frames_digest
from storage.lake import DataFile, Lake

__all__ = ["ingest_shard", "inside"]

_TICKS = 90_000  # a second, of videos whose frames come unevenly
_GROUP_STEPS = 1024  # a row group ends with the episode that reaches one of the two
_GROUP_BYTES = 1 << 20


def ingest_shard(lake: Lake, payload: Mapping[str, Any], fingerprint: str, cpus: int) -> dict[str, Any]:
    """Read, verify and store the episodes of one shard. One that cannot be read becomes a quarantine row."""
    source = Source(payload["source"])
    fmt, probe = detect(source, payload["format"], payload["options"])
    dataset = Dataset.model_validate(payload["dataset"])
    writer = _ShardWriter(lake, source, dataset, payload)
    rows: list[dict[str, Any]] = []
    unchanged: list[str] = []
    quarantined: list[dict[str, str]] = []
    notes: Counter[str] = Counter()

    def tables() -> Iterator[pa.Table]:
        row_start = 0
        for item in fmt.read(source, probe, payload["keys"]):
            if isinstance(item, Unreadable):
                quarantined.append({"key": item.key, "code": item.code, "reason": item.reason})
                continue
            try:
                steps, row = writer.store(item)
            except EngineError as error:
                quarantined.append({"key": item.key, "code": error.code, "reason": error.message})
                continue
            notes.update(item.notes)
            if payload["known"].get(item.key) == row["content_hash"]:
                unchanged.append(item.key)
                continue
            revision = payload["revisions"].get(item.key, -1) + 1
            row |= {"row_start": row_start, "row_count": len(steps), "revision": revision}
            row_start += len(steps)
            rows.append(row)
            yield steps

    with writer:
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
        "frames": writer.frames,
        "cameras": writer.cameras,
        "unchanged": len(unchanged),
        "quarantined": quarantined,
        "silent": sorted(set(payload["keys"]) - found),
        "notes": dict(notes),
        "source_files": [_hashed(source, path) for path in payload["files"]],
    }


class _ShardWriter:
    """Turns one source episode at a time into canonical steps, blobs and an episodes row."""

    def __init__(self, lake: Lake, source: Source, dataset: Dataset, payload: Mapping[str, Any]) -> None:
        self.lake, self.source, self.dataset = lake, source, dataset
        self.frames: Counter[str] = Counter()
        self.cameras: dict[str, dict[str, Any]] = {}
        self._kept: dict[str, tuple[FrameReader, str]] = {}
        self._folder = tempfile.TemporaryDirectory(prefix="data-engine-")

    def __enter__(self) -> _ShardWriter:
        return self

    def __exit__(self, *_: object) -> None:
        for reader, _path in self._kept.values():
            reader.close()
        self._folder.cleanup()

    def store(self, episode: SourceEpisode) -> tuple[pa.Table, dict[str, Any]]:
        steps = canonical(episode.steps, self.dataset.features, self.dataset.fps)
        times = steps.column(TIMESTAMP).to_numpy()
        if len(episode.cameras) < len(self.dataset.cameras):
            absent = sorted(set(self.dataset.cameras) - set(episode.cameras))
            raise SourceError(f"camera {absent[0]!r} is declared and absent", code="missing_camera")
        if episode.cameras and not (np.isfinite(times).all() and (np.diff(times) > 0).all()):
            raise SourceError("timestamps do not increase: its frames belong to no step", code="bad_timestamps")
        videos, digests = [], {}
        for camera in sorted(episode.cameras):
            given = episode.cameras[camera]
            if isinstance(given, RawFrames):
                video, digests[camera] = self._encode(camera, given, times)
            else:
                video, digests[camera] = self._keep(camera, given, times)
            videos.append({"camera": camera, **video})
        identity = episode_id(self.dataset.name, episode.key)
        table = pa.table(
            [pa.array([identity] * len(steps)), pa.array(np.arange(len(steps))), *steps.columns],
            names=[EPISODE_ID, STEP, *steps.column_names],
        ).select(schema(self.dataset.features).names)
        for video in videos:
            self.frames[video["camera"]] += len(steps)
        return table, {
            "episode_id": identity,
            "dataset": self.dataset.name,
            "source_key": episode.key,
            "content_hash": content_hash(steps, digests),
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

    def _encode(self, camera: str, raw: RawFrames, times: np.ndarray) -> tuple[dict[str, Any], str]:
        settings, fps = EncodeSettings(), self.dataset.fps
        source_digest, count = frames_digest(raw.frames())
        if count != len(times):
            raise SourceError(f"camera {camera!r} has {count} frames for {len(times)} steps", code="frame_count")
        even = np.abs(times - np.arange(count) / fps).max() < 0.25 / fps
        clock = str(fps) if even else times.tobytes()  # frames of an uneven clock keep their own times
        ledger = "encoded-" + digest(source_digest, settings.as_dict(), clock)
        done = self.lake.done(ledger)
        if done is None or not self.lake.exists(done["blob"]):
            path = os.path.join(self._folder.name, "frames.mp4")
            if even:
                encoded = encode(raw.frames(), path, fps, settings)
            else:
                ticks = np.round((times - times[0]) * _TICKS).astype(np.int64).tolist()
                rate = Fraction(fps).limit_denominator(1001)
                timed = zip(raw.frames(), ticks, strict=True)
                encoded = encode_timed(timed, path, rate, Fraction(1, _TICKS), settings)
            done = {
                "blob": self.lake.put_video(path),
                "start_s": 0.0 if even else -float(times[0]),
                "end_s": encoded.info.duration_s,
                "codec": encoded.info.codec,
                "width": encoded.info.width,
                "height": encoded.info.height,
                "fps": encoded.info.fps,
                "frames": encoded.info.frames,
            }
            os.unlink(path)
            self.lake.mark_done(ledger, done)
        self.cameras.setdefault(
            camera, {"kept": "encoded once", "settings": settings.as_dict(), "codec": done["codec"]}
        )
        return done, source_digest

    def _keep(self, camera: str, given: EncodedVideo, times: np.ndarray) -> tuple[dict[str, Any], str]:
        if given.path not in self._kept:
            if len(self._kept) >= 8:
                oldest = next(iter(self._kept))
                self._kept.pop(oldest)[0].close()
            local = _local_copy(self.source, given.path, self._folder.name)
            self._kept[given.path] = (FrameReader(local), self.lake.put_video(local))
        reader, blob = self._kept[given.path]
        info = reader.info
        for key, declared in given.declared.items():
            probed = getattr(info, key, None)
            same = abs(declared - probed) <= 1e-3 * abs(probed) if isinstance(probed, float) else declared == probed
            if declared is not None and probed is not None and not same:
                self.cameras.setdefault(camera, {}).setdefault("lies", {})[key] = {
                    "declared": declared,
                    "probed": probed,
                }
        end = given.end_s if given.end_s is not None else float(reader.times[-1]) + 1 / info.fps
        count = reader.count(given.start_s, end)
        wanted = given.start_s + times
        nearest = reader.times[
            np.clip(np.searchsorted(reader.times, wanted - 0.5 / info.fps), 0, len(reader.times) - 1)
        ]
        off = np.abs(nearest - wanted) > 0.5 / info.fps + 1e-4
        if off.any():
            raise SourceError(
                f"camera {camera!r} has no frame for step {int(np.flatnonzero(off)[0])} "
                f"({count} frames for {len(times)} steps)",
                code="frame_missing",
            )
        self.cameras.setdefault(camera, {}).update(
            {"kept": "byte for byte", "codec": info.codec, "pix_fmt": info.pix_fmt, "width": info.width,
             "height": info.height, "fps": info.fps}
        )  # fmt: skip
        extra = count - len(times)
        if extra > 0:
            self.cameras[camera]["surplus_frames"] = self.cameras[camera].get("surplus_frames", 0) + extra
        video = {
            "blob": blob,
            "start_s": float(given.start_s),
            "end_s": float(end),
            "codec": info.codec,
            "width": info.width,
            "height": info.height,
            "fps": info.fps,
            "frames": count,
        }
        return video, reader.digest(given.start_s, end)


def _hashed(source: Source, path: str) -> dict[str, Any]:
    try:
        with source.open(*inside(source, path)) as file:
            sha = hashlib.file_digest(file, "sha256").hexdigest()
            return {"path": path, "bytes": file.tell(), "sha256": sha}
    except FileNotFoundError:
        return {"path": path, "bytes": None, "sha256": None}


def _local_copy(source: Source, path: str, folder: str) -> str:
    if source.is_local:
        return source.path(path)
    local = os.path.join(folder, digest(path, length=16) + os.path.splitext(path)[1])
    source.fs.get_file(source.path(path), local)
    return local


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
