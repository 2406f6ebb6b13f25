"""Removals: which episodes were taken out of the live lake, remembered so that no ingest brings them back unasked.

A removal is a row; the newest revision of an episode's mark says whether it is out. The mark is one-way: once the
episode is erased for good it is all that is kept of it. Removing again and taking back what is in change nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

import polars as pl

from data_engine.canonical import digest
from storage.tables import Tables

__all__ = ["gone", "live", "mark", "record", "taken_back", "withheld"]

NAMES = ("episode_id", "unit_id", "rollout_episode_id", "items")  # columns that name an episode, or several


def mark(episode: str) -> str:
    """What is remembered of an erased episode: sha256 over its id, from which neither id nor source key follow."""
    return digest("removal", episode)


def gone(lake: Tables) -> pl.Series:
    """Ids of the episodes that are removed and not yet erased."""
    return _newest(lake).filter((pl.col("state") == "removed") & pl.col("episode_id").is_not_null())["episode_id"]


def live(lake: Tables, rows: pl.DataFrame) -> pl.DataFrame:
    """``rows`` of any table without those that name a removed episode."""
    out = gone(lake)
    named = [name for name in NAMES if name in rows.columns]
    if not len(out) or not named:
        return rows
    return rows.filter(~pl.any_horizontal(_among(name, out).fill_null(False) for name in named))


def _among(name: str, ids: pl.Series) -> pl.Expr:
    if name != "items":
        return pl.col(name).is_in(ids.implode())
    return pl.col(name).list.eval(pl.element().struct.field("episode_id").is_in(ids.to_list())).list.any()


def withheld(lake: Tables, ids: Mapping[str, str]) -> list[str]:
    """Those of ``ids`` (episode id by source key) that are removed or erased, as source keys in their order."""
    rows = _newest(lake)
    out = set(rows.filter(pl.col("state") == "removed")["mark"])
    return [key for key, episode in ids.items() if mark(episode) in out] if out else []


def taken_back(lake: Tables, ids: Iterable[str] | None = None) -> int:
    """How often episodes (of ``ids``) were taken back in. Work that is named by its inputs is other work after that."""
    marks = lake.scan("removals").filter(pl.col("state") == "taken_back").select("mark").collect()["mark"].to_list()
    if not marks or ids is None:
        return len(marks)
    mine = {mark(episode) for episode in ids}
    return sum(name in mine for name in marks)


def record(
    lake: Tables, state: str, episodes: Mapping[str, str], *, reason: str | None = None, run_id: str = ""
) -> int:
    """Enter ``state`` (``removed`` or ``taken_back``) for ``episodes`` (dataset by id); how many were not in it."""
    rows = _newest(lake)
    before = {row["mark"]: row for row in rows.iter_rows(named=True)}
    now, new = datetime.now(UTC), []
    for episode, dataset in sorted(episodes.items()):
        name = mark(episode)
        last = before.get(name)
        if (last["state"] if last else "taken_back") != state:
            new.append(
                {"mark": name, "episode_id": episode, "dataset": dataset, "state": state, "reason": reason,
                 "revision": last["revision"] + 1 if last else 0, "run_id": run_id, "created_at": now}
            )  # fmt: skip
    if new:
        transaction = digest(state, [[row["mark"], row["revision"]] for row in new])
        lake.append_rows("removals", new, transaction=transaction, run_id=run_id)
    return len(new)


def _newest(lake: Tables) -> pl.DataFrame:
    """The newest revision of each mark; where two raced, the removal counts."""
    rows = lake.scan("removals").filter(pl.col("mark").is_not_null()).collect()
    ordered = rows.sort("revision", pl.col("state") == "removed")
    return ordered.unique("mark", keep="last", maintain_order=True)
