"""Clusters of a mixture's episodes by a lake's space, which random goals keep to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from data_engine.document import Clustering
from data_engine.errors import RequestError
from data_engine.groups import schema
from data_engine.recipe import ClusteringRecipe
from data_engine.selection.neighbours import clusters, directions, nearest
from flows.index import vectors
from storage.lake import Lake

__all__ = ["clustered"]


def clustered(
    lake: Lake,
    asked: Sequence[ClusteringRecipe],
    rows: Sequence[Mapping[str, Any]],
    versions: Mapping[str, str] | None = None,
) -> tuple[tuple[Clustering, ...], pa.Table | None]:
    """What ``asked`` became, and the cluster of each of ``rows``: spherical k-means over the episodes' vectors.

    ``versions``: the encoder of each space that counts. Raises ``RequestError`` where a space lacks one of the
    episodes: a goal that it could not have would be missing in silence.
    """
    if not asked:
        return (), None
    ids = [row["episode_id"] for row in rows]
    episodes = lake.episodes().filter(pl.col("episode_id").is_in(set(ids))).sort("content_hash", "episode_id")
    made, columns = [], {}
    for recipe in asked:
        found, version = vectors(lake, recipe.space, episodes, (versions or {}).get(recipe.space))
        lacking = len(episodes) - len(found)
        if lacking:
            raise RequestError(
                f"clusters {recipe.called!r}: space {recipe.space!r} holds no vector of {lacking} of the mixture's"
                f" {len(episodes)} episodes",
                code="not_embedded",
                fix="embed them, or leave them out",
            )
        units = directions(np.stack(found["vector"].to_list()).astype(np.float64))
        count = min(recipe.count, len(np.unique(units, axis=0)))
        centroids = clusters(units, count, recipe.seed)
        mine = nearest(centroids, units.astype(np.float32), 1)[0][:, 0]
        of = dict(zip(found["episode_id"].to_list(), mine.tolist(), strict=True))
        columns[recipe.called] = [of[name] for name in ids]
        made.append(Clustering(name=recipe.called, space=recipe.space, encoder_version=version, count=count))
    return tuple(made), pa.table(columns, schema=schema(made))
