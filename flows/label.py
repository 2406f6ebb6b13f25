"""``label``: a labeller is fitted once, says something of spans of episodes, and sums each episode up in scores.

What it says lies in the annotations table, the sums in the scores table under the labeller's name, where expressions
and selections find them. An episode's scores are written after its annotations and say that it is labelled.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from data_engine import registry
from data_engine.asking import Asking
from data_engine.canonical import digest
from data_engine.labelling import Annotation, Labeller, Labels, LabelSpec
from data_engine.model import ANNOTATIONS, SCORES
from data_engine.recipe import LabelRecipe
from data_engine.scoring import EpisodeBatch, Fit, ScoreRow
from flows.ask import ask_about
from flows.clips import pinned
from flows.executor import Executor, run_shards, set_threads
from flows.progress import Progress
from flows.score import _batches, _named, _Percentiles, again, device, episode_row, fit_once, sharded
from storage.lake import Lake
from storage.preferences import pin_preferences

__all__ = ["label"]

_PENDING = pa.schema([*SCORES, pa.field("annotations", pa.list_(pa.struct(list(ANNOTATIONS))))])


def label(
    lake: Lake,
    recipe: LabelRecipe,
    episodes: pl.DataFrame,
    *,
    on: Executor,
    progress: Progress,
    run_id: str,
    seed: int = 0,
    versions: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Label ``episodes``; ``{"labeller", "version", "config_hash", "fit_id", "labelled", "already", "nulls", ...}``.

    Fits on all of ``episodes`` where the labeller learns and the recipe names no stored fit. What that fit has labelled
    is not labelled again. ``versions`` pins the encoder version of spaces that it reads. Raises ``RequestError`` where
    a space that the labeller reads holds none of them.
    """
    labeller: Labeller = registry.make("labellers", recipe.labeller, recipe.params)
    spec = labeller.spec
    if recipe.fit is None:
        parts = pinned(lake, labeller.needs.spaces, episodes, versions)
        parts |= pin_preferences(lake, labeller.needs.preferences)
    else:
        parts = dict(lake.get_fit(spec.name, recipe.fit).meta.get("parts", {}))
    labeller.check(parts)
    fit_id, reference = fit_once(
        lake, "labellers", recipe.labeller, recipe.params, recipe.fit, episodes, on=on, progress=progress, seed=seed,
        parts=parts,
    )  # fmt: skip
    if reference is None:
        reference = episodes if spec.learns else episodes.clear()
    mine = (pl.col("fit_id") == fit_id) & (pl.col("config_hash") == labeller.config_hash)
    mine &= pl.col("version") == spec.version
    stored = lake.scan("scores").filter(mine & (pl.col("scorer") == spec.name))
    have = stored.select("content_hash", "unit_id").unique().collect()
    todo = episodes.join(have, left_on=["content_hash", "episode_id"], right_on=["content_hash", "unit_id"], how="anti")
    asked = ask_about(lake, labeller, todo, progress=progress) if isinstance(labeller, Asking) else None
    what = digest("label", spec.name, spec.version, labeller.config_hash, fit_id)
    shared = {"labeller": recipe.labeller, "params": labeller.config, "fit": fit_id, "parts": parts}
    shards = sharded(what, todo, shared)
    results = run_shards(
        lake, "flows.label:label_shard", shards, on=on, progress=progress, title=f"label {spec.name}",
        resources=spec.resources,
    )  # fmt: skip
    if shards:
        transaction = digest("label", [shard.fingerprint for shard in shards], *again(lake))
        common = {"transaction": transaction, "run_id": run_id, "config_hash": labeller.config_hash}
        lake.create_table("annotations", ANNOTATIONS)
        lake.create_table("scores", SCORES)
        if not lake.committed("annotations", transaction):
            said = (
                lake.scan("annotations")
                .filter(mine & (pl.col("producer") == spec.name))
                .select("episode_id", "content_hash")
            )
            known = set(said.unique().collect().iter_rows())  # of a run that ended before it wrote their scores
            waiting = (_annotations(lake.read_pending(shard.fingerprint), known, run_id) for shard in shards)
            file = lake.write_file("annotations", transaction[:32], waiting, ANNOTATIONS)
            lake.commit("annotations", [file], **common)
        rank = _Percentiles(lake, reference, shards, stored)
        sums = (rank.fill(lake.read_pending(shard.fingerprint, SCORES.names), run_id) for shard in shards)
        file = lake.write_file("scores", transaction[:32], sums, SCORES)
        lake.commit("scores", [file], **common)
    errors = sum(result["errors"] for result in results)
    if errors:
        progress.warn(f"{spec.name} failed on {errors} episodes: query --table scores --where \"status = 'error'\"")
    silent = sum((Counter(result.get("silent", {})) for result in results), Counter())
    if silent and silent.total() == len(todo) and not errors:
        ((reason, _),) = silent.most_common(1)
        progress.warn(f"{spec.name} has nothing to say of any of {len(todo)} episodes: {reason}")
    return {
        "labeller": spec.name,
        "version": spec.version,
        "config_hash": labeller.config_hash,
        "fit_id": fit_id,
        "labelled": len(todo),
        "already": len(episodes) - len(todo),
        "annotations": sum(result["annotations"] for result in results),
        "nulls": sum(result["nulls"] for result in results),
        "errors": errors,
        **(asked.facts() if asked else {}),
    }


def label_shard(lake: Lake, payload: Mapping[str, Any], fingerprint: str, cpus: int) -> dict[str, Any]:
    """Label some episodes with a stored fit. The annotations of an episode wait beside its first score."""
    set_threads(cpus)
    labeller: Labeller = registry.make("labellers", payload["labeller"], payload["params"])
    fit = lake.get_fit(labeller.spec.name, payload["fit"])
    rows: list[dict[str, Any]] = []
    silent: Counter[str] = Counter()  # why nothing is said of an episode, and of how many
    count = errors = 0
    for batch in _batches(lake, labeller, _named(lake, payload["episodes"]), payload["parts"]):
        lengths = np.diff(batch.offsets).tolist()
        found = _labelled(labeller, batch, fit)
        for episode, n_steps, labels in zip(batch.episodes.to_pylist(), lengths, found, strict=True):
            said = [_row(labeller, payload["fit"], episode, item) for item in _in_order(labels.annotations)]
            mine = [episode_row(labeller, payload["fit"], episode, n_steps, row) for row in labels.scores]
            rows += [{**row, "annotations": [] if place else said} for place, row in enumerate(mine)]
            count += len(said)
            if not said:
                silent[next((row["reason"] for row in mine if row["reason"]), "no reason is given")] += 1
            errors += any(row["status"] == "error" for row in mine)
    lake.write_pending(fingerprint, pa.Table.from_pylist(rows, schema=_PENDING))
    nulls = sum(row["value"] is None for row in rows)
    return {"annotations": count, "nulls": nulls, "errors": errors, "silent": dict(silent)}


def _labelled(labeller: Labeller, batch: EpisodeBatch, fit: Fit) -> list[Labels]:
    """The labels of every episode. Where the labeller fails, or says what cannot be, the episode's scores say so.

    Running out of memory is the machine's failure, not the episode's, and is raised.
    """
    import torch

    spec = labeller.spec
    try:
        found = labeller.label(batch, fit, device=device())
        if len(found) != len(batch):
            raise ValueError(f"{spec.name} gave labels of {len(found)} episodes for {len(batch)}")
        for labels, n_steps in zip(found, np.diff(batch.offsets).tolist(), strict=True):
            _check(labels, spec, n_steps)
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        if len(batch) > 1:
            return [labels for i in range(len(batch)) for labels in _labelled(labeller, batch.one(i), fit)]
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:500]
        return [Labels((), tuple(ScoreRow(metric.name, None, "error", reason) for metric in spec.metrics))]
    return found


def _check(labels: Labels, spec: LabelSpec, n_steps: int) -> None:
    """Raises ``ValueError`` for annotations outside the episode or its spec, and for a metric without its one row."""
    wanted, given = sorted(metric.name for metric in spec.metrics), sorted(row.metric for row in labels.scores)
    if wanted != given:
        raise ValueError(f"{spec.name} gave metrics {', '.join(given) or 'none'}, not {', '.join(wanted)}")
    for item in labels.annotations:
        if item.kind not in spec.kinds:
            raise ValueError(f"{spec.name} gave an annotation of kind {item.kind!r}, which its spec does not list")
        if not 0 <= item.start < item.stop <= n_steps:
            raise ValueError(f"{item.kind} of steps {item.start} to {item.stop} in an episode of {n_steps}")
        if item.step_values is not None and np.shape(item.step_values) != (item.stop - item.start,):
            raise ValueError(f"{item.kind} of {item.stop - item.start} steps has {np.shape(item.step_values)} values")


def _in_order(annotations: Sequence[Annotation]) -> list[Annotation]:
    return sorted(annotations, key=lambda item: (item.kind, item.start, item.stop, item.label or ""))


def _row(labeller: Labeller, fit_id: str, episode: Mapping[str, Any], item: Annotation) -> dict[str, Any]:
    """A row of the annotations table, without its run."""
    known = item.value is not None and np.isfinite(item.value)
    return {
        "episode_id": episode["episode_id"],
        "content_hash": episode["content_hash"],
        "kind": item.kind,
        "start": int(item.start),
        "stop": int(item.stop),
        "label": item.label,
        "text": item.text,
        "value": float(item.value) if known and item.value is not None else None,
        "step_values": None if item.step_values is None else np.asarray(item.step_values, np.float32),
        "confidence": None if item.confidence is None else float(item.confidence),
        "reason": "not finite" if item.value is not None and not known and not item.reason else item.reason,
        "producer": labeller.spec.name,
        "version": labeller.spec.version,
        "config_hash": labeller.config_hash,
        "fit_id": fit_id,
        "run_id": None,
    }


def _annotations(pending: pa.Table, known: set[tuple[str, str]], run_id: str) -> pa.Table:
    """The annotations that wait in a shard's rows, less those of the episodes in ``known``."""
    column = pending.column("annotations").combine_chunks()
    rows = pa.Table.from_struct_array(column.flatten())
    if known:
        whose = zip(*(rows.column(name).to_pylist() for name in ("episode_id", "content_hash")), strict=True)
        rows = rows.filter(pa.array([each not in known for each in whose], pa.bool_()))
    runs = pa.array([run_id] * len(rows), pa.string())
    return rows.set_column(rows.schema.get_field_index("run_id"), "run_id", runs)
