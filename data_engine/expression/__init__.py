"""The language of ``--where``: a SQL boolean expression over columns and scores, as a polars expression.

``success AND action_divergence < 0.3 AND task ILIKE '%drawer%'``: comparisons, AND, OR, NOT, IN, BETWEEN, LIKE, ILIKE,
IS [NOT] NULL (TRUE, FALSE), + - * /, lower, upper, abs, length, coalesce, round(x, digits), contains(labels, 'expert')
and percentile(score); text, numbers, TRUE, FALSE, and ISO dates in quotes against timestamps.

A score is named by its scorer (its headline metric), ``name.metric``, ``name@version`` or ``name.metric@version``; a
column of the same name comes first. Nulls follow SQL's three-valued logic and NaN counts as null, so that
``NOT x > 0.5`` chooses no episode without a value either. Arithmetic is in float64, division by zero is null. LIKE
minds case, ``%`` is any text, ``_`` any one character.

The text reaches no engine: it is bounded, parsed and translated node by node, from a whitelist. polars and sqlglot are
imported on use.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from data_engine.expression.text import parse
from data_engine.expression.translate import ScoreRef, Translator

if TYPE_CHECKING:
    import polars as pl

__all__ = ["Compiled", "ScoreRef", "compile", "conjuncts"]

T = TypeVar("T")

_SHALLOW = 100
"""Frames below a caller who has room: the deepest text that is allowed takes 730, and an interpreter has 1000."""


@dataclass(frozen=True)
class Compiled:
    """``expr`` is true, false or null for each row; null is not selected, and worth counting.

    ``columns``: the columns that it reads, sorted. ``scores``: the scores that must be joined first, each under its
    ``ScoreRef.column``, sorted.
    """

    text: str
    expr: pl.Expr
    columns: tuple[str, ...]
    scores: tuple[ScoreRef, ...]


def compile(text: str, columns: Mapping[str, Any], scores: Mapping[str, Sequence[str]] | None = None) -> Compiled:
    """Translate ``text``.

    ``columns``: type by name, as polars or Arrow types or their names. ``scores``: metrics by scorer. Raises
    ``RequestError`` for an unknown name (with the nearest), mismatched types, and what the language does not hold.
    """
    return _with_room(_compile, text, columns, scores or {})


def conjuncts(
    text: str, columns: Mapping[str, Any], scores: Mapping[str, Sequence[str]] | None = None
) -> tuple[Compiled, ...]:
    """The parts that AND joins at the top of ``text``, each by itself: all of them together are what ``text`` is.

    A part that reads one column can be evaluated on that column's distinct values. Raises as :func:`compile` does.
    """
    return _with_room(_conjuncts, text, columns, scores or {})


def _with_room(translate: Callable[..., T], *arguments: Any) -> T:
    """What ``translate`` returns, on a fresh stack where the caller's is deep: what parses must not depend on that."""
    frame, depth = sys._getframe(), 0
    while frame.f_back is not None and depth <= _SHALLOW:
        frame, depth = frame.f_back, depth + 1
    if depth <= _SHALLOW:
        return translate(*arguments)
    with ThreadPoolExecutor(max_workers=1) as thread:
        return thread.submit(translate, *arguments).result()


def _conjuncts(text: str, columns: Mapping[str, Any], scores: Mapping[str, Sequence[str]]) -> tuple[Compiled, ...]:
    parts, open_ = [], [parse(text)]
    while open_:
        node = open_.pop()
        if type(node).__name__ == "And":
            open_ += [node.expression, node.this]
        else:
            parts.append(_compiled(text, Translator(columns, scores), node))
    return tuple(parts)


def _compile(text: str, columns: Mapping[str, Any], scores: Mapping[str, Sequence[str]]) -> Compiled:
    return _compiled(text, Translator(columns, scores), parse(text))


def _compiled(text: str, translator: Translator, node: Any) -> Compiled:
    expr = translator.condition(node)
    found = sorted(translator.found_scores, key=lambda ref: ref.column)
    return Compiled(text, expr, tuple(sorted(translator.found_columns)), tuple(found))
