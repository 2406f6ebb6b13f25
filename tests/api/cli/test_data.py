from __future__ import annotations

import json
from pathlib import Path

import h5py
import pytest

from tests.api.commands import answer, call, refusal


def test_check_names_a_flipped_byte_and_exits_1(capsys, tmp_path, recording):
    lake = tmp_path / "lake"
    answer(capsys, "ingest", recording, "--lake", lake)
    victim = next(Path(lake).glob("tables/steps/*/*.parquet"))
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 1
    victim.write_bytes(data)
    code, out, _ = call(capsys, "check", "--lake", lake, "--json")
    assert code == 1
    assert victim.name in json.loads(out)["error"]["message"]


def test_broken_sources_get_one_line(capsys, tmp_path, recording):
    cut = tmp_path / "cut.hdf5"
    cut.write_bytes(recording.read_bytes()[:5000])
    empty = tmp_path / "empty.hdf5"
    with h5py.File(empty, "w") as file:
        file.create_group("data")
    for path in (cut, empty):
        code, _, err = call(capsys, "ingest", path, "--lake", tmp_path / "lake")
        assert code == 2
        assert err.startswith("error: ")
        assert len(err.strip().splitlines()) == 1


def test_a_dry_run_shows_what_would_come_and_writes_nothing(capsys, tmp_path, recording):
    code, out, _ = call(capsys, "ingest", recording, "--dry-run", "--lake", tmp_path / "lake")
    assert code == 0
    facts = dict(line.split(maxsplit=1) for line in out.split("\n\n")[0].splitlines())
    assert (facts["dataset"], facts["format"], facts["episodes"], facts["fps"]) == ("reach", "robomimic", "18", "20.0")
    assert "observation.state" in out.split("\n\n")[1]
    assert not (tmp_path / "lake").exists()


def test_what_is_quarantined_is_told_with_its_reason(capsys, tmp_path, recording):
    path = tmp_path / "holed.hdf5"
    path.write_bytes(recording.read_bytes())
    with h5py.File(path, "r+") as file:
        del file["data/demo_3/actions"]
        file["data/demo_3/actions"] = file["data/demo_4/actions"][:5]
    lake = ("--lake", tmp_path / "lake")
    code, out, err = call(capsys, "ingest", path, *lake)
    assert code == 0
    assert "17 episodes" in out
    assert "1 quarantined" in out
    assert "demo_3 is quarantined" in err
    (row,) = answer(capsys, "query", "--table", "quarantine", *lake)["items"]
    assert (row["source_key"], row["code"]) == ("demo_3", "lengths_differ")


def test_a_source_of_which_nothing_can_be_read_is_a_failure(capsys, tmp_path, recording):
    path = tmp_path / "lost.hdf5"
    path.write_bytes(recording.read_bytes())
    with h5py.File(path, "r+") as file:
        for demo in file["data"].values():
            demo.attrs["num_samples"] = 1
    lake = ("--lake", tmp_path / "lake")
    line = refusal(capsys, "ingest", path, *lake, code=1)
    assert "no episode of" in line
    assert "18 quarantined" in line
    assert len(answer(capsys, "query", "--table", "quarantine", *lake)["items"]) == 18


@pytest.mark.parametrize("what", ["a file", "under a file", "read-only", "not a lake"])
def test_a_lake_that_cannot_be_is_one_line(capsys, tmp_path, recording, what):
    place = tmp_path / "place"
    lake = place / "lake" if what == "under a file" else place
    if what in ("a file", "under a file"):
        place.write_text("mine")
    elif what == "not a lake":
        place.mkdir()
        (place / "mine.txt").write_text("mine")
    else:
        lake = Path("/proc/lake")  # nobody can write there, root neither
    refusal(capsys, "ingest", recording, "--lake", lake)
    if what == "not a lake":
        assert [path.name for path in place.iterdir()] == ["mine.txt"]


def test_doctor_and_vacuum_answer(capsys, curated):
    lake = ("--lake", curated / "lake")
    assert answer(capsys, "doctor", *lake)["ok"]
    assert "python" in call(capsys, "doctor", *lake)[1]
    assert answer(capsys, "vacuum", *lake)["removed"] == []
    code, out, _ = call(capsys, "check", "--fingerprint", *lake)
    assert code == 0
    assert out.startswith("sound\n")
