"""The gate before every route: from where, who, how much, how often; and for writes once only, and written down.

It denies by default: a route is open where it is named in ``OPEN``, needs ``admin`` where it is named in ``_ADMIN``,
``read`` where it changes nothing, and ``curate`` otherwise. A page in somebody's browser that asks across origins is
refused even where no key is needed.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import secrets
import time
from collections import OrderedDict
from datetime import UTC, datetime
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.service import problems
from api.service.live import Live
from api.service.meter import Meter
from api.service.sessions import Sessions
from api.service.settings import Settings, is_loopback
from data_engine.errors import EngineError, RequestError
from storage import audit
from storage.keys import Key
from storage.keys import Scope as KeyScope

__all__ = ["OPEN", "Gate", "scope_of"]

OPEN = frozenset({"/v1/health", "/v1/ready", "/v1/openapi.json", "/v1/session"})
"""Answered without a key: they tell nothing of what is in the lake."""

_ADMIN = ("/v1/audit",)
_ASKING = frozenset({"/v1/search", "/v1/recipes/validate", "/v1/judgements"})  # a POST for its body's sake alone
_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_IDEMPOTENCY = re.compile(r"[\x21-\x7e]{1,200}")
_LOCAL = Key("local", "local", "admin", "", False, datetime.now(UTC))
_MOST_CALLERS = 10_000  # whose rate is remembered


def scope_of(method: str, path: str) -> KeyScope | None:
    """What a key must allow; None where none is needed."""
    if path in OPEN or (_of_console(path) and method in ("GET", "HEAD")):
        return None
    if path.startswith(_ADMIN):
        return "admin"
    return "read" if method in ("GET", "HEAD", "OPTIONS") or path in _ASKING else "curate"


def _of_console(path: str) -> bool:
    """Whether it names a file of the console: the same for everybody, and nothing of the lake."""
    return path == "/console" or path.startswith("/console/")


class Gate:
    """ASGI middleware. Puts ``key`` and ``request_id`` into the request's state."""

    def __init__(self, app: ASGIApp, settings: Settings, live: Live, meter: Meter, sessions: Sessions) -> None:
        self.app, self.settings, self.live, self.meter, self.sessions = app, settings, live, meter, sessions
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # caller: (tokens, as of)
        self._once: dict[tuple[str, str], asyncio.Lock] = {}
        self._answered = audit.Once(live.lake)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the request through, or answer what is wrong with it."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        name = given if _ID.fullmatch(given) else secrets.token_hex(8)
        scope.setdefault("state", {})["request_id"] = name
        began, status = time.monotonic(), 500

        async def named(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                added = MutableHeaders(scope=message)
                added["X-Request-ID"] = name
                added["X-Content-Type-Options"] = "nosniff"
                added["Cross-Origin-Resource-Policy"] = "same-origin"
                added.setdefault("Cache-Control", "no-store")
            await send(message)

        try:
            key = self._admit(scope, headers)
        except EngineError as error:
            self.meter.refused.labels(error.code).inc()
            await problems.answer(error, name)(scope, receive, named)
            self.meter.requests.labels(scope["method"], "refused", str(status)).inc()
            return
        scope["state"]["key"] = key
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            started = True
            await named(message)

        try:
            if scope["method"] in ("GET", "HEAD", "OPTIONS"):
                await self.app(scope, receive, watched)
            elif (body := await self._body(receive)) is None:  # the caller has gone
                return
            elif scope_of(scope["method"], scope["path"]) in (None, "read"):
                await self.app(scope, _whole(body), watched)
            else:
                await self._write(scope, body, watched, headers, key)
        except Exception as error:
            if started:
                raise
            problem = problems.unexpected(error, name)
            await problem(scope, receive, named)
        finally:
            route = getattr(scope.get("route"), "path", "none")
            self.meter.requests.labels(scope["method"], route, str(status)).inc()
            self.meter.seconds.labels(route).observe(time.monotonic() - began)

    def _admit(self, scope: Scope, headers: Headers) -> Key:
        host = headers.get("host", "").lower()
        bare = re.sub(r":\d+$", "", host).strip("[]")
        if not is_loopback(bare) and bare not in self.settings.hosts:
            raise RequestError(f"{bare[:100]!r} is no name of this service", code="unknown_host",
                               fix="serve with --allow-host")  # fmt: skip
        origin = headers.get("origin")
        own = origin is not None and re.sub(r"^https?://", "", origin.lower()) == host
        if origin is not None and not own and origin not in self.settings.origins:
            raise RequestError("a page of another site asks", code="foreign_origin", fix="serve with --allow-origin")
        followed = headers.get("sec-fetch-mode") == "navigate" and _of_console(scope["path"])  # a link to the console
        if origin is None and headers.get("sec-fetch-site") in ("cross-site", "same-site") and not followed:
            raise RequestError("a page of another site asks", code="foreign_origin", fix="open it by itself")
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > self.settings.body_bytes:
            raise self._too_large()
        needed = scope_of(scope["method"], scope["path"])
        if needed is None or not self.settings.keys:
            self._pace(f"at {(scope.get('client') or ('?',))[0]}")
            return _LOCAL
        kind, _, token = headers.get("authorization", "").partition(" ")
        if not kind and "cookie" in headers:
            kind, token = "bearer", self.sessions.token(headers["cookie"]) or ""
            if not own and (origin is not None or scope["method"] not in ("GET", "HEAD")):  # a browser says where from
                raise RequestError("a page of another site asks", code="foreign_origin", fix="send a key, no cookie")
        key = self.live.keyring.find(token.strip()) if kind.lower() == "bearer" else None
        if key is None:
            self._pace(f"at {(scope.get('client') or ('?',))[0]}")
            _ = self.live.snapshot  # before the first, the keys are not read either
            what = "the key is not known, or revoked" if token else "there is no key"
            raise RequestError(
                what, code="no_key", fix="send Authorization: Bearer KEY, or sign in; `data-engine keys make`"
            )
        self._pace(key.id)
        if not key.allows(needed):
            raise RequestError(f"the key {key.name!r} may {key.scope}, this needs {needed}", code="no_scope",
                               fix=f"use a key of scope {needed}")  # fmt: skip
        return key

    def _pace(self, caller: str) -> None:
        """A token bucket a caller. Raises ``RequestError`` where it is empty."""
        now = time.monotonic()
        tokens, then = self._buckets.pop(caller, (float(self.settings.burst), now))
        tokens = min(float(self.settings.burst), tokens + (now - then) * self.settings.rate)
        self._buckets[caller] = (max(tokens - 1, 0.0) if tokens >= 1 else tokens, now)
        if len(self._buckets) > _MOST_CALLERS:
            self._buckets.popitem(last=False)
        if tokens < 1:
            raise RequestError(
                f"more than {self.settings.rate:g} requests a second", code="too_many", fix="ask again after a second"
            )

    def _too_large(self) -> RequestError:
        most = self.settings.body_bytes
        return RequestError(f"the body has more than {most} bytes", code="too_large", fix="send less at once")

    async def _body(self, receive: Receive) -> bytes | None:
        """The body up to the limit, for it need not say its length; None where the caller went away."""
        parts: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > self.settings.body_bytes:
                raise self._too_large()
            if not message.get("more_body", False):
                return b"".join(parts)

    async def _write(self, scope: Scope, body: bytes, send: Send, headers: Headers, key: Key) -> None:
        """A write: at most once by its idempotency key, and in the audit before it is acknowledged."""
        once = headers.get("idempotency-key")
        if once is not None and not _IDEMPOTENCY.fullmatch(once):
            raise RequestError("Idempotency-Key is 1 to 200 visible characters", code="bad_request")
        if once is None:
            await self._audited(scope, body, send, key, None)
            return
        lock = self._once.setdefault((key.id, once), asyncio.Lock())
        try:
            async with lock:
                await self._audited(scope, body, send, key, once)
        finally:
            if not lock.locked():
                self._once.pop((key.id, once), None)

    async def _audited(self, scope: Scope, body: bytes, send: Send, key: Key, once: str | None) -> None:
        what = f"{scope['method']} {scope['path']}?".encode() + scope.get("query_string", b"") + b"\n" + body
        sha256 = hashlib.sha256(what).hexdigest()
        if once is not None:
            before = await run_in_threadpool(self._answered.earlier, key.id, once)
            if before is not None:
                await _again(before, sha256)(scope, _whole(body), send)
                return
        answer: list[Message] = []

        async def kept(message: Message) -> None:
            answer.append(message)

        request_id = scope["state"]["request_id"]
        try:
            await self.app(scope, _whole(body), kept)
        except Exception as error:
            answer.clear()
            await problems.unexpected(error, request_id)(scope, _whole(body), kept)
        status = answer[0]["status"]
        said = b"".join(message.get("body", b"") for message in answer[1:])
        row = {
            "request_id": f"{request_id}-{secrets.token_hex(4)}", "key_id": key.id, "name": key.name,
            "method": scope["method"], "route": getattr(scope.get("route"), "path", "none"), "status": status,
            "request_sha256": sha256,
            **({"idempotency_key": once, "answer": said.decode()} if once and status < 300 else {}),
        }  # fmt: skip
        await run_in_threadpool(audit.enter, self.live.lake, row)
        if status < 300:
            await run_in_threadpool(self.live.refresh)  # who wrote it reads it next
        for message in answer:
            await send(message)


def _again(before: dict[str, Any], sha256: str) -> Response:
    if before["request_sha256"] != sha256:
        raise RequestError("this Idempotency-Key was used for another request", code="key_reused", fix="take a new one")
    headers = {"Idempotency-Replayed": "true"}
    return Response(before["answer"], before["status"], headers, media_type="application/json")


def _whole(body: bytes) -> Receive:
    sent = False

    async def receive() -> Message:
        nonlocal sent
        if sent:
            await asyncio.sleep(3600)  # the caller is still there; nothing more comes
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return receive
