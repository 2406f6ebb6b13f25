"""Errors as answers: problem+json (RFC 9457) with the engine's code and fix, made here and nowhere else."""

from __future__ import annotations

import logging
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from data_engine.errors import DefectError, EngineError, RequestError, SourceError
from data_engine.outages import is_outage

__all__ = ["RESPONSES", "Problem", "answer", "install", "status_of", "unexpected"]

_log = logging.getLogger("data_engine.service")

_STATUS = {
    **dict.fromkeys(
        ("unknown_episode", "unknown_selection", "unknown_mixture", "unknown_dataset", "unknown_run", "unknown_key",
         "unknown_file", "unknown_schedule", "no_camera", "no_receipt", "no_mixture", "no_table",
         "no_fit"), 404,
    ),
    **dict.fromkeys(
        ("overtaken", "stale_selection", "ambiguous_mixture", "key_reused", "ended", "exists", "shared_recording"), 409
    ),
    **dict.fromkeys(("unreachable", "starting"), 503),
    "broken_mixture": 410, "no_key": 401, "no_scope": 403, "foreign_origin": 403, "not_allowed": 403,
    "unknown_host": 421, "too_large": 413, "too_many": 429, "not_acceptable": 406,
}  # fmt: skip
_STORED = ("damaged", "missing_file", "changed_file", "bad_reference", "bad_steps_file", "unreadable_file")
_TITLES = {
    400: "Bad request", 401: "No key", 403: "Not allowed", 404: "Not found", 405: "Method not allowed",
    406: "Not acceptable", 409: "Conflict", 410: "Gone", 413: "Too large", 416: "Range not satisfiable",
    421: "Not this service's name", 422: "Wrong request", 429: "Too many requests", 500: "Failed", 503: "Not ready",
}  # fmt: skip


class Problem(BaseModel):
    """What went wrong, and what would be right."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str = Field(description="One line that says what is wrong.")
    code: str = Field(description="A stable name of it.")
    fix: str | None = Field(default=None, description="What would be right.")
    instance: str | None = Field(default=None, description="The request's id, as in the service's log.")


_EXAMPLE = {
    "type": "about:blank", "title": "Wrong request", "status": 422, "code": "bad_expression",
    "detail": "expression: unknown column or score 'sucess' at character 1", "fix": "did you mean success?",
    "instance": "5f0c3f3e8a1d4d6c",
}  # fmt: skip
RESPONSES: dict[int | str, dict[str, Any]] = {
    status: {
        "description": _TITLES[status],
        "content": {
            "application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}, "example": _EXAMPLE}
        },
    }
    for status in (400, 401, 403, 404, 405, 406, 409, 410, 413, 421, 422, 429, 503)
}
"""What any route may answer beside its own."""


def status_of(error: EngineError) -> int:
    """The HTTP status that an error of the engine is."""
    if error.code in _STATUS:
        return _STATUS[error.code]
    if isinstance(error, SourceError) and error.code in _STORED:
        return 500  # what the lake itself holds
    if isinstance(error, RequestError | SourceError):
        return 422
    return 422 if isinstance(error, DefectError) else 500


def answer(error: EngineError, request_id: str | None) -> JSONResponse:
    """The answer that says ``error``."""
    status = status_of(error)
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else {}
    headers |= {"Retry-After": "1"} if status in (429, 503) else {}
    return _problem(status, error.message, error.code, error.fix, request_id, headers)


def install(app: FastAPI) -> None:
    """Make every error that a route of ``app`` ends in a problem."""

    @app.exception_handler(EngineError)
    async def engine(request: Request, error: EngineError) -> JSONResponse:
        if status_of(error) == 500:
            _log.error("%s: %s", _id(request), error)
        return answer(error, _id(request))

    @app.exception_handler(RequestValidationError)
    async def validation(request: Request, error: RequestValidationError) -> JSONResponse:
        problems = error.errors()
        first = problems[0]
        where = ".".join(str(part) for part in first["loc"][1:]) or str(first["loc"][0])
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        detail = f"{where}: {first['msg'].removeprefix('Value error, ')}{more}"
        return _problem(422, detail, "bad_request", "see /v1/openapi.json", _id(request))

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> JSONResponse:
        code = {404: "no_route", 405: "no_method", 416: "bad_range"}.get(error.status_code, "bad_request")
        headers = dict(error.headers or {})
        return _problem(error.status_code, str(error.detail), code, "see /v1/openapi.json", _id(request), headers)


def unexpected(error: Exception, request_id: str | None) -> JSONResponse:
    """The answer that says an ``error`` that no route foresaw; what it is stands in the log alone."""
    if isinstance(error, EngineError):
        return answer(error, request_id)
    if is_outage(error):
        message = f"a store did not answer: {' '.join(str(error).split())[:300]}"
        return answer(EngineError(message, code="unreachable", fix="ask again"), request_id)
    _log.error("%s: %s", request_id, type(error).__name__, exc_info=error)
    return _problem(500, type(error).__name__, "internal", "this is a defect: see the service's log", request_id)


def _problem(
    status: int, detail: str, code: str, fix: str | None, request_id: str | None, headers: dict[str, str] | None = None
) -> JSONResponse:
    detail = detail.encode(errors="replace").decode()  # half a surrogate pair came in, and cannot go out
    body = Problem(
        title=_TITLES.get(status, "Failed"), status=status, detail=detail, code=code, fix=fix, instance=request_id
    )
    return JSONResponse(body.model_dump(), status, headers, media_type="application/problem+json")


def _id(request: Request) -> str | None:
    return getattr(request.state, "request_id", None)
