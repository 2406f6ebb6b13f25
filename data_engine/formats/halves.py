"""Text that is no Unicode: Python holds a name that is no UTF-8, and JSON that was cut inside an emoji, as half pairs.

No table, no file and no terminal takes such text. It is spelt out, once and the same everywhere.
"""

from __future__ import annotations

import re
from typing import Any

__all__ = ["is_text", "spelt", "spelt_out"]

_HALF = re.compile("[\ud800-\udfff]")


def is_text(*texts: str) -> bool:
    """Whether each of ``texts`` is Unicode."""
    return all(text.isascii() or not _HALF.search(text) for text in texts)


def spelt(text: str) -> str:
    """``text`` with every byte of a name that is no UTF-8 as ``\\xff``, every other half pair as ``\\ud83d``."""
    return text if is_text(text) else _HALF.sub(_spelt, text)


def spelt_out(value: Any) -> Any:
    """:func:`spelt` of every text in ``value``, plain JSON, keys too."""
    if isinstance(value, str):
        return spelt(value)
    if isinstance(value, list | tuple):
        return [spelt_out(item) for item in value]
    if isinstance(value, dict):
        return {spelt_out(key): spelt_out(item) for key, item in value.items()}
    return value


def _spelt(found: re.Match[str]) -> str:
    number = ord(found[0])
    return f"\\x{number - 0xDC00:02x}" if 0xDC80 <= number <= 0xDCFF else f"\\u{number:04x}"
