"""A real HTTP server in front of the S3 server, which fails on request: the network that a lake has to live with.

It passes every request on, and spoils those that a planned :class:`Fault` fits. What came and what was spoilt is kept.
"""

from __future__ import annotations

import http.client
import re
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal

ERROR = "<?xml version='1.0'?><Error><Code>{}</Code><Message>{}</Message></Error>"
SLOW_DOWN = ERROR.format("SlowDown", "Please reduce your request rate.").encode()
INTERNAL = ERROR.format("InternalError", "We encountered an internal error.").encode()
HOPS = {"connection", "keep-alive", "transfer-encoding", "content-length", "date", "server"}


@dataclass
class Fault:
    """Spoil every ``every``-th request whose method and path fit, ``times`` in all (None: for good).

    ``internal`` and ``slow_down`` answer 500 and 503; ``reset`` breaks the connection before the request is passed on,
    ``lost`` after it was done; ``truncated`` breaks it in the middle of the answer's body, ``stalled`` says nothing
    more from there on for ``seconds``.
    """

    kind: Literal["internal", "slow_down", "reset", "lost", "truncated", "stalled"]
    method: str = "GET|HEAD|PUT|POST|DELETE"
    path: str = ".*"
    times: int | None = 1
    every: int = 1
    seconds: float = 3.0
    fitting: int = 0
    hits: int = 0

    def fits(self, method: str, path: str) -> bool:
        """Whether this request is to be spoilt; it is counted then."""
        if not re.fullmatch(self.method, method) or not re.search(self.path, path):
            return False
        self.fitting += 1
        if self.fitting % self.every or self.hits == self.times:
            return False
        self.hits += 1
        return True


class FaultyS3:
    """What the server is told and what it saw. ``requests`` are (method, path, access key)."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.faults: list[Fault] = []
        self.requests: list[tuple[str, str, str]] = []
        self._lock = threading.Lock()

    def plan(self, *faults: Fault) -> None:
        """From now on these faults and no others."""
        with self._lock:
            self.faults = list(faults)

    def fault_of(self, method: str, path: str, authorization: str) -> Fault | None:
        """Keep the request, and the fault that it meets."""
        named = re.search(r"Credential=([^/]+)/", authorization)
        with self._lock:
            self.requests.append((method, path, named.group(1) if named else ""))
            return next((fault for fault in self.faults if fault.fits(method, path)), None)

    @property
    def spoilt(self) -> int:
        """How many requests met a fault of the plan."""
        return sum(fault.hits for fault in self.faults)


@contextmanager
def faulty_s3(endpoint: str) -> Iterator[FaultyS3]:
    """A :class:`FaultyS3` in front of the S3 server at ``endpoint``, until the block ends."""
    host = endpoint.partition("://")[2]

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def handle(self) -> None:
            try:
                super().handle()
            except (ConnectionError, TimeoutError):
                self.close_connection = True

        def _pass_on(self) -> None:
            body = self._body()
            fault = state.fault_of(self.command, self.path, self.headers.get("Authorization", ""))
            kind = fault.kind if fault else None
            if kind == "reset":
                return self._break()
            if kind in ("internal", "slow_down"):
                code, said = (500, INTERNAL) if kind == "internal" else (503, SLOW_DOWN)
                return self._answer(code, [("Content-Type", "application/xml")], said, len(said))
            connection = http.client.HTTPConnection(host, timeout=60)
            headers = {name: value for name, value in self.headers.items() if name.lower() not in HOPS | {"expect"}}
            connection.request(self.command, self.path, body=body, headers=headers)
            answer = connection.getresponse()
            said = answer.read()
            if kind == "lost":
                return self._break()
            length = int(answer.headers.get("Content-Length") or len(said))
            given = [(name, value) for name, value in answer.getheaders() if name.lower() not in HOPS]
            connection.close()
            if kind in ("truncated", "stalled") and self.command == "GET" and said:
                self._answer(answer.status, given, said[: len(said) // 2], length)
                if kind == "stalled":
                    time.sleep(fault.seconds if fault else 0)
                return self._break()
            return self._answer(answer.status, given, said, length)

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _pass_on

        def _body(self) -> bytes:
            if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length") or 0))
            parts = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)

        def _answer(self, code: int, headers: list[tuple[str, str]], body: bytes, length: int) -> None:
            self.send_response(code)
            for name, value in headers:
                self.send_header(name, value)
            self.send_header("Content-Length", str(length))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def _break(self) -> None:
            """Close the connection as a cut cable does: with a reset."""
            self.wfile.flush()
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            self.connection.close()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # type: ignore[method-assign]
    state = FaultyS3(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
