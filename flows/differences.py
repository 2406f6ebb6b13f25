"""What two mixtures have in common and apart."""

from __future__ import annotations

from typing import Any

import polars as pl

from data_engine import mixture as mixtures
from flows.mix import locate
from storage.lake import Lake

__all__ = ["mixture_difference"]


def mixture_difference(lake: Lake, first: str, second: str) -> dict[str, Any]:
    """``{"first", "second", "same", "settings", "only_first", "only_second", "changed"}``.

    ``settings``: of the documents, each key that differs, with both values. The rest are ranges of steps as
    ``{"episode_id", "selection", "start", "stop"}``; ``same`` counts those with equal content and weight, ``changed``
    holds those with another ``content`` or ``weight``. Raises ``RequestError`` where one is not there, or is broken.
    """
    one, two = (mixtures.open(locate(lake, name)) for name in (first, second))
    told = ("weight_kind", "unit", "epoch_size", "seed", "entries", "splits", "quotas", "scorers", "conversions",
            "columns", "clusters")  # fmt: skip
    documents = [each.document.model_dump(mode="json", include=set(told)) for each in (one, two)]
    settings = {
        name: {"first": documents[0][name], "second": documents[1][name]}
        for name in told
        if documents[0][name] != documents[1][name]
    }
    place, facts = ["episode_id", "selection", "start", "stop"], ["content_hash", "weight"]
    rows, others = (
        pl.DataFrame(each.episodes.select([*place, *facts])).unique(place, keep="first", maintain_order=True)
        for each in (one, two)
    )
    both = rows.join(others, on=place, suffix="_other", maintain_order="left")
    content = pl.col("content_hash") != pl.col("content_hash_other")
    weight = pl.col("weight") != pl.col("weight_other")
    changed = both.filter(content | weight).select(
        *place, content.alias("content"), "weight", pl.col("weight_other").alias("other_weight")
    )
    return {
        "first": one.id, "second": two.id, "same": len(both) - len(changed), "settings": settings,
        "only_first": rows.join(others, on=place, how="anti", maintain_order="left").select(place).to_dicts(),
        "only_second": others.join(rows, on=place, how="anti", maintain_order="left").select(place).to_dicts(),
        "changed": changed.to_dicts(),
    }  # fmt: skip
