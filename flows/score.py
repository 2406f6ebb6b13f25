"""``score``: a scorer is fitted once on its reference set, the fit is stored, and episodes are scored against it.

New episodes never rescore old ones. Percentiles are within (task, embodiment) of the fit's reference set, so a score
read later means what it meant when it was written. The scores table is appended to, never changed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from data_engine import registry
from data_engine.asking import Asking
from data_engine.canonical import canonical_json, digest
from data_engine.device import device
from data_engine.errors import RequestError
from data_engine.model import SCORES, TIMESTAMP
from data_engine.recipe import ScoreRecipe
from data_engine.scoring import EpisodeBatch, Fit, Producer, Scorer, ScoreRow, Spec
from flows.ask import stored_answer
from flows.clips import clips, pinned
from flows.executor import Executor, Shard, run_shards, set_threads
from flows.progress import Progress
from flows.query import matching
from storage.lake import Lake
from storage.preferences import pinned_preferences
from storage.removals import taken_back

__all__ = ["again", "chunks", "device", "episode_row", "fit_once", "in_order", "score"]

_SHARD_STEPS = 100_000


def score(
    lake: Lake,
    recipe: ScoreRecipe,
    episodes: pl.DataFrame,
    *,
    on: Executor,
    progress: Progress,
    run_id: str,
    seed: int = 0,
    versions: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Score ``episodes`` and return ``{"scorer", "version", "config_hash", "fit_id", "scored", "nulls", ...}``.

    Fits on all of ``episodes``, or on the base set that the recipe names, unless it names a stored fit. ``versions``
    pins the encoder version of spaces that the scorer reads. Raises ``RequestError`` where the scorer needs a base set
    and is given none.
    """
    scorer: Scorer = registry.make("scorers", recipe.scorer, recipe.params)
    spec = scorer.spec
    base = _base(lake, recipe, spec, progress)
    beside = base if spec.base == "targets" else None
    learned = base.drop("unwanted") if base is not None and beside is None else episodes
    parts = _parts(
        lake,
        scorer,
        recipe.fit,
        learned,
        episodes,
        on=on,
        progress=progress,
        run_id=run_id,
        seed=seed,
        versions=versions,
    )
    scorer.check(parts)
    fit_id, reference = fit_once(
        lake, "scorers", recipe.scorer, recipe.params, recipe.fit, learned, on=on, progress=progress, seed=seed,
        base=beside, parts=parts,
    )  # fmt: skip
    if reference is None:
        reference = learned if spec.learns else learned.clear()
    mine = (
        (pl.col("scorer") == spec.name) & (pl.col("fit_id") == fit_id) & (pl.col("config_hash") == scorer.config_hash)
    )
    stored = lake.scan("scores").filter(mine & (pl.col("version") == spec.version))
    have = stored.filter(pl.col("unit_kind") == "episode").select("content_hash", "unit_id").unique().collect()
    todo = episodes.join(have, left_on=["content_hash", "episode_id"], right_on=["content_hash", "unit_id"], how="anti")
    what = digest("score", spec.name, spec.version, scorer.config_hash, fit_id)
    shared = {"scorer": recipe.scorer, "params": scorer.config, "fit": fit_id, "parts": parts}
    shards = sharded(what, todo, shared)
    results = run_shards(
        lake, "flows.score:score_shard", shards, on=on, progress=progress, title=f"score {spec.name}",
        resources=spec.resources,
    )  # fmt: skip
    if shards:
        transaction = digest("score", [shard.fingerprint for shard in shards], *again(lake))
        common = {"transaction": transaction, "run_id": run_id, "config_hash": scorer.config_hash}
        lake.create_table("scores", SCORES)
        rank = _Percentiles(lake, reference, shards, stored)
        tables = (rank.fill(lake.read_pending(shard.fingerprint), run_id) for shard in shards)
        file = lake.write_file("scores", transaction[:32], tables, SCORES)
        lake.commit("scores", [file], **common)
    if spec.set_metrics:
        from flows.score_sets import score_sets  # which stands on this module

        score_sets(lake, scorer, fit_id, episodes, on=on, progress=progress, run_id=run_id)
    errors = sum(result["errors"] for result in results) // max(len(spec.metrics), 1)
    if errors:
        progress.warn(f"{spec.name} failed on {errors} episodes: query --table scores --where \"status = 'error'\"")
    return {
        "scorer": spec.name,
        "version": spec.version,
        "config_hash": scorer.config_hash,
        "fit_id": fit_id,
        "scored": len(todo),
        "already": len(episodes) - len(todo),
        "nulls": sum(result["nulls"] for result in results),
        "errors": sum(result["errors"] for result in results),
    }


def sharded(what: str, episodes: pl.DataFrame, shared: Mapping[str, Any]) -> list[Shard]:
    """``episodes`` as shards of a chunk each, named by ``what`` is done to which contents; ``shared``: what all get."""
    return [
        Shard(
            digest(what, chunk["episode_id"].to_list(), chunk["content_hash"].to_list()),
            {**shared, "episodes": chunk["episode_id"].to_list()},
        )
        for chunk in chunks(episodes)
    ]


def fit_once(
    lake: Lake,
    kind: str,
    name: str,
    params: Mapping[str, Any],
    fit_id: str | None,
    episodes: pl.DataFrame,
    *,
    on: Executor,
    progress: Progress,
    seed: int,
    base: pl.DataFrame | None = None,
    parts: Mapping[str, str] | None = None,
) -> tuple[str, pl.DataFrame | None]:
    """The id of a stored fit and, where it was made elsewhere, the episodes it saw that are still in the lake.

    Without ``fit_id`` the producer is fitted on ``episodes``, unless the lake holds that very fit already; with
    ``base``, on those that are not in it, after a fit on ``base`` alone that is handed to it. ``parts``: by which fits
    the scores that it combines were made. Raises
    ``RequestError`` for a fit that is not there, or that another version or other parameters made.
    """
    producer = registry.make(kind, name, params)
    spec = producer.spec
    if fit_id is not None:
        fit = lake.get_fit(spec.name, fit_id)
        if (fit.version, dict(fit.config)) != (spec.version, producer.identity):
            raise RequestError(
                f"fit {fit_id} was made by version {fit.version} of {spec.name} with {canonical_json(fit.config)}",
                code="unlike_fit",
                fix="give the same parameters, or leave the fit out to fit anew",
            )
        return fit_id, lake.episodes().filter(pl.col("content_hash").is_in(list(fit.reference)))
    if not spec.learns:
        episodes = episodes.clear()
    elif not len(episodes):
        raise RequestError(f"there are no episodes to fit {spec.name} on", code="no_episodes")
    before = digest("parts", parts) if parts else None
    if base is not None:
        episodes = episodes.join(base, on="content_hash", how="anti", maintain_order="left")
        if not len(episodes):
            raise RequestError(f"{spec.name} has no episodes beside its base set", code="no_episodes")
        before = _targets_id(producer, base, seed)
    seen = episodes if base is None else pl.concat([episodes, base.drop("unwanted")])
    reference = tuple(sorted(set(seen["content_hash"])))
    fit_id = Fit(spec.name, spec.version, producer.identity, seed, reference, base=before).id
    body = {
        "kind": kind,
        "name": name,
        "params": producer.config,
        "seed": seed,
        "episodes": episodes["episode_id"].to_list(),
        **({} if base is None else {"base": _ids(base, wanted=True), "against": _ids(base, wanted=False)}),
        **({"parts": parts} if parts else {}),
    }
    run_shards(
        lake, "flows.score:fit_shard", [Shard("fit-" + digest(fit_id, spec.name), body)], on=on, progress=progress,
        title=f"fit {spec.name}", resources=spec.resources,
    )  # fmt: skip
    return fit_id, None


def fit_shard(lake: Lake, payload: Mapping[str, Any], fingerprint: str, cpus: int) -> dict[str, Any]:
    """Fit one producer on its reference set, in the order of content hashes, and store the fit."""
    set_threads(cpus)
    producer = registry.make(payload["kind"], payload["name"], payload["params"])
    base = None
    if "base" in payload:
        base, unwanted = (
            producer.fit(in_order(lake, producer, payload[role]), seed=payload["seed"], device=device())
            if payload[role]
            else None
            for role in ("base", "against")
        )
        base = producer.less(base, unwanted) if unwanted else base
    parts = payload.get("parts", {})
    episodes = in_order(lake, producer, payload["episodes"], parts)
    if collection := producer.needs.preferences:
        told = pinned_preferences(lake, collection, parts[f"preferences {collection}"])
        episodes = (replace(batch, preferences=told) for batch in episodes)
    fit = producer.fit(episodes, base=base, seed=payload["seed"], device=device())
    if parts:
        fit = replace(fit, base=digest("parts", parts), meta={**fit.meta, "parts": parts})
    return {"fit_id": lake.put_fit(fit)}


def score_shard(lake: Lake, payload: Mapping[str, Any], fingerprint: str, cpus: int) -> dict[str, Any]:
    """Score some episodes against a stored fit. Percentiles are filled in when all shards are there."""
    set_threads(cpus)
    scorer: Scorer = registry.make("scorers", payload["scorer"], payload["params"])
    fit = lake.get_fit(scorer.spec.name, payload["fit"])
    rows: list[dict[str, Any]] = []
    for batch in _batches(lake, scorer, _named(lake, payload["episodes"]), payload["parts"]):
        scored = _scored(scorer, batch, fit)
        for index, (episode, metrics) in enumerate(zip(batch.episodes.to_pylist(), scored, strict=True)):
            n_steps = int(batch.offsets[index + 1] - batch.offsets[index])
            rows.extend(episode_row(scorer, payload["fit"], episode, n_steps, metric) for metric in metrics)
    lake.write_pending(fingerprint, pa.Table.from_pylist(rows, schema=SCORES))
    return {
        "nulls": sum(row["value"] is None for row in rows),
        "errors": sum(row["status"] == "error" for row in rows),
    }


def _scored(scorer: Scorer, batch: EpisodeBatch, fit: Fit) -> list[list[ScoreRow]]:
    """Every metric of every episode. Where the scorer fails, the episodes it fails on get rows that say so.

    Running out of memory is the machine's failure, not the episode's, and is raised.
    """
    import torch

    try:
        return scorer.score(batch, fit, device=device())
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        if len(batch) > 1:
            return [row for i in range(len(batch)) for row in _scored(scorer, batch.one(i), fit)]
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:500]
        return [[ScoreRow(metric.name, None, "error", reason) for metric in scorer.spec.metrics]]


def again(lake: Lake) -> list[str]:
    """What names the same work anew once episodes were taken back in, after an erase took its rows."""
    count = taken_back(lake)
    return [f"taken back {count}"] if count else []


def chunks(episodes: pl.DataFrame, steps: int = _SHARD_STEPS) -> Iterator[pl.DataFrame]:
    """``episodes`` cut into runs of one dataset of about ``steps`` steps each, ordered by dataset and content."""
    if not len(episodes):
        return
    ordered = episodes.sort("dataset", "content_hash", "episode_id")
    for _, part in ordered.group_by("dataset", maintain_order=True):
        shard = (part["n_steps"].cum_sum() - part["n_steps"]) // steps
        for _, chunk in part.with_columns(_shard=shard).group_by("_shard", maintain_order=True):
            yield chunk.drop("_shard")


def _named(lake: Lake, ids: Sequence[str]) -> pl.DataFrame:
    return pl.DataFrame({"episode_id": list(ids)}).join(lake.episodes(), on="episode_id", maintain_order="left")


def in_order(
    lake: Lake, producer: Any, ids: Sequence[str], parts: Mapping[str, str] | None = None
) -> Iterator[EpisodeBatch]:
    """The episodes ``ids`` in the order of their content, as ``producer`` needs them."""
    if not ids:
        return iter(())
    return _batches(lake, producer, _named(lake, ids).sort("content_hash", "episode_id"), parts or {})


def _parts(
    lake: Lake,
    scorer: Scorer,
    fit_id: str | None,
    learned: pl.DataFrame,
    episodes: pl.DataFrame,
    *,
    on: Executor,
    progress: Progress,
    run_id: str,
    seed: int,
    versions: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """What scores of ``scorer`` stand on: the fit of each scorer whose metrics it combines, once these have scored all
    that it reads of them, and the encoder version of each space.
    """
    names = list(dict.fromkeys(metric.partition(".")[0] for metric in scorer.needs.scores))
    if fit_id is not None:
        parts = dict(lake.get_fit(scorer.spec.name, fit_id).meta.get("parts", {}))
    else:
        parts = {
            name: fit_once(lake, "scorers", name, {}, None, learned, on=on, progress=progress, seed=seed)[0]
            for name in names
        } | pinned(lake, scorer.needs.spaces, episodes, versions)
    everyone = pl.concat([learned, episodes]).unique("episode_id", maintain_order=True) if names else episodes
    for name in names:
        given = ScoreRecipe(scorer=name, fit=parts[name])
        score(lake, given, everyone, on=on, progress=progress, run_id=run_id, seed=seed)
    return parts


def _base(lake: Lake, recipe: ScoreRecipe, spec: Spec, progress: Progress) -> pl.DataFrame | None:
    """The episodes of the base set that ``recipe`` names, ``unwanted`` those of ``against``; None without one."""
    base = recipe.base
    if base is None:
        if spec.base != "optional" and recipe.fit is None:
            raise RequestError(
                f"scorer {recipe.scorer!r} needs a base set",
                code="no_base",
                fix="name one: --base EXPR, or base: {where: ...} in the recipe",
            )
        return None
    if base.against is not None and spec.base != "targets":
        raise RequestError(
            f"scorer {recipe.scorer!r} has no use for base.against", code="bad_recipe", fix="leave it out"
        )
    everyone = lake.episodes()
    if base.ids is not None:
        found = everyone.filter(pl.col("episode_id").is_in(list(base.ids)))
        missing = sorted(set(base.ids) - set(found["episode_id"]))
        if missing:
            raise RequestError(f"no episode {missing[0]!r} for the base set", code="unknown_episode")
    elif base.selection is not None:
        from flows.select import stored  # which stands on this module

        chosen = stored(lake, base.selection).filter(pl.col("rank").is_not_null())
        found = everyone.join(chosen, on=["episode_id", "content_hash"], how="semi", maintain_order="left")
    else:
        found = _admitted(lake, everyone, str(base.where), progress)
    if not len(found):
        raise RequestError("the base set holds no episode", code="no_base", fix="see `data-engine query`")
    found = found.with_columns(unwanted=False)
    if base.against is None:
        return found
    rest = everyone.join(found, on="content_hash", how="anti", maintain_order="left")
    unwanted = _admitted(lake, rest, base.against, progress)
    if not len(unwanted):
        raise RequestError(f"base.against admits no episode: {base.against}", code="no_base", fix="leave it out")
    return pl.concat([found, unwanted.with_columns(unwanted=True)])


def _admitted(lake: Lake, episodes: pl.DataFrame, where: str, progress: Progress) -> pl.DataFrame:
    found, undecided = matching(lake, episodes, where)
    if undecided:
        progress.warn(f"{undecided} episodes are not in the base set, it was null for them: {where}")
    return found


def _ids(base: pl.DataFrame, *, wanted: bool) -> list[str]:
    return base.filter(pl.col("unwanted") != wanted)["episode_id"].to_list()


def _targets_id(producer: Any, base: pl.DataFrame, seed: int) -> str:
    """The id of the fit on targets alone that ``fit_shard`` will hand over."""
    spec, config = producer.spec, producer.identity
    unwanted = sorted(set(base.filter(pl.col("unwanted"))["content_hash"]))
    away = Fit(spec.name, spec.version, config, seed, tuple(unwanted)).id if unwanted else None
    return Fit(spec.name, spec.version, config, seed, tuple(sorted(set(base["content_hash"]))), base=away).id


def _batches(lake: Lake, producer: Any, episodes: pl.DataFrame, parts: Mapping[str, str]) -> Iterator[EpisodeBatch]:
    needs = producer.needs
    scores = _stored(lake, needs.scores, parts)
    known = lake.datasets() if needs.frames and needs.columns else {}
    for (dataset,), part in episodes.group_by("dataset", maintain_order=True):
        clocks = [f.name for f in known[dataset].features if f.name.startswith("frame_time.")] if known else []
        columns = list(dict.fromkeys((TIMESTAMP, *needs.columns, *clocks))) if needs.columns else None
        for batch in lake.batches(part, columns=columns):
            ids, hashes = (batch.episodes[name].to_pylist() for name in ("episode_id", "content_hash"))
            found = {name: np.array([values.get(one, np.nan) for one in ids]) for name, values in scores.items()}
            spaces = {name: clips(lake, name, parts[f"space {name}"], ids, hashes) for name in needs.spaces}
            if isinstance(producer, Asking):
                batch = replace(batch, answers=partial(stored_answer, lake))
            yield replace(batch, scores=found, spaces=spaces) if found or spaces else batch


def _stored(lake: Lake, metrics: Sequence[str], parts: Mapping[str, str]) -> dict[str, dict[str, float]]:
    """The values of ``metrics`` by episode, as the fits of ``parts`` made them."""
    found = {}
    for name in metrics:
        scorer, _, metric = name.partition(".")
        mine = (pl.col("scorer") == scorer) & (pl.col("fit_id") == parts[scorer]) & (pl.col("metric") == metric)
        rows = lake.scan("scores").filter(mine & pl.col("value").is_not_null()).select("unit_id", "value").collect()
        found[name] = dict(rows.iter_rows())
    return found


def episode_row(
    scorer: Producer, fit_id: str, episode: Mapping[str, Any], n_steps: int, row: ScoreRow
) -> dict[str, Any]:
    """A row of the scores table, without percentile and run."""
    metric = next(m for m in (*scorer.spec.metrics, *scorer.spec.set_metrics) if m.name == row.metric)
    value = None if row.value is None or not np.isfinite(row.value) else float(row.value)
    undefined = value is None and row.status == "ok"
    return {
        "unit_kind": "episode",
        "unit_id": episode["episode_id"],
        "content_hash": episode["content_hash"],
        "start": 0,
        "stop": n_steps,
        "scorer": scorer.spec.name,
        "metric": row.metric,
        "version": scorer.spec.version,
        "config_hash": scorer.config_hash,
        "fit_id": fit_id,
        "value": value,
        "percentile": None,
        "better": metric.better,
        "unit": metric.unit,
        "status": "undefined" if undefined else row.status,
        "reason": "not finite" if undefined and not row.reason else row.reason,
        "n_steps": n_steps,
        "step_values": None if row.step_values is None else np.asarray(row.step_values, np.float32),
        "spans": [{"start": span.start, "stop": span.stop, "reason": span.reason} for span in row.spans],
        "run_id": None,
    }


class _Percentiles:
    """Mid-rank percentiles, 0 to 100, within (task, embodiment) of the reference episodes, by metric."""

    def __init__(self, lake: Lake, reference: pl.DataFrame, shards: Sequence[Shard], stored: pl.LazyFrame) -> None:
        episodes = lake.episodes().select("episode_id", "task", "embodiment")
        self._place = {row[0]: (row[1], row[2]) for row in episodes.iter_rows()}
        inside = set(reference["content_hash"])
        values: dict[tuple[Any, ...], list[float]] = defaultdict(list)
        columns = ["unit_id", "content_hash", "metric", "value"]
        for rows in (stored.select(columns).collect().iter_rows(), *self._pending(lake, shards, columns)):
            for unit, content, metric, value in rows:
                if value is not None and content in inside:
                    values[(metric, *self._place.get(unit, (None, None)))].append(value)
        self._values = {key: np.sort(np.asarray(found)) for key, found in values.items()}

    @staticmethod
    def _pending(lake: Lake, shards: Sequence[Shard], columns: list[str]) -> Iterator[Iterator[tuple[Any, ...]]]:
        for shard in shards:
            yield pl.DataFrame(lake.read_pending(shard.fingerprint).select(columns)).iter_rows()

    def fill(self, rows: pa.Table, run_id: str) -> pa.Table:
        found: list[float | None] = []
        for unit, metric, value in zip(
            *(rows.column(name).to_pylist() for name in ("unit_id", "metric", "value")), strict=True
        ):
            known = self._values.get((metric, *self._place.get(unit, (None, None))))
            if value is None or known is None:
                found.append(None)
                continue
            below, upto = np.searchsorted(known, value, "left"), np.searchsorted(known, value, "right")
            found.append(100.0 * (below + upto) / 2 / len(known))
        rows = rows.set_column(rows.schema.get_field_index("percentile"), "percentile", pa.array(found, pa.float64()))
        return rows.set_column(rows.schema.get_field_index("run_id"), "run_id", pa.array([run_id] * len(rows)))
