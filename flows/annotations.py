"""What labellers said, as the rest reads it: the annotations of one producer, by one fit, each said once."""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

from data_engine.errors import RequestError
from storage.lake import Lake

__all__ = ["annotations"]

_SAID = ["episode_id", "kind", "start", "stop", "label", "text", "value"]


def annotations(
    lake: Lake, episodes: pl.DataFrame, producer: str, kind: str, fits: Mapping[str, str] | None = None
) -> tuple[pl.DataFrame, str | None]:
    """The annotations of ``kind`` that ``producer`` made of ``episodes``, in order of episode and step, and its fit
    (None where a person or another program said it).

    ``fits`` names the fit that counts, by producer; else it is the one that labelled them all, the newest version of
    it. Raises ``RequestError`` where nothing was said, and where several fits labelled as many.
    """
    mine = (pl.col("producer") == producer) & (pl.col("kind") == kind)
    rows = lake.scan("annotations").filter(mine).collect()
    if not len(rows):
        known = lake.scan("annotations").select(pl.concat_str("producer", "kind", separator=" ")).unique().collect()
        raise RequestError(
            f"there are no annotations {kind!r} of {producer!r}",
            code="not_labelled",
            fix=f"run `data-engine label {producer}`; there are: {', '.join(sorted(known.to_series())) or 'none'}",
        )
    rows = rows.join(episodes, on=["episode_id", "content_hash"], how="semi", maintain_order="left")
    given = (fits or {}).get(producer)
    if given is not None:
        rows = rows.filter(pl.col("fit_id") == given)
    ways = rows.group_by("fit_id", "version", "config_hash").agg(pl.col("episode_id").n_unique().alias("episodes"))
    best = ways.filter(pl.col("episodes") == pl.col("episodes").max()).sort("version", "fit_id", "config_hash")
    if not len(best):
        raise RequestError(
            f"{producer!r} made no annotations {kind!r} of these episodes{f' by fit {given}' if given else ''}",
            code="not_labelled",
            fix=f"run `data-engine label {producer}`",
        )
    best = best.filter(pl.col("version").eq_missing(pl.lit(best["version"][-1], pl.String)))
    if len(best) > 1:
        named = ", ".join(map(str, best["fit_id"]))
        raise RequestError(
            f"{producer} labelled these episodes {len(best)} times: {named}",
            code="ambiguous_fit",
            fix=f"name one, as in --fit {producer}={best['fit_id'][0]}",
        )
    rows = rows.join(best, on=["fit_id", "version", "config_hash"], how="semi", nulls_equal=True, maintain_order="left")
    rows = rows.unique(_SAID, keep="first", maintain_order=True)  # racing runs label twice
    return rows.sort("episode_id", "start", "stop", "label"), best["fit_id"][0]
