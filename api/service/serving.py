"""The running service: uvicorn over the app, until it is told to stop."""

from __future__ import annotations

import gc
import socket
import sys
from contextlib import suppress

import uvicorn

from api.service.app import make_app
from api.service.environment import settle
from api.service.settings import Settings
from data_engine.errors import EngineError

__all__ = ["run"]


def run(settings: Settings, host: str, port: int) -> None:
    """Serve until interrupted. Says on stderr where, once it listens.

    Raises ``RequestError`` where there is no lake, ``EngineError`` where the address cannot be listened at.
    """
    settle()
    app = make_app(settings)
    app.state.live.on_warm = _settle
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        # named TCP, which asyncio looks for: only then are answers not held back for 40 ms (Nagle, delayed ACKs)
        listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(2048)
    except OSError as error:
        raise EngineError(
            f"cannot listen at {host}:{port}: {error.strerror or error}", code="no_address", fix="give another --port"
        ) from error
    bound = listening.getsockname()[1]
    name = f"[{host}]" if ":" in host else host
    who = "with keys" if settings.keys else "without keys, to this machine alone"
    at = f"http://{name}:{bound}"
    print(f"serving {settings.lake} at {at}/v1 (console: {at}/console/), {who}", file=sys.stderr, flush=True)
    plain = {"server_header": False, "proxy_headers": False, "access_log": False, "log_level": "warning"}
    config = uvicorn.Config(app, timeout_graceful_shutdown=5, **plain)
    with suppress(KeyboardInterrupt):  # uvicorn ends in order, and then passes it on
        uvicorn.Server(config).run(sockets=[listening])


def _settle() -> None:
    """Let the collector pass over what stays for good: to look through it again would hold up every request."""
    gc.collect()
    gc.freeze()
