"""What stored selections hold, as candidates of set algebra."""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

from data_engine.errors import RequestError
from data_engine.selection import Held
from flows.progress import Progress

__all__ = ["held", "held_of"]

_KEYS = ["episode_id", "content_hash", "start", "stop"]


def held(episodes: pl.DataFrame, of: Mapping[str, pl.DataFrame], name: str, progress: Progress) -> pl.DataFrame:
    """The units of ``episodes`` (rows of ``whole``) that a selection of ``of`` chose, each with ``unit`` and, for every
    selection, ``rank:NAME`` and ``weight:NAME`` (null where it does not hold the unit).

    Episodes that changed, went, or are not admitted since are left out with a warning. Raises ``RequestError`` where
    nothing is left, and where one selection holds an episode whole and another parts of it, which are unlike units.
    """
    facts = episodes.drop("unit", "start", "stop").rename({"n_steps": "whole"})
    found: pl.DataFrame | None = None
    for selection, rows in of.items():
        chosen = rows.filter(pl.col("rank").is_not_null()).select(
            *_KEYS, pl.col("rank").alias(f"rank:{selection}"), pl.col("weight").alias(f"weight:{selection}")
        )
        known = chosen.join(facts, on=["episode_id", "content_hash"], how="semi")
        if len(known) < len(chosen):
            progress.warn(
                f"selection {name}: {len(chosen) - len(known)} of {len(chosen)} units of {selection} are left out: "
                "their episodes are not admitted, or changed since"
            )
        found = known if found is None else found.join(known, on=_KEYS, how="full", coalesce=True)
    assert found is not None
    if not len(found):
        raise RequestError(
            f"selection {name!r} has nothing to choose from: {', '.join(of)} hold none of these episodes",
            code="no_candidates",
            fix="select again",
        )
    units = found.join(facts, on=["episode_id", "content_hash"])
    part = (pl.col("start") > 0) | (pl.col("stop") < pl.col("whole"))
    unlike = units.group_by("episode_id").agg(both=part.any() & ~part.all()).filter(pl.col("both"))
    if len(unlike):
        raise RequestError(
            f"selection {name!r}: {', '.join(of)} hold {len(unlike)} episodes both whole and in parts",
            code="unlike_units",
            fix="choose whole episodes in each, or segments in each",
        )
    span = pl.concat_str("episode_id", "start", "stop", separator=":")
    unit = pl.when(part).then(span).otherwise(pl.col("episode_id"))
    return units.with_columns(unit=unit, n_steps=pl.col("stop") - pl.col("start")).drop("whole").sort("unit")


def held_of(units: pl.DataFrame) -> list[Held]:
    """What :func:`held` found of each selection, as a selector takes it."""
    names = [column.removeprefix("rank:") for column in units.columns if column.startswith("rank:")]
    return [
        Held(name, units[f"rank:{name}"].fill_null(-1).to_numpy(), units[f"weight:{name}"].fill_null(0.0).to_numpy())
        for name in names
    ]
