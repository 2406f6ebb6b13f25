"""``ingest``: a source becomes a dataset of the lake, with a receipt, and nothing is lost on the way.

The plan is a list of shards of episodes, content-addressed by the source's files and by what the lake knows already.
Workers write blobs and steps; then one commit a table publishes them in the order steps, receipts, quarantine,
datasets, episodes. The ``episodes`` row is the only publication point. Re-running changes nothing; a changed source
adds what changed.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from itertools import chain
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from data_engine.canonical import canonical_json, digest
from data_engine.errors import EngineError, RequestError, SourceError
from data_engine.formats import (
    EpisodeRef,
    Format,
    Probe,
    Source,
    detect,
)
from data_engine.model import EPISODES, Dataset
from data_engine.recipe import SourceRecipe
from data_engine.scoring import Resources
from data_engine.steps import schema
from flows.executor import Executor, Shard, run_shards
from flows.ingest_conventions import conventions
from flows.ingest_shard import inside
from flows.progress import Progress
from storage.lake import DataFile, Lake

__all__ = ["ingest", "plan"]

_SHARD_EPISODES = 256
_SHARD_STEPS = 100_000
_VERSION = "1"  # of what this flow stores; a change re-reads sources


def ingest(lake: Lake, recipe: SourceRecipe, *, on: Executor, progress: Progress, run_id: str) -> dict[str, Any]:
    """Bring one source in and return its receipt: ``{"dataset", "in", "stored", "unchanged", "quarantined", ...}``.

    Raises ``RequestError`` or ``SourceError`` before anything is written where the source as a whole cannot be read.
    """
    started = time.monotonic()
    source = Source(recipe.uri)
    fmt, probe = detect(source, recipe.format, recipe.options)
    if probe.proposal is not None:
        raise RequestError(
            f"the columns of {source.uri} are only a guess of format {fmt.name!r}",
            code="unconfirmed_map",
            fix="`data-engine ingest URI --dry-run > options.yaml` writes it; check it, then give --options options.yaml",
        )
    dataset, evidence, doubts = describe(lake, recipe, fmt, probe, source)
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
        lake, "flows.ingest_shard:ingest_shard", shards, on=on, progress=progress, title=f"ingest {dataset.name}",
        resources=Resources(cpus=1),
    )  # fmt: skip
    receipt = _receipt(dataset, fmt, probe, source, results, fingerprint, transaction, evidence)
    receipt["inferred"] = [finding.model_dump(mode="json") for f in dataset.features for finding in f.findings]
    receipt["notes"] = [*receipt["notes"], *doubts]
    _reconcile(receipt, probe)
    receipt["timing"] = {"seconds": round(time.monotonic() - started, 3)}
    _publish(lake, dataset, shards, results, receipt, run_id)
    bad = [f"{item['key']} is quarantined: {item['reason']}" for item in receipt["quarantined"]]
    for lines in (receipt["notes"], bad):
        for line in [*lines[:5], *([f"... and {len(lines) - 5} more like it"] if len(lines) > 5 else [])]:
            progress.warn(f"{dataset.name}: {line}")
    return receipt


def describe(
    lake: Lake, recipe: SourceRecipe, fmt: Format, probe: Probe, source: Source
) -> tuple[Dataset, str, tuple[str, ...]]:
    """The dataset that a probed source is, the evidence for its control mode, and notes where the data contradicts what
    is stated. Options win over the source, and both over what the data shows.
    """
    fps = fmt.fps or probe.fps
    if not fps or not np.isfinite(fps) or fps <= 0:
        raise SourceError(
            f"{source.uri} declares {fps} frames a second", code="bad_fps", fix="give options: {fps: ...}"
        )
    found = conventions(fmt, probe, source, fps)
    dataset = Dataset(
        name=recipe.dataset,
        embodiment=fmt.embodiment or probe.embodiment,
        control_mode=found.control_mode,
        fps=fps,
        features=found.features,
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
    return dataset, found.evidence, found.notes


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
    published = [] if head is None else [lake.write_file("episodes", transaction[:32], chain([head], rows), EPISODES)]
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
            stamps[path] = source.stamp(*inside(source, path))
        except FileNotFoundError:
            stamps[path] = (-1, "absent")
    return stamps


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
