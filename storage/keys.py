"""API keys: made, listed and revoked; of each the lake keeps a hash alone.

A token is ``de_<key id>_<256 random bits>`` and is shown once. At rest lies its sha256: with 256 bits there is nothing
to guess, so a slow hash would only make every request slow. The id finds the row, the hash is compared in constant
time. Rows are appended; the newest of a key counts, and a revoked key never comes back.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, get_args

import polars as pl
import pyarrow as pa

from data_engine.errors import RequestError
from storage.tables import Tables

__all__ = ["KEYS", "SCOPES", "Key", "Keyring", "Scope", "keys", "make", "revoke"]

Scope = Literal["read", "curate", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
"""Each holds those before it."""

KEYS = "service/keys"
_TOKEN = re.compile(r"de_([0-9a-f]{12})_[A-Za-z0-9_-]{43}")
_NAME = re.compile(r"[^\s\x00-\x1f\x7f](?:[^\x00-\x1f\x7f]{0,98}[^\s\x00-\x1f\x7f])?")
_SCHEMA = pa.schema(
    [
        ("key_id", pa.string()),
        ("name", pa.string()),
        ("scope", pa.string()),
        ("sha256", pa.string()),  # of the whole token
        ("state", pa.string()),  # made, revoked
        ("at", pa.timestamp("us", tz="UTC")),
    ]
)


@dataclass(frozen=True)
class Key:
    """A key as it is kept. ``at``: when it was made, or revoked."""

    id: str
    name: str
    scope: Scope
    sha256: str
    revoked: bool
    at: datetime

    def allows(self, scope: Scope) -> bool:
        """Whether its scope holds ``scope``."""
        return SCOPES.index(scope) <= SCOPES.index(self.scope)


class Keyring:
    """The keys that count, ready to be held against tokens."""

    def __init__(self, held: Iterable[Key]) -> None:
        self._keys = {key.id: key for key in held if not key.revoked}

    def __len__(self) -> int:
        return len(self._keys)

    def find(self, token: str) -> Key | None:
        """The key that ``token`` is of; None for anything else. Takes as long for a wrong secret as for a right one."""
        match = _TOKEN.fullmatch(token)
        key = self._keys.get(match[1]) if match else None
        right = hmac.compare_digest(_hash(token), key.sha256 if key else "0" * 64)
        return key if right else None


def make(lake: Tables, name: str, scope: Scope) -> tuple[Key, str]:
    """A new key and its token, which nothing can bring back. Raises ``RequestError`` for a wrong name or scope."""
    if not _NAME.fullmatch(name):
        raise RequestError(f"{name!r} is no name of a key", code="bad_name", fix="1 to 100 printable characters")
    if scope not in SCOPES:
        raise RequestError(f"no scope {scope!r}", code="bad_scope", fix=f"one of {', '.join(SCOPES)}")
    name_of_key = secrets.token_hex(6)
    token = f"de_{name_of_key}_{secrets.token_urlsafe(32)}"
    key = Key(name_of_key, name, scope, _hash(token), False, datetime.now(UTC))
    _append(lake, key)
    return key, token


def revoke(lake: Tables, which: str) -> Key:
    """Revoke a key by its id, or by its name where one key alone has it. Revoking again changes nothing.

    Raises ``RequestError`` where there is none or several.
    """
    held = keys(lake)
    found = [key for key in held if key.id == which] or [key for key in held if key.name == which and not key.revoked]
    if len(found) != 1:
        what = f"{len(found)} keys are called {which!r}" if found else f"no key {which!r}"
        raise RequestError(what, code="unknown_key", fix="name its id: see `data-engine keys list`")
    (key,) = found
    if key.revoked:
        return key
    gone = Key(key.id, key.name, key.scope, key.sha256, True, datetime.now(UTC))
    _append(lake, gone)
    return gone


def keys(lake: Tables) -> list[Key]:
    """Every key there is or was, in the order they were made."""
    if not lake.exists_table(KEYS):
        return []
    rows = lake.scan(KEYS).collect().sort("at", pl.col("state") == "revoked")
    made = {row["key_id"]: place for place, row in enumerate(rows.filter(pl.col("state") == "made").to_dicts())}
    last = {row["key_id"]: row for row in sorted(rows.to_dicts(), key=lambda row: row["state"] == "revoked")}
    return [
        Key(name, row["name"], row["scope"], row["sha256"], row["state"] == "revoked", row["at"])
        for name, row in sorted(last.items(), key=lambda item: made.get(item[0], -1))
    ]


def _append(lake: Tables, key: Key) -> None:
    state = "revoked" if key.revoked else "made"
    row = {"key_id": key.id, "name": key.name, "scope": key.scope, "sha256": key.sha256, "state": state, "at": key.at}
    lake.create_table(KEYS, _SCHEMA)
    lake.append_rows(KEYS, [row], transaction=f"key-{key.id}-{state}")


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
