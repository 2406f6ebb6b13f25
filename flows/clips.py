"""Stored vectors of an embedding space as scorers and labellers are handed them: by episode, of one encoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl

from data_engine.errors import RequestError
from data_engine.scoring import Clips
from storage.lake import Lake

__all__ = ["clips", "pinned"]

_NOTHING = Clips(np.zeros(0, np.int64), np.zeros(0, np.int64), (), np.zeros((0, 0), np.float32))


def pinned(
    lake: Lake, spaces: Sequence[str], episodes: pl.DataFrame, versions: Mapping[str, str] | None = None
) -> dict[str, str]:
    """By ``space NAME``, the version of the encoder that work on ``episodes`` depends on: as ``versions`` says, else
    the one that holds most of them.

    Raises ``RequestError`` for a space that holds none of them, and where two versions hold as many.
    """
    found = {}
    for space in spaces:
        if versions and space in versions:
            found[f"space {space}"] = versions[space]
            continue
        rows = _rows(lake, space).select("episode_id", "content_hash", "encoder_version").unique().collect()
        held = rows.join(episodes, on=["episode_id", "content_hash"], how="semi").group_by("encoder_version").len()
        best = held.filter(pl.col("len") == pl.col("len").max())["encoder_version"].sort().to_list()
        if not best:
            raise RequestError(
                f"space {space!r} holds none of these episodes",
                code="not_embedded",
                fix=f"run `data-engine embed ENCODER --space {space}` first, or list it in the recipe's spaces",
            )
        if len(best) > 1:
            raise RequestError(
                f"space {space!r} holds these episodes in several encoder versions: {', '.join(v[:12] for v in best)}",
                code="ambiguous_space",
                fix="embed them together",
            )
        found[f"space {space}"] = best[0]
    return found


def clips(lake: Lake, space: str, version: str, ids: Sequence[str], hashes: Sequence[str]) -> tuple[Clips, ...]:
    """The vectors of each episode of ``ids`` (with its content hash), by camera and then by time; empty where none."""
    mine = pl.col("episode_id").is_in(list(ids)) & (pl.col("encoder_version") == version)
    if hashes:  # what is labelled together lies together, in the order of content: other row groups are passed over
        mine &= pl.col("content_hash").is_between(pl.lit(min(hashes)), pl.lit(max(hashes)))
    columns = ["episode_id", "content_hash", "camera", "start", "stop"]
    rows = _rows(lake, space).filter(mine).select(*columns, "vector").collect()
    rows = rows.unique(columns, keep="first", maintain_order=True).sort(columns)  # racing runs embed twice
    parts: Mapping[tuple[object, ...], pl.DataFrame] = rows.partition_by(
        "episode_id", "content_hash", as_dict=True, maintain_order=True
    )
    return tuple(_clips(parts.get(key)) for key in zip(ids, hashes, strict=True))


def _clips(rows: pl.DataFrame | None) -> Clips:
    if rows is None:
        return _NOTHING
    vectors = rows["vector"].explode().to_numpy().reshape(len(rows), -1)
    return Clips(rows["start"].to_numpy(), rows["stop"].to_numpy(), tuple(rows["camera"]), vectors)


def _rows(lake: Lake, space: str) -> pl.LazyFrame:
    table = f"embeddings/{space}"
    if not lake.exists_table(table):
        raise RequestError(
            f"there is no space {space!r}",
            code="not_embedded",
            fix=f"run `data-engine embed ENCODER --space {space}` first, or list it in the recipe's spaces",
        )
    return lake.scan(table)
