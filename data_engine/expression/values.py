"""The typed values of the expression language: what may be compared with what, and how columns are read safely."""

from __future__ import annotations

import datetime
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from operator import eq, ne
from typing import TYPE_CHECKING, Any, Literal

from data_engine.expression.text import refuse

if TYPE_CHECKING:
    import polars as pl

__all__ = [
    "Kind",
    "Value",
    "as_time",
    "balanced",
    "column_value",
    "compare",
    "number",
    "truth",
    "with_article",
    "without",
]

Kind = Literal["true or false", "number", "text", "time", "list of text", "other"]


@dataclass(frozen=True)
class Value:
    """A translated node: what it is, how to say so, and for a literal its Python value."""

    kind: Kind
    expr: pl.Expr
    label: str
    literal: Any = None


def column_value(name: str, dtype: str, column: pl.Expr) -> Value:
    """A column of type ``dtype``, as polars or Arrow name it, in lower case."""
    import polars as pl

    if dtype.startswith("bool"):
        return Value("true or false", column, name)
    if dtype.startswith(("int", "uint")):
        return Value("number", column, name)
    if dtype.startswith(("float", "double", "halffloat", "decimal")):
        return Value("number", without(column.cast(pl.Float64), math.nan), name)
    if dtype.startswith(("string", "large_string", "utf8", "str", "categorical", "enum")) and "struct" not in dtype:
        return Value("text", column.cast(pl.String), name)
    if dtype.startswith(("timestamp", "datetime", "date")):
        return Value("time", column.dt.timestamp("us"), name)
    if re.fullmatch(r"(large_)?list[<(](\w+: )?(large_)?(string|utf8|str)( not null)?[>)]", dtype):
        return Value("list of text", column, name)
    return Value("other", column, name)


def compare(left: Value, right: Value, operation: Callable, at: int | None) -> Value:
    """``left`` and ``right`` of one kind, compared. A quoted date is one against a time."""
    if left.kind == "time" and right.literal is not None:
        right = as_time(right, at)
    elif right.kind == "time" and left.literal is not None:
        left = as_time(left, at)
    if left.kind != right.kind or left.kind in ("list of text", "other"):
        fix = "use contains(list, 'value')" if left.kind == "list of text" else None
        refuse(f"cannot compare {left.label} ({left.kind}) with {right.label} ({right.kind})", fix, at)
    if left.kind == "true or false" and operation not in (eq, ne):
        refuse(f"{left.label} is true or false and has no order", at=at)
    return truth(operation(left.expr, right.expr))


def as_time(value: Value, at: int | None = None) -> Value:
    """A text literal as microseconds since 1970, UTC where it names no zone."""
    import polars as pl

    if value.kind != "text":
        return value
    try:
        moment = datetime.datetime.fromisoformat(value.literal)
    except ValueError:
        refuse(f"{value.label} is not a date", fix="write '2025-01-31' or '2025-01-31T12:00:00Z'", at=at)
    moment = moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)
    micros = (moment - datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)) // datetime.timedelta(microseconds=1)
    return Value("time", pl.lit(micros, dtype=pl.Int64), value.label)


def truth(expr: pl.Expr) -> Value:
    """A computed truth value."""
    return Value("true or false", expr, "the expression")


def number(expr: pl.Expr) -> Value:
    """A computed number."""
    return Value("number", expr, "the expression")


def without(expr: pl.Expr, value: float) -> pl.Expr:
    """``expr`` with null for ``value``. ``fill_nan`` and ``when`` repeat their input, which doubles a plan a level."""
    return expr.replace(value, None)


def balanced(parts: list[pl.Expr], join: Callable) -> pl.Expr:
    """``parts`` joined as a balanced tree: the engine walks it recursively."""
    while len(parts) > 1:
        parts = [reduce(join, parts[i : i + 2]) for i in range(0, len(parts), 2)]
    return parts[0]


def with_article(kind: str) -> str:
    """The kind as it reads in a sentence."""
    return kind if kind in ("text", "true or false") else f"a {kind}"
