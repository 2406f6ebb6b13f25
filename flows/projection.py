"""``project``: an embedding space drawn flat: the two directions in which episodes differ most."""

from __future__ import annotations

import numpy as np
import polars as pl

from data_engine.errors import RequestError
from flows.index import vectors
from flows.query import matching, score_column
from storage.lake import Lake

__all__ = ["COLOURS", "coloured", "project"]

COLOURS = ("dataset", "task", "operator", "scene", "provenance", "success")
"""Columns of episodes that a map may be coloured by, beside scores."""


def project(lake: Lake, space: str, embodiment: str | None, control_mode: str | None) -> tuple[pl.DataFrame, float]:
    """``episode_id, x, y`` of every episode of one comparable group, and the share of variance that is seen.

    Principal components of unit vectors (Pearson 1901), so that distances are those of the cosine that search uses. A
    direction has a sign by its largest loading: the same vectors make the same picture. O(episodes d^2). Raises
    ``RequestError`` where the space holds none of that group.
    """
    of_it = pl.col("embodiment").eq_missing(pl.lit(embodiment, pl.String))
    of_it = of_it & pl.col("control_mode").eq_missing(pl.lit(control_mode, pl.String))
    group = lake.episodes(of_it)
    if not len(group):
        raise RequestError(
            "no episode is of that embodiment and control mode", code="not_embedded", fix="see /v1/spaces"
        )
    held, _ = vectors(lake, space, group)
    matrix = np.stack(held["vector"].to_numpy()).astype(np.float64)
    matrix /= np.maximum(np.linalg.norm(matrix, axis=1, keepdims=True), 1e-12)
    matrix -= matrix.mean(axis=0)
    values, directions = np.linalg.eigh(matrix.T @ matrix)
    axes = directions[:, ::-1][:, :2]
    axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])])
    flat = matrix @ axes
    flat = np.pad(flat, ((0, 0), (0, 2 - flat.shape[1])))  # of a space of one number
    seen = float(values[::-1][:2].sum() / values.sum()) if values.sum() > 0 else 1.0
    return pl.DataFrame({"episode_id": held["episode_id"], "x": flat[:, 0], "y": flat[:, 1]}), seen


def coloured(lake: Lake, points: pl.DataFrame, colour: str, where: str | None, most: int) -> tuple[pl.DataFrame, int]:
    """``points`` of the episodes that ``where`` admits, with ``value`` (of a column, or a score), and their number.

    Of more than ``most`` a fixed part is taken, evenly over all. Raises ``RequestError`` for a wrong expression and for
    what is neither one of ``COLOURS`` nor a score.
    """
    episodes, _ = matching(lake, lake.episodes(), where)
    values = episodes[colour] if colour in COLOURS else score_column(lake, episodes, colour)
    found = points.join(
        episodes.select("episode_id", values.alias("value")), on="episode_id", how="inner", maintain_order="left"
    )
    count = len(found)
    if count > most:
        found = found[np.linspace(0, count - 1, most).round().astype(np.int64)]
    return found, count
