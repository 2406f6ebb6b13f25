"""Schedules: which stored recipe runs when. The lake is the one truth; a scheduler is made after it.

Rows are appended; of each name the newest counts, and a name that was removed can be taken again. Two writers that race
for the same revision of a name cannot both have it: the later one is told so.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, get_args
from zoneinfo import ZoneInfo

import pyarrow as pa
from cronsim import CronSim, CronSimError

from data_engine.canonical import canonical_json, digest
from data_engine.errors import RequestError
from storage.tables import Tables

__all__ = ["SCHEDULES", "Schedule", "ScheduleState", "add", "change", "dues", "find", "run_name", "schedules"]

ScheduleState = Literal["active", "paused", "removed"]
SCHEDULES = "service/schedules"
SHORTEST_S = 1.0
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_SCHEMA = pa.schema(
    [
        ("name", pa.string()),
        ("revision", pa.int64()),
        ("state", pa.string()),
        ("recipe", pa.string()),  # canonical JSON, resolved
        ("cron", pa.string()),
        ("every_s", pa.float64()),
        ("timezone", pa.string()),  # of the cron line
        ("by", pa.string()),
        ("remote", pa.bool_()),  # asked for over the service: its recipe is held against what requests may name
        ("since", pa.timestamp("us", tz="UTC")),  # from when on it is due: added, or resumed
        ("asked_at", pa.timestamp("us", tz="UTC")),  # the last time that somebody wanted it run at once
        ("at", pa.timestamp("us", tz="UTC")),
    ]
)


@dataclass(frozen=True)
class Schedule:
    """A recipe and when it runs: at every match of ``cron`` in ``timezone``, or every ``every_s`` seconds."""

    name: str
    recipe: dict[str, Any]
    cron: str | None
    every_s: float | None
    timezone: str
    by: str
    remote: bool
    state: ScheduleState
    since: datetime
    asked_at: datetime | None
    at: datetime
    revision: int

    @property
    def when(self) -> str:
        """As a person would say it."""
        return f"cron {self.cron} {self.timezone}" if self.cron else f"every {self.every_s:g} s"


def add(
    lake: Tables, name: str, recipe: dict[str, Any], *, by: str, cron: str | None = None,
    every_s: float | None = None, timezone: str = "UTC", remote: bool = False,
) -> Schedule:  # fmt: skip
    """Keep ``recipe`` (resolved) under ``name``, to be run from now on.

    The very same again changes nothing. Raises ``RequestError`` for a wrong name, time or zone, and with code
    ``exists`` where another schedule has the name.
    """
    if not _NAME.fullmatch(name):
        raise RequestError(f"{name!r} is no name", code="bad_name", fix="letters, digits, '.', '_', '-'; at most 100")
    _check(cron, every_s, timezone)
    now = datetime.now(UTC)
    before = _held(lake).get(name)
    new = Schedule(
        name, recipe, cron, every_s, timezone, by, remote, "active", now, None, now,
        before.revision + 1 if before else 0,
    )  # fmt: skip
    if before is not None and before.state != "removed":
        same = ("recipe", "cron", "every_s", "timezone")
        if all(getattr(before, each) == getattr(new, each) for each in same):
            return before
        raise RequestError(f"there is another schedule {name!r}", code="exists", fix="remove it first, or take a name")
    return _append(lake, new)


def change(lake: Tables, name: str, state: ScheduleState | None = None, *, now: bool = False) -> Schedule:
    """Pause, resume or remove a schedule, or ask (``now``) that it be run at once.

    What is so already is not changed. Raises ``RequestError`` where there is none of that name.
    """
    before = find(lake, name)
    at = datetime.now(UTC)
    new = replace(before, revision=before.revision + 1, at=at)
    if now:
        return _append(lake, replace(new, asked_at=at))
    if state not in get_args(ScheduleState):
        raise RequestError(f"no state {state!r}", code="bad_state", fix=f"one of {', '.join(get_args(ScheduleState))}")
    if state == before.state:
        return before
    return _append(lake, replace(new, state=state, since=at if state == "active" else before.since))


def find(lake: Tables, name: str) -> Schedule:
    """The schedule of that name. Raises ``RequestError`` where there is none."""
    held = {each.name: each for each in schedules(lake)}
    if name not in held:
        known = ", ".join(held) or "none"
        raise RequestError(f"no schedule {name[:100]!r}", code="unknown_schedule", fix=f"there are: {known}")
    return held[name]


def schedules(lake: Tables) -> list[Schedule]:
    """Every schedule that is not removed, by name."""
    return [each for _, each in sorted(_held(lake).items()) if each.state != "removed"]


def dues(schedule: Schedule, after: datetime) -> Iterator[datetime]:
    """The times later than ``after``, and than it was added or resumed, at which it is due. Endless."""
    after = max(after, schedule.since)
    if schedule.every_s is not None:
        step = timedelta(seconds=schedule.every_s)
        due = schedule.since + step * (1 + (after - schedule.since) // step)
        while True:
            yield due
            due += step
    for due in CronSim(str(schedule.cron), after.astimezone(ZoneInfo(schedule.timezone))):
        yield due.astimezone(UTC)


def run_name(name: str, due: datetime) -> str:
    """The id of the run of a schedule at a time: the same however often, and wherever, it is begun."""
    return f"run_{due.astimezone(UTC):%Y%m%dT%H%M%S}_{digest('schedule', name, length=8)}"


def _check(cron: str | None, every_s: float | None, timezone: str) -> None:
    if (cron is None) == (every_s is None):
        raise RequestError("a schedule has a cron line or an interval", code="bad_schedule", fix="give one of the two")
    if every_s is not None and not SHORTEST_S <= every_s <= 366 * 86400:
        raise RequestError(f"an interval is {SHORTEST_S:g} s to a year", code="bad_schedule", fix="as in 3600")
    try:
        zone = ZoneInfo(timezone)
    except (KeyError, ValueError, OSError) as error:
        raise RequestError(f"{timezone[:100]!r} is no time zone", code="bad_schedule", fix="as in UTC") from error
    if cron is None:
        return
    try:
        if len(cron) > 200 or len(cron.split()) != 5:
            raise CronSimError("it has not five fields")
        next(CronSim(cron, datetime.now(zone)))
    except (CronSimError, StopIteration) as error:
        fix, why = "minute, hour, day, month, weekday, as in '0 3 * * *'", str(error) or "it is never due"
        raise RequestError(f"cron {cron[:100]!r}: {why}", code="bad_schedule", fix=fix) from error


def _held(lake: Tables) -> dict[str, Schedule]:
    if not lake.exists_table(SCHEDULES):
        return {}
    rows = lake.scan(SCHEDULES).collect().sort("revision")
    return {row["name"]: Schedule(**{**row, "recipe": json.loads(row["recipe"])}) for row in rows.to_dicts()}


def _append(lake: Tables, new: Schedule) -> Schedule:
    row = {**new.__dict__, "recipe": canonical_json(new.recipe)}
    lake.create_table(SCHEDULES, _SCHEMA)
    lake.append_rows(SCHEDULES, [row], transaction=f"schedule-{new.name}-{new.revision}")
    if (there := _held(lake)[new.name]) != new and there.revision == new.revision:
        raise RequestError(f"schedule {new.name!r} was changed meanwhile", code="overtaken", fix="look, and ask again")
    return new
