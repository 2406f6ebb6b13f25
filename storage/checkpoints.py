"""Checkpoints of policies in the lake: ``checkpoints/<sha256>.safetensors``, named by their bytes.

What a checkpoint says of itself (the mixture it was trained on among it) is one JSON text in its header, ``policy``.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection
from pathlib import PurePosixPath
from typing import Any

from data_engine.errors import RequestError, SourceError
from storage.blobs import Blobs

__all__ = ["CHECKPOINTS", "describe_checkpoint", "drop_checkpoints", "get_checkpoint", "has_checkpoint",
           "list_checkpoints", "put_checkpoint"]  # fmt: skip

CHECKPOINTS = "checkpoints"
_HEADER = 1 << 24  # bytes of a header that are read at most


def put_checkpoint(lake: Blobs, data: bytes) -> str:
    """Keep a checkpoint, the bytes of a safetensors file, and return its sha256."""
    sha256 = hashlib.sha256(data).hexdigest()
    if not has_checkpoint(lake, sha256):
        lake.write_bytes(_path(sha256), data)
    return sha256


def has_checkpoint(lake: Blobs, sha256: str) -> bool:
    """Whether the lake holds it."""
    return lake.size(_path(sha256)) is not None


def get_checkpoint(lake: Blobs, sha256: str) -> bytes:
    """Its bytes, verified. Raises ``RequestError`` where there is none, ``SourceError`` where they changed."""
    if not has_checkpoint(lake, sha256):
        raise RequestError(f"no checkpoint {sha256!r} in the lake", code="no_checkpoint", fix="evaluate again")
    data = lake.read_bytes(_path(sha256))
    if hashlib.sha256(data).hexdigest() != sha256:
        raise SourceError(f"checkpoint {sha256} is damaged: its bytes have another hash", code="damaged")
    return data


def list_checkpoints(lake: Blobs) -> list[str]:
    """The sha256 of every stored checkpoint, sorted."""
    paths = map(PurePosixPath, lake.list(CHECKPOINTS))
    return sorted(path.stem for path in paths if re.fullmatch("[0-9a-f]{64}", path.stem))


def describe_checkpoint(lake: Blobs, sha256: str) -> dict[str, Any]:
    """What a stored checkpoint says of itself; its arrays are not read. Raises ``SourceError`` where it is damaged."""
    try:
        with lake.fs.open(lake._at(_path(sha256)), "rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(min(size, _HEADER)))
        return dict(json.loads(header["__metadata__"]["policy"]))
    except (ValueError, KeyError, TypeError) as error:
        raise SourceError(f"checkpoint {sha256} is damaged: {error}", code="damaged") from error


def drop_checkpoints(lake: Blobs, mixtures: Collection[str]) -> list[str]:
    """Remove the checkpoints that were trained on one of ``mixtures`` (ids), and those that cannot tell; which."""
    found = []
    for sha256 in list_checkpoints(lake) if mixtures else []:
        try:
            keep = describe_checkpoint(lake, sha256).get("mixture_id") not in mixtures
        except SourceError:
            keep = False
        if not keep:
            lake.remove(_path(sha256))
            found.append(sha256)
    return found


def _path(sha256: str) -> str:
    if not re.fullmatch("[0-9a-f]{64}", sha256):
        raise RequestError(f"{sha256!r} is no checkpoint", code="no_checkpoint", fix="64 hex digits name one")
    return f"{CHECKPOINTS}/{sha256}.safetensors"
