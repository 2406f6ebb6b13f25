"""From the syntax tree to a polars expression, node by node, from a whitelist of nodes and of their parts."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import and_, eq, ge, gt, le, lt, ne, or_
from typing import TYPE_CHECKING, Any, Literal

from data_engine.expression.text import did_you_mean, refuse
from data_engine.expression.values import (
    Kind,
    Value,
    as_time,
    balanced,
    column_value,
    compare,
    number,
    truth,
    with_article,
    without,
)

if TYPE_CHECKING:
    import polars as pl
    from sqlglot import exp

__all__ = ["ScoreRef", "Translator"]

_COMPARISONS: dict[str, Callable] = {"EQ": eq, "NEQ": ne, "LT": lt, "LTE": le, "GT": gt, "GTE": ge}


@dataclass(frozen=True)
class ScoreRef:
    """A score that an expression refers to.

    ``metric`` None is the headline metric, ``version`` None the newest. ``field``: the raw ``value``, or the
    ``percentile`` (0 to 100) within (task, embodiment).
    """

    scorer: str
    metric: str | None = None
    version: str | None = None
    field: Literal["value", "percentile"] = "value"

    @property
    def column(self) -> str:
        """The column (Float64, null where there is no score) that ``Compiled.expr`` reads the score from."""
        metric = f".{self.metric}" if self.metric else ""
        version = f"@{self.version}" if self.version else ""
        return f"score:{self.scorer}{metric}{version}:{self.field}"


# The parts of each node that the translation reads; a node with any other part is refused.
_ONE, _TWO = frozenset({"this"}), frozenset({"this", "expression"})
_BINARY = (*_COMPARISONS, "And", "Or", "Add", "Sub", "Mul", "Is", "Like", "ILike", "Contains")
_UNARY = ("Not", "Paren", "Neg", "Lower", "Upper", "Abs", "Length", "Boolean", "Column")
_PARTS: dict[str, frozenset[str]] = {
    **dict.fromkeys(_BINARY, _TWO),
    **dict.fromkeys(_UNARY, _ONE),
    "Div": _TWO | {"typed", "safe"},
    "In": _ONE | {"expressions"},
    "Between": _ONE | {"low", "high"},
    "Coalesce": _ONE | {"expressions"},
    "Round": _ONE | {"decimals"},
    "Anonymous": _ONE | {"expressions"},
    "Literal": _ONE | {"is_string"},
    "Cast": _ONE | {"to"},
    "Null": frozenset(),
}


@dataclass
class Translator:
    """Translates one tree and remembers what it reads. ``columns``: type by name. ``scores``: metrics by scorer."""

    columns: Mapping[str, Any]
    scores: Mapping[str, Sequence[str]]
    found_columns: set[str] = field(default_factory=set)
    found_scores: set[ScoreRef] = field(default_factory=set)

    def value(self, node: exp.Expression) -> Value:
        """Translate ``node``, or refuse what is not on the whitelist."""
        name = type(node).__name__
        extra = {part for part, given in node.args.items() if given} - _PARTS.get(name, _ONE) - {"negate"}
        if name not in _PARTS:
            refuse(f"{node.key.upper()} is not part of the language", at=_position(node))
        if extra:
            fix = "IN takes a list in parentheses" if name == "In" else None
            refuse(f"cannot read this form of {node.key.upper()}", fix, _position(node))
        if name in _COMPARISONS:
            result = self._comparison(node, _COMPARISONS[name])
        else:
            result = getattr(self, f"_{name.lower()}")(node)
        return truth(~result.expr) if node.args.get("negate") else result

    def condition(self, node: exp.Expression) -> pl.Expr:
        """Translate ``node``, or refuse what is neither true nor false."""
        return self._want(node, "true or false").expr

    def _want(self, node: exp.Expression, *kinds: Kind) -> Value:
        result = self.value(node)
        if result.kind not in kinds:
            wanted = " or ".join(map(with_article, kinds))
            fix = "compare it, as in n_steps > 100" if kinds == ("true or false",) else None
            refuse(f"{result.label} is {with_article(result.kind)}, not {wanted}", fix, _position(node))
        return result

    # names and literals

    def _column(self, node: exp.Expression) -> Value:
        import polars as pl

        name = node.name
        if name in self.columns:
            self.found_columns.add(name)
            return column_value(name, str(self.columns[name]).lower(), pl.col(name))
        return self._score(name, "value", _position(node))

    def _score(self, name: str, which: Literal["value", "percentile"], at: int | None) -> Value:
        import polars as pl

        path, _, version = name.partition("@")
        scorer, _, metric = path.partition(".")
        if scorer not in self.scores:
            known = [*self.scores] if which == "percentile" else [*self.columns, *self.scores]
            what = "score" if which == "percentile" else "column or score"
            refuse(f"unknown {what} {name!r}", did_you_mean(path, known, quotes=True), at)
        if metric and metric not in self.scores[scorer]:
            refuse(f"scorer {scorer!r} has no metric {metric!r}", did_you_mean(metric, self.scores[scorer]), at)
        ref = ScoreRef(scorer, metric or None, version or None, which)
        self.found_scores.add(ref)
        return Value("number", pl.col(ref.column).cast(pl.Float64).fill_nan(None), name)

    def _literal(self, node: exp.Expression) -> Value:
        import polars as pl

        text = str(node.this)
        if node.args.get("is_string"):
            return Value(
                "text", pl.lit(text, dtype=pl.String), repr(text if len(text) <= 40 else text[:40] + "..."), text
            )
        real = float(text)
        if not math.isfinite(real):
            refuse(f"{text} is out of range")
        if text.isdecimal() and int(text) < 2**63:
            return Value("number", pl.lit(int(text), dtype=pl.Int64), text, int(text))
        return Value("number", pl.lit(real, dtype=pl.Float64), text, real)

    def _boolean(self, node: exp.Expression) -> Value:
        import polars as pl

        return Value("true or false", pl.lit(bool(node.this)), str(bool(node.this)).upper(), bool(node.this))

    def _null(self, node: exp.Expression) -> Value:
        refuse("comparing with NULL is never true", fix="use IS NULL or IS NOT NULL")

    def _cast(self, node: exp.Expression) -> Value:
        if type(node.this).__name__ != "Literal" or not node.this.args.get("is_string"):
            refuse("CAST is not part of the language")
        return as_time(self.value(node.this))

    def _paren(self, node: exp.Expression) -> Value:
        return self.value(node.this)

    # logic

    def _and(self, node: exp.Expression) -> Value:
        return self._chain(node, and_)

    def _or(self, node: exp.Expression) -> Value:
        return self._chain(node, or_)

    def _chain(self, node: exp.Expression, join: Callable) -> Value:
        operands, open_ = [], [node]
        while open_:  # left-deep in the tree: walk it flat, rebuild it balanced
            part = open_.pop()
            if type(part) is type(node):
                open_ += [part.expression, part.this]
            else:
                operands.append(self.condition(part))
        return truth(balanced(operands, join))

    def _not(self, node: exp.Expression) -> Value:
        return truth(~self.condition(node.this))

    def _comparison(self, node: exp.Expression, operation: Callable) -> Value:
        return compare(self.value(node.this), self.value(node.expression), operation, _position(node))

    def _between(self, node: exp.Expression) -> Value:
        value, at = self.value(node.this), _position(node)
        low = compare(value, self.value(node.args["low"]), ge, at)
        return truth(low.expr & compare(value, self.value(node.args["high"]), le, at).expr)

    def _in(self, node: exp.Expression) -> Value:
        if not node.expressions:
            refuse("IN needs a list", fix="write task IN ('a', 'b')", at=_position(node))
        value, at = self._want(node.this, "number", "text", "time"), _position(node)
        return truth(balanced([compare(value, self.value(item), eq, at).expr for item in node.expressions], or_))

    def _is(self, node: exp.Expression) -> Value:
        what = type(node.expression).__name__
        if what == "Null":
            return truth(self.value(node.this).expr.is_null())
        if what != "Boolean":
            refuse("IS takes NULL, TRUE or FALSE", at=_position(node))
        value = self._want(node.this, "true or false").expr
        return truth((value if node.expression.this else ~value).fill_null(False))

    def _like(self, node: exp.Expression, flags: str = "(?s)") -> Value:
        value, pattern = self._want(node.this, "text"), self._want(node.expression, "text").literal
        if pattern is None:
            refuse("LIKE needs its pattern in quotes", at=_position(node))
        parts = {"%": ".*", "_": "."}
        regex = "".join(parts.get(char) or re.escape(char) for char in pattern)
        return truth(value.expr.str.contains(f"{flags}^{regex}$"))

    def _ilike(self, node: exp.Expression) -> Value:
        return self._like(node, "(?is)")

    # arithmetic and functions

    def _add(self, node: exp.Expression) -> Value:
        return self._arithmetic(node, lambda a, b: a + b)

    def _sub(self, node: exp.Expression) -> Value:
        return self._arithmetic(node, lambda a, b: a - b)

    def _mul(self, node: exp.Expression) -> Value:
        return self._arithmetic(node, lambda a, b: a * b)

    def _div(self, node: exp.Expression) -> Value:
        return self._arithmetic(node, lambda a, b: a / without(b, 0.0))

    def _arithmetic(self, node: exp.Expression, operation: Callable) -> Value:
        return number(without(operation(self._float(node.this), self._float(node.expression)), math.nan))

    def _float(self, node: exp.Expression) -> pl.Expr:
        import polars as pl

        return self._want(node, "number").expr.cast(pl.Float64)

    def _neg(self, node: exp.Expression) -> Value:
        return number(-self._float(node.this))

    def _abs(self, node: exp.Expression) -> Value:
        return number(self._float(node.this).abs())

    def _round(self, node: exp.Expression) -> Value:
        value, digits = self._float(node.this), 0
        if node.args.get("decimals") is not None:
            digits = self.value(node.args["decimals"]).literal
        if type(digits) is not int or digits > 15:
            refuse("round takes a number of digits from 0 to 15", at=_position(node))
        return number(value.round(digits, mode="half_away_from_zero"))

    def _lower(self, node: exp.Expression) -> Value:
        return Value("text", self._want(node.this, "text").expr.str.to_lowercase(), "lower(...)")

    def _upper(self, node: exp.Expression) -> Value:
        return Value("text", self._want(node.this, "text").expr.str.to_uppercase(), "upper(...)")

    def _length(self, node: exp.Expression) -> Value:
        value = self._want(node.this, "text", "list of text")
        return number(value.expr.str.len_chars() if value.kind == "text" else value.expr.list.len())

    def _contains(self, node: exp.Expression) -> Value:
        value, sought = self._want(node.this, "list of text", "text"), self._want(node.expression, "text").literal
        if sought is None:
            refuse("contains needs what it looks for in quotes", at=_position(node))
        if value.kind == "text":
            return truth(value.expr.str.contains(sought, literal=True))
        return truth(value.expr.list.contains(sought))

    def _coalesce(self, node: exp.Expression) -> Value:
        import polars as pl

        values = [self.value(part) for part in [node.this, *node.expressions]]
        if any(value.kind != values[0].kind for value in values) or values[0].kind == "other":
            refuse(
                f"coalesce mixes {' and '.join(with_article(value.kind) for value in values[:3])}", at=_position(node)
            )
        exprs = [value.expr.cast(pl.Float64) if value.kind == "number" else value.expr for value in values]
        return Value(values[0].kind, pl.coalesce(exprs), "coalesce(...)")

    def _anonymous(self, node: exp.Expression) -> Value:
        arguments = node.expressions
        if node.name.lower() != "percentile" or len(arguments) != 1 or type(arguments[0]).__name__ != "Column":
            refuse(f"cannot read {node.name}(...)", fix="write percentile(name.metric)", at=_position(node))
        return self._score(arguments[0].name, "percentile", _position(node))


def _position(node: exp.Expression) -> int | None:
    """Offset of the first name under ``node``, or None where it holds none."""
    names = (part for part in node.walk() if part.key == "identifier")
    return min((name.meta["start"] for name in names if "start" in name.meta), default=None)
