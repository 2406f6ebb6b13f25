"""Prefect's side of schedules, over its REST API: one work pool and one generic deployment a lake.

Prefect keeps the states of flow runs, those of schedules and those that somebody begins there by hand. Which schedules
there are is told to it from the lake, whole, whenever they change; when they are due, the lake alone says. Nothing of
Prefect is imported: a service would pay 1.6 s and 100 MB for it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import httpx

from data_engine.canonical import digest
from data_engine.errors import EngineError
from storage.schedules import Schedule

__all__ = ["DEPLOYMENT", "Due", "Pool"]

DEPLOYMENT = "stored-recipe"
ENTRYPOINT = "flows.prefect_flow.scheduled"
State = Literal["PENDING", "CANCELLED", "CRASHED", "FAILED"]
_OVER = ("COMPLETED", "FAILED", "CANCELLED", "CRASHED")
_BUSY = (429, 503)  # 503: its SQLite was locked, and nothing was done
_WAITS_S = (0.1, 0.2, 0.5, 1.0, 2.0, 4.0)


@dataclass(frozen=True)
class Due:
    """A flow run that waits to be begun: the schedule that it is of, and the time that it is for."""

    flow_run: str
    schedule: str
    at: datetime


class Pool:
    """The work pool of one lake. Every method raises ``EngineError`` (``prefect_down``) where Prefect does not answer
    as it should.
    """

    def __init__(self, lake_uri: str, url: str, key: str | None = None) -> None:
        """``key``: ``USER:SECRET`` of a server with an auth string, or an API key as Prefect's cloud gives."""
        self.lake_uri = lake_uri
        self.name = f"data-engine-{digest(lake_uri, length=12)}"
        basic = tuple(key.split(":", 1)) if key and ":" in key else None
        headers = {"Authorization": f"Bearer {key}"} if key and basic is None else {}
        self._client = httpx.AsyncClient(base_url=url.rstrip("/"), auth=basic, headers=headers, timeout=30)  # type: ignore[arg-type]
        self._deployment = ""

    @classmethod
    def named(cls, lake_uri: str) -> Pool | None:
        """At the server that ``PREFECT_API_URL`` names, with the key that Prefect's own variables hold; else None."""
        url = os.environ.get("PREFECT_API_URL")
        if not url:
            return None
        return cls(lake_uri, url, os.environ.get("PREFECT_API_AUTH_STRING") or os.environ.get("PREFECT_API_KEY"))

    async def close(self) -> None:
        """Let the connections go."""
        await self._client.aclose()

    async def keep(self, schedules: Sequence[Schedule]) -> None:
        """Make the deployment's schedules these, and no others, for people to see: none is active there."""
        await self._ask("POST", "/work_pools/", {"name": self.name, "type": "process"}, fine=(409,))
        flow = await self._ask("POST", "/flows/", {"name": "scheduled"})
        made = await self._ask("POST", "/deployments/", {
            "name": f"{DEPLOYMENT}-{self.name}", "flow_id": flow["id"], "work_pool_name": self.name,
            "entrypoint": ENTRYPOINT, "enforce_parameter_schema": False, "tags": ["data-engine"],
            "schedules": [
                {"slug": each.name, "active": False, "schedule": _when(each),
                 "parameters": {"lake": self.lake_uri, "schedule": each.name}}
                for each in schedules
            ],
        })  # fmt: skip
        self._deployment = made["id"]

    async def due(self) -> list[Due]:
        """What is to be begun by now, oldest first."""
        found = await self._ask("POST", f"/work_pools/{self.name}/get_scheduled_flow_runs", {
            "limit": 200, "scheduled_before": datetime.now(UTC).isoformat(),
        })  # fmt: skip
        runs = [each["flow_run"] for each in found]
        made = [Due(run["id"], str(run["parameters"].get("schedule")), _time(run["expected_start_time"]))
                for run in runs]  # fmt: skip
        return sorted(made, key=lambda due: due.at)

    async def create(self, schedule: str, at: datetime) -> str:
        """A flow run of a schedule that is wanted now. The same time again is the same flow run."""
        made = await self._ask("POST", f"/deployments/{self._deployment}/create_flow_run", {
            "parameters": {"lake": self.lake_uri, "schedule": schedule}, "state": {"type": "SCHEDULED", "state_details":
            {"scheduled_time": at.isoformat()}}, "idempotency_key": f"{schedule}-{at.isoformat()}",
        })  # fmt: skip
        return str(made["id"])

    async def begin(self, flow_run: str) -> bool:
        """Take a flow run; False where another worker has, or it waits no more."""
        answer = await self._ask("POST", f"/flow_runs/{flow_run}/set_state", {"state": {"type": "PENDING"}})
        return bool(answer["status"] == "ACCEPT")

    async def end(self, flow_run: str, state: State, why: str, name: str | None = None) -> None:
        """Say how a flow run ended that cannot say so itself. Nothing is changed where it has."""
        facts = await self._ask("GET", f"/flow_runs/{flow_run}")
        if facts["state_type"] in _OVER and not (state == "CANCELLED" and facts["state_type"] in ("CRASHED", "FAILED")):
            return
        new = {"type": state, "message": why, **({"name": name} if name else {})}
        await self._ask("POST", f"/flow_runs/{flow_run}/set_state", {"state": new, "force": True})

    async def under_way(self) -> dict[str, str]:
        """The flow runs of the pool that have begun and not ended, with the type of their state."""
        found = await self._ask("POST", "/flow_runs/filter", {
            "work_pools": {"name": {"any_": [self.name]}},
            "flow_runs": {"state": {"type": {"any_": ["PENDING", "RUNNING", "CANCELLING", "PAUSED"]}}}, "limit": 200,
        })  # fmt: skip
        return {run["id"]: run["state_type"] for run in found}

    async def _ask(self, method: str, path: str, body: dict[str, Any] | None = None, fine: Sequence[int] = ()) -> Any:
        for wait_s in (*_WAITS_S, None):
            try:
                answer = await self._client.request(method, path, json=body)
            except httpx.HTTPError as error:
                raise _down(f"it does not answer: {type(error).__name__}") from error
            if answer.status_code not in _BUSY or wait_s is None:
                break
            await asyncio.sleep(wait_s)
        if answer.status_code >= 300 and answer.status_code not in fine:
            raise _down(f"{method} {path} was answered {answer.status_code}: {' '.join(answer.text.split())[:200]}")
        return answer.json() if answer.content else None


def _when(schedule: Schedule) -> dict[str, Any]:
    if schedule.cron is not None:
        return {"cron": schedule.cron, "timezone": schedule.timezone}
    return {"interval": schedule.every_s, "anchor_date": schedule.since.isoformat(), "timezone": "UTC"}


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


def _down(why: str) -> EngineError:
    return EngineError(f"Prefect: {why}", code="prefect_down", fix="is the server at PREFECT_API_URL well?")
