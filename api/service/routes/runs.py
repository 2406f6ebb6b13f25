"""Runs: long work, started, watched, cancelled."""

from __future__ import annotations

from typing import Annotated, Any

import polars as pl
from fastapi import APIRouter, Header, Path, Query, Request
from fastapi.responses import PlainTextResponse, Response, StreamingResponse
from pydantic import BaseModel, Field

from api.service.asking import Caller, Configured, Held
from api.service.rows import TABULAR, tabular
from api.service.runs import work as works
from api.service.runs.supervisor import State, Supervisor
from api.service.runs.work import Work
from data_engine.errors import RequestError

__all__ = ["router"]

router = APIRouter(prefix="/v1", tags=["runs"])

RunId = Annotated[str, Path(description="The run's id.", examples=["run_20260102T030405_0123abcd"], max_length=100)]
_EVENTS = {
    200: {
        "content": {"text/event-stream": {"schema": {"type": "string"}}},
        "description": "Events `state` (the run as JSON) and `log` (a line), until the run has ended.",
    }
}
_LOG = {200: {"content": {"text/plain": {"schema": {"type": "string"}}}, "description": "What the run said."}}


class Started(BaseModel):
    """A run that this service was asked for."""

    run_id: str
    verb: str
    by: str = Field(description="The key that asked.")
    state: State
    work: dict[str, Any]
    asked_at: str
    started_at: str | None
    ended_at: str | None
    result: dict[str, Any] | None
    error: dict[str, Any] | None


def _supervisor(request: Request) -> Supervisor:
    return request.app.state.supervisor


@router.get("/runs", responses=TABULAR, response_class=Response)
def runs(
    request: Request, lake: Held,
    limit: Annotated[int | None, Query(description="The newest, so many; default: all.", ge=1, le=1_000_000_000,
                                       examples=[100])] = None,
) -> Response:  # fmt: skip
    """Every run of the lake, however it was started, newest last, and how it ended."""
    rows = lake.scan("runs").collect().sort("started_at", pl.col("ended_at").fill_null(pl.col("started_at")))
    rows = rows.unique("run_id", keep="last", maintain_order=True)
    told = rows.select("run_id", "verb", "state", "started_at", "ended_at", "error")
    return tabular(request, told if limit is None else told.tail(limit), {"matched": len(told)})


@router.post("/runs", status_code=202)
async def start(request: Request, body: Work, caller: Caller, settings: Configured) -> Started:
    """Start long work in a process of its own; runs beyond what the server does at a time wait."""
    works.check(body, settings)
    return Started(**await _supervisor(request).begin(body, caller.name))


@router.get("/runs/{run_id}")
def run(request: Request, run_id: RunId) -> Started:
    """A run that was started here: its state, and its result or error once it has ended."""
    return Started(**_supervisor(request).state(run_id))


@router.post("/runs/{run_id}/cancel", status_code=202)
async def cancel(request: Request, run_id: RunId, caller: Caller) -> Started:
    """Ask a run to end. What it has finished stays; the same request goes on from there."""
    return Started(**await _supervisor(request).cancel(run_id, caller.name))


@router.get("/runs/{run_id}/log", response_class=Response, responses=_LOG)
def log(request: Request, run_id: RunId) -> Response:
    """What a run has said so far."""
    return PlainTextResponse(_supervisor(request).log(run_id))


@router.get("/runs/{run_id}/events", response_class=Response, responses=_EVENTS)
async def events(
    request: Request, run_id: RunId,
    after: Annotated[str | None, Header(alias="Last-Event-ID", description="Go on after this `log` event.")] = None,
) -> Response:  # fmt: skip
    """Watch a run by server-sent events; they end with it."""
    supervisor = _supervisor(request)
    supervisor.state(run_id)  # an unknown run is told before the stream begins
    if after and not (after.isascii() and after.isdecimal() and len(after) < 15):
        raise RequestError("Last-Event-ID is none of ours", code="bad_request", fix="leave it out")
    return StreamingResponse(supervisor.events(run_id, int(after or 0)), media_type="text/event-stream")
