"""``query``: expressions over episodes and scores, answered as a frame; how every other flow finds its episodes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from data_engine import expression, registry
from data_engine.errors import RequestError
from data_engine.expression import Compiled, ScoreRef
from data_engine.model import TABLES
from data_engine.scoring import Metric, Spec
from storage import removals
from storage.lake import Lake
from storage.snapshot import Snapshot

_SCORE = re.compile(r"[\w.@]+|percentile\([\w.@]+\)", re.ASCII | re.IGNORECASE)

__all__ = ["compiled_over", "conjuncts_over", "matching", "query", "score_column", "score_metric", "score_reference"]


def query(
    lake: Lake,
    where: str | None = None,
    *,
    table: str = "episodes",
    columns: Sequence[str] | None = None,
    order_by: Sequence[str] = (),
    limit: int | None = None,
    fits: Mapping[str, str] | None = None,
) -> tuple[pl.DataFrame, int]:
    """Rows of ``table`` that ``where`` admits, and how many rows it left undecided because a value was null.

    Rows of removed episodes are left out.

    ``columns`` may name scores as expressions do (``action_divergence``, ``mutual_information.score``). ``order_by``
    names columns, ``-name`` for the largest first, nulls last; ties keep the table's order. ``fits``: as of
    :func:`matching`. Raises ``RequestError`` for anything unknown.
    """
    keys = [(key.removeprefix("-"), key.startswith("-")) for key in order_by]
    named = list(dict.fromkeys([*(columns or ()), *(name for name, _ in keys)]))
    if table == "episodes":
        frame, undecided = matching(lake, lake.episodes(), where, fits)
        for name in named:
            if name not in frame.columns:
                frame = frame.with_columns(score_column(lake, frame, name, fits).alias(name))
    elif table in TABLES:
        frame = lake.scan(table).collect()
        frame = frame if table == "removals" else removals.live(lake, frame)
        compiled = expression.compile(where, dict(frame.schema)) if where else None
        undecided = int(frame.select(compiled.expr.is_null().sum()).item()) if compiled else 0
        frame = frame.filter(compiled.expr) if compiled else frame
    else:
        raise RequestError(f"unknown table {table!r}", code="unknown_table", fix=f"one of {', '.join(sorted(TABLES))}")
    for name in named:
        if name not in frame.columns:
            known = ", ".join(sorted(frame.columns))
            raise RequestError(f"{table} has no column {name!r}", code="unknown_column", fix=f"known: {known}")
    for name, _ in keys:
        if frame.schema[name].is_nested():
            raise RequestError(f"column {name!r} has no order", code="bad_order", fix="order by a number, text or time")
    if keys:
        names, descending = zip(*keys, strict=True)
        frame = frame.sort(names, descending=descending, nulls_last=True, maintain_order=True)
    if columns:
        frame = frame.select(*dict.fromkeys(columns))
    return (frame.head(limit) if limit is not None else frame), undecided


def matching(
    lake: Lake, episodes: pl.DataFrame, where: str | None, fits: Mapping[str, str] | None = None
) -> tuple[pl.DataFrame, int]:
    """The rows of ``episodes`` that ``where`` admits, and how many were null and so left out.

    ``fits`` names, by scorer, the fit whose scores count; without it two candidate fits are an error.
    """
    if not where:
        return episodes, 0
    compiled = compiled_over(where, episodes.schema)
    wide = episodes
    for reference in compiled.scores:
        wide = wide.with_columns(_score(lake, episodes, reference, fits).alias(reference.column))
    verdict = wide.select(compiled.expr.alias("verdict"))["verdict"]
    return episodes.filter(verdict.fill_null(False)), verdict.null_count()


def compiled_over(where: str, columns: Mapping[str, Any]) -> Compiled:
    """``where`` over ``columns`` (type by name) and every score there can be."""
    return expression.compile(where, dict(columns), _Metrics())


def conjuncts_over(where: str, columns: Mapping[str, Any]) -> tuple[Compiled, ...]:
    """:func:`compiled_over`, in the parts that AND joins."""
    return expression.conjuncts(where, dict(columns), _Metrics())


def score_column(
    lake: Lake, episodes: pl.DataFrame, name: str | ScoreRef, fits: Mapping[str, str] | None = None
) -> pl.Series:
    """The score called ``name`` (as in expressions) of each episode, float64, null where there is none."""
    reference = name if isinstance(name, ScoreRef) else score_reference(name, episodes.schema)
    return _score(lake, episodes, reference, fits)


def score_reference(name: str, columns: Mapping[str, Any] | None = None) -> ScoreRef:
    """What ``name`` (as in expressions) refers to. Raises ``RequestError`` where it is not the name of a score, with
    the nearest name of a score or of ``columns``.
    """
    compiled = expression.compile(f"{name} IS NOT NULL", columns or {}, _Metrics())
    if len(compiled.scores) != 1 or not _SCORE.fullmatch(name):
        raise RequestError(f"{name!r} is no name of a score", code="unknown_score", fix="as in action_divergence")
    return compiled.scores[0]


def score_metric(name: str) -> Metric:
    """The metric that a score's name stands for, with its unit and better direction."""
    reference = score_reference(name)
    metrics = _spec(reference.scorer).metrics
    return next((metric for metric in metrics if metric.name == reference.metric), metrics[0])


class _Metrics(Mapping[str, list[str]]):
    """Metric names by scorer or labeller, the headline first; either is imported when its metrics are asked for."""

    def __getitem__(self, name: str) -> list[str]:
        if name not in tuple(self):
            raise KeyError(name)
        return [metric.name for metric in _spec(name).metrics]

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys((*registry.names("scorers"), *registry.names("labellers"))))

    def __len__(self) -> int:
        return sum(1 for _ in self)


def _spec(name: str) -> Spec:
    """What the scorer of that name says of itself, else the labeller."""
    spec: Spec = registry.load("scorers" if _verb(name) == "score" else "labellers", name).spec
    return spec


def _verb(name: str) -> str:
    """The verb that makes the scores of that name."""
    return "score" if name in registry.names("scorers") else "label"


def _score(lake: Lake, episodes: pl.DataFrame, reference: ScoreRef, fits: Mapping[str, str] | None = None) -> pl.Series:
    metric = reference.metric or _Metrics()[reference.scorer][0]
    fit = (fits or {}).get(reference.scorer)
    if isinstance(lake, Snapshot):
        return _from_memory(lake, episodes, reference, metric, fit)
    rows = (
        lake.scan("scores")
        .filter((pl.col("scorer") == reference.scorer) & (pl.col("metric") == metric))
        .select("unit_id", "content_hash", "version", "config_hash", "fit_id", "value", "percentile")
        .collect()
        .join(episodes.select(pl.col("episode_id").alias("unit_id"), "content_hash"), on=["unit_id", "content_hash"])
    )
    measures = rows.select("version", "config_hash", "fit_id").unique().rows()
    measure = _one(lake, measures, reference, metric, fit, len(episodes))
    if measure is None:
        return pl.Series(reference.field, [None] * len(episodes), pl.Float64)
    version, config, fitted = (pl.lit(each, pl.String) for each in measure)
    mine = (
        pl.col("version").eq_missing(version) & pl.col("config_hash").eq_missing(config)
        & pl.col("fit_id").eq_missing(fitted)
    )  # fmt: skip
    found = rows.filter(mine).select("unit_id", reference.field).unique("unit_id", keep="last", maintain_order=True)
    units = episodes.select(pl.col("episode_id").alias("unit_id"))
    return units.join(found, on="unit_id", how="left", maintain_order="left")[reference.field].cast(pl.Float64)


def _from_memory(
    lake: Snapshot, episodes: pl.DataFrame, reference: ScoreRef, metric: str, fit: str | None
) -> pl.Series:  # fmt: skip
    """What a snapshot holds by recording already: no join, O(episodes)."""
    slots = lake.slots() if episodes is lake.episodes() else lake.pivot.slots(episodes)
    held = {}
    for key, measure in lake.pivot.find(reference.scorer, metric).items():
        at = np.where(slots < len(measure.said), slots, -1)
        said = (at >= 0) & (measure.said[at] >= 0)
        if said.any():
            held[key[2:]] = measure, np.where(said, at, -1)
    chosen = _one(lake, list(held), reference, metric, fit, len(episodes))
    if chosen is None:
        return pl.Series(reference.field, [None] * len(episodes), pl.Float64)
    measure, at = held[chosen]
    values = measure.numbers[reference.field][at]
    values[at < 0] = np.nan
    return pl.Series(reference.field, values).fill_nan(None)


def _one(
    lake: Lake, measures: Sequence[tuple[str | None, ...]], reference: ScoreRef, metric: str, fit: str | None,
    episodes: int,
) -> tuple[str | None, ...] | None:  # fmt: skip
    """Which of the measures (version, configuration, fit) of a metric is meant; None where nobody asks."""
    known = sorted({str(each[2]) for each in measures})
    if fit is not None:
        measures = [each for each in measures if each[2] == fit]
    version = reference.version or max((str(each[0]) for each in measures), key=_in_order, default="")
    measures = sorted((each for each in measures if each[0] == version), key=str)
    if len(measures) > 1:
        named = sorted(str(each[2]) for each in measures)
        raise RequestError(
            f"{reference.scorer} was measured against {len(measures)} reference sets: {', '.join(named)}",
            code="ambiguous_fit",
            fix=f"where --fit SCORER=FIT is taken name one, as in `query --fit {reference.scorer}={named[0]}`",
        )
    if not measures and episodes:
        wanted = f"{reference.scorer}.{metric}" + (f"@{reference.version}" if reference.version else "")
        scored = (
            lake.pivot.scorers
            if isinstance(lake, Snapshot)
            else lake.scan("scores").select(pl.col("scorer").unique()).collect()["scorer"].sort().to_list()
        )
        raise RequestError(
            f"no {wanted} scores{f' from fit {fit}' if fit else ''} for these episodes",
            code="not_scored",
            fix=f"there are fits {', '.join(known)}"
            if fit and known
            else f"run `data-engine {_verb(reference.scorer)} {reference.scorer}`; "
            f"scored so far: {', '.join(scored) or 'nothing'}",
        )
    return measures[0] if measures else None


def _in_order(version: str) -> tuple[list[int], str]:
    return [int(number) for number in re.findall(r"\d+", version)], version
