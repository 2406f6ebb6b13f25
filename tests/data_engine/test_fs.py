from __future__ import annotations

import os

import pytest

from data_engine import fs
from data_engine.errors import RequestError


def test_resolves_local_paths_to_absolute_ones(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert fs.resolve("a/../b/") == str(tmp_path / "b")
    assert fs.resolve(f"file://{tmp_path}/c") == str(tmp_path / "c")
    assert fs.resolve("s3://bucket/a/") == "s3://bucket/a"


def test_refuses_chained_urls():
    with pytest.raises(RequestError, match="chained URL"):
        fs.resolve("zip://inner::s3://bucket/a.zip")


@pytest.mark.parametrize("part", ["../up", "/etc/passwd", "a/../../up"])
def test_never_leaves_the_root(part):
    with pytest.raises(RequestError, match="leaves"):
        fs.join("s3://bucket/root", part)
    assert fs.join("s3://bucket/root", "a/../b") == "s3://bucket/root/b"


def test_gives_each_client_its_own_words(monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    options = fs.options("s3://bucket", {"AWS_ENDPOINT_URL": "http://127.0.0.1:9000", "AWS_REGION": "eu-west-1"})
    assert options.fsspec["key"] == "key"
    assert options.fsspec["endpoint_url"] == "http://127.0.0.1:9000"
    assert options.delta["AWS_ALLOW_HTTP"] == "true"
    assert options.delta["aws_conditional_put"] == "etag"
    assert "aws_conditional_put" not in options.polars
    assert options.pyarrow == {
        "region": "eu-west-1", "access_key": "key", "secret_key": "secret", "endpoint_override": "127.0.0.1:9000",
        "scheme": "http", "connect_timeout": fs.CONNECT_S, "request_timeout": fs.SILENCE_S,
    }  # fmt: skip
    assert fs.options("/a/folder") == fs.Options()


def test_an_unknown_scheme_is_a_wrong_request():
    with pytest.raises(RequestError, match="cannot open"):
        fs.filesystem("nope://bucket/a")


def test_writes_whole_or_not_at_all(tmp_path, monkeypatch):
    files, path = fs.filesystem(str(tmp_path / "deep" / "file"))
    fs.write_atomic(files, path, b"one")
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("power cut")))
    with pytest.raises(OSError, match="power cut"):
        fs.write_atomic(files, path, b"two")
    assert (tmp_path / "deep" / "file").read_bytes() == b"one"
    assert os.listdir(tmp_path / "deep") == ["file"]
