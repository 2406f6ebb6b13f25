"""Pages of rows by keyset: where the last page ended is told by its last row, so that rows which come in between
neither repeat nor hide others, and a page far in costs what the first does.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any

import numpy as np
import polars as pl

from data_engine.canonical import canonical_json, digest
from data_engine.errors import RequestError
from data_engine.expression import Compiled, ScoreRef, conjuncts
from flows.query import conjuncts_over, score_column, score_reference
from storage import removals
from storage.snapshot import Snapshot

__all__ = ["Page", "page", "warm"]

_IDENTITY: Mapping[str, tuple[str, ...]] = {
    "episodes": ("dataset", "source_key", "episode_id"),
    "scores": ("unit_kind", "unit_id", "scorer", "metric", "version", "config_hash", "fit_id", "start", "stop",
               "content_hash", "run_id"),
    "annotations": ("episode_id", "start", "stop", "kind", "producer", "label", "text", "value", "version",
                    "config_hash", "fit_id", "content_hash", "run_id"),
    "preferences": ("preference_id",),
    "evaluations": ("evaluation_id",),
    "quarantine": ("dataset", "source_key", "code", "created_at", "reason"),
}  # fmt: skip
"""By table, the columns that tell its rows apart, in the order that they have where no other is asked for."""

_AT, _VERDICT = "_at", "_verdict"


@dataclass(frozen=True)
class Page:
    """``rows`` of the ``matched`` ones; ``undecided`` rows had a null where the expression looked. ``next`` names where
    the following page begins, None after the last.
    """

    rows: pl.DataFrame
    matched: int
    undecided: int
    next: str | None


def page(
    lake: Snapshot,
    where: str | None = None,
    *,
    table: str = "episodes",
    columns: Sequence[str] | None = None,
    order_by: Sequence[str] = (),
    limit: int | None = 100,
    after: str | None = None,
) -> Page:
    """The rows of ``table`` that ``where`` admits, in the order of ``order_by`` (``-name``: largest first; nulls last),
    ties in the order of what tells rows apart. Of episodes, expression, columns and order may name scores.

    ``after`` is the ``next`` of the page before; ``limit`` None is everything. Raises ``RequestError`` for anything
    unknown, and for an ``after`` of another question. O(rows) for the expression, then the rows of the page.
    """
    if table not in _IDENTITY:
        raise RequestError(f"no pages of {table!r}", code="unknown_table", fix=f"one of {', '.join(_IDENTITY)}")
    frame = lake.episodes() if table == "episodes" else _live(lake, table)
    shown = list(dict.fromkeys(columns)) if columns else frame.columns
    keys = [(name.removeprefix("-"), name.startswith("-")) for name in order_by]
    keys = list({name: (name, down) for name, down in reversed(keys)}.values())[::-1]  # a name's first place counts
    types = lake.remembered(("types", table), lambda: _types(frame), (table, "removals"))
    parts = _parts(table, where, types) if where else ()
    scores = {ref.column: ref for part in parts for ref in part.scores}
    for name in (*shown, *(name for name, _ in keys)):
        if name not in frame.columns:
            if table != "episodes":
                known = ", ".join(sorted(frame.columns))
                raise RequestError(f"{table} has no column {name!r}", code="unknown_column", fix=f"known: {known}")
            scores[name] = _reference(name, types)
    named = {name: _score(lake, frame, wanted).alias(name) for name, wanted in scores.items()}

    def column(name: str) -> pl.Series:
        return named[name] if name in named else frame[name]

    for name, _ in keys:
        if column(name).dtype.is_nested():
            raise RequestError(f"column {name!r} has no order", code="bad_order", fix="order by a number, text or time")
    order = [*keys, *((name, False) for name in _IDENTITY[table] if name not in {name for name, _ in keys})]
    names, down = [name for name, _ in order], [descending for _, descending in order]
    at = lake.remembered(("at", table), lambda: _places(frame), (table, "removals"))
    verdict = _verdict(lake, table, at, column, parts)
    undecided = verdict.null_count() if verdict is not None else 0
    matched = len(frame) if verdict is None else int(verdict.sum() or 0)
    question = digest([table, where, [list(key) for key in keys]], length=16)
    ordered = not keys and table == "episodes"  # which lie in the order that is not asked for
    if after is not None:
        found = pl.DataFrame([at, *map(column, names)])
        found = found.filter(verdict) if verdict is not None else found
        schema = found.schema
        beyond = _beyond(order, _cursor(after, question, order, schema), schema)
        found = found.filter(beyond)
        if limit is not None and not ordered:
            found = found.filter(_leading(found[names[0]], None, down[0], limit + 1))
        at = found[_AT]
    else:
        if limit is not None and not ordered:
            verdict = _leading(column(names[0]), verdict, down[0], limit + 1)
        at = at.filter(verdict) if verdict is not None else at
    if ordered:
        at = at.head(limit + 1) if limit is not None else at
    else:
        found = pl.DataFrame([at, *(column(name)[at] for name in names)])
        at = found.sort(names, descending=down, nulls_last=True)[_AT]
    more = limit is not None and len(at) > limit
    at = at.head(limit) if limit is not None else at
    ends = {name: column(name)[int(at[-1])] for name in names} if more and len(at) else None
    first = ordered and verdict is None and after is None  # as they lie: nothing is copied
    rows = pl.DataFrame([column(name).head(len(at)) if first else column(name)[at] for name in shown])
    return Page(rows, matched, undecided, _text(question, ends, names) if ends else None)


def warm(lake: Snapshot, before: Snapshot) -> None:
    """Make what was asked of ``before`` ready in the snapshot that comes after it, so that nobody waits for it."""
    episodes = lake.episodes()
    for key in list(before.kept()):
        match key:
            case ("score", ScoreRef() as reference):
                with suppress(RequestError):  # measured against several sets by now: who asks is told
                    _score(lake, episodes, reference)
            case ("coded", "episodes", str(name)):
                _coded(lake, "episodes", episodes[name])
            case ("sorted", str(table), str(name)):
                lake.places_of(table, name, "")
            case "slots":
                lake.slots()


def _types(frame: pl.DataFrame) -> tuple[tuple[str, str], ...]:
    return tuple((name, str(kind)) for name, kind in frame.schema.items())


@lru_cache(maxsize=1024)  # to parse takes longer than to evaluate, and pages ask the same again
def _parts(table: str, where: str, types: tuple[tuple[str, str], ...]) -> tuple[Compiled, ...]:
    return conjuncts_over(where, dict(types)) if table == "episodes" else conjuncts(where, dict(types))


@lru_cache(maxsize=1024)
def _reference(name: str, types: tuple[tuple[str, str], ...]) -> ScoreRef:
    return score_reference(name, dict(types))


def _places(frame: pl.DataFrame) -> pl.Series:
    return pl.Series(_AT, np.arange(len(frame), dtype=np.uint32))


def _leading(values: pl.Series, verdict: pl.Series | None, down: bool, count: int) -> pl.Series:
    """Of the rows that ``verdict`` admits (None: all), those that can be among the first ``count`` by ``values`` and
    whatever breaks ties: few are left to be sorted.
    """
    among = values.filter(verdict) if verdict is not None else values
    ends = among.top_k(count) if down else among.bottom_k(count)  # null only where nothing else is left
    if len(ends) < count or ends.null_count() or (ends.dtype.is_float() and ends.is_nan().any()):  # no least of NaN
        return verdict if verdict is not None else pl.repeat(True, len(values), eager=True)
    edge = pl.lit(ends.min() if down else ends.max(), dtype=values.dtype)
    ahead = pl.col(values.name) >= edge if down else pl.col(values.name) <= edge
    return values.to_frame().select(ahead if verdict is None else ahead & verdict).to_series()


def _verdict(
    lake: Snapshot, table: str, at: pl.Series, column: Callable[[str], pl.Series], parts: Sequence[Compiled]
) -> pl.Series | None:  # fmt: skip
    """True, false or null a row; None without an expression. What looks at one column of text alone is evaluated once a
    distinct value: a pattern over a million rows of a hundred tasks is matched a hundred times.
    """
    if not parts:
        return None
    read: dict[str, pl.Series] = {}
    said: list[pl.Expr] = []
    for part in parts:
        name = part.columns[0] if len(part.columns) == 1 and not part.scores else None
        if name is not None and column(name).dtype == pl.String:
            values, codes = _coded(lake, table, column(name))
            if len(values) * 4 <= len(at):
                said.append(pl.lit(_spread(values.to_frame().select(part.expr).to_series(), codes)))
                continue
        read |= {name: column(name) for name in (*part.columns, *(score.column for score in part.scores))}
        said.append(part.expr)
    rows = pl.DataFrame([at, *read.values()])
    return rows.with_columns(pl.all_horizontal(said).alias(_VERDICT))[_VERDICT]  # a row each, even of 1 = 1


def _coded(lake: Snapshot, table: str, texts: pl.Series) -> tuple[pl.Series, np.ndarray]:
    """The distinct values of a column, null among them, and of each row which one it has, as narrow as they allow."""

    def make() -> tuple[pl.Series, np.ndarray]:
        values = texts.unique(maintain_order=True)
        places = values.to_frame().with_columns(pl.Series(_AT, np.arange(len(values)), pl.UInt32))
        codes = texts.to_frame().join(places, on=texts.name, how="left", nulls_equal=True, maintain_order="left")[_AT]
        return values, codes.to_numpy().astype(np.min_scalar_type(len(values)))

    return lake.remembered(("coded", table, texts.name), make, (table, "removals"))


def _spread(verdicts: pl.Series, codes: np.ndarray) -> pl.Series:
    """The verdict of each value as that of every row that has it. By NumPy: polars gathers truths bit by bit."""
    if not verdicts.null_count():
        return pl.Series(verdicts.to_numpy().take(codes))
    told = pl.Series(verdicts.fill_null(False).to_numpy().take(codes))
    known = pl.Series(verdicts.is_not_null().to_numpy().take(codes))
    return pl.select(pl.when(pl.lit(known)).then(pl.lit(told))).to_series()


def _live(lake: Snapshot, table: str) -> pl.DataFrame:
    return lake.remembered(
        ("live", table), lambda: removals.live(lake, lake.scan(table).collect()), (table, "removals")
    )  # fmt: skip


def _score(lake: Snapshot, episodes: pl.DataFrame, reference: ScoreRef) -> pl.Series:
    rests_on = ("episodes", "removals", "scores")
    return lake.remembered(("score", reference), lambda: score_column(lake, episodes, reference), rests_on)


def _beyond(order: Sequence[tuple[str, bool]], last: Sequence[Any], schema: Mapping[str, Any]) -> pl.Expr:
    """Whether a row comes after ``last``, in an order with nulls last."""
    after = pl.lit(False)
    for (name, down), value in reversed(list(zip(order, last, strict=True))):
        column = pl.col(name).cast(pl.Int8) if schema[name] == pl.Boolean else pl.col(name)
        if value is None:
            after = column.is_null() & after
            continue
        at = pl.lit(int(value) if isinstance(value, bool) else value)
        further = ((column < at) if down else (column > at)) | column.is_null()
        after = further.fill_null(True) | (column.eq_missing(at) & after)
    return after


def _text(question: str, row: Mapping[str, Any], names: Sequence[str]) -> str:
    values = [_said(row[name]) for name in names]
    return base64.urlsafe_b64encode(canonical_json([question, values]).encode()).decode().rstrip("=")


def _said(value: Any) -> Any:
    """``value`` so that :func:`_typed` gives the very same back: JSON knows neither times nor infinity."""
    if isinstance(value, datetime):
        return value.isoformat()
    return value.hex() if isinstance(value, float) else value


def _cursor(
    text: str, question: str, order: Sequence[tuple[str, bool]], schema: Mapping[str, Any]
) -> list[Any]:  # fmt: skip
    try:
        asked, values = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
        values = [_typed(value, schema[name]) for value, (name, _) in zip(values, order, strict=True)]
    except (ValueError, TypeError, RecursionError) as error:
        raise RequestError(
            "after names no page", code="bad_cursor", fix="take it from the page before, as `next`"
        ) from error
    if asked != question:
        raise RequestError(
            "after is of another question", code="bad_cursor", fix="ask with the same where and order, or without after"
        )
    return list(values)


def _typed(value: Any, kind: Any) -> Any:
    if value is None:
        return None
    if kind.is_temporal():
        return datetime.fromisoformat(value)
    if kind.is_float():
        return float.fromhex(value)
    if type(value) is not (str if kind == pl.String else bool if kind == pl.Boolean else int):
        raise ValueError(f"{value!r} is no {kind}")
    return value
