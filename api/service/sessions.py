"""Sessions of browsers: a key is traded for a cookie that no script can read, since ``<video>`` and ``EventSource``
send no headers.

A session lives in this process alone and holds the token that it was traded for, so that what the key may, and whether
it still counts, is looked up at every request as for the key itself.
"""

from __future__ import annotations

import hashlib
import secrets
import threading
import time
from collections import OrderedDict

from starlette.requests import cookie_parser

__all__ = ["COOKIE", "LIVES_S", "Sessions"]

COOKIE = "data-engine-session"
LIVES_S = 12 * 3600
_MOST = 10_000  # the oldest ends first


class Sessions:
    """Open sessions by the hash of their cookie. Safe to share between threads."""

    def __init__(self) -> None:
        self._held: OrderedDict[str, tuple[str, float]] = OrderedDict()  # hash of the cookie: (token, ends)
        self._lock = threading.Lock()

    def begin(self, token: str) -> str:
        """The cookie of a new session of ``token``."""
        cookie = secrets.token_urlsafe(32)
        with self._lock:
            self._held[_hash(cookie)] = token, time.monotonic() + LIVES_S
            while len(self._held) > _MOST:
                self._held.popitem(last=False)
        return cookie

    def token(self, header: str) -> str | None:
        """The token behind a Cookie header; None where it names no session that is open."""
        cookie = cookie_parser(header).get(COOKIE)
        held = self._held.get(_hash(cookie)) if cookie else None
        return held[0] if held and time.monotonic() < held[1] else None

    def end(self, header: str) -> None:
        """End the session of a Cookie header, where there is one."""
        cookie = cookie_parser(header).get(COOKIE)
        with self._lock:
            self._held.pop(_hash(cookie or ""), None)


def _hash(cookie: str) -> str:
    return hashlib.sha256(cookie.encode(errors="replace")).hexdigest()
