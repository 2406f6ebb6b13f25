from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from data_engine.cache import Cache
from data_engine.errors import RequestError, SourceError
from storage import blobs
from storage.blobs import Blobs
from storage.lake import Lake


def test_documents_are_written_whole_and_listed(lake: Lake) -> None:
    lake.write_bytes("mixtures/m1/mixture.json", b"{}")
    lake.write_bytes("mixtures/m1/mixture.json", b"[1]")
    lake.write_bytes("mixtures/m2/mixture.json", b"{}")
    assert lake.read_bytes("mixtures/m1/mixture.json") == b"[1]"
    assert lake.list("mixtures") == ["mixtures/m1/mixture.json", "mixtures/m2/mixture.json"]
    assert lake.exists("mixtures/m1") and not lake.exists("mixtures/m3")
    assert lake.list("nothing") == []
    assert lake.uri_of("mixtures/m1") == f"{lake.uri}/mixtures/m1"


def test_a_path_cannot_leave_the_lake(lake: Lake) -> None:
    for path in ("../secret", "a/../../secret", "/etc/passwd"):
        with pytest.raises(RequestError, match="leaves"):
            lake.read_bytes(path)
        with pytest.raises(RequestError, match="leaves"):
            lake.write_bytes(path, b"")


def test_a_missing_document_is_named(lake: Lake) -> None:
    with pytest.raises(SourceError, match=r"fits/x\.json is missing"):
        lake.read_bytes("fits/x.json")


def test_a_video_is_kept_under_the_hash_of_its_bytes(lake: Lake, tmp_path: Path) -> None:
    source = tmp_path / "clip.MP4"
    source.write_bytes(b"video bytes" * 1000)
    sha256 = hashlib.sha256(source.read_bytes()).hexdigest()
    path = lake.put_video(source)
    assert path == f"videos/{sha256}.mp4" == lake.put_video(source)
    assert lake.sha256(path) == lake.blob(path).sha256 == sha256
    assert lake.blob(path).bytes == lake.size(path) == 11_000
    assert lake.local(path).read_bytes() == source.read_bytes()
    assert source.exists()


def test_local_is_the_file_itself_on_a_folder_and_a_kept_download_elsewhere(lake: Lake) -> None:
    sha256 = hashlib.sha256(b"one").hexdigest()
    path = f"videos/{sha256}.mp4"
    lake.write_bytes(path, b"one")
    first = lake.local(path)
    assert first.read_bytes() == b"one"
    assert (first == Path(lake.root, path)) == lake.is_local
    assert lake.local(path) == first
    lake.write_bytes("indices/ids", b"one")
    assert lake.local("indices/ids", sha256).read_bytes() == b"one"
    with pytest.raises(SourceError, match="missing"):
        lake.local(f"videos/{'0' * 64}.mp4")


def test_a_download_is_verified_and_bounded(s3: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    lake = Lake.open(f"{s3}/lake", create=True)
    monkeypatch.setattr(blobs, "_caches", {tmp_path / "cache": Cache(tmp_path / "cache", max_bytes=4, grace_s=0)})
    paths = []
    for data in (b"one", b"two", b"three"):
        paths.append(f"videos/{hashlib.sha256(data).hexdigest()}.mp4")
        lake.write_bytes(paths[-1], data)
        assert lake.local(paths[-1]).read_bytes() == data
    kept = list((tmp_path / "cache").rglob("*.mp4"))
    assert [path.read_bytes() for path in kept] == [b"three"]
    lake.write_bytes(paths[0], b"own")
    with pytest.raises(SourceError, match="its sha256 differs"):
        lake.local(paths[0])
    with pytest.raises(RequestError, match="give its sha256"):
        lake.local("mixtures/m/mixture.json")


def test_a_staged_file_that_is_not_published_leaves_nothing(lake: Lake) -> None:
    with pytest.raises(ZeroDivisionError), lake.staged("videos") as staged:
        staged.write_bytes(b"half")
        assert lake.list("videos") == []
        raise ZeroDivisionError
    assert not staged.exists()


def test_sizes_answers_for_each_path(lake: Lake) -> None:
    lake.write_bytes("a", b"12345")
    assert lake.sizes(["a", "b"]) == (5, None)
    lake.remove("a")
    lake.remove("a")
    assert lake.size("a") is None


def test_a_root_is_resolved(tmp_path: Path) -> None:
    assert Blobs(f"file://{tmp_path}/x/").uri == f"{tmp_path}/x"
