from __future__ import annotations

import pickle
import threading
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import polars as pl
import pytest

from data_engine.errors import EngineError, RequestError
from data_engine.scoring import Fit
from storage import lake as module
from storage.lake import Lake


def test_a_lake_is_made_once_and_found_again(lake_uri: str) -> None:
    with pytest.raises(RequestError, match="no lake at"):
        Lake.open(lake_uri)
    made = Lake.open(lake_uri, create=True)
    assert Lake.open(lake_uri + "/").uri == Lake.open(lake_uri, create=True).uri == made.uri
    assert made.list() == ["lake.json"]


def test_a_lake_pickles_as_its_address(lake: Lake) -> None:
    again = pickle.loads(pickle.dumps(lake))
    again.write_bytes("a", b"1")
    assert again.uri == lake.uri and lake.read_bytes("a") == b"1"


def test_a_folder_of_something_else_is_not_taken_over(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(RequestError, match="holds something else"):
        Lake.open(str(tmp_path), create=True)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_marker_of_another_version_or_damaged_is_refused(tmp_path: Path) -> None:
    Lake.open(str(tmp_path), create=True).write_bytes("lake.json", b'{"version": 99}')
    with pytest.raises(RequestError, match="no lake of version"):
        Lake.open(str(tmp_path))
    (tmp_path / "lake.json").write_bytes(b"{")
    with pytest.raises(EngineError, match="damaged"):
        Lake.open(str(tmp_path))


def test_a_place_that_cannot_hold_a_lake_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for uri in (tmp_path / "file", tmp_path / "file" / "below", "/proc/lake"):
        with pytest.raises(RequestError, match=r"cannot|holds something else"):
            Lake.open(str(uri), create=True)


def test_a_missing_bucket_is_one_clear_line(s3: str) -> None:
    with pytest.raises(RequestError, match="cannot write to s3://nobody-made-this/lake"):
        Lake.open("s3://nobody-made-this/lake", create=True)


class _Careless(BaseHTTPRequestHandler):
    """A store in front of the real one that passes everything on but the condition on a write."""

    upstream = ""
    protocol_version = "HTTP/1.1"

    def _pass_on(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        headers = {k: v for k, v in self.headers.items() if k.lower() not in ("if-none-match", "host", "connection")}
        request = urllib.request.Request(
            self.upstream + self.path, data=body or None, headers=headers, method=self.command
        )
        try:
            answer = urllib.request.urlopen(request)
        except urllib.error.HTTPError as error:
            answer = error
        with answer:
            data = answer.read()
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                if name.lower() not in ("transfer-encoding", "connection", "date", "server"):
                    self.send_header(name, value)
            if "Content-Length" not in answer.headers:
                self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _pass_on

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture
def careless_s3(s3: str, s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Careless", (_Careless,), {"upstream": s3_endpoint}))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
    yield s3
    server.shutdown()
    server.server_close()


def test_a_store_that_ignores_the_condition_is_refused(careless_s3: str) -> None:
    with pytest.raises(RequestError, match="ignores If-None-Match"):
        Lake.open(f"{careless_s3}/careless", create=True)
    assert Lake(f"{careless_s3}/careless").list() == []


def test_the_self_test_runs_once_a_process_and_leaves_nothing(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    Lake.open(f"{s3}/once", create=True)
    assert f"{s3}/once" in module._tested
    monkeypatch.setattr(Lake, "_self_test", None)
    assert Lake.open(f"{s3}/once").list() == ["lake.json"]


def test_readers_see_the_newest_revision_of_published_episodes_only(lake: Lake, filler) -> None:
    fill = filler(lake)
    fill.dataset()
    fill.shard(["b", "a"])
    fill.shard(["a"], revision=1, seed=1)
    rows = lake.episodes()
    assert rows["source_key"].to_list() == ["a", "b"] and rows["revision"].to_list() == [1, 0]
    assert len(lake.scan("episodes").collect()) == 3
    assert len(lake.episodes(pl.col("revision") == 0)) == 1, "a filter must not bring back what was replaced"
    assert len(lake.episodes(dataset="other")) == 0 and len(lake.episodes(dataset="arms")) == 2
    dataset = lake.datasets()["arms"]
    assert (dataset.embodiment, dataset.fps, len(dataset.features)) == ("arm", 10.0, 2)


def test_fits_and_ledger_are_reached_through_the_lake(lake: Lake) -> None:
    fit_id = lake.put_fit(Fit("p", "1", {}, 0, ("h",)))
    assert lake.get_fit("p", fit_id).reference == ("h",)
    assert lake.done("shard") is None
    lake.mark_done("shard", {"rows": 3})
    assert lake.done("shard") == {"rows": 3}
