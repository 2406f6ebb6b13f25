"""The console's files, handed out with a policy under which a page runs no other script and asks nobody else."""

from __future__ import annotations

import hashlib
import mimetypes
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable

from fastapi import APIRouter, Request
from fastapi.responses import RedirectResponse, Response
from starlette.exceptions import HTTPException

__all__ = ["POLICY", "PREFIX", "router"]

PREFIX = "/console"
POLICY = "; ".join(
    f"{what} {whom}"
    for what, whom in {
        "default-src": "'none'", "script-src": "'self'", "style-src": "'self'", "img-src": "'self'",
        "media-src": "'self'", "connect-src": "'self'", "base-uri": "'none'", "form-action": "'none'",
        "frame-ancestors": "'none'", "require-trusted-types-for": "'script'", "trusted-types": "'none'",
    }.items()
)  # fmt: skip
"""No script but ours, none inline, no text that becomes markup, and no other site asked or let in."""

router = APIRouter(prefix=PREFIX, include_in_schema=False)
_KINDS = {".js": "text/javascript", ".css": "text/css", ".html": "text/html", ".svg": "image/svg+xml"}


@router.get("")
def bare() -> Response:
    """The same under its own folder, where relative addresses are right."""
    return RedirectResponse(f"{PREFIX}/", 308)


@router.head("/{path:path}")
@router.get("/{path:path}")
def page(request: Request, path: str) -> Response:
    """A file of the console."""
    found = _files().get(path or "index.html")
    if found is None:
        raise HTTPException(404, "the console has no such file")
    body, kind, tag = found
    headers = {"ETag": tag, "Cache-Control": "no-cache", "Content-Security-Policy": POLICY,
               "Referrer-Policy": "no-referrer", "Cross-Origin-Opener-Policy": "same-origin"}  # fmt: skip
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    return Response(body, headers=headers, media_type=kind)


@cache
def _files() -> dict[str, tuple[bytes, str, str]]:
    """Every file by its path: bytes, kind and tag. Known beforehand, so no request can name another."""
    found = {}

    def walk(folder: Traversable, path: str) -> None:
        for each in folder.iterdir():
            if each.is_dir():
                walk(each, f"{path}{each.name}/")
                continue
            body = each.read_bytes()
            suffix = "." + each.name.rpartition(".")[2]
            kind = _KINDS.get(suffix) or mimetypes.guess_type(each.name)[0] or "text/plain"
            found[path + each.name] = body, kind, f'"{hashlib.sha256(body).hexdigest()[:32]}"'

    walk(files("api.console") / "static", "")
    return found
