"""Segments as what is chosen: the step ranges that a labeller named, each a unit of its own."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import polars as pl

from data_engine import expression
from data_engine.errors import RequestError
from data_engine.recipe import SegmentsRecipe
from flows.annotations import annotations
from flows.clips import clips, pinned
from flows.progress import Progress
from storage.lake import Lake

__all__ = ["cut", "mean_vectors", "whole"]

_SAID = ("label", "text", "value", "confidence")


def whole(episodes: pl.DataFrame) -> pl.DataFrame:
    """``episodes`` as units of all their steps: with ``unit`` (its id), ``start`` and ``stop``."""
    return episodes.with_columns(unit=pl.col("episode_id"), start=pl.lit(0, pl.Int64), stop=pl.col("n_steps"))


def cut(
    lake: Lake, episodes: pl.DataFrame, recipe: SegmentsRecipe, fits: Mapping[str, str] | None, progress: Progress
) -> tuple[pl.DataFrame, str | None]:
    """The annotated spans of ``episodes`` that ``recipe`` admits, and the labeller's fit.

    A row a span: the episode's columns with ``n_steps`` that of the span, ``start``, ``stop`` and ``unit``
    (``id:start:stop``). What several annotations name counts once. Raises ``RequestError`` where nothing was said of
    these episodes, or an expression asks for what annotations do not have.
    """
    said, fit = annotations(lake, episodes, recipe.producer, recipe.kind, fits)
    spans = said.select("episode_id", "content_hash", "start", "stop", *_SAID)
    spans = spans.join(episodes.select("episode_id", "content_hash", "fps"), on=["episode_id", "content_hash"])
    spans = spans.with_columns(steps=pl.col("stop") - pl.col("start"))
    spans = spans.with_columns(seconds=pl.col("steps") / pl.col("fps"))
    if recipe.where is not None:
        columns = ("start", "stop", "steps", "seconds", *_SAID)
        compiled = expression.compile(recipe.where, {name: spans.schema[name] for name in columns})
        verdict = spans.select(compiled.expr.alias("verdict"))["verdict"]
        if verdict.null_count():
            progress.warn(f"{verdict.null_count()} segments left out, where was null for them: {recipe.where}")
        spans = spans.filter(verdict.fill_null(False))
    spans = spans.select("episode_id", "content_hash", "start", "stop").unique(maintain_order=True)
    units = episodes.drop("n_steps").join(spans, on=["episode_id", "content_hash"], maintain_order="left_right")
    unit = pl.concat_str("episode_id", "start", "stop", separator=":")
    return units.with_columns(n_steps=pl.col("stop") - pl.col("start"), unit=unit), fit


def mean_vectors(lake: Lake, space: str, units: pl.DataFrame, version: str | None = None) -> tuple[pl.DataFrame, str]:
    """``units`` that have a vector in ``space``, with it as column ``vector``, and the encoder's version.

    A unit's vector is the mean of the unit-length ones of the clips that begin in it and are no longer than it, so that
    a space of one vector an episode has none for its parts. Raises ``RequestError`` where that leaves no unit.
    """
    episodes = units.select("episode_id", "content_hash").unique(maintain_order=True)
    versions = {space: version} if version is not None else None
    (version,) = pinned(lake, [space], episodes, versions).values()
    found = clips(lake, space, version, episodes["episode_id"].to_list(), episodes["content_hash"].to_list())
    by_episode = dict(zip(episodes.iter_rows(), found, strict=True))
    vectors: list[list[float] | None] = []
    for episode, content, start, stop in units.select("episode_id", "content_hash", "start", "stop").iter_rows():
        mine = by_episode[(episode, content)]
        inside = (mine.starts >= start) & (mine.starts < stop) & (mine.stops - mine.starts <= stop - start)
        rows = mine.vectors[inside].astype(np.float64)
        rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
        vectors.append(rows.mean(axis=0).astype(np.float32).tolist() if len(rows) else None)
    held = units.with_columns(pl.Series("vector", vectors, dtype=pl.List(pl.Float32))).drop_nulls("vector")
    if not len(held):
        raise RequestError(
            f"space {space!r} holds no vector of these segments",
            code="not_embedded",
            fix="choose in a space of frames or clips; one of whole episodes says nothing of their parts",
        )
    return held, version
