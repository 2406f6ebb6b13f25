"""``ingest``: a source becomes a dataset of the lake, with a receipt, and nothing is lost on the way.

The plan is a list of shards of episodes, content-addressed by the source's files and by what the lake knows already.
Workers write blobs and steps; then one commit a table publishes them in the order steps, receipts, quarantine,
datasets, episodes. The ``episodes`` row is the only publication point. Re-running changes nothing; a changed source
adds what changed.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from fractions import Fraction
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from data_engine.canonical import canonical_json, digest
from data_engine.control import control_mode
from data_engine.errors import EngineError, RequestError, SourceError
from data_engine.formats import (
    EncodedVideo,
    EpisodeRef,
    Format,
    Probe,
    RawFrames,
    Source,
    SourceEpisode,
    Unreadable,
    detect,
)
from data_engine.model import ACTION, EPISODES, STATE, TIMESTAMP, Dataset, episode_id
from data_engine.recipe import SourceRecipe
from data_engine.scoring import Resources
from data_engine.steps import EPISODE_ID, STEP, canonical, content_hash, schema
from data_engine.video import EncodeSettings, FrameReader, encode, encode_timed, frames_digest
from flows.executor import Executor, Shard, run_shards
from flows.progress import Progress
from storage.lake import DataFile, Lake

__all__ = ["ingest", "plan"]

_SHARD_EPISODES = 256
_SHARD_STEPS = 100_000
_TICKS = 90_000  # a second, of videos whose frames come unevenly
_GROUP_STEPS = 1024  # a row group ends with the episode that reaches one of the two
_GROUP_BYTES = 1 << 20
_VERSION = "1"  # of what this flow stores; a change re-reads sources


def ingest(lake: Lake, recipe: SourceRecipe, *, on: Executor, progress: Progress, run_id: str) -> dict[str, Any]:
    """Bring one source in and return its receipt: ``{"dataset", "in", "stored", "unchanged", "quarantined", ...}``.

    Raises ``RequestError`` or ``SourceError`` before anything is written where the source as a whole cannot be read.
    """
    started = time.monotonic()
    source = Source(recipe.uri)
    fmt, probe = detect(source, recipe.format, recipe.options)
    dataset, evidence = describe(lake, recipe, fmt, probe, source)
    known = _known(lake, dataset.name)
    stamps = _stamps(source, probe)
    fingerprint = digest("ingest", _VERSION, dataset.model_dump(mode="json"), fmt.config, sorted(stamps.items()))
    last = _last_receipt(lake, dataset.name)
    if last and last["source_fingerprint"] == fingerprint and lake.committed("episodes", last["transaction"]):
        return {
            **last,
            "unchanged": last["unchanged"] + last["stored"]["episodes"],
            "stored": _nothing(),
            "repeated": True,
        }
    transaction = digest(fingerprint, sorted((key, row["content_hash"]) for key, row in known.items()))
    shards = plan(probe, dataset, fmt, source, known, stamps, transaction)
    results = run_shards(
        lake, "flows.ingest:ingest_shard", shards, on=on, progress=progress, title=f"ingest {dataset.name}",
        resources=Resources(cpus=1),
    )  # fmt: skip
    receipt = _receipt(dataset, fmt, probe, source, results, fingerprint, transaction, evidence)
    _reconcile(receipt, probe)
    receipt["timing"] = {"seconds": round(time.monotonic() - started, 3)}
    _publish(lake, dataset, shards, results, receipt, run_id)
    bad = [f"{item['key']} is quarantined: {item['reason']}" for item in receipt["quarantined"]]
    for lines in (receipt["notes"], bad):
        for line in [*lines[:5], *([f"... and {len(lines) - 5} more like it"] if len(lines) > 5 else [])]:
            progress.warn(f"{dataset.name}: {line}")
    return receipt


def describe(lake: Lake, recipe: SourceRecipe, fmt: Format, probe: Probe, source: Source) -> tuple[Dataset, str]:
    """The dataset that a probed source is, and the evidence for its control mode. Options win over the source."""
    fps = fmt.fps or probe.fps
    if not fps or not np.isfinite(fps) or fps <= 0:
        raise SourceError(
            f"{source.uri} declares {fps} frames a second", code="bad_fps", fix="give options: {fps: ...}"
        )
    mode, evidence = fmt.control_mode or probe.control_mode, "stated"
    if mode is None:
        mode, evidence = control_mode(probe.features, _samples(fmt, probe, source))
    dataset = Dataset(
        name=recipe.dataset,
        embodiment=fmt.embodiment or probe.embodiment,
        control_mode=mode,
        fps=fps,
        features=probe.features,
        licence=fmt.licence or probe.licence,
        origin=source.uri,
        format=fmt.name,
    )
    schema(dataset.features)  # refuses what cannot be stored before anything is written
    before = lake.datasets().get(dataset.name)
    if before is not None and schema(before.features) != schema(dataset.features):
        raise RequestError(
            f"dataset {dataset.name!r} is in the lake with other columns",
            code="dataset_differs",
            fix="ingest it under another name",
        )
    return dataset, evidence


def plan(
    probe: Probe,
    dataset: Dataset,
    fmt: Format,
    source: Source,
    known: Mapping[str, Mapping[str, Any]],
    stamps: Mapping[str, tuple[int, str]],
    transaction: str,
) -> list[Shard]:
    """Shards of whole episodes in the source's order, at most 256 episodes or about 100,000 steps each."""
    common = {
        "source": source.uri,
        "format": fmt.name,
        "options": fmt.model_dump(mode="json", exclude_unset=True),
        "dataset": dataset.model_dump(mode="json"),
    }
    shards: list[Shard] = []
    keys: list[EpisodeRef] = []
    steps = 0
    seen: set[str] = set()
    hashed: set[str] = set()

    def close() -> None:
        nonlocal keys, steps
        if keys:
            files = sorted({file for ref in keys for file in ref.files} - hashed)
            hashed.update(files)
            part = {ref.key: known[ref.key]["content_hash"] for ref in keys if ref.key in known}
            revisions = {ref.key: known[ref.key]["revision"] for ref in keys if ref.key in known}
            named = [ref.key for ref in keys]
            body = {**common, "keys": named, "known": part, "revisions": revisions, "files": files}
            shards.append(Shard(digest("ingest-shard", transaction, named, files), body))
        keys, steps = [], 0

    for ref in probe.episodes:
        if ref.key in seen:
            raise SourceError(f"{source.uri} has two episodes called {ref.key!r}", code="duplicate_key")
        seen.add(ref.key)
        keys.append(ref)
        steps += ref.n_steps or 0
        if len(keys) >= _SHARD_EPISODES or steps >= _SHARD_STEPS:
            close()
    close()
    loose = sorted(set(stamps) - hashed)
    if loose and shards:  # files that no single episode names: the first shard hashes them
        first = shards[0]
        shards[0] = Shard(first.fingerprint, {**first.payload, "files": sorted({*first.payload["files"], *loose})})
    return shards


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
            file = lake.write_file(f"steps/{dataset.name}", fingerprint, _chain(head, stream), schema(dataset.features))
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


def _publish(
    lake: Lake,
    dataset: Dataset,
    shards: Sequence[Shard],
    results: Sequence[Mapping[str, Any]],
    receipt: Mapping[str, Any],
    run_id: str,
) -> None:
    transaction, config_hash = receipt["transaction"], receipt["source_fingerprint"]
    now = datetime.now(UTC)
    common = {"transaction": transaction, "run_id": run_id, "config_hash": config_hash}
    lake.create_table(f"steps/{dataset.name}", schema(dataset.features))
    lake.create_table("episodes", EPISODES)
    files = [DataFile(**result["file"]) for result in results if result["file"]]
    lake.commit(f"steps/{dataset.name}", files, **common)
    row = {
        "dataset": dataset.name,
        "source_fingerprint": config_hash,
        "receipt": canonical_json(receipt),
        "run_id": run_id,
        "created_at": now,
    }
    lake.append_rows("receipts", [row], **common)
    lake.append_rows(
        "quarantine",
        [
            {
                "dataset": dataset.name,
                "source_key": bad["key"],
                "code": bad["code"],
                "reason": bad["reason"],
                "source_fingerprint": config_hash,
                "run_id": run_id,
                "created_at": now,
            }
            for bad in receipt["quarantined"]
        ],
        **common,
    )
    before = lake.datasets().get(dataset.name)
    if before != dataset:
        facts = dataset.model_dump(mode="json", exclude={"name", "features"})
        features = canonical_json([feature.model_dump(mode="json") for feature in dataset.features])
        revision = lake.scan("datasets").filter(pl.col("dataset") == dataset.name).select(pl.len()).collect().item()
        lake.append_rows(
            "datasets",
            [{"dataset": dataset.name, **facts, "features": features, "revision": revision, "run_id": run_id,
              "ingested_at": now}],
            **common,
        )  # fmt: skip
    rows = (
        _stamped(lake.read_pending(shard.fingerprint), run_id=run_id, ingested_at=now)
        for shard, result in zip(shards, results, strict=True)
        if result["file"]
    )
    head = next(rows, None)
    published = [] if head is None else [lake.write_file("episodes", transaction[:32], _chain(head, rows), EPISODES)]
    lake.commit("episodes", published, **common)


def _receipt(
    dataset: Dataset,
    fmt: Format,
    probe: Probe,
    source: Source,
    results: Sequence[Mapping[str, Any]],
    fingerprint: str,
    transaction: str,
    evidence: str,
) -> dict[str, Any]:
    frames: Counter[str] = Counter()
    notes: Counter[str] = Counter()
    cameras: dict[str, dict[str, Any]] = {}
    for result in results:
        frames.update(result["frames"])
        notes.update(result["notes"])
        for camera, facts in result["cameras"].items():
            merged = cameras.setdefault(camera, {})
            surplus = merged.get("surplus_frames", 0) + facts.get("surplus_frames", 0)
            merged.update(facts)
            if surplus:
                merged["surplus_frames"] = surplus
    for camera, facts in cameras.items():
        for key, lie in facts.get("lies", {}).items():
            notes[f"camera {camera!r}: declared {key} {lie['declared']}, in the file {lie['probed']}"] += 1
        if facts.get("surplus_frames"):
            notes[f"camera {camera!r}: {facts['surplus_frames']} frames belong to no step"] += 1
    quarantined = [bad for result in results for bad in result["quarantined"]]
    quarantined += [
        {"key": key, "code": "not_read", "reason": "the reader passed over the episode"}
        for result in results
        for key in result["silent"]
    ]
    stored = schema(dataset.features)
    told = [f"{note} ({count} episodes)" if count > 1 else note for note, count in notes.items()]
    return {
        "dataset": dataset.name,
        "source": {
            "uri": source.uri,
            "format": fmt.name,
            "options": fmt.config,
            "files": [file for result in results for file in result["source_files"]],
        },
        "source_fingerprint": fingerprint,
        "transaction": transaction,
        "in": {
            "episodes": len(probe.episodes),
            "steps": sum(ref.n_steps or 0 for ref in probe.episodes)
            if all(ref.n_steps is not None for ref in probe.episodes)
            else None,
        },
        "stored": {
            "episodes": sum(result["episodes"] for result in results),
            "steps": sum(result["steps"] for result in results),
            "frames": dict(frames),
        },
        "unchanged": sum(result["unchanged"] for result in results),
        "quarantined": quarantined,
        "embodiment": dataset.embodiment,
        "control_mode": {"mode": dataset.control_mode, "evidence": evidence},
        "fps": dataset.fps,
        "columns": [
            {"source": f.source or f.name, "column": f.name, "dtype": f.dtype, "shape": list(f.shape),
             "stored_as": "video" if f.is_camera else str(stored.field(f.name).type)}
            for f in dataset.features
        ],
        "cameras": cameras,
        "notes": [*probe.notes, *told],
    }  # fmt: skip


def _reconcile(receipt: Mapping[str, Any], probe: Probe) -> None:
    out = receipt["stored"]["episodes"] + receipt["unchanged"] + len(receipt["quarantined"])
    if out != len(probe.episodes):
        raise EngineError(
            f"{len(probe.episodes)} episodes went in and {out} came out; nothing was published", code="lost_episodes"
        )


def _known(lake: Lake, dataset: str) -> dict[str, dict[str, Any]]:
    rows = lake.episodes(dataset=dataset).select("source_key", "content_hash", "revision")
    return {row["source_key"]: row for row in rows.iter_rows(named=True)}


def _stamps(source: Source, probe: Probe) -> dict[str, tuple[int, str]]:
    paths = {file for ref in probe.episodes for file in ref.files}
    stamps: dict[str, tuple[int, str]] = {}
    for path in sorted(paths):
        try:
            stamps[path] = source.stamp(*_inside(source, path))
        except FileNotFoundError:
            stamps[path] = (-1, "absent")
    return stamps


def _inside(source: Source, path: str) -> tuple[str, ...]:
    return () if source.is_file else (path,)


def _hashed(source: Source, path: str) -> dict[str, Any]:
    import hashlib

    try:
        with source.open(*_inside(source, path)) as file:
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


def _samples(fmt: Format, probe: Probe, source: Source) -> list[tuple[np.ndarray, np.ndarray]]:
    names = {feature.name for feature in probe.features}
    if not {STATE, ACTION} <= names:
        return []
    samples = []
    for item in fmt.read(source, probe, [ref.key for ref in probe.episodes[:3]]):
        if isinstance(item, SourceEpisode) and {STATE, ACTION} <= set(item.steps.column_names):
            state, action = _wide(item.steps.column(STATE)), _wide(item.steps.column(ACTION))
            if state is not None and action is not None:
                samples.append((state, action))
    return samples


def _wide(column: pa.ChunkedArray) -> np.ndarray | None:
    try:
        values = np.asarray(column.to_pylist(), dtype=np.float64)
    except (TypeError, ValueError):
        return None
    return values.reshape(len(values), -1)


def _last_receipt(lake: Lake, dataset: str) -> dict[str, Any] | None:
    rows = lake.scan("receipts").filter(pl.col("dataset") == dataset).sort("created_at").tail(1).collect()
    return json.loads(rows["receipt"][0]) if len(rows) else None


def _stamped(table: pa.Table, **values: Any) -> pa.Table:
    for name, value in values.items():
        column = pa.array([value] * len(table), table.schema.field(name).type)
        table = table.set_column(table.schema.get_field_index(name), name, column)
    return table


def _nothing() -> dict[str, Any]:
    return {"episodes": 0, "steps": 0, "frames": {}}


def _as_json(file: DataFile) -> dict[str, Any]:
    return {"path": file.path, "bytes": file.bytes, "sha256": file.sha256, "rows": file.rows}


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


def _chain(head: pa.Table, tail: Iterator[pa.Table]) -> Iterator[pa.Table]:
    yield head
    yield from tail
