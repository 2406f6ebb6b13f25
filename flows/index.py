"""``embed`` and ``index``: vectors of episodes in a space, and a FAISS index over each group that may be compared.

Vectors of unlike (embodiment, control mode) never share an index: a query across them is refused. New episodes are
embedded with the stored fit; an index is a pure function of the vectors in it and carries their hash as its version.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from data_engine import registry
from data_engine.canonical import digest
from data_engine.errors import RequestError
from data_engine.model import EMBEDDINGS
from data_engine.recipe import SpaceRecipe
from data_engine.scoring import Clips, Encoder
from flows.executor import Executor, Shard, run_shards, set_threads
from flows.progress import Progress
from flows.query import matching
from flows.score import _batches, _named, again, chunks, device, fit_once
from flows.spans import index_steps
from storage import indices
from storage.fits import list_fits
from storage.lake import Lake

__all__ = ["complete", "embed", "index", "search", "vectors"]

_SHARD_FRAMES = 20_000  # steps of a shard whose every frame may get a vector: 40 MB a camera at 512 numbers
_ROWS_AT_ONCE = 200_000  # vectors of a space that are averaged at once


def embed(
    lake: Lake,
    recipe: SpaceRecipe,
    episodes: pl.DataFrame,
    *,
    on: Executor,
    progress: Progress,
    run_id: str,
    seed: int = 0,
) -> dict[str, Any]:
    """Embed ``episodes`` in a space: ``{"space", "encoder_version", "fit_id", "embedded", "empty", "failed"}``.

    ``empty``: ids of episodes that have nothing to embed. ``failed``: ``{"episode_id", "dataset", "source_key",
    "camera", "reason"}`` of each video that could not be decoded; they are rows of the quarantine too, and the rest of
    the episode is embedded.
    """
    encoder: Encoder = registry.make("encoders", recipe.encoder, recipe.params)
    spec = encoder.spec
    given = encoder.version()
    fit_id, _ = fit_once(
        lake, "encoders", recipe.encoder, recipe.params, recipe.fit, episodes, on=on, progress=progress, seed=seed,
        parts={"version": given} if given else None,
    )  # fmt: skip
    version = given or _version(encoder, fit_id)
    table = f"embeddings/{recipe.name}"
    stored = _scan(lake, recipe.name).filter(pl.col("encoder_version") == version)
    have = stored.select("episode_id", "content_hash").collect()
    todo = episodes.join(have, on=["episode_id", "content_hash"], how="anti")
    shards = [
        Shard(
            digest("embed", recipe.name, version, chunk["episode_id"].to_list(), chunk["content_hash"].to_list()),
            {"encoder": recipe.encoder, "params": encoder.config, "fit": fit_id, "version": version,
             "episodes": chunk["episode_id"].to_list()},
        )
        for chunk in (chunks(todo, _SHARD_FRAMES) if encoder.needs.frames else chunks(todo))
    ]  # fmt: skip
    results = run_shards(
        lake, "flows.index:embed_shard", shards, on=on, progress=progress, title=f"embed {recipe.name}",
        resources=spec.resources,
    )  # fmt: skip
    empty = [episode for result in results for episode in result["empty"]]
    failed = [bad for result in results for bad in result.get("failed", [])]
    if empty:
        progress.warn(f"{len(empty)} of {len(todo)} episodes have nothing that {spec.name} can embed")
    embedded = len(todo) - len(empty) - sum(result.get("lost", 0) for result in results)
    transaction = digest("embed", [shard.fingerprint for shard in shards], *again(lake))
    if failed:
        _quarantine(lake, recipe.name, failed, transaction, run_id)
        progress.warn(f"{len(failed)} videos are not in space {recipe.name}: query --table quarantine")
    if embedded:
        lake.create_table(table, EMBEDDINGS)
        rows = (_of_run(lake.read_pending(shard.fingerprint), run_id) for shard in shards)
        file = lake.write_file(table, transaction[:32], rows, EMBEDDINGS)
        lake.commit(table, [file], transaction=transaction, run_id=run_id, config_hash=encoder.config_hash)
    return {
        "space": recipe.name,
        "encoder_version": version,
        "fit_id": fit_id,
        "embedded": embedded,
        "empty": empty,
        "failed": failed,
    }


def embed_shard(lake: Lake, payload: Mapping[str, Any], fingerprint: str, cpus: int) -> dict[str, Any]:
    """Embed some episodes with a stored fit. What has nothing to embed is named, and gets no row."""
    set_threads(cpus)
    encoder: Encoder = registry.make("encoders", payload["encoder"], payload["params"])
    fit = lake.get_fit(encoder.spec.name, payload["fit"])
    tables, empty, failed, lost = [], [], [], 0
    for batch in _batches(lake, encoder, _named(lake, payload["episodes"]), {}):
        encoded = encoder.encode(batch, fit, device=device())
        for episode, found in zip(batch.episodes.to_pylist(), encoded, strict=True):
            who = {name: episode[name] for name in ("episode_id", "dataset", "source_key")}
            failed += [{**who, "camera": camera, "reason": reason} for camera, reason in found.failed.items()]
            if len(found.clips):
                tables.append(_rows(episode, found.clips, payload["version"]))
            elif found.failed:
                lost += 1
            else:
                empty.append(episode["episode_id"])
    lake.write_pending(fingerprint, pa.concat_tables([EMBEDDINGS.empty_table(), *tables]).combine_chunks())
    return {"empty": empty, "failed": failed, "lost": lost}


def _rows(episode: Mapping[str, Any], clips: Clips, version: str) -> pa.Table:
    """The rows of one episode's clips, without their run."""
    count, width = clips.vectors.shape
    offsets = pa.array(np.arange(count + 1, dtype=np.int32) * width)
    columns: dict[str, Any] = {
        "start": pa.array(clips.starts, pa.int64()),
        "stop": pa.array(clips.stops, pa.int64()),
        "camera": pa.array(clips.cameras, pa.string()),
        "vector": pa.ListArray.from_arrays(offsets, pa.array(clips.vectors.reshape(-1), pa.float32())),
    }
    said = {name: episode[name] for name in ("episode_id", "content_hash", "embodiment", "control_mode")}
    for name, value in {**said, "encoder_version": version, "run_id": None}.items():
        columns[name] = pa.repeat(pa.scalar(value, pa.string()), count)
    return pa.table({name: columns[name] for name in EMBEDDINGS.names}, schema=EMBEDDINGS)


def _quarantine(lake: Lake, space: str, failed: list[dict[str, Any]], transaction: str, run_id: str) -> None:
    """Say once of each video why it is not in the space."""
    same = ["dataset", "source_key", "code", "reason"]
    rows = pl.DataFrame(
        [
            {**bad, "code": "undecodable_frames",
             "reason": f"camera {bad['camera']} is not in space {space}: {bad['reason']}"}
            for bad in failed
        ]
    ).select(same)  # fmt: skip
    said = lake.scan("quarantine").select(same).collect() if lake.exists_table("quarantine") else rows.clear()
    new = rows.join(said, on=same, how="anti").with_columns(run_id=pl.lit(run_id), created_at=pl.lit(datetime.now(UTC)))
    lake.append_rows("quarantine", new.to_dicts(), transaction=transaction, run_id=run_id)


def vectors(
    lake: Lake, space: str, episodes: pl.DataFrame, encoder_version: str | None = None
) -> tuple[pl.DataFrame, str]:
    """``episodes`` that have a vector in ``space``, with it as column ``vector``, and the encoder's version.

    Of a space with many vectors an episode (frames by camera) it is their mean.

    Where no version is named, it is the one that holds them all, of several such the one that holds most of the space:
    what was embedded together with newer episodes counts. Raises ``RequestError`` where that leaves none or several.
    """
    rows = _scan(lake, space)
    if encoder_version is not None:
        rows = rows.filter(pl.col("encoder_version") == encoder_version)
    identity = ["episode_id", "content_hash", "encoder_version"]
    counted = rows.group_by(identity).len("_rows").collect()
    held = counted.drop("_rows")
    joined = episodes.join(held, on=["episode_id", "content_hash"], maintain_order="left")
    if not len(joined):
        raise RequestError(
            f"space {space!r} holds none of these episodes",
            code="not_embedded",
            fix="run `data-engine embed` first",
        )
    whole = joined["episode_id"].n_unique()
    mine = joined.group_by("encoder_version").len().filter(pl.col("len") == whole)["encoder_version"]
    sizes = held.group_by("encoder_version").len().filter(pl.col("encoder_version").is_in(mine.to_list()))
    versions = sizes.filter(pl.col("len") == pl.col("len").max())["encoder_version"].sort().to_list()
    if len(versions) != 1:
        several = ", ".join(version[:12] for version in sorted(joined["encoder_version"].unique()))
        raise RequestError(
            f"space {space!r} holds these episodes in several encoder versions: {several}",
            code="ambiguous_space",
            fix="embed them together",
        )
    chosen = joined.filter(pl.col("encoder_version") == versions[0]).drop("encoder_version")
    size = counted.filter(pl.col("encoder_version") == versions[0])["_rows"].sum()
    mine = rows.filter(pl.col("encoder_version") == versions[0])
    return _with_vectors(mine, chosen, -(-size // _ROWS_AT_ONCE)), versions[0]


def _with_vectors(rows: pl.LazyFrame, episodes: pl.DataFrame, parts: int) -> pl.DataFrame:
    """``episodes`` with the mean of their ``rows``, read in ``parts``."""
    key = ["episode_id", "content_hash"]
    place = [*key, "camera", "start", "stop"]
    found = []
    for part in episodes.iter_slices(-(-len(episodes) // parts)):
        mine = rows.filter(pl.col("episode_id").is_in(part["episode_id"].implode())).select(*place, "vector")
        held = mine.unique(place, keep="first").collect().sort(place)  # racing runs embed twice
        first = np.flatnonzero(held.select(pl.struct(key).rle_id().alias("at"))["at"].diff().fill_null(1).to_numpy())
        matrix = held["vector"].explode().to_numpy().reshape(len(held), -1).astype(np.float64)
        mean = np.add.reduceat(matrix, first) / np.diff(first, append=len(held))[:, None]
        vectors = pl.Series("vector", mean.astype(np.float32)).cast(pl.List(pl.Float32))
        found.append(part.join(held[first].select(key).with_columns(vectors), on=key, maintain_order="left"))
    return pl.concat(found)


def complete(
    lake: Lake, recipe: SpaceRecipe, episodes: pl.DataFrame, *, on: Executor, progress: Progress, run_id: str
) -> str:
    """Embed those of ``episodes`` that a space lacks, with the fit that made its newest vectors; its encoder version.

    An empty space is fitted on ``episodes``. Raises ``RequestError`` where no stored fit made what it holds.
    """
    rows = _scan(lake, recipe.name).select("encoder_version", "run_id").collect()
    encoder: Encoder = registry.make("encoders", recipe.encoder, recipe.params)
    if len(rows) and recipe.fit is None and encoder.version() is None:
        made = {_version(encoder, fit): fit for name, fit in list_fits(lake) if name == encoder.spec.name}
        newest = next((version for version in rows["encoder_version"].to_list()[::-1] if version in made), None)
        if newest is None:
            raise RequestError(
                f"no stored fit of {recipe.encoder!r} made the vectors of space {recipe.name!r}",
                code="not_embedded",
                fix=f"run `data-engine embed {recipe.encoder} --space {recipe.name}`",
            )
        recipe = recipe.model_copy(update={"fit": made[newest]})
    found = embed(lake, recipe, episodes, on=on, progress=progress, run_id=run_id)
    return str(found["encoder_version"])


def _version(encoder: Encoder, fit_id: str) -> str:
    return digest(encoder.spec.name, encoder.spec.version, encoder.config_hash, fit_id)


def index(lake: Lake, space: str, episodes: pl.DataFrame, encoder_version: str | None = None) -> list[dict[str, Any]]:
    """Build and store the index of every (embodiment, control mode) among ``episodes``; what is there already stays.

    A space of frames has one more, over all its steps (:mod:`flows.spans`). Each says its form, and the recall at 10
    that its default search was measured to have.
    """
    found, version = vectors(lake, space, episodes, encoder_version)
    built = []
    for _, group in found.group_by("embodiment", "control_mode", maintain_order=True):
        fresh = _build(group, version)
        name = _group_name(space, group)
        if (name, fresh.version) not in indices.list_indices(lake):
            indices.save(lake, name, fresh)
        built.append(
            {"space": name, "version": fresh.version, "form": fresh.form, "count": len(fresh),
             **fresh.effort.as_dict(), **fresh.meta}
        )  # fmt: skip
    steps = index_steps(lake, space, version, episodes)
    return sorted([*built, *([steps] if steps else [])], key=lambda entry: entry["space"])


def search(lake: Lake, space: str, episode: str, *, k: int = 10, where: str | None = None) -> list[dict[str, Any]]:
    """The ``k`` episodes nearest to one, among those of its (embodiment, control mode) that ``where`` admits.

    Returns rows with ``episode_id`` and ``similarity`` (cosine, higher is nearer), nearest first, itself left out.
    Raises ``RequestError`` where ``where`` admits only episodes whose vectors are of another kind.
    """
    everything = lake.episodes()
    mine = everything.filter(pl.col("episode_id") == episode)
    if not len(mine):
        raise RequestError(f"no episode {episode!r} in the lake", code="unknown_episode", fix="see `data-engine query`")
    like = everything.join(mine, on=["embodiment", "control_mode"], how="semi")
    admitted, _ = matching(lake, everything, where)
    if len(admitted) and not len(admitted.join(like, on="episode_id", how="semi")):
        raise RequestError(
            f"episode {episode!r} is {_kind(mine)} and what --where admits is not: their vectors cannot be compared",
            code="unlike_spaces",
            fix="compare across embodiments through an image or text space",
        )
    found, version = vectors(lake, space, like)
    query = found.filter(pl.col("episode_id") == episode)
    if not len(query):
        raise RequestError(
            f"episode {episode!r} has no vector in space {space!r}",
            code="not_embedded",
            fix="run `data-engine embed`; it must have a finite step",
        )
    stored = [held for name, held in indices.list_indices(lake) if name == _group_name(space, mine)]
    fitting = (held for held in (indices.load(lake, _group_name(space, mine), name) for name in stored))
    handle = next((held for held in fitting if held.meta == _meta(found, version)), None) or _build(found, version)
    allowed = set(admitted["episode_id"]) - {episode}
    (hits,) = handle.search(_unit(query), k, allowed)
    rows = {row["episode_id"]: row for row in everything.iter_rows(named=True)}
    shown = ("dataset", "source_key", "task", "operator", "success", "n_steps")
    return [
        {"episode_id": hit.id, "similarity": hit.score, **{key: rows[hit.id][key] for key in shown}} for hit in hits
    ]


def _scan(lake: Lake, space: str) -> pl.LazyFrame:
    table = f"embeddings/{space}"
    return lake.scan(table) if lake.exists_table(table) else pl.DataFrame(EMBEDDINGS.empty_table()).lazy()


def _of_run(rows: pa.Table, run_id: str) -> pa.Table:
    return rows.drop_columns("run_id").append_column("run_id", pa.array([run_id] * len(rows), pa.string()))


def _build(group: pl.DataFrame, version: str) -> indices.Index:
    return indices.build(_unit(group), group["episode_id"].to_list(), metric="ip", meta=_meta(group, version))


def _meta(group: pl.DataFrame, version: str) -> dict[str, Any]:
    content = sorted(zip(group["episode_id"], group["content_hash"], strict=True))
    facts = {name: group[name][0] for name in ("embodiment", "control_mode")}
    return {**facts, "encoder_version": version, "content": digest(content, length=16)}


def _unit(group: pl.DataFrame) -> np.ndarray:
    matrix = np.asarray(group["vector"].to_list(), dtype=np.float32)
    return matrix / np.maximum(np.linalg.norm(matrix, axis=1, keepdims=True), 1e-12)


def _kind(group: pl.DataFrame) -> str:
    return f"{group['embodiment'][0]}/{group['control_mode'][0]}"


def _group_name(space: str, group: pl.DataFrame) -> str:
    kind = _kind(group)
    return f"{space}/{re.sub(r'[^A-Za-z0-9_-]+', '-', kind).strip('-')}-{digest(kind, length=8)}"
