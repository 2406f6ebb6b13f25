from __future__ import annotations

import http.server
import pickle
import subprocess
import sys
import threading

import pytest

from data_engine.client import Client
from data_engine.errors import EngineError, RequestError


def test_the_client_needs_nothing_of_the_service():
    said = subprocess.run(
        [sys.executable, "-c", "import sys, data_engine.client; print([m for m in sys.modules])"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    heavy = {"polars", "fastapi", "uvicorn", "httpx", "deltalake", "prefect", "ray", "torch", "api", "flows", "storage"}
    assert not heavy & set(eval(said))


@pytest.mark.parametrize("address", ["robots.lab", "ftp://robots.lab", "http://", "file:///etc/passwd"])
def test_an_address_that_is_none_is_refused(address):
    with pytest.raises(RequestError, match="no address"):
        Client(address)


def test_names_that_would_be_other_paths_are_refused():
    client = Client("http://127.0.0.1:9", timeout_s=1)
    for name in ("", ".", ".."):
        with pytest.raises(RequestError):
            client.episode(name)


class Odd(http.server.BaseHTTPRequestHandler):
    """Redirects elsewhere, breaks off, or answers what is no JSON."""

    asked: list[tuple[str, str | None]] = []  # noqa: RUF012

    def do_GET(self) -> None:
        self.asked.append((self.path, self.headers["Authorization"]))
        if self.path.startswith("/v1/episodes/far"):
            self.send_response(302)
            self.send_header("Location", f"http://127.0.0.1:{self.server.server_port}/stolen")
            self.end_headers()
        elif self.path.startswith("/v1/episodes/odd"):
            self.send_response(500)
            self.end_headers()
            self.wfile.write(b"<html>")
        else:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"\xff\xff\xff\xff\x10")

    def log_message(self, *args: object) -> None: ...


@pytest.fixture
def odd():
    Odd.asked.clear()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Odd)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_odd_answers_are_errors_and_the_key_is_handed_to_nobody_else(odd):
    client = Client(odd, "secret")
    with pytest.raises(EngineError, match="answered 302"):
        client.episode("far")
    with pytest.raises(EngineError, match="answered 500"):
        client.episode("odd")
    with pytest.raises(EngineError, match="broke off"):
        client.episodes()
    assert not [path for path, _ in Odd.asked if "stolen" in path]
    assert "secret" not in repr(client)
    assert pickle.loads(pickle.dumps(client)).url == client.url
