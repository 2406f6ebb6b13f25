"""From the text of an expression to a syntax tree, with every bound checked before a parser sees it.

A score's dotted and versioned name (``name.metric@version``) becomes one identifier here, so that no word of SQL that
happens to be a column or a score is misread.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from itertools import pairwise
from typing import TYPE_CHECKING, NoReturn, cast

from data_engine.errors import RequestError

if TYPE_CHECKING:
    from sqlglot import exp
    from sqlglot.tokens import Token

__all__ = ["FUNCTIONS", "MAX_DEPTH", "MAX_LENGTH", "MAX_NODES", "did_you_mean", "parse", "refuse"]

MAX_NODES = 256
"""Most names, literals, operators, keywords and function calls of an expression."""
MAX_DEPTH = 32
"""Deepest nesting: open parentheses plus the operators between two AND, OR or commas."""
MAX_LENGTH = 8192
"""Longest text, in characters."""

_SHOWN = 60
"""Most names that a message lists: all columns of episodes and the scores beside them."""

FUNCTIONS = ("abs", "coalesce", "contains", "length", "lower", "percentile", "round", "upper")

_KEYWORDS = {"AND", "OR", "NOT", "IN", "BETWEEN", "LIKE", "ILIKE", "IS", "NULL", "TRUE", "FALSE"}
_OPERATORS = {"=", "==", "!=", "<>", "<", "<=", ">", ">=", "+", "-", "*", "/"}
_WORD = re.compile(r"[A-Za-z_]\w*", re.ASCII)
_NUMBER = re.compile(r"\d+(\.\d*)?([eE][+-]?\d+)?", re.ASCII)
_VERSION = re.compile(r"@(\w+(?:\.\w+)*)", re.ASCII)


def refuse(message: str, fix: str | None = None, at: int | None = None) -> NoReturn:
    """Raise the ``RequestError`` of a wrong expression, with its position (from 0) told from 1."""
    where = "" if at is None else f" at character {at + 1}"
    raise RequestError(f"expression: {message}{where}", code="bad_expression", fix=fix)


def did_you_mean(name: str, known: Iterable[str], *, quotes: bool = False) -> str:
    """The fix for an unknown ``name``: the nearest of ``known``, or some of them.

    ``quotes``: ``name`` may have been meant for a text, which a person may have put in double quotes or in none.
    """
    known = sorted(set(known))
    near = difflib.get_close_matches(name, known, n=1)
    if near:
        return f"did you mean {near[0]}?"
    text = "a text takes single quotes, as in task = 'lift'; " if quotes else ""
    return f"{text}known: {', '.join(known[:_SHOWN]) or 'none'}{', ...' if len(known) > _SHOWN else ''}"


def parse(text: str) -> exp.Expression:
    """The syntax tree of ``text``, names as single quoted identifiers.

    Raises ``RequestError`` for what is too long, too large or too deep, for a token that is not whitelisted, and for
    what does not parse. The tree's nodes are still to be held against a whitelist.
    """
    from sqlglot import ErrorLevel, Parser, exp
    from sqlglot.errors import ParseError

    tokens = _tokens(text)
    try:
        trees = Parser(error_level=ErrorLevel.RAISE).parse_into(exp.Condition, tokens, text)
    except ParseError as error:
        details = error.errors[0] if error.errors else {}
        near = str(details.get("highlight") or "")
        refuse(f"does not parse{f' near {near[:40]!r}' if near else ''}", at=_offset(text, details))
    except (RecursionError, ValueError, TypeError, AttributeError, LookupError):
        refuse("does not parse", fix="write column, operator and value, joined by AND and OR")
    if len(trees) != 1 or trees[0] is None:
        refuse("does not parse", fix="write column, operator and value, joined by AND and OR")
    return cast("exp.Expression", trees[0])


def _tokens(text: str) -> list[Token]:
    from sqlglot import Tokenizer
    from sqlglot.errors import TokenError

    if not isinstance(text, str) or not text.strip():
        refuse("is empty", fix="say success AND task LIKE '%drawer%'")
    if len(text) > MAX_LENGTH:
        refuse(f"has {len(text)} characters, more than {MAX_LENGTH}", fix="shorten it")
    try:
        raw = Tokenizer().tokenize(text)
    except (TokenError, ValueError, LookupError):
        refuse("has an unclosed quote or a character that does not belong")
    if not raw:
        refuse("is empty", fix="say success AND task LIKE '%drawer%'")
    edges = [(0, raw[0].start), *((a.end + 1, b.start) for a, b in pairwise(raw)), (raw[-1].end + 1, len(text))]
    for start, stop in edges:
        if text[start:stop].strip():
            refuse(f"has a comment or something unreadable, {text[start:stop].strip()[:40]!r},", "remove it", start)
    tokens = _named(raw, text)
    _check_size(tokens, text)
    return tokens


def _named(raw: list[Token], text: str) -> list[Token]:
    """The tokens with whole names as one identifier each; refuses every token that is not whitelisted."""
    from sqlglot.tokens import Token, TokenType

    tokens: list[Token] = []
    i = 0
    while i < len(raw):
        token, i = raw[i], i + 1
        source = text[token.start : token.end + 1]
        following = text[token.end + 1 :].lstrip()[:1]
        quoted = token.token_type in (TokenType.STRING, TokenType.IDENTIFIER) and source[0] in "'\""
        number = token.token_type == TokenType.NUMBER and _NUMBER.fullmatch(source)
        if quoted or number or source in _OPERATORS or source in ("(", ")", ","):
            tokens.append(token)
        elif not _WORD.fullmatch(source):
            allowed = "allowed: comparisons, AND, OR, NOT, IN, BETWEEN, LIKE, IS, + - * /"
            refuse(f"{source[:40]!r} does not belong", allowed, token.start)
        elif source.upper() in _KEYWORDS or (source.upper() in ("DATE", "TIMESTAMP") and following == "'"):
            tokens.append(token)
        elif following == "(":
            if source.lower() not in FUNCTIONS:
                refuse(f"unknown function {source!r}", did_you_mean(source.lower(), FUNCTIONS), token.start)
            tokens.append(token)
        else:
            stop = _end_of_name(text, token.end + 1)
            while i < len(raw) and raw[i].start < stop:
                i += 1
            name = text[token.start : stop]
            tokens.append(Token(TokenType.IDENTIFIER, name, token.line, token.col, token.start, stop - 1))
            if i < len(raw) and raw[i].start < stop <= raw[i].end:
                refuse(f"cannot read the name {name!r}", at=token.start)
    return tokens


def _end_of_name(text: str, stop: int) -> int:
    """Where a name whose first word ends at ``stop`` ends, its ``.metric`` and ``@version`` included."""
    if text[stop : stop + 1] == "." and (word := _WORD.match(text, stop + 1)):
        stop = word.end()
    if version := _VERSION.match(text, stop):
        stop = version.end()
    return stop


def _check_size(tokens: list[Token], text: str) -> None:
    """Refuse too many nodes or too deep a nesting. Chains of AND and OR are flat; chains of other operators are not."""
    nodes = 0
    levels = [0]
    for token in tokens:
        source = text[token.start : token.end + 1].upper()
        if source == "(":
            levels.append(0)
        elif source == ")":
            if len(levels) == 1:
                refuse("has a closing parenthesis too many", at=token.start)
            levels.pop()
        elif source in ("AND", "OR", ","):
            levels[-1] = 0
        elif source in _OPERATORS or source in _KEYWORDS:
            levels[-1] += 1
        nodes += source not in ("(", ")", ",")
        if nodes > MAX_NODES:
            refuse(f"has more than {MAX_NODES} parts", fix="split it, or select by ids", at=token.start)
        if sum(levels) + len(levels) - 1 > MAX_DEPTH:
            refuse(f"is nested deeper than {MAX_DEPTH}", fix="flatten it with AND and OR", at=token.start)
    if len(levels) > 1:
        refuse("has an unclosed parenthesis")


def _offset(text: str, details: dict) -> int | None:
    """Character offset of a parser error's end position (line, column from 1)."""
    line, column = details.get("line"), details.get("col")
    if not line or not column:
        return None
    before = text.splitlines(keepends=True)[: line - 1]
    return max(sum(map(len, before)) + column - len(str(details.get("highlight") or "")), 0)
