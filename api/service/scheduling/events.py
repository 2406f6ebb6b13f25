"""Events: told to the addresses that the server was started with when a run ends or scores drift.

Each is signed and kept in a file until it was taken, so that it is told at least once, whatever is killed; its ``id``
says which were told before. Only addresses of the server's own configuration are told: a request names none.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import logging
import os
import secrets
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
from starlette.concurrency import run_in_threadpool

from api.service.live import Live
from flows.drift import drift

__all__ = ["Events", "signature"]

_log = logging.getLogger("data_engine.service")
_WAITS_S = (0.5, 2, 10, 60, 300, 1800)  # between attempts; the last one for ever after
_KEEP_S = 3 * 86400
_SCORED = ("curate", "score", "ingest")


def signature(secret: str, at: int, body: bytes) -> str:
    """What the header ``X-Data-Engine-Signature`` holds: ``t=<unix time>,v1=<hex HMAC-SHA256 of "<time>.<body>">``."""
    return f"t={at},v1={hmac.new(secret.encode(), f'{at}.'.encode() + body, hashlib.sha256).hexdigest()}"


class Events:
    """The events of one service. ``secret`` signs them."""

    def __init__(self, live: Live, folder: Path, urls: tuple[str, ...], secret: str) -> None:
        self._live, self._folder, self._urls, self._secret = live, folder, urls, secret
        self._tasks: set[asyncio.Task[None]] = set()
        self._client = httpx.AsyncClient(timeout=10, follow_redirects=False, trust_env=False)

    def start(self) -> None:
        """Go on with what an earlier service could not tell."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for path in sorted(self._folder.glob("*.json")):
            self._go(self._deliver(path))

    async def stop(self) -> None:
        """Tell no more; what was not taken is told by the next service."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._client.aclose()

    def ended(self, run: Mapping[str, Any]) -> None:
        """Tell that a run has ended, and how; and of its datasets whose scores drifted."""
        told = ("run_id", "verb", "state", "by", "asked_at", "started_at", "ended_at", "error")
        result = run["result"] or {}
        facts = {name: run[name] for name in told} | {"mixture_id": result.get("mixture_id")}
        self._tell("run.ended", facts)
        if run["state"] == "completed" and run["verb"] in _SCORED:
            self._go(self._drifts(run["run_id"]))

    async def _drifts(self, run_id: str) -> None:
        try:
            found = await run_in_threadpool(drift, self._live.snapshot, run_id)
        except Exception:
            _log.exception("drift after %s", run_id)
            return
        if drifted := [row for row in found if row["drifted"]]:
            self._tell("scores.drifted", {"run_id": run_id, "items": drifted})

    def _tell(self, kind: str, facts: Mapping[str, Any]) -> None:
        for url in self._urls:
            name = f"evt_{time.time_ns():020}_{secrets.token_hex(4)}"
            event = {"id": name, "type": kind, "at": datetime.now(UTC).isoformat(), "data": facts}
            path = self._folder / f"{name}.json"
            staged = path.with_suffix(".new")
            staged.write_text(json.dumps({"url": url, "event": event}, default=str))
            os.replace(staged, path)
            self._go(self._deliver(path))

    async def _deliver(self, path: Path) -> None:
        kept = json.loads(path.read_text())
        if kept["url"] not in self._urls:  # taken out of the configuration meanwhile
            path.unlink(missing_ok=True)
            return
        body = json.dumps(kept["event"]).encode()
        attempt = 0
        while True:
            at = int(time.time())
            headers = {"Content-Type": "application/json", "X-Data-Engine-Event": kept["event"]["type"],
                       "X-Data-Engine-Signature": signature(self._secret, at, body)}  # fmt: skip
            why = "it was answered "
            with suppress(httpx.HTTPError):
                answer = await self._client.post(kept["url"], content=body, headers=headers)
                if answer.status_code < 300:
                    path.unlink(missing_ok=True)
                    return
                why += str(answer.status_code)
            if time.time_ns() - int(path.name.split("_")[1]) > _KEEP_S * 1e9:
                _log.warning("event %s is given up: %s", kept["event"]["id"], why)
                path.unlink(missing_ok=True)
                return
            await asyncio.sleep(_WAITS_S[min(attempt, len(_WAITS_S) - 1)])
            attempt += 1

    def _go(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
