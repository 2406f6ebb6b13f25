"""Raw answers of models: ``answers/<2 digits>/<key>.json``, one sealed document each, written as soon as it is there.

The key names what was asked (:meth:`data_engine.asking.Question.key`), so an answer is paid for once. A document keeps
the question, the server's reply as it came, and how long it took; no key and no header is part of it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from data_engine.canonical import seal, unseal
from data_engine.errors import RequestError
from storage.blobs import Blobs

__all__ = ["ANSWERS", "answer_path", "get_answer", "list_answers", "put_answer"]

ANSWERS = "answers"


def put_answer(lake: Blobs, key: str, document: Mapping[str, Any]) -> None:
    """Keep an answer. The last one written under a key stays."""
    lake.write_bytes(answer_path(key), seal(document))


def get_answer(lake: Blobs, key: str) -> dict[str, Any] | None:
    """The document kept under ``key``; None where there is none, or where it is damaged: it is asked again then."""
    path = answer_path(key)
    try:
        return unseal(lake.read_bytes(path)) if lake.size(path) is not None else None
    except ValueError:
        return None


def list_answers(lake: Blobs) -> list[str]:
    """The key of every stored answer, sorted."""
    names = (PurePosixPath(path) for path in lake.list(ANSWERS))
    return sorted(name.stem for name in names if re.fullmatch("[0-9a-f]{64}", name.stem) and name.suffix == ".json")


def answer_path(key: str) -> str:
    """Where the answer to ``key`` lies. Raises ``RequestError`` for what is no key."""
    if not re.fullmatch("[0-9a-f]{64}", key):
        raise RequestError(f"{key!r} names no answer", code="no_answer", fix="64 hex digits name one")
    return f"{ANSWERS}/{key[:2]}/{key}.json"
