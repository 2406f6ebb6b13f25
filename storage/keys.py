"""API keys: made, listed and revoked; of each the lake keeps a hash alone.

A token is ``de_<key id>_<256 random bits>`` and is shown once. At rest lies its sha256: with 256 bits there is nothing
to guess, so a slow hash would only make every request slow. The id finds the row, the hash is compared in constant
time. Rows are appended: one that a key was made, one of when it expires where it does, one that it was revoked. A
revoked key never comes back.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Literal, get_args

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
        ("state", pa.string()),  # made, expires (at that time), revoked
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
    expires_at: datetime | None = None

    @property
    def state(self) -> str:
        """``live``, ``expired`` or ``revoked``."""
        if self.revoked:
            return "revoked"
        return "expired" if self.expires_at is not None and self.expires_at <= datetime.now(UTC) else "live"

    def allows(self, scope: Scope) -> bool:
        """Whether its scope holds ``scope``."""
        return SCOPES.index(scope) <= SCOPES.index(self.scope)


class Keyring:
    """The keys that count, ready to be held against tokens."""

    def __init__(self, held: Iterable[Key]) -> None:
        self._keys = {key.id: key for key in held if not key.revoked}

    def __len__(self) -> int:
        return sum(key.state == "live" for key in self._keys.values())

    def find(self, token: str) -> Key | None:
        """The key that ``token`` is of; None for anything else. Takes as long for a wrong secret as for a right one."""
        match = _TOKEN.fullmatch(token)
        key = self._keys.get(match[1]) if match else None
        right = hmac.compare_digest(_hash(token), key.sha256 if key else "0" * 64)
        return key if right and key is not None and key.state == "live" else None


def make(lake: Tables, name: str, scope: Scope, *, days: float | None = None) -> tuple[Key, str]:
    """A new key and its token, which nothing can bring back; with ``days`` it counts for so long.

    Raises ``RequestError`` for a wrong name, scope or time.
    """
    if days is not None and not 0 < days <= 36500:
        raise RequestError(f"a key cannot expire in {days:g} days", code="bad_time", fix="give a time in the future")
    if not _NAME.fullmatch(name):
        raise RequestError(f"{name!r} is no name of a key", code="bad_name", fix="1 to 100 printable characters")
    if scope not in SCOPES:
        raise RequestError(f"no scope {scope!r}", code="bad_scope", fix=f"one of {', '.join(SCOPES)}")
    name_of_key = secrets.token_hex(6)
    token = f"de_{name_of_key}_{secrets.token_urlsafe(32)}"
    now = datetime.now(UTC)
    key = Key(name_of_key, name, scope, _hash(token), False, now, now + timedelta(days=days) if days else None)
    if key.expires_at is not None:
        _append(lake, key, "expires", key.expires_at)  # first: killed here there is no key, and never one without end
    _append(lake, key, "made", now)
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
    gone = replace(key, revoked=True, at=datetime.now(UTC))
    _append(lake, gone, "revoked", gone.at)
    return gone


def keys(lake: Tables) -> list[Key]:
    """Every key there is or was, in the order they were made."""
    if not lake.exists_table(KEYS):
        return []
    rows = lake.scan(KEYS).collect().sort("at").to_dicts()
    said = {(row["key_id"], row["state"]): row for row in reversed(rows)}
    found = []
    for row in rows:
        if row["state"] == "made":
            gone, end = said.get((row["key_id"], "revoked")), said.get((row["key_id"], "expires"))
            found.append(
                Key(row["key_id"], row["name"], row["scope"], row["sha256"], gone is not None, (gone or row)["at"],
                    end["at"] if end else None)
            )  # fmt: skip
    return found


def _append(lake: Tables, key: Key, state: str, at: datetime) -> None:
    row = {"key_id": key.id, "name": key.name, "scope": key.scope, "sha256": key.sha256, "state": state, "at": at}
    lake.create_table(KEYS, _SCHEMA)
    lake.append_rows(KEYS, [row], transaction=f"key-{key.id}-{state}")


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
