from __future__ import annotations

from pathlib import Path

import pytest

from data_engine.errors import RequestError, SourceError
from data_engine.exports.publish import staged
from data_engine.fs import filesystem


def names(root: Path) -> dict[str, str]:
    return {str(path.relative_to(root)): path.read_text() for path in sorted(root.rglob("*")) if path.is_file()}


def test_nothing_shows_before_the_end(tmp_path: Path) -> None:
    with staged(str(tmp_path / "deep" / "out"), "last") as folder:
        (folder / "sub").mkdir()
        (folder / "sub" / "one").write_text("1")
        assert not (tmp_path / "deep" / "out").exists()
    assert names(tmp_path) == {"deep/out/sub/one": "1"}


def test_a_place_that_cannot_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with (
        pytest.raises(RequestError, match=r"cannot write .*file.out: File exists"),
        staged(str(tmp_path / "file/out"), "last"),
    ):
        pass
    assert names(tmp_path) == {"file": "mine"}


def test_a_failure_leaves_nothing(tmp_path: Path, s3: str) -> None:
    fs, path = filesystem(f"{s3}/half")
    for uri in (str(tmp_path / "out"), f"{s3}/half"):
        with pytest.raises(SourceError), staged(uri, "last") as folder:
            (folder / "first").write_text("half")
            raise SourceError("gone")
    assert list(tmp_path.glob("*out*")) == []
    assert not fs.exists(path)


def test_what_a_killed_export_left_is_replaced(tmp_path: Path, s3: str) -> None:
    (tmp_path / ".out.partial").mkdir()
    (tmp_path / ".out.partial" / "old").write_text("half")
    fs, path = filesystem(f"{s3}/half")
    fs.pipe_file(f"{path}/_unfinished", b"")
    fs.pipe_file(f"{path}/old", b"half")
    for uri in (str(tmp_path / "out"), f"{s3}/half"):
        with staged(uri, "last") as folder:
            (folder / "last").write_text("whole")
    assert names(tmp_path / "out") == {"last": "whole"}
    assert [name.rsplit("/", 1)[-1] for name in fs.find(path)] == ["last"]


def test_an_occupied_place_is_refused(tmp_path: Path, s3: str) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("1")
    (tmp_path / "file").write_text("1")
    fs, path = filesystem(f"{s3}/mine")
    fs.pipe_file(f"{path}/mine", b"1")
    for uri in (str(tmp_path / "out"), str(tmp_path / "file"), f"{s3}/mine"):
        with pytest.raises(RequestError, match="is not empty"), staged(uri, "last"):
            pass
    assert names(tmp_path) == {"file": "1", "out/mine": "1"}
