"""How an answer looks: one JSON object, or for a person a table, whose columns fold on a narrow terminal only."""

from __future__ import annotations

import io
import json
import re
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from flows.progress import printable

__all__ = ["show", "table"]

_COLOURS_AND_LINES = re.compile(r"(\x1b\[[\d;]*m|[\n\t])")  # all of what a terminal obeys that a text may hold


def show(answer: Mapping[str, Any], as_json: bool) -> None:
    """Print ``answer`` on stdout: as JSON without its ``text``, else the text, else its ``items`` as a table."""
    facts = {key: value for key, value in answer.items() if key != "text"}
    if as_json:
        print(json.dumps(facts, default=str))
    elif "text" in answer:
        if answer["text"]:
            kept = enumerate(_COLOURS_AND_LINES.split(answer["text"]))
            print("".join(part if number % 2 else printable(part) for number, part in kept))
    elif isinstance(answer.get("items"), list):
        print(table(answer["items"]))
    else:
        print(json.dumps(facts, indent=2, default=str))


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """``rows`` as aligned columns, of all their keys; in a pipe every row is one line, however long."""
    if not rows:
        return "none"
    from rich.console import Console
    from rich.table import Table

    narrow = sys.stdout.isatty()
    grid = Table(box=None, header_style="bold", pad_edge=False)
    columns = dict.fromkeys(name for row in rows for name in row)
    for column in columns:
        grid.add_column(column, overflow="fold", no_wrap=not narrow)
    for row in rows:
        grid.add_row(*(_cell(row.get(column)) for column in columns))
    text = io.StringIO()
    width = None if narrow else 1_000_000
    console = Console(file=text, force_terminal=narrow, width=width, markup=False, emoji=False, highlight=False)
    console.print(grid)
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines())


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S}"
    return printable(json.dumps(value, default=str) if isinstance(value, list | dict) else str(value))
