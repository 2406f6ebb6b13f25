"""Canonical JSON and the content hashes that every identity in the engine is made of."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["canonical_json", "digest", "round_significant", "seal", "unseal"]


def round_significant(value: float, digits: int = 6) -> float | None:
    """``value`` to ``digits`` significant decimal digits; None for NaN and infinities, which JSON cannot hold."""
    if not math.isfinite(value):
        return None
    return float(f"{value:.{digits}g}")


def canonical_json(value: Any) -> str:
    """``value`` as JSON with sorted keys and no white space: equal values give equal bytes.

    Raises ``ValueError`` for NaN or infinity and ``TypeError`` for what JSON does not know.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False, default=_plain)


def digest(*parts: str | bytes | Mapping[str, Any] | Sequence[Any], length: int = 64) -> str:
    """sha256 in hex over ``parts``, each length-prefixed so that no two lists of parts collide.

    Text and bytes count as they are, anything else as its canonical JSON. ``length`` cuts the hex digest.
    """
    sha = hashlib.sha256()
    for part in parts:
        data = part if isinstance(part, bytes) else (part if isinstance(part, str) else canonical_json(part)).encode()
        sha.update(len(data).to_bytes(8, "big"))
        sha.update(data)
    return sha.hexdigest()[:length]


_SEAL = b',"seal":"%s"}'


def seal(document: Mapping[str, Any]) -> bytes:
    """``document``, of at least one key, as canonical JSON that ends in its own hash, under the key ``seal``.

    :func:`unseal` then notices any byte that is another one by now.
    """
    body = canonical_json({name: value for name, value in document.items() if name != "seal"}).encode()
    return body[:-1] + _SEAL % hashlib.sha256(body).hexdigest().encode()


def unseal(data: bytes) -> dict[str, Any]:
    """The document that :func:`seal` made ``data`` of. Raises ``ValueError`` where it is another one by now."""
    body = data[: -len(_SEAL % b"") - 64] + b"}"
    if data != body[:-1] + _SEAL % hashlib.sha256(body).hexdigest().encode():
        raise ValueError("it is not what was written")
    return dict(json.loads(body))


def _plain(value: Any) -> Any:
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    if hasattr(value, "tolist"):  # numpy scalars and arrays
        return value.tolist()
    raise TypeError(f"{type(value).__name__} has no canonical JSON form")
