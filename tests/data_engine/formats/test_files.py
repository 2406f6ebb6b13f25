from __future__ import annotations

from pathlib import Path

import pytest

from data_engine.errors import RequestError
from data_engine.formats import Source
from data_engine.formats.files import below, member


def test_files_in_natural_order_without_hidden_ones(tmp_path: Path) -> None:
    for name in ("b/e10.H5", "b/e2.h5", "a.h5", "c/.cache/x.h5", ".git/y.h5", "c/.z.h5", "notes.txt"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    source = Source(str(tmp_path))
    assert below(source, (".h5",)) == ["a.h5", "b/e2.h5", "b/e10.H5"]
    assert below(source, (".npz",)) == []
    assert below(Source(str(tmp_path / "a.h5")), (".h5",)) == []


def test_a_far_first_file_is_not_looked_for(tmp_path: Path) -> None:
    for i in range(80):
        (tmp_path / f"d{i:02d}").mkdir()
    (tmp_path / "d79" / "late.h5").write_bytes(b"")
    assert below(Source(str(tmp_path)), (".h5",)) == []


def test_a_member_stays_inside(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "secret.h5").write_bytes(b"")
    (tmp_path / "set" / "a.h5").symlink_to(tmp_path / "secret.h5")
    source = Source(str(tmp_path / "set"))
    for path in ("../secret.h5", "a.h5"):
        with pytest.raises(RequestError, match="leaves"):
            member(source, path)
    alone = Source(str(tmp_path / "secret.h5"))
    assert member(alone, "secret.h5") is alone
