from __future__ import annotations

import hashlib
import hmac
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from pydantic import SecretStr

from tests.api.service.test_runs import until

SECRET = "a secret of sixteen characters or more"


@pytest.fixture
def listener():
    """A server that keeps what it is told, and sends on to another address the first time."""
    told, paths = [], []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            told.append((dict(self.headers), body))
            paths.append(self.path)
            self.send_response(307 if len(told) == 1 else 200)
            self.send_header("Location", "/elsewhere")
            self.end_headers()

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    server.told, server.paths, server.url = told, paths, f"http://127.0.0.1:{server.server_port}/hook"
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_end_of_a_run_is_told_signed_until_it_is_taken(serve, listener):
    service = serve(webhooks=(listener.url,), secret=SecretStr(SECRET))
    with service.client("curate") as client:
        asked = {"verb": "mix", "recipe": {"entries": [{"selection": "nothing"}]}}
        run_id = client.post("/v1/runs", json=asked).json()["run_id"]
        until(client, run_id, "failed")
        for _ in range(600):
            if len(listener.told) >= 2:
                break
            threading.Event().wait(0.05)
    (_, first), (headers, body) = listener.told
    assert first == body
    assert listener.paths == ["/hook"] * 2  # nobody is followed to an address that the server was not started with
    event = json.loads(body)
    assert (event["type"], event["data"]["run_id"], event["data"]["state"]) == ("run.ended", run_id, "failed")
    at, sign = (part.partition("=")[2] for part in headers["X-Data-Engine-Signature"].split(","))
    assert sign == hmac.new(SECRET.encode(), f"{at}.".encode() + body, hashlib.sha256).hexdigest()
    assert SECRET not in str(service.app.state.live.settings)


def test_what_nobody_took_is_told_by_the_next_service(curated, tmp_path, listener):
    import shutil

    from tests.api.service.conftest import serving

    shutil.copytree(curated, tmp_path / "lake")
    hooks = {"webhooks": (listener.url,), "secret": SecretStr(SECRET)}
    listener.shutdown()
    with serving(tmp_path / "lake", **hooks) as service, service.client("curate") as client:
        asked = {"verb": "mix", "recipe": {"entries": [{"selection": "nothing"}]}}
        run_id = client.post("/v1/runs", json=asked).json()["run_id"]
        until(client, run_id, "failed")
        kept = list((tmp_path / "runs" / "events").glob("*.json"))
        for _ in range(100):
            if kept:
                break
            threading.Event().wait(0.05)
            kept = list((tmp_path / "runs" / "events").glob("*.json"))
        assert len(kept) == 1
    thread = threading.Thread(target=listener.serve_forever)
    thread.start()
    with serving(tmp_path / "lake", **hooks):
        for _ in range(600):
            if not list((tmp_path / "runs" / "events").glob("*.json")):
                break
            threading.Event().wait(0.05)
    listener.shutdown()
    thread.join()
    assert json.loads(listener.told[-1][1])["data"]["run_id"] == run_id
