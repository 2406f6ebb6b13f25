"""Whether the service is well, what it measures of itself, and who wrote what."""

from __future__ import annotations

from typing import Literal, get_args

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import BaseModel, Field

from api.service.asking import LiveLake, Writable
from api.service.meter import CONTENT_TYPE, Meter
from api.service.rows import TABULAR, tabular
from api.service.runs.supervisor import State
from data_engine import __version__
from data_engine.errors import EngineError
from storage.audit import audited

__all__ = ["router"]

router = APIRouter(prefix="/v1", tags=["service"])
_STALE_S = 30.0


class Health(BaseModel):
    """The process answers."""

    status: Literal["ok"] = "ok"
    version: str = Field(examples=["0.1.0"])


class Ready(BaseModel):
    """The lake is read, and was looked at just now."""

    status: Literal["ready"] = "ready"
    age_s: float = Field(description="Since the lake was looked at.")


@router.get("/health")
def health() -> Health:
    """Whether the process answers; needs no key."""
    return Health(version=__version__)


@router.get("/ready")
def ready(live: LiveLake) -> Ready:
    """Whether requests can be answered from a snapshot that is not old; needs no key."""
    if live.age_s > _STALE_S:
        raise EngineError("the lake was not reached lately", code="starting", fix="see the service's log")
    return Ready(age_s=live.age_s)


@router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}, "description": "Prometheus' text."}},
)
def metrics(request: Request, live: LiveLake) -> Response:
    """Requests, their times, the snapshot's age and rows, for Prometheus."""
    meter: Meter = request.app.state.meter
    meter.age.set(live.age_s)
    meter.look.set(live.refresh_s)
    for name in ("episodes", "scores", "annotations", "selections", "mixtures"):
        meter.held.labels(name).set(live.snapshot.count(name))
    counts = request.app.state.supervisor.counts()
    for state in get_args(State):
        meter.runs.labels(state).set(counts[state])
    return Response(meter.text(), media_type=CONTENT_TYPE)


@router.get("/audit", responses=TABULAR, response_class=Response)
def audit(request: Request, lake: Writable) -> Response:
    """Every write, oldest first: when, by which key, what came of it. Needs a key of scope admin."""
    return tabular(request, audited(lake).drop("answer"))
