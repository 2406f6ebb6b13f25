"""The application: settings in, an ASGI app out."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from api.console import pages
from api.service import problems
from api.service.examples import illustrate
from api.service.gate import OPEN, Gate
from api.service.live import Live
from api.service.meter import Meter
from api.service.routes import (
    choices,
    datasets,
    episodes,
    evidence,
    fits,
    overview,
    recipes,
    review,
    runs,
    schedules,
    session,
    spaces,
    system,
)
from api.service.runs.supervisor import Supervisor
from api.service.scheduling.events import Events
from api.service.scheduling.scheduler import Scheduler
from api.service.sessions import Sessions
from api.service.settings import Settings
from data_engine import __version__

__all__ = ["ROUTERS", "make_app"]

_NOUNS = (  # what is asked most comes first: routes are tried in turn
    episodes, system, session, overview, datasets, evidence, fits, spaces, choices, recipes, runs, schedules, review,
)  # fmt: skip
ROUTERS = tuple(each.router for each in _NOUNS)
_ABOUT = """Query, curate and freeze robot demonstrations.

Send `Authorization: Bearer KEY`. Errors are problem+json with a stable `code` and a `fix`. Rows come as JSON, as an
Arrow IPC stream (`application/vnd.apache.arrow.stream`) or as Parquet (`application/vnd.apache.parquet`), as Accept
says. Writes take an `Idempotency-Key`: the same one again is answered as the first time, and nothing is done twice.
Reads come from a snapshot that is at most 2 s old; who writes reads what was written.
"""


def make_app(settings: Settings) -> FastAPI:
    """The service over one lake. Raises ``RequestError`` where there is no lake."""
    live, meter, sessions = Live(settings), Meter(), Sessions()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        live.start()
        app.state.supervisor = Supervisor(live)
        await app.state.supervisor.start()
        events = None
        if settings.webhooks:
            folder = app.state.supervisor.root / "events"
            events = Events(live, folder, settings.webhooks, settings.secret.get_secret_value())
            events.start()
            app.state.supervisor.on_end = events.ended
        if settings.schedules:
            app.state.scheduler = Scheduler(live, app.state.supervisor)
            app.state.scheduler.start()
        try:
            yield
        finally:
            await app.state.supervisor.stop()
            if settings.schedules:
                await app.state.scheduler.stop()
            if events is not None:
                await events.stop()
            live.stop()

    app = FastAPI(
        title="data-engine", version=__version__, description=_ABOUT, lifespan=lifespan, redirect_slashes=False,
        docs_url=None, redoc_url=None, openapi_url="/v1/openapi.json",
    )  # fmt: skip
    app.state.live, app.state.meter, app.state.sessions, app.state.scheduler = live, meter, sessions, None
    for router in ROUTERS:
        app.include_router(router, responses=problems.RESPONSES)
    app.include_router(pages.router)
    problems.install(app)
    app.add_middleware(Gate, settings=settings, live=live, meter=meter, sessions=sessions)
    app.openapi = lambda: _document(app)  # type: ignore[method-assign]
    logging.getLogger("data_engine.service").setLevel(logging.INFO)
    return app


def _document(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document, with the problem in the place of FastAPI's own error, and no key where none is needed."""
    if app.openapi_schema is None:
        document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        schemas = document["components"]["schemas"]
        for name in ("HTTPValidationError", "ValidationError"):
            schemas.pop(name, None)
        schemas["Problem"] = problems.Problem.model_json_schema()
        document["components"]["securitySchemes"] = {"key": _KEY}
        for path, methods in document["paths"].items():
            for method, operation in methods.items():
                operation["responses"]["422"] = problems.RESPONSES[422]
                if path not in OPEN:
                    operation["security"] = [{"key": []}]
                if method == "post":
                    operation.setdefault("parameters", []).append({**_ONCE})
                illustrate(path, operation)
        app.openapi_schema = document
    return app.openapi_schema


_KEY = {"type": "http", "scheme": "bearer", "description": "An API key: `data-engine keys make`."}
_ONCE = {
    "name": "Idempotency-Key", "in": "header", "required": False,
    "description": "The same one again is answered as the first time was.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 200, "pattern": "^[!-~]+$"},
}  # fmt: skip
