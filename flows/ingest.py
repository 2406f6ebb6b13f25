"""``ingest``: a source becomes a dataset of the lake, with a receipt, and nothing is lost on the way.

The plan is a list of shards of episodes, content-addressed by the source's files and by what the lake knows already.
Workers write blobs and steps; then one commit a table publishes them in the order steps, receipts, quarantine,
datasets, episodes. The ``episodes`` row is the only publication point. Re-running changes nothing; a changed source
adds what changed.
"""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from itertools import chain
from typing import Any

import polars as pl
import pyarrow as pa

from data_engine.canonical import canonical_json, digest
from data_engine.errors import EngineError, RequestError, SourceError
from data_engine.formats import EpisodeRef, Format, Probe, Source
from data_engine.model import EPISODES, Dataset, episode_id
from data_engine.outages import reaching
from data_engine.recipe import SourceRecipe
from data_engine.references import refuse
from data_engine.scoring import Resources
from data_engine.steps import schema
from flows.executor import Executor, Shard, run_shards
from flows.ingest_conventions import Conventions
from flows.ingest_probe import examine
from flows.ingest_shard import inside
from flows.progress import Progress
from flows.receipt import nothing, receipt, told
from storage import removals
from storage.lake import DataFile, Lake

__all__ = ["ingest", "plan"]

_SHARD_EPISODES = 256
_SHARD_STEPS = 100_000
_VERSION = "1"  # of what this flow stores; a change re-reads sources


def ingest(
    lake: Lake, recipe: SourceRecipe, *, on: Executor, progress: Progress, run_id: str, take_back: bool = False
) -> dict[str, Any]:
    """Bring one source in and return its receipt: ``{"dataset", "in", "stored", "unchanged", "quarantined", ...}``.

    Episodes that were removed stay out and are counted as ``removed``; with ``take_back`` they come in again.
    Raises ``RequestError`` or ``SourceError`` before anything is written where the source as a whole cannot be read.
    """
    with reaching(recipe.uri):  # a doubt about what a source holds must not come from a broken connection
        while True:
            try:
                return _ingest(lake, recipe, on, progress, run_id, take_back)
            except EngineError as error:  # another ingest of the dataset was quicker: this one goes on from there
                if error.code != "overtaken":
                    raise


def _ingest(
    lake: Lake, recipe: SourceRecipe, on: Executor, progress: Progress, run_id: str, take_back: bool
) -> dict[str, Any]:
    started = time.monotonic()
    source = Source(recipe.uri)
    if recipe.by_reference:
        refuse(source.uri)
    with progress.waiting(f"looking at {source.uri}"):
        fmt, probe, found = examine(recipe)
    if found is None:
        raise RequestError(
            f"the columns of {source.uri} are only a guess of format {fmt.name!r}",
            code="unconfirmed_map",
            fix="`ingest URI --dry-run > options.yaml` writes it down; check it, then give --options options.yaml",
        )
    dataset = describe(lake, recipe, fmt, probe, found)
    ids = {ref.key: episode_id(dataset.name, ref.key) for ref in probe.episodes}
    out = removals.withheld(lake, ids)
    if take_back and out:
        removals.record(lake, "taken_back", {ids[key]: dataset.name for key in out}, run_id=run_id)
        out = []
    back = removals.taken_back(lake, ids.values())
    turn = f"dataset {dataset.name}"
    after = turn, lake.turn("episodes", turn)
    known = _known(lake, dataset.name)
    stamps = _stamps(source, probe)
    facts: list[Any] = [dataset.model_dump(mode="json"), fmt.config, sorted(stamps.items()), *([back] if back else [])]
    facts += ["by reference"] if recipe.by_reference else []
    facts += [[bad.key for bad in probe.unreadable]] if probe.unreadable else []
    fingerprint = digest("ingest", _VERSION, *facts)
    last = _last_receipt(lake, dataset.name)
    if last and last["source_fingerprint"] == fingerprint and lake.committed("episodes", last["transaction"]):
        bad = [item for item in last["quarantined"] if item["key"] not in out]
        return {
            **last,
            "unchanged": probe.n_episodes - len(out) - len(bad),
            "stored": nothing(),
            "quarantined": bad,
            "removed": len(out),
            "repeated": True,
        }
    gone = set(out)
    apart = {file for ref in probe.episodes if ref.key in gone for file in ref.files}
    probe = replace(probe, episodes=tuple(ref for ref in probe.episodes if ref.key not in gone))
    transaction = digest(fingerprint, sorted((key, row["content_hash"]) for key, row in known.items()))
    shards = plan(probe, dataset, fmt, source, known, stamps, transaction, apart, recipe.by_reference)
    probed = time.monotonic()
    results = run_shards(
        lake, "flows.ingest_shard:ingest_shard", shards, on=on, progress=progress, title=f"ingest {dataset.name}",
        resources=Resources(cpus=1),
    )  # fmt: skip
    made = {
        **receipt(dataset, fmt, probe, source, results),
        "source_fingerprint": fingerprint,
        "transaction": transaction,
        "control_mode": {"mode": dataset.control_mode, "evidence": found.evidence},
        "inferred": [finding.model_dump(mode="json") for f in dataset.features for finding in f.findings],
    }
    made["notes"] = [*made["notes"], *found.notes]
    made["in"]["episodes"] += len(out)
    made["removed"] = len(out)
    if recipe.by_reference and "by reference" not in {stream["kept"] for stream in made["streams"].values()}:
        made["notes"].append("no video stays where it is: there is none, or none that the lake lacks and can refer to")
    if out:
        made["notes"].append(f"{len(out)} episodes stay out: they were removed from the lake")
    made["duplicates"] = _duplicates(lake, dataset.name, shards, results)
    if made["duplicates"]:
        keys = [found["key"] for found in made["duplicates"]]
        what = f"{len(keys)} episodes are there already: {keys[0]} is {made['duplicates'][0]['of']}"
        made["defects"].append({"code": "duplicate", "what": what, "episodes": len(keys), "keys": keys[:10]})
    done = time.monotonic()
    made["timing"] = {"probe_s": round(probed - started, 3), "store_s": round(done - probed, 3),
                      "seconds": round(done - started, 3)}  # fmt: skip
    if removals.withheld(lake, ids) != out:
        raise EngineError("episodes of it were removed meanwhile; nothing was published", fix="run it again")
    _publish(lake, dataset, shards, results, made, run_id, after)
    for line in told(made):
        progress.warn(f"{dataset.name}: {line}")
    return made


def describe(lake: Lake, recipe: SourceRecipe, fmt: Format, probe: Probe, found: Conventions) -> Dataset:
    """The dataset that an examined source is. Options win over the source, and both over what the data shows.

    Raises ``RequestError`` where it cannot be stored, or the lake knows it with other columns.
    """
    dataset = Dataset(
        name=recipe.dataset,
        embodiment=fmt.embodiment or probe.embodiment,
        control_mode=found.control_mode,
        fps=float(fmt.fps or probe.fps),
        features=found.features,
        licence=fmt.licence or probe.licence,
        origin=Source(recipe.uri).uri,
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
    return dataset


def plan(
    probe: Probe,
    dataset: Dataset,
    fmt: Format,
    source: Source,
    known: Mapping[str, Mapping[str, Any]],
    stamps: Mapping[str, tuple[int, str]],
    transaction: str,
    apart: Collection[str] = (),
    by_reference: bool = False,
) -> list[Shard]:
    """Shards of whole episodes in the source's order, at most 256 episodes or about 100,000 steps each."""
    common = {
        "source": source.uri,
        "format": fmt.name,
        "options": fmt.model_dump(mode="json", exclude_unset=True),
        "dataset": dataset.model_dump(mode="json"),
        "by_reference": by_reference,
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
            own = probe.cut(keys)
            shared = sorted({file for ref in keys for file in ref.files}.intersection(apart))
            body = {**common, "probe": own, "known": part, "revisions": revisions, "files": files, "apart": shared}
            shards.append(Shard(digest("ingest-shard", transaction, named, files), body, len(named)))
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
        shards[0] = replace(first, payload={**first.payload, "files": sorted({*first.payload["files"], *loose})})
    return shards


def _publish(
    lake: Lake,
    dataset: Dataset,
    shards: Sequence[Shard],
    results: Sequence[Mapping[str, Any]],
    made: Mapping[str, Any],
    run_id: str,
    after: tuple[str, int],
) -> None:
    transaction, config_hash = made["transaction"], made["source_fingerprint"]
    now = datetime.now(UTC)
    common = {"transaction": transaction, "run_id": run_id, "config_hash": config_hash}
    lake.create_table(f"steps/{dataset.name}", schema(dataset.features))
    lake.create_table("episodes", EPISODES)
    files = [DataFile(**result["file"]) for result in results if result["file"]]
    lake.commit(f"steps/{dataset.name}", files, **common)
    row = {
        "dataset": dataset.name,
        "source_fingerprint": config_hash,
        "receipt": canonical_json(made),
        "run_id": run_id,
        "created_at": now,
    }
    lake.append_rows("receipts", [row], **common)
    bad = [
        {
            "dataset": dataset.name,
            "source_key": each["key"],
            "code": each["code"],
            "reason": each["reason"],
            "source_fingerprint": config_hash,
            "run_id": run_id,
            "created_at": now,
        }
        for each in made["quarantined"]
    ]
    if bad:  # a commit of nothing would only cost time
        lake.append_rows("quarantine", bad, **common)
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
    lake.commit("episodes", published, **common, after=after)


def _known(lake: Lake, dataset: str) -> dict[str, dict[str, Any]]:
    rows = lake.episodes(dataset=dataset, columns=("source_key", "content_hash", "revision"))
    return {row["source_key"]: row for row in rows.iter_rows(named=True)}


def _duplicates(
    lake: Lake, dataset: str, shards: Sequence[Shard], results: Sequence[Mapping[str, Any]]
) -> list[dict[str, str]]:
    """New episodes whose content another episode has: ``[{"key", "of", "how"}]``.

    ``of`` is ``dataset/key`` of the one that was there first; ``how`` is ``content``, or ``steps`` where the same steps
    come with other frames (a video encoded again, a camera more).
    """
    names = ("source_key", "content_hash", "steps_hash")
    parts = [
        lake.read_pending(shard.fingerprint, names)
        for shard, result in zip(shards, results, strict=True)
        if result["file"]
    ]
    if not parts:
        return []
    new = pl.DataFrame(pa.concat_tables(parts)).select(names)
    held = lake.episodes(columns=("dataset", *names)).filter(
        pl.any_horizontal(pl.col(name).is_in(new[name].implode()) for name in names[1:])
    )
    coming = set(new["source_key"])
    first: dict[str, dict[str, str]] = {"content": {}, "steps": {}}  # by hash, the episode that had it first
    for name, key, content, steps in held.rows():
        if name != dataset or key not in coming:
            first["content"].setdefault(content, f"{name}/{key}")
            first["steps"].setdefault(steps, f"{name}/{key}")
    found = []
    for key, content, steps in new.rows():
        same = {"content": content, "steps": steps}
        how = next((how for how, value in same.items() if value in first[how]), None)
        if how is not None:
            found.append({"key": key, "of": first[how][same[how]], "how": how})
        for kind, value in same.items():
            first[kind].setdefault(value, f"{dataset}/{key}")
    return found


def _stamps(source: Source, probe: Probe) -> dict[str, tuple[int, str]]:
    def stamp(path: str) -> tuple[int, str]:
        try:
            return source.stamp(*inside(source, path))
        except (FileNotFoundError, RequestError):  # absent, or a link that leaves the source: its episodes say so
            return -1, "absent"

    paths = sorted({file for ref in probe.episodes for file in ref.files})
    with ThreadPoolExecutor(1 if source.is_local else 16) as pool:  # a store is asked for each, over the network
        return dict(zip(paths, pool.map(stamp, paths), strict=True))


def _last_receipt(lake: Lake, dataset: str) -> dict[str, Any] | None:
    rows = lake.scan("receipts").filter(pl.col("dataset") == dataset).sort("created_at").tail(1).collect()
    return json.loads(rows["receipt"][0]) if len(rows) else None


def _stamped(table: pa.Table, **values: Any) -> pa.Table:
    for name, value in values.items():
        column = pa.array([value] * len(table), table.schema.field(name).type)
        table = table.set_column(table.schema.get_field_index(name), name, column)
    return table
