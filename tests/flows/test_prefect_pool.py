from __future__ import annotations

import asyncio
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from data_engine.errors import EngineError
from flows import prefect_pool
from flows.prefect_pool import Pool


@pytest.fixture
def busy():
    """A server that answers with the statuses it is given, one after the other, and counts how often it was asked."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            server.asked += 1
            body = json.dumps([{"id": "one", "state_type": "RUNNING"}]).encode()
            self.send_response(server.statuses.pop(0))
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.asked, server.statuses, server.url = 0, [], f"http://127.0.0.1:{server.server_port}/api"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def under_way(url: str) -> dict[str, str]:
    async def ask() -> dict[str, str]:
        pool = Pool("/lake", url, "user:secret")
        try:
            return await pool.under_way()
        finally:
            await pool.close()

    return asyncio.run(ask())


def test_a_server_that_is_busy_is_asked_again_and_one_that_stays_so_or_fails_is_told(busy, monkeypatch):
    monkeypatch.setattr(prefect_pool, "_WAITS_S", (0.0, 0.0, 0.0))
    busy.statuses = [503, 429, 200]
    assert under_way(busy.url) == {"one": "RUNNING"}
    assert busy.asked == 3
    for statuses, asked in (([503] * 4, 4), ([500], 1)):
        busy.asked, busy.statuses = 0, statuses
        with pytest.raises(EngineError, match="was answered 50") as caught:
            under_way(busy.url)
        assert (caught.value.code, busy.asked) == ("prefect_down", asked)
