from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from data_engine.cache import Cache
from data_engine.errors import RequestError, SourceError
from data_engine.fs import filesystem, stamp
from data_engine.references import Reference, blob_of, find, pointer, refuse

SHA256 = hashlib.sha256(b"frames").hexdigest()
BLOB = f"videos/{SHA256}.mp4"


@pytest.fixture
def video(tmp_path: Path) -> Path:
    path = tmp_path / "v.mp4"
    path.write_bytes(b"frames")
    return path


def refer(path: Path) -> Reference:
    size, mark = stamp(*filesystem(str(path)))
    return Reference(uri=str(path), bytes=size, stamp=mark)


def test_a_pointer_leads_back_to_its_blob() -> None:
    assert pointer(BLOB) == f"references/{SHA256}.mp4.json"
    assert blob_of(pointer(BLOB)) == BLOB


@pytest.mark.parametrize("uri", ["/data/a.mp4", "/data/a..b/c d.mp4", "s3://bucket/a.mp4", "gs://bucket/a", "hf://a/b"])
def test_places_that_may_be_referred_to(uri: str) -> None:
    refuse(uri)


@pytest.mark.parametrize(
    "uri",
    ["a.mp4", "", "../a.mp4", "/data/../a", "file:///a", "http://host/a", "memory://a", "s3://b/../a", "zip::s3://b/a"],
)
def test_places_that_may_not(uri: str) -> None:
    with pytest.raises(RequestError, match="cannot be ingested by reference"):
        refuse(uri)


def test_equal_size_and_time_stand_for_equal_bytes_only_in_a_lake_of_ones_own(video: Path, tmp_path: Path) -> None:
    reference, cache = refer(video), Cache(tmp_path / "cache")
    before = video.stat().st_mtime_ns
    video.write_bytes(b"flames")
    os.utime(video, ns=(before, before))
    assert reference.local(SHA256, cache, trusted=True) == video
    assert reference.drift(SHA256, deep=False) is None
    with pytest.raises(SourceError, match="has changed since"):
        reference.local(SHA256, cache, trusted=False)
    assert reference.drift(SHA256, deep=True) == "its bytes are not the ones that were ingested"


def test_another_time_alone_is_no_change(video: Path, tmp_path: Path) -> None:
    reference = refer(video)
    os.utime(video, ns=(1, 1))
    assert reference.local(SHA256, Cache(tmp_path / "cache"), trusted=True) == video
    assert reference.drift(SHA256, deep=True) is None
    assert "touched" in str(reference.drift(SHA256, deep=False))


def test_what_is_no_file_any_more_is_gone(video: Path, tmp_path: Path) -> None:
    reference = refer(video)
    for make in (lambda: None, video.mkdir, lambda: (video.rmdir(), os.mkfifo(video))):
        video.unlink(missing_ok=True) if video.is_file() else None
        make()
        assert reference.drift(SHA256, deep=True) == "missing"
        with pytest.raises(SourceError, match="is gone"):
            reference.local(SHA256, Cache(tmp_path / "cache"), trusted=True)


def test_only_videos_are_looked_up_and_damage_is_one_line(video: Path, tmp_path: Path) -> None:
    fs, root = filesystem(str(tmp_path))
    assert find(fs, root, BLOB) is None
    (tmp_path / "references").mkdir()
    place = tmp_path / pointer(BLOB)
    place.write_text(refer(video).model_dump_json())
    assert find(fs, root, BLOB) == refer(video)
    for other in (f"{SHA256}.mp4", f"tables/{SHA256}.mp4", f"../videos/{SHA256}.mp4"):
        assert find(fs, root, other) is None
    for damaged in (b"", b"[]", b'{"uri": "/a", "bytes": 0, "stamp": ""}', b" " * (1 << 20) + b"{}"):
        place.write_bytes(damaged)
        with pytest.raises(SourceError, match=r"references/.* is no reference"):
            find(fs, root, BLOB)
