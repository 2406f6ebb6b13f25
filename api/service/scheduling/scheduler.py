"""The scheduler: what the lake says is due is made a flow run of Prefect's, and begun here as a run.

Prefect's server is a child on loopback unless ``PREFECT_API_URL`` names one. This is its worker: a flow run becomes a
run of the supervisor, so that it waits its turn, is watched, logged and cancelled as every other. The times are the
lake's (:func:`storage.schedules.dues`): Prefect's own leave out the hour that comes twice when clocks are put back.
The id of such a run is made of its schedule and its time, so that a time is never begun twice. While a run of a
schedule is on, its next times are skipped; times that passed while nothing served are missed: both stay in the lake as
rows of ``runs``.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from itertools import takewhile
from typing import IO, Any, Literal

from starlette.concurrency import run_in_threadpool

from api.service import fence
from api.service.live import Live
from api.service.runs.supervisor import Supervisor
from api.service.runs.work import Curate
from data_engine import recipe as recipes
from data_engine.errors import EngineError
from flows.prefect_pool import Due, Pool
from flows.prefect_server import home, start_server, stop_server
from flows.runs import noted
from storage.schedules import SCHEDULES, Schedule, dues, run_name, schedules

__all__ = ["Scheduler"]

_log = logging.getLogger("data_engine.service")
_LOOK_S = 0.5  # at the lake's schedules
_POLL_S = 10.0  # of Prefect, for what was begun by hand there
_AGAIN_S = 5.0  # after Prefect was away
_FAILURES = 6  # one after the other, before a server of our own is started anew
_LATE = timedelta(seconds=1)
_ASLEEP = timedelta(minutes=1)  # without a look: the machine slept, and what was due then is missed
_NEVER = datetime(1970, 1, 1, tzinfo=UTC)
_MOST_MISSED = 100_000

Standing = Literal["off", "starting", "up", "down", "elsewhere"]


class Scheduler:
    """Schedules of one lake. One process at a time keeps them; another one's stands ``elsewhere``, and waits."""

    def __init__(self, live: Live, supervisor: Supervisor) -> None:
        self._live, self._supervisor = live, supervisor
        self.standing: Standing = "starting"
        self.why: str | None = None
        self._task: asyncio.Task[None] | None = None
        self._held: dict[str, Schedule] = {}
        self._looked = _NEVER  # what was due by then is begun, or noted as missed
        self._version: Any = object()
        self._flow_runs: dict[str, str] = {}  # of the runs that are on
        self._following: set[asyncio.Task[None]] = set()
        self._skipped: dict[str, tuple[int, datetime]] = {}  # times, and the last, by the run that was in the way
        self._known: set[str] = set()  # runs that need not be begun any more
        self._environment: dict[str, str] = {}

    def start(self) -> None:
        """Begin to keep schedules, in the background."""
        self._task = asyncio.create_task(self._keep())

    async def stop(self) -> None:
        """Begin no more. To be called once the supervisor has ended its runs."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    async def _keep(self) -> None:
        lock = await self._alone()
        try:
            while True:
                try:
                    async with self._prefect() as pool:
                        await self._serve_on(pool)
                except Exception as error:
                    await self._wait(error)
        finally:
            lock.close()

    async def _serve_on(self, pool: Pool) -> None:
        """Serve, and go on where Prefect could not answer once: its server is left alone, for runs talk to it too."""
        failed = 0
        while True:
            began = asyncio.get_running_loop().time()
            try:
                await self._serve(pool)
            except EngineError as error:
                failed = failed + 1 if asyncio.get_running_loop().time() - began < 60 else 1
                if failed == _FAILURES:
                    raise
                await self._wait(error)

    async def _wait(self, error: Exception) -> None:
        self.standing, self.why = "down", f"{error}"[:300]
        _log.warning("schedules wait: %s", error)
        await asyncio.sleep(_AGAIN_S)

    async def _alone(self) -> IO[str]:
        """The lock that one process alone holds for a lake, once it is free."""
        folder = home(self._live.lake.uri)
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / "schedules.lock").open("w")
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return file
            except BlockingIOError:
                self.standing, self.why = "elsewhere", "another process keeps them"
                await asyncio.sleep(_LOOK_S)

    @asynccontextmanager
    async def _prefect(self) -> AsyncIterator[Pool]:
        uri = self._live.lake.uri
        named = Pool.named(uri)
        if named is not None:
            try:
                yield named
            finally:
                await named.close()
            return
        self.standing, self.why = "starting", None
        starting = asyncio.get_running_loop().run_in_executor(None, lambda: start_server(uri, schedules=True))
        try:
            server, url, key = await asyncio.shield(starting)
        except asyncio.CancelledError:  # what is being started is ended, not forgotten
            with suppress(EngineError):
                await run_in_threadpool(stop_server, (await starting)[0])
            raise
        self._environment = {"PREFECT_API_URL": url, "PREFECT_API_AUTH_STRING": key, "PREFECT_HOME": str(home(uri)),
                             "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL"}  # fmt: skip
        pool = Pool(uri, url, key)
        watch = asyncio.create_task(_watched(server, asyncio.current_task()))
        try:
            yield pool
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if server.poll() is None or task is None:
                raise
            task.uncancel()
            raise EngineError("Prefect's server ended by itself", code="prefect_down") from None
        finally:
            watch.cancel()
            await pool.close()
            await run_in_threadpool(stop_server, server)

    async def _serve(self, pool: Pool) -> None:
        for flow_run, state in (await pool.under_way()).items():
            if flow_run not in self._flow_runs.values():  # of a service that is no more
                ended: Any = "CANCELLED" if state == "CANCELLING" else "CRASHED"
                await pool.end(flow_run, ended, "the service ended before the run did")
        self._version, polled, loop = object(), 0.0, asyncio.get_running_loop()
        since = _NEVER
        while True:
            await self._look(pool)
            now = datetime.now(UTC)
            if now - self._looked > _ASLEEP:
                await run_in_threadpool(self._missed, now)
                since, self._looked = now, now - _LATE
            self.standing, self.why = "up", None
            for schedule in self._held.values():
                await self._asked(pool, schedule)
                for at in _passed(schedule, self._looked, now):
                    if schedule.state == "active" and not self._has(run_name(schedule.name, at)):
                        await self._begin(pool, Due(await pool.create(schedule.name, at), schedule.name, at), schedule)
            self._looked = now
            if loop.time() - polled > (1.0 if self._flow_runs else _POLL_S):
                polled = loop.time()
                for due in await pool.due():  # begun by hand, in Prefect
                    await self._due(pool, due, since)
                await self._stopped(pool)
            await asyncio.sleep(_LOOK_S)

    async def _look(self, pool: Pool) -> None:
        """Tell Prefect which schedules there are, where that has changed."""
        lake = self._live.lake
        version = await run_in_threadpool(lake.version, SCHEDULES)
        if version == self._version:
            return
        held = {each.name: each for each in await run_in_threadpool(schedules, lake)}
        told = {name: (each.state, each.cron, each.every_s, each.timezone, each.since) for name, each in held.items()}
        before = {name: (each.state, each.cron, each.every_s, each.timezone, each.since)
                  for name, each in self._held.items()}  # fmt: skip
        if told != before or not isinstance(self._version, int | None):
            await pool.keep(list(held.values()))
        self._held, self._version = held, version

    def _missed(self, since: datetime) -> None:
        """Note in the lake the times that passed while nothing served."""
        runs = self._live.lake.scan("runs").select("run_id").collect()["run_id"].to_list()
        self._known.update(runs)
        for schedule in self._held.values():
            if schedule.state != "active":
                continue
            suffix = run_name(schedule.name, since)[-9:]
            last = max((_due_of(each) for each in runs if each.endswith(suffix)), default=schedule.since)
            gone: list[datetime] = []
            for due in dues(schedule, last + _LATE):
                if due > since - _LATE or len(gone) >= _MOST_MISSED:
                    break
                if not self._has(run_name(schedule.name, due)):
                    gone.append(due)
            if gone:
                why = f"{len(gone)} due times from {gone[0]:%Y-%m-%d %H:%M:%S} UTC on passed while nothing served"
                self._note(schedule, "missed", gone[-1], why)

    async def _asked(self, pool: Pool, schedule: Schedule) -> None:
        """Run at once what somebody wants run at once; what was asked while nothing served, too."""
        if schedule.asked_at is None or self._has(run_name(schedule.name, schedule.asked_at)):
            return
        due = Due(await pool.create(schedule.name, schedule.asked_at), schedule.name, schedule.asked_at)
        await self._begin(pool, due, schedule)

    async def _due(self, pool: Pool, due: Due, since: datetime) -> None:
        schedule = self._held.get(due.schedule)
        if due.flow_run in self._flow_runs.values():
            return
        if schedule is None:
            await pool.end(due.flow_run, "CANCELLED", "the lake has no such schedule")
        elif due.at <= schedule.since or self._has(run_name(schedule.name, due.at)):
            await pool.end(due.flow_run, "CANCELLED", "it is not due, or was begun before")
        elif due.at < since - _LATE and due.at != schedule.asked_at:
            await pool.end(due.flow_run, "CANCELLED", "it passed while nothing served", "Missed")
        else:
            await self._begin(pool, due, schedule)

    async def _begin(self, pool: Pool, due: Due, schedule: Schedule) -> None:
        run_id = run_name(schedule.name, due.at)
        on = next((each for each in self._flow_runs if each[-9:] == run_id[-9:]), None)
        if on is not None:
            await pool.end(due.flow_run, "CANCELLED", f"{on} has not ended", "Skipped")
            self._known.add(run_id)
            self._skipped[on] = self._skipped.get(on, (0, due.at))[0] + 1, due.at
            return
        if not await pool.begin(due.flow_run):
            return
        self._known.add(run_id)
        try:
            recipe = await run_in_threadpool(recipes.validate, schedule.recipe)
            if schedule.remote:
                fence.check_recipe(recipe, self._live.settings)
        except EngineError as error:
            await pool.end(due.flow_run, "FAILED", str(error))
            await run_in_threadpool(self._note, schedule, "failed", due.at, str(error))
            return
        work = Curate(verb="curate", recipe=recipe.model_dump(mode="json"))
        await self._supervisor.begin(
            work, f"schedule {schedule.name}", run_id=run_id, flow_run=due.flow_run, environment=self._environment
        )
        self._flow_runs[run_id] = due.flow_run
        following = asyncio.create_task(self._follow(pool, run_id, due, schedule))
        self._following.add(following)
        following.add_done_callback(self._following.discard)

    async def _follow(self, pool: Pool, run_id: str, due: Due, schedule: Schedule) -> None:
        """Tell Prefect how a run ended, which its process may not have lived to do."""
        facts = await self._supervisor.wait(run_id)
        self._flow_runs.pop(run_id, None)
        said = (facts["error"] or {}).get("message", "")
        state: Any = {"cancelled": "CANCELLED", "failed": "CRASHED"}.get(facts["state"])
        if state is not None:
            with suppress(EngineError):  # where Prefect is away: its next look finds what is under way no more
                await pool.end(due.flow_run, state, said)
        if skipped := self._skipped.pop(run_id, None):
            count, last = skipped
            why = f"{count} due times were skipped while {run_id} was on"
            await run_in_threadpool(self._note, schedule, "skipped", last, why)

    async def _stopped(self, pool: Pool) -> None:
        """Cancel the runs that were cancelled in Prefect."""
        if not self._flow_runs:
            return
        states = await pool.under_way()
        for run_id, flow_run in list(self._flow_runs.items()):
            if states.get(flow_run) == "CANCELLING":
                with suppress(EngineError):
                    await self._supervisor.cancel(run_id, "Prefect")

    def _has(self, run_id: str) -> bool:
        return run_id in self._known or self._supervisor.holds(run_id)

    def _note(self, schedule: Schedule, state: str, due: datetime, why: str) -> None:
        recipe = {"verb": "curate", "recipe": schedule.recipe}
        noted(self._live.lake, run_name(schedule.name, due), "curate", recipe, state, why, due)


def _passed(schedule: Schedule, after: datetime, until: datetime) -> Iterator[datetime]:
    return takewhile(lambda due: due <= until, dues(schedule, after))


async def _watched(server: subprocess.Popen[bytes], task: asyncio.Task[Any] | None) -> None:
    """Interrupt ``task`` once the server has ended."""
    while server.poll() is None:
        await asyncio.sleep(_LOOK_S)
    if task is not None:
        task.cancel()


def _due_of(run_id: str) -> datetime:
    return datetime.strptime(run_id.split("_")[1], "%Y%m%dT%H%M%S").replace(tzinfo=UTC)
