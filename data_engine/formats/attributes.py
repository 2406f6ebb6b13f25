"""What a container says of an episode beside its arrays, as plain JSON values, with the common fields picked out."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from data_engine.formats import json_text
from data_engine.formats.halves import spelt

__all__ = ["PROVENANCES", "parse", "pick", "plain"]

_PLAIN = (int, bool, type(None))
PROVENANCES = ("real", "sim", "synthetic", "human_video")
_LANGUAGE = ("language", "language_instruction", "language_raw", "instruction", "lang", "ep_meta")


def plain(value: Any) -> Any:
    """``value`` as JSON values: numpy scalars and arrays unpacked, bytes as text, what is not finite as None.

    What is no Unicode in a text is spelt out.
    """
    if isinstance(value, str):
        return spelt(value)
    if type(value) in _PLAIN:
        return value
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {spelt(str(key)): plain(item) for key, item in value.items()}
    return value if isinstance(value, int) else spelt(str(value))


def parse(text: Any) -> dict[str, Any]:
    """The JSON object in ``text``; empty where it is none."""
    try:
        value = json_text.loads(text) if isinstance(text, str) else None
        return plain(value) if isinstance(value, dict) else {}
    except (ValueError, RecursionError):
        return {}


def pick(attributes: dict[str, Any]) -> dict[str, Any]:
    """Take the fields of an episode that ``attributes`` (plain values) states out of it, as keyword arguments.

    Known: ``task``, ``operator``, ``scene`` (text), ``provenance`` (one of four words), ``success`` (a boolean, or 0 or
    1) and the language instruction (``language``, ``language_instruction``, ``language_raw``, ``instruction``,
    ``lang``, or ``lang`` inside robosuite's ``ep_meta`` JSON, which stays).
    """
    found: dict[str, Any] = {}
    for name in ("task", "operator", "scene"):
        if isinstance(attributes.get(name), str):
            found[name] = attributes.pop(name)
    if attributes.get("provenance") in PROVENANCES:
        found["provenance"] = attributes.pop("provenance")
    if attributes.get("success") in (True, False):  # 1 and 0 too
        found["success"] = bool(attributes.pop("success"))
    for name in _LANGUAGE:
        value = attributes.get(name)
        if name == "ep_meta":
            value = parse(value).get("lang")
        texts = [value] if isinstance(value, str) else value
        if isinstance(texts, list) and texts and all(isinstance(text, str) for text in texts):
            found["language"] = tuple(texts)
            if name != "ep_meta":
                del attributes[name]
            break
    return found
