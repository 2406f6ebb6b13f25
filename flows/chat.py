"""The client of one endpoint: chat completions over HTTP, many in flight, retried with a growing pause.

Status 408, 425, 429 and 5xx, broken connections, silence, and what is no JSON are tried again, after as long as the
server asks for (``Retry-After``, at most a minute); 401, 403 and 404 concern every question and end the work; any other
4xx is the server's refusal of this one. Redirects are not followed: they could hand the key to somebody else.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from data_engine.endpoint import Endpoint
from data_engine.errors import RequestError

__all__ = ["Chat", "Refused", "Reply", "Unanswered"]

_MOST_BYTES = 8 << 20  # of an answer
_MOST_PAUSE_S = 60.0
_AGAIN = {408, 409, 425, 429}


@dataclass(frozen=True)
class Reply:
    """The server's JSON as it came, and the seconds that the attempt which brought it took."""

    document: dict[str, Any]
    seconds: float


class Refused(Exception):
    """The server will not answer this question, however often it is asked."""


class Unanswered(Exception):
    """There was no answer, after all attempts: nothing is known of what it would be."""


class _Again(Exception):
    def __init__(self, why: str, after: float | None = None) -> None:
        super().__init__(why)
        self.after = after


class Chat:
    """An endpoint while it is open (``async with``). Raises ``RequestError`` where its key is not in the
    environment.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self._url = f"{endpoint.url}/chat/completions"
        self._key = os.environ.get(endpoint.key_env, "") if endpoint.key_env else ""
        if endpoint.key_env and not self._key.strip():
            raise RequestError(
                f"the environment has no {endpoint.key_env}, which holds the key of {endpoint.url}",
                code="no_key",
                fix=f"export {endpoint.key_env}=…",
            )

    async def __aenter__(self) -> Chat:
        import aiohttp

        headers = {"Accept-Encoding": "identity"} | ({"Authorization": f"Bearer {self._key}"} if self._key else {})
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=self.endpoint.concurrency),
            timeout=aiohttp.ClientTimeout(total=self.endpoint.timeout_s),
            headers=headers,
            trust_env=True,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def complete(self, body: Mapping[str, Any]) -> Reply:
        """The answer to one request. Raises :class:`Refused`, :class:`Unanswered`, and ``EngineError`` where it
        concerns every request.
        """
        from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt

        data = json.dumps(body, ensure_ascii=False).encode()
        tries = AsyncRetrying(
            stop=stop_after_attempt(self.endpoint.attempts),
            wait=self._pause,
            retry=retry_if_exception_type(_Again),
            reraise=True,
        )
        try:
            async for attempt in tries:
                with attempt:
                    return await self._once(data)
        except _Again as error:
            raise Unanswered(f"{error}, {self.endpoint.attempts} times") from error
        raise AssertionError("tenacity tries at least once")

    async def _once(self, data: bytes) -> Reply:
        import aiohttp

        began = time.monotonic()
        try:
            async with self._session.post(
                self._url, data=data, headers={"Content-Type": "application/json"}, allow_redirects=False
            ) as response:
                raw = await self._read(response)
                status, after = response.status, response.headers.get("Retry-After")
        except TimeoutError as error:
            raise _Again(f"no answer within {self.endpoint.timeout_s:g} s") from error
        except (aiohttp.ClientError, OSError) as error:
            raise _Again(self._clean(f"{type(error).__name__}: {error}".rstrip(": "))) from error
        if status == 200:
            return Reply(self._json(raw), time.monotonic() - began)
        what = f"HTTP {status}: {self._clean(_said(raw))}".rstrip(": ")
        if status in _AGAIN or status >= 500:
            raise _Again(what, _seconds(after))
        if status in (401, 403):
            named = f"is {self.endpoint.key_env} the right key?" if self.endpoint.key_env else "name the key: key_env"
            raise RequestError(f"{self.endpoint.url} lets nobody in: {what}", code="bad_key", fix=named)
        if status == 404 or 300 <= status < 400:
            raise RequestError(
                f"{self._url} is not there, or has no model {self.endpoint.model!r}: {what}",
                code="bad_endpoint",
                fix="url is the part before /chat/completions, often ending in /v1",
            )
        raise Refused(what)

    async def _read(self, response: Any) -> bytes:
        parts, size = [], 0
        async for part in response.content.iter_chunked(1 << 16):
            parts.append(part)
            size += len(part)
            if size > _MOST_BYTES:
                raise Refused(f"an answer of more than {_MOST_BYTES >> 20} MiB")
        return b"".join(parts)

    def _json(self, raw: bytes) -> dict[str, Any]:
        def none(name: str) -> Any:
            raise ValueError(f"{name} is no JSON")

        try:
            found = json.loads(raw, parse_constant=none)
        except (ValueError, RecursionError) as error:
            raise _Again("the answer is no JSON") from error
        choices = found.get("choices") if isinstance(found, dict) else None
        if not (isinstance(choices, list) and choices and isinstance(choices[0], dict)):
            raise _Again("the answer holds no choices")
        if not isinstance(choices[0].get("message"), dict):
            raise _Again("the answer holds no message")
        return json.loads(self._clean(json.dumps(found, ensure_ascii=False))) if self._key else found

    def _clean(self, text: str) -> str:
        """``text`` without the key, should a server repeat it."""
        return text.replace(self._key, "***") if self._key else text

    def _pause(self, state: Any) -> float:
        import random

        error = state.outcome.exception()
        if isinstance(error, _Again) and error.after is not None:
            return min(error.after, _MOST_PAUSE_S)
        longest = min(self.endpoint.pause_s * 2 ** (state.attempt_number - 1), _MOST_PAUSE_S)
        return random.uniform(longest / 2, longest)


def _seconds(after: str | None) -> float | None:
    try:
        return max(float(after), 0.0) if after else None
    except ValueError:
        return None  # a date: the usual pause then


def _said(raw: bytes) -> str:
    """The message of an error, which most servers wrap in JSON; its first 300 characters."""
    text = raw[:4096].decode(errors="replace")
    try:
        found = json.loads(raw)
        error = found.get("error", found) if isinstance(found, dict) else found
        text = str(error.get("message", error) if isinstance(error, dict) else error)
    except (ValueError, RecursionError):
        pass
    return " ".join(text.split())[:300]
