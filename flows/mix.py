"""``mix``: selections become a frozen mixture: weighed, pinned, with statistics and lineage, under a content hash."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import polars as pl
import pyarrow as pa

from data_engine import mixture as mixtures
from data_engine.canonical import digest
from data_engine.errors import RequestError
from data_engine.recipe import MixtureRecipe
from data_engine.steps import EPISODE_ID, STEP
from flows.clusterings import clustered
from flows.label_columns import given
from flows.select import stored
from flows.weigh import weigh
from storage.lake import Lake

__all__ = ["locate", "mix"]


def mix(
    lake: Lake,
    recipe: MixtureRecipe,
    *,
    run_id: str,
    recipe_hash: str | None = None,
    selections: Mapping[str, str] | None = None,
    fits: Mapping[str, str] | None = None,
    scorers: Sequence[Mapping[str, Any]] = (),
    encoders: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Freeze a mixture, the newest of its name then, and return ``{"mixture_id", "name", "uri", "episodes", "steps"}``.

    ``selections`` pins selection ids by name, ``fits`` those of labellers whose columns it gives; otherwise the newest
    of each name counts. ``encoders`` pins the version of each space that episodes are grouped by. ``scorers`` is the
    lineage that the selections rest on. Raises ``RequestError`` for a selection that is not there or whose episodes
    changed since.
    """
    if not recipe.entries:
        raise RequestError("the mixture has no entries", code="bad_mixture", fix="name at least one selection")
    current = {row["episode_id"]: row for row in lake.episodes().iter_rows(named=True)}
    rows: list[dict[str, Any]] = []
    weighers: dict[str, Any] = {}
    lineage = {json.dumps(dict(scorer), sort_keys=True): dict(scorer) for scorer in scorers}
    for entry in recipe.entries:
        chosen = stored(lake, (selections or {}).get(entry.selection, entry.selection)).filter(
            pl.col("rank").is_not_null()
        )
        if not len(chosen):
            raise RequestError(f"selection {entry.selection!r} chose nothing", code="empty_selection")
        mine = [_row(entry.selection, pick, current) for pick in chosen.iter_rows(named=True)]
        weighed = weigh(lake, recipe, entry, mine, fits)
        weighers[entry.selection] = {"weigher": entry.weigher, "params": entry.params, "report": dict(weighed.report)}
        rows += [{**row, "weight": float(weight)} for row, weight in zip(mine, weighed.values, strict=True)]
    episodes = pa.Table.from_pylist(rows, schema=mixtures.EPISODES)
    ordered = pl.DataFrame(
        {"steps_file": row["steps_file"], "row_start": row["row_start"], "row_count": row["row_count"]} for row in rows
    )
    columns, labels = given(lake, recipe.columns, rows, fits)
    clusterings, clusters = clustered(lake, recipe.clusters, rows, encoders)
    frozen = mixtures.freeze(
        name=recipe.name or "mixture",
        episodes=episodes,
        files=_files(lake, rows),
        datasets=lake.datasets(),
        entries=[{"selection": entry.selection, "weight": entry.weight} for entry in recipe.entries],
        steps=_Steps(lake, ordered),
        weight_kind=recipe.weight_kind,
        unit=recipe.unit,
        epoch_size=recipe.epoch_size,
        seed=recipe.seed,
        splits=recipe.splits,
        quotas=recipe.quotas,
        scorers=[lineage[key] for key in sorted(lineage)],
        conversions=list(recipe.conversions),
        columns=columns,
        labels=labels,
        clusterings=clusterings,
        clusters=clusters,
        recorded={
            "lake": lake.uri,
            "recipe_hash": recipe_hash,
            "run_id": run_id,
            "weighers": weighers,
            "table_versions": {name: lake.version(name) for name in ("datasets", "episodes", "scores", "selections")},
        },
    )
    uri = mixtures.write(frozen, lake.uri)
    facts = {"mixture_id": frozen.mixture_id, "name": frozen.document.name, "episodes": len(rows),
             "steps": int(ordered["row_count"].sum())}  # fmt: skip
    before = lake.scan("mixtures").filter(pl.col("name") == facts["name"]).sort("created_at").tail(1).collect()
    if before.select("mixture_id", "status").rows() != [(frozen.mixture_id, "frozen")]:
        lake.append_rows(
            "mixtures",
            [{**facts, "path": f"mixtures/{frozen.mixture_id}", "status": "frozen", "run_id": run_id,
              "created_at": datetime.now(UTC)}],
            transaction=digest(frozen.mixture_id, frozen.document.name, str(before["created_at"].max())), run_id=run_id,
        )  # fmt: skip
    return {**facts, "uri": uri}


def locate(lake: Lake, name: str) -> str:
    """The URI of a mixture by its id, a prefix of it, or its name (the newest of that name).

    Raises ``RequestError`` where there is none or the prefix fits several.
    """
    rows = lake.scan("mixtures").collect().sort("created_at")
    found = rows.filter(pl.col("mixture_id").str.starts_with(name)) if len(name) >= 6 else rows.clear()
    several = found["mixture_id"].n_unique()
    if several > 1:
        raise RequestError(f"{name!r} begins {several} mixture ids", code="ambiguous_mixture", fix="give more of it")
    found = found if len(found) else rows.filter(pl.col("name") == name)
    if not len(found):
        newest = rows.select("name", "mixture_id").unique(maintain_order=True).tail(5).rows()
        known = ", ".join(f"{name} {mixture_id[:12]}" for name, mixture_id in newest) or "none"
        raise RequestError(f"no mixture {name!r}", code="unknown_mixture", fix=f"there are: {known}")
    return lake.uri_of(found["path"][-1])


def _row(selection: str, pick: Mapping[str, Any], current: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    if pick["episode_id"] not in current:
        which = f"episode {pick['episode_id']}" if pick["episode_id"] else "an episode"
        raise RequestError(
            f"{which} of selection {selection!r} was removed since it was chosen",
            code="stale_selection",
            fix="select again",
        )
    episode = current[pick["episode_id"]]
    if episode["content_hash"] != pick["content_hash"]:
        raise RequestError(
            f"episode {pick['episode_id']} of selection {selection!r} has changed since it was chosen",
            code="stale_selection",
            fix="select again",
        )
    kept = {name: episode[name] for name in mixtures.EPISODES.names if name in episode}
    start, stop = pick["start"], pick["stop"]
    return {**kept, "selection": selection, "start": start, "stop": stop, "weight": pick["weight"],
            "row_start": episode["row_start"] + start, "row_count": stop - start}  # fmt: skip


def _files(lake: Lake, rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    datasets = {row["dataset"] for row in rows}
    known = {file.path: file for name in sorted(datasets) for file in lake.files(f"steps/{name}")}
    blobs = {video["blob"] for row in rows for video in row["videos"] or ()}
    files = [*(file for file in known.values()), *(lake.blob(path) for path in sorted(blobs))]
    return pa.Table.from_pylist(
        [{"path": file.path, "bytes": file.bytes, "sha256": file.sha256} for file in files], schema=mixtures.FILES
    )


class _Steps:
    """The steps of row i, for a reader that asks in the order of the files: each file is opened once."""

    def __init__(self, lake: Lake, rows: pl.DataFrame) -> None:
        self._lake, self._rows = lake, rows
        order = rows.with_row_index("at").sort("steps_file", "row_start", "at")["at"].to_list()
        self._place = {at: place for place, at in enumerate(order)}
        self._order = order
        self._next = 0
        self._reader: Iterator[tuple[dict[str, Any], pa.Table]] = iter(())

    def __call__(self, i: int) -> pa.Table:
        if not self._next or self._place[i] < self._next:
            self._start(self._place[i])
        while True:
            at = self._order[self._next]
            self._next += 1
            _, table = next(self._reader)
            if at == i:
                return table.drop_columns([name for name in (EPISODE_ID, STEP) if name in table.column_names])

    def _start(self, place: int) -> None:
        self._reader = self._lake.steps(self._rows[self._order[place:]])
        self._next = place
