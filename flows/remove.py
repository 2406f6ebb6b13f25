"""``remove`` and ``vacuum --erase``: episodes leave the live lake, and later, on request, the lake for good.

A removal hides: every reader that lists episodes passes over them, what was frozen or written before still holds them,
and the answer names it. An erase is a takedown and beats every pin.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from typing import Any

import polars as pl
import pyarrow.parquet as pq

from data_engine.errors import RequestError
from flows.index import index
from flows.query import matching
from storage import erase as erasing
from storage import removals
from storage.lake import Lake

__all__ = ["erase", "remove"]

_SHOWN = ("episode_id", "dataset", "source_key", "task", "operator", "n_steps")


def remove(
    lake: Lake,
    *,
    episodes: Sequence[str] = (),
    dataset: str | None = None,
    operator: str | None = None,
    where: str | None = None,
    reason: str | None = None,
    dry_run: bool = False,
    run_id: str = "",
) -> dict[str, Any]:
    """Remove the episodes that meet every condition given, and say what still holds them.

    Returns ``{"removed", "already", "undecided", "items", "mixtures", "selections", "exports", "copies", "derived"}``:
    ``undecided`` counts episodes of which ``where`` was null, which stay; ``copies`` and ``derived`` are live episodes
    of the same content and with one of them as parent, which stay too. Raises ``RequestError`` where no condition is
    given or no episode meets them.
    """
    if not (episodes or dataset or operator or where):
        raise RequestError(
            "nothing is said to be removed", code="bad_request", fix="give --episode, --dataset, --operator or --where"
        )
    everything = lake.episodes(removed=True)
    gone = set(removals.gone(lake))
    erased = _erased(lake, episodes, everything)
    found = everything
    if episodes:
        found = found.filter(pl.col("episode_id").is_in(list(episodes)))
    if dataset is not None:
        found = found.filter(pl.col("dataset") == dataset)
    if operator is not None:
        found = found.filter(pl.col("operator") == operator)
    found, undecided = matching(lake, found, where) if len(found) else (found, 0)
    if not len(found) and not erased:
        more = f"; where was null for {undecided}" if undecided else ""
        raise RequestError(f"no episode is to be removed by that{more}", code="no_episodes", fix="see `query`")
    fresh = found.filter(~pl.col("episode_id").is_in(list(gone)))
    if not dry_run:
        ids = dict(fresh.select("episode_id", "dataset").iter_rows())
        removals.record(lake, "removed", ids, reason=reason, run_id=run_id)
    ids = set(found["episode_id"])
    stay = everything.filter(~pl.col("episode_id").is_in(list(gone | ids)))
    return {
        "removed": 0 if dry_run else len(fresh),
        "would_remove": len(fresh) if dry_run else 0,
        "already": len(found) - len(fresh) + len(erased),
        "undecided": undecided,
        "items": fresh.select(_SHOWN).to_dicts(),
        **pins(lake, ids),
        "copies": stay.filter(pl.col("content_hash").is_in(found["content_hash"].implode()))["episode_id"].to_list(),
        "derived": stay.filter(pl.col("parent").is_in(list(ids)))["episode_id"].to_list(),
    }


def erase(lake: Lake) -> dict[str, Any]:
    """Erase every removed episode for good (:func:`storage.erase.erase`), indices rebuilt without them.

    Adds ``exports``: where copies were written that are out of reach.
    """
    ids = set(removals.gone(lake)) | set(erasing.pending(lake))
    exports = pins(lake, ids)["exports"]

    def rebuild(space: str, version: str, kept: Sequence[str]) -> None:
        index(lake, space, lake.episodes().filter(pl.col("episode_id").is_in(list(kept))), version)

    return {**erasing.erase(lake, rebuild), "exports": exports}


def pins(lake: Lake, ids: Collection[str]) -> dict[str, list[dict[str, Any]]]:
    """What holds one of the episodes ``ids``: ``mixtures``, ``selections`` that chose it, and ``exports`` of those
    mixtures as far as the record of runs knows them.
    """
    wanted = list(ids)
    mixtures = []
    for row in lake.scan("mixtures").unique("mixture_id").collect().sort("created_at").iter_rows(named=True):
        path = f"{row['path']}/episodes.parquet"
        with lake.fs.open(lake._at(path), "rb") as handle:
            held = pl.Series(pq.read_table(handle, columns=["episode_id"]).column("episode_id").to_pylist())
        count = int(held.is_in(wanted).sum()) if len(held) else 0
        if count:
            facts = {name: row[name] for name in ("name", "mixture_id", "status")}
            mixtures.append({**facts, "episodes": count})
    chosen = lake.scan("selections").filter(pl.col("rank").is_not_null() & pl.col("episode_id").is_in(wanted))
    selections = chosen.group_by("name", "selection_id").agg(pl.len().alias("episodes")).collect()
    return {
        "mixtures": mixtures,
        "selections": selections.sort("name", "selection_id").to_dicts(),
        "exports": _exports(lake, {row["mixture_id"] for row in mixtures}),
    }


def _exports(lake: Lake, mixtures: Collection[str]) -> list[dict[str, Any]]:
    found = {}
    results = lake.scan("runs").filter(pl.col("result").is_not_null()).collect().sort("started_at")
    for text in results["result"]:
        result = json.loads(text)
        if isinstance(result, dict) and result.get("mixture_id") in mixtures:
            for item in result.get("exports") or ():
                found[item["uri"]] = {"uri": item["uri"], "format": item["format"], "mixture_id": result["mixture_id"]}
    return list(found.values())


def _erased(lake: Lake, episodes: Sequence[str], everything: pl.DataFrame) -> list[str]:
    """Those of ``episodes`` that were erased. Raises ``RequestError`` for one that never was."""
    unknown = [name for name in dict.fromkeys(episodes) if name not in set(everything["episode_id"])]
    marks = set(lake.scan("removals").select("mark").collect()["mark"]) if unknown else set()
    for name in unknown:
        if removals.mark(name) not in marks:
            raise RequestError(f"no episode {name!r} in the lake", code="unknown_episode", fix="see `query`")
    return unknown
