"""JSON as sources hold it: in UTF-8, 16 or 32, with a byte order mark or without, and sometimes cut inside an emoji.

A byte order mark says how the text is written and nothing of what it says: it is read over, and no note tells of it.
"""

from __future__ import annotations

import json
from typing import Any

from data_engine.formats.halves import spelt_out

__all__ = ["lines", "loads"]


def loads(data: bytes | str) -> Any:
    """The value of one JSON document; half surrogate pairs in its texts are spelt out.

    Raises ``ValueError`` where it is none, or is nested deeper than can be held.
    """
    try:
        found = json.loads(data)
        return found if _is_plain(data) else spelt_out(found)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def lines(data: bytes) -> list[Any]:
    """The values of JSON lines; blank ones are left out. Lines end with a line feed and with nothing else.

    Raises ``ValueError`` that names the line.
    """
    text = data.decode(json.detect_encoding(data), "surrogatepass")
    found = []
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                found.append(loads(line))
            except ValueError as error:
                raise ValueError(f"line {number} is not JSON: {error}") from error
    return found


def _is_plain(data: bytes | str) -> bool:
    """Whether no half pair can be in what ``data`` says: quickly, as this is asked of every message of a bag."""
    return data.isascii() and not ("\\" in data if isinstance(data, str) else b"\\" in data)
