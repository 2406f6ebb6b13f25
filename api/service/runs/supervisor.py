"""The children: started in turn, a few at a time, each with a folder that keeps its request, log and answer.

Children die with the service (``flows.guard``). What was running then is recorded as failed when the service starts
again; the same request goes on where it was, as every run does.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import shutil
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from starlette.concurrency import run_in_threadpool

from api.service.live import Live
from api.service.runs.work import Work
from data_engine.canonical import digest
from data_engine.errors import RequestError
from flows.apart import APART
from flows.runs import ended, new_id

__all__ = ["State", "Supervisor"]

_log = logging.getLogger("data_engine.service")

State = Literal["waiting", "running", "completed", "failed", "cancelled"]
_OVER = ("completed", "failed", "cancelled")
_NAME = re.compile(r"run_[A-Za-z0-9_]{1,60}")
_GRACE_S = 10.0  # from asking a child to end to ending it
_TOLD = 3  # such waits, from a child's answer to ending it
_LOG_BYTES = 8 << 20  # of a log that is told at once; events tell all of it
_KEPT = 1000  # folders of runs that have ended; the lake keeps how every one did
_POLL_S = 0.2


class Supervisor:
    """Runs of this service over one lake, by id."""

    def __init__(self, live: Live) -> None:
        self._live = live
        self.root = Path(live.settings.folder) if live.settings.folder else _folder(live.lake.uri)
        """Where the folders of runs lie."""
        self._slots = asyncio.Semaphore(live.settings.runs)
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._children: dict[str, asyncio.subprocess.Process] = {}
        self._cancelled: dict[str, str] = {}
        self._states: dict[str, State] = {}
        self.on_end: Callable[[dict[str, Any]], None] | None = None
        """Told of every run that has ended."""

    async def start(self) -> None:
        """Record as failed what an earlier service left running."""
        self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
        for folder in sorted(self.root.iterdir()):
            facts = _read(folder / "state.json")
            if not _NAME.fullmatch(folder.name) or not facts:
                continue
            self._states[folder.name] = facts["state"]
            if facts["state"] not in _OVER:
                await self._end(folder.name, "failed", "the service ended before the run did")
        self._forget()

    async def stop(self) -> None:
        """End every child; waiting runs are not begun."""
        for run_id in list(self._tasks):
            self._cancelled.setdefault(run_id, "the service's end")
            self._signal(run_id, signal.SIGTERM)
        for task in list(self._tasks.values()):
            if not task.done():
                with suppress(asyncio.CancelledError, TimeoutError):
                    await asyncio.wait_for(task, _GRACE_S)
        for run_id in list(self._children):
            self._signal(run_id, signal.SIGKILL)

    async def begin(
        self, work: Work, who: str, *, run_id: str | None = None, flow_run: str | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:  # fmt: skip
        """Queue ``work`` for ``who`` and return what is known of the run.

        ``flow_run``: of Prefect's, which the run is; ``environment``: for its process, in which its API is named.
        """
        run_id = run_id or new_id()
        folder = self.root / run_id
        folder.mkdir(mode=0o700)
        request = {"run_id": run_id, "lake": self._live.lake.uri, "work": work.model_dump(mode="json"), "by": who,
                   "flow_run": flow_run, "gpu_runs": self._live.settings.gpu_runs}  # fmt: skip
        (folder / "request.json").write_text(json.dumps(request))
        (folder / "log").touch()
        self._say(run_id, "waiting")
        self._forget()
        self._tasks[run_id] = asyncio.create_task(self._run(run_id, environment or {}))
        return self.state(run_id)

    def holds(self, run_id: str) -> bool:
        """Whether there is such a run, or was."""
        return (self.root / run_id / "state.json").exists()

    async def wait(self, run_id: str) -> dict[str, Any]:
        """:meth:`state` once the run has ended."""
        task = self._tasks.get(run_id)
        if task is not None:
            await asyncio.wait([task])
        return self.state(run_id)

    def state(self, run_id: str) -> dict[str, Any]:
        """What is known of a run of this service. Raises ``RequestError`` for one that is none."""
        folder = self._of(run_id)
        request, facts, answer = (_read(folder / f"{name}.json") for name in ("request", "state", "answer"))
        if not request or not facts:
            raise _unknown(run_id)
        error = facts.get("error") or (answer or {}).get("error")
        result = (answer or {}).get("result") if facts["state"] == "completed" else None
        return {"run_id": run_id, "verb": request["work"]["verb"], "by": request["by"], "work": request["work"],
                **{name: facts.get(name) for name in ("state", "asked_at", "started_at", "ended_at")},
                "result": result, "error": error}  # fmt: skip

    def counts(self) -> Counter[State]:
        """How many runs are in each state, of those whose folders are kept."""
        return Counter(self._states.values())

    def log(self, run_id: str) -> bytes:
        """What the run has said so far; of very much its end, and how much went before."""
        path = self._of(run_id) / "log"
        before = max(path.stat().st_size - _LOG_BYTES, 0)
        with path.open("rb") as file:
            file.seek(before)
            said = file.read(_LOG_BYTES)
        return (f"[{before} bytes before this are left out]\n".encode() if before else b"") + said

    async def cancel(self, run_id: str, who: str) -> dict[str, Any]:
        """Ask a run to end, and end it where it has not after a while. Returns at once.

        Raises ``RequestError`` where it has ended already.
        """
        facts = self.state(run_id)
        if facts["state"] in _OVER:
            raise RequestError(f"run {run_id} has {facts['state']}", code="ended")
        self._cancelled.setdefault(run_id, who)
        self._signal(run_id, signal.SIGTERM)
        asyncio.get_running_loop().call_later(_GRACE_S, self._signal, run_id, signal.SIGKILL)
        return self.state(run_id)

    async def events(self, run_id: str, after: int = 0) -> AsyncIterator[str]:
        """Server-sent events until the end: ``state``, and ``log``, a line whose id is where the next begins."""
        path, told, quiet = self._of(run_id) / "log", "", 0.0
        while True:
            facts = self.state(run_id)
            if facts["state"] != told:
                told, quiet = facts["state"], 0.0
                yield _event("state", json.dumps(facts))
            with path.open("rb") as file:
                file.seek(after)
                new = file.read(1 << 16)
            whole = new if told in _OVER else new[: new.rfind(b"\n") + 1]
            for line in whole.splitlines(keepends=True):
                after, quiet = after + len(line), 0.0
                yield _event("log", line.decode(errors="replace").rstrip("\r\n"), after)
            if told in _OVER and not whole:
                return
            if not whole:
                quiet += _POLL_S
                if quiet >= 15:  # proxies close what is silent
                    quiet = 0.0
                    yield ": still here\n\n"
                await asyncio.sleep(_POLL_S)

    async def _run(self, run_id: str, environment: Mapping[str, str]) -> None:
        try:
            async with self._slots:
                if run_id not in self._cancelled:
                    await self._child(run_id, environment)
            if run_id in self._cancelled:
                await self._end(run_id, "cancelled", f"cancelled by {self._cancelled[run_id]}")
                return
            answer = _read(self.root / run_id / "answer.json")
            if answer is None:
                await self._end(run_id, "failed", "its process ended without a word")
            elif "error" in answer:
                await self._end(run_id, "failed", answer["error"]["message"])
            else:
                await run_in_threadpool(self._live.refresh)
                self._say(run_id, "completed")
        except Exception as error:
            _log.exception("run %s", run_id)
            self._say(run_id, "failed", error={"code": "internal", "message": type(error).__name__, "fix": None})
        finally:
            self._tasks.pop(run_id, None)
            self._children.pop(run_id, None)
            self._cancelled.pop(run_id, None)
            if self.on_end is not None:
                self.on_end(self.state(run_id))

    async def _child(self, run_id: str, environment: Mapping[str, str]) -> None:
        folder = self.root / run_id
        with (folder / "log").open("ab") as log:
            child = await asyncio.create_subprocess_exec(
                sys.executable, "-P", "-m", "flows.guard", str(os.getpid()), "api.service.runs.child", str(folder),
                stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                env={**os.environ, **environment, APART: "1", "DATA_ENGINE_EXECUTOR": self._live.settings.executor},
            )  # fmt: skip
        self._children[run_id] = child
        self._say(run_id, "running")
        if run_id in self._cancelled:  # meanwhile
            self._signal(run_id, signal.SIGTERM)
        told = 0
        while told < _TOLD:
            with suppress(TimeoutError):
                await asyncio.wait_for(child.wait(), _GRACE_S)
                break
            told += (folder / "answer.json").exists()  # done, and held up at its end: by a Prefect that is gone, say
        with suppress(ProcessLookupError):  # what it may have left
            os.killpg(child.pid, signal.SIGKILL)
        await child.wait()

    async def _end(self, run_id: str, state: State, why: str) -> None:
        request = _read(self.root / run_id / "request.json") or {"work": {"verb": "unknown"}}
        work = request["work"]
        await run_in_threadpool(ended, self._live.lake, run_id, work["verb"], work, state, why)
        answer = _read(self.root / run_id / "answer.json") or {}
        said = answer.get("error") if state == "failed" else None
        self._say(run_id, state, error=said or {"code": state, "message": why, "fix": "start it again: it goes on"})

    def _say(self, run_id: str, state: State, **more: Any) -> None:
        path = self.root / run_id / "state.json"
        facts = _read(path) or {}
        when = {"waiting": "asked_at", "running": "started_at"}.get(state, "ended_at")
        facts |= {"state": state, when: datetime.now(UTC).isoformat(), **more}
        path.with_name(".state.json").write_text(json.dumps(facts))
        os.replace(path.with_name(".state.json"), path)
        self._states[run_id] = state

    def _forget(self) -> None:
        """Take away the folders of runs that ended longest ago, beyond those that are kept."""
        over = sorted(name for name, state in self._states.items() if state in _OVER)
        for name in over[:-_KEPT]:
            shutil.rmtree(self.root / name, ignore_errors=True)
            del self._states[name]

    def _signal(self, run_id: str, number: signal.Signals) -> None:
        child = self._children.get(run_id)
        if child is not None and child.returncode is None:
            with suppress(ProcessLookupError):
                if number == signal.SIGKILL:
                    os.killpg(child.pid, number)  # it leads a group of its own, workers and all
                else:
                    child.send_signal(number)

    def _of(self, run_id: str) -> Path:
        if not _NAME.fullmatch(run_id) or not (self.root / run_id / "state.json").exists():
            raise _unknown(run_id)
        return self.root / run_id


def _folder(lake_uri: str) -> Path:
    """Where runs of one lake are kept: in the user's cache, never in the lake itself."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "data-engine" / "service" / digest(lake_uri, length=16)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        return dict(json.loads(path.read_text()))
    except FileNotFoundError:
        return None


def _event(kind: str, data: str, name: int | None = None) -> str:
    return f"event: {kind}\n" + (f"id: {name}\n" if name is not None else "") + f"data: {data}\n\n"


def _unknown(run_id: str) -> RequestError:
    return RequestError(f"no run {run_id[:100]!r} of this service", code="unknown_run", fix="see /v1/runs")
