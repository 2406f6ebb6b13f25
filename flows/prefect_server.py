"""Prefect's API for a run: the server that ``PREFECT_API_URL`` names, else one of our own on loopback.

Ours is a child that dies with us, with a random key, closed CORS, analytics off, and a home of its own per lake.
Prefect itself would start an ephemeral server that outlives a killed flow and answers any page in the browser.
"""

from __future__ import annotations

import base64
import os
import secrets
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from data_engine.canonical import digest
from data_engine.errors import EngineError

__all__ = ["home", "prefect_api", "start_server", "stop_server"]

_START_LIMIT_S = 120


def home(lake_uri: str) -> Path:
    """Where Prefect keeps its database and logs for one lake: in the user's cache, never in the lake itself."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "data-engine" / "prefect" / digest(lake_uri, length=16)


@contextmanager
def prefect_api(lake_uri: str) -> Iterator[None]:
    """Inside, Prefect talks to a live API: the named server, or one that is started here and stopped at the end.

    Raises ``EngineError`` where the server is not up within 120 s.
    """
    quiet()
    if os.environ.get("PREFECT_API_URL"):
        yield
        return
    server, url, key = start_server(lake_uri)
    folder = home(lake_uri)
    os.environ["PREFECT_HOME"] = str(folder)
    try:
        from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, PREFECT_HOME, temporary_settings

        with temporary_settings({PREFECT_API_URL: url, PREFECT_API_AUTH_STRING: key, PREFECT_HOME: folder}):
            try:
                yield
            finally:
                _hand_over()
    finally:
        stop_server(server)


def start_server(lake_uri: str, *, schedules: bool = False) -> tuple[subprocess.Popen[bytes], str, str]:
    """A server of a lake's own on a free port of loopback, its API's URL, and the key that it asks for.

    ``schedules``: it keeps schedules too, which a server for one run has no need of. It dies with this process. Raises
    ``EngineError`` where it is not up within 120 s.
    """
    folder = home(lake_uri)
    folder.mkdir(parents=True, exist_ok=True)
    key = f"data-engine:{secrets.token_urlsafe(24)}"
    with _locked(folder / "start.lock"):
        server, url = _start(folder, key, schedules)
    return server, url, key


def stop_server(server: subprocess.Popen[bytes]) -> None:
    """End a server, by force where it does not end in 20 s."""
    server.terminate()
    try:
        server.wait(timeout=20)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()


def quiet() -> None:
    """Prefect's settings for a command line: no analytics, nothing on the console but what we say ourselves."""
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    os.environ.setdefault("DO_NOT_TRACK", "1")
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    os.environ.setdefault("PREFECT_CLI_PROMPT", "false")


def _start(folder: Path, key: str, schedules: bool, tries: int = 3) -> tuple[subprocess.Popen[bytes], str]:
    """Prefect's API as a child that answers, and its URL. Where somebody takes the port first, on another one."""
    port = _free_port()
    environment = {
        **os.environ,
        "PREFECT_HOME": str(folder),
        "PREFECT_SERVER_API_AUTH_STRING": key,
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": "http://127.0.0.1",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "PREFECT_UI_ENABLED": "0",
        "PREFECT__SERVER_FINAL": "1",
    }
    environment.pop("PREFECT__SERVER_EPHEMERAL", None)
    if not schedules:
        environment["PREFECT__SERVER_EPHEMERAL"] = "1"
    app = ["uvicorn", "--factory", "prefect.server.api.server:create_app", "--host", "127.0.0.1", "--port", str(port)]
    log = (folder / "server.log").open("wb")
    with log:
        server = subprocess.Popen(
            [
                sys.executable,
                "-P",
                "-m",
                "flows.guard",
                str(os.getpid()),
                *app,
                "--log-level",
                "error",
                "--lifespan",
                "on",
            ],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    url = f"http://127.0.0.1:{port}/api"
    request = urllib.request.Request(f"{url}/health")
    request.add_header("Authorization", "Basic " + base64.b64encode(key.encode()).decode())
    end = time.monotonic() + _START_LIMIT_S
    try:
        while time.monotonic() < end and server.poll() is None:
            try:
                with urllib.request.urlopen(request, timeout=5) as answer:
                    if answer.status == 200:
                        return server, url
            except (urllib.error.URLError, OSError):
                time.sleep(0.1)
    except BaseException:  # an interrupted start leaves no server either
        stop_server(server)
        raise
    ended = server.poll()
    stop_server(server)
    if ended is not None and _taken(port) and tries > 1:
        return _start(folder, key, schedules, tries - 1)
    last = (folder / "server.log").read_text(errors="replace").strip().splitlines()[-1:]
    why = last[0] if last else f"it ended with {ended}" if ended is not None else f"no answer in {_START_LIMIT_S} s"
    raise EngineError(
        f"Prefect's API did not start: {why}",
        code="prefect_down",
        fix="run with --engine plain, or name a server in PREFECT_API_URL",
    )


def _hand_over() -> None:
    """Send what Prefect still holds of events and logs: at exit, with the server gone, it tries for over a minute."""
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    EventsWorker.drain_all(at_exit=False)
    APILogWorker.drain_all(at_exit=False)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _taken(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    import fcntl

    with path.open("w") as file:  # two servers that migrate one database at once fail
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
