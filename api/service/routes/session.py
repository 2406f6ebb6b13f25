"""Signing in and out of a browser."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field

from api.service.asking import Configured, LiveLake
from api.service.sessions import COOKIE, LIVES_S, Sessions
from data_engine.errors import RequestError
from storage.keys import Scope

__all__ = ["router"]

router = APIRouter(prefix="/v1", tags=["service"])


class SignIn(BaseModel):
    """A key, to be traded for a cookie."""

    model_config = ConfigDict(extra="forbid")

    key: str = Field(min_length=1, max_length=200, description="As `data-engine keys make` printed it.")


class Session(BaseModel):
    """Who asks, as far as the cookie tells."""

    keys: bool = Field(description="Whether this service asks for keys.")
    name: str | None = Field(description="Of the key; null where nobody is signed in.")
    scope: Scope | None


def _sessions(request: Request) -> Sessions:
    return request.app.state.sessions


@router.get("/session")
def session(request: Request, live: LiveLake, settings: Configured) -> Session:
    """Whether the browser is signed in; needs no key."""
    if not settings.keys:
        return Session(keys=False, name="local", scope="admin")
    token = _sessions(request).token(request.headers.get("cookie", ""))
    key = live.keyring.find(token) if token else None
    return Session(keys=True, name=key.name if key else None, scope=key.scope if key else None)


@router.post("/session")
def sign_in(request: Request, body: SignIn, live: LiveLake) -> Session:
    """Trade a key for a cookie that scripts cannot read, other sites do not send, and that ends after 12 hours."""
    key = live.keyring.find(body.key.strip())
    if key is None:
        raise RequestError("the key is not known, or revoked", code="no_key", fix="`data-engine keys make`")
    said = Session(keys=True, name=key.name, scope=key.scope)
    answer = JSONResponse(said.model_dump())
    origin = request.headers.get("origin", "")  # what the browser sees, whatever proxy ends its encryption
    answer.set_cookie(COOKIE, _sessions(request).begin(body.key.strip()), max_age=LIVES_S, httponly=True,
                      samesite="strict", secure=origin.startswith("https:"))  # fmt: skip
    return answer  # type: ignore[return-value]


@router.delete("/session", status_code=204)
def sign_out(request: Request) -> Response:
    """End the browser's session."""
    _sessions(request).end(request.headers.get("cookie", ""))
    answer = Response(status_code=204)
    answer.delete_cookie(COOKIE, httponly=True, samesite="strict")
    return answer
