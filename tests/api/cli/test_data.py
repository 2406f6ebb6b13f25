from __future__ import annotations

import json
import shutil
from pathlib import Path

import h5py
import pytest

from tests.api.commands import answer, call, refusal
from tests.data_engine.formats.lerobot_sets import write_v3


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


def test_check_decodes_streams_only_when_asked(capsys, tmp_path):
    write_v3(tmp_path / "set", [6, 5], video=True)
    lake = ("--lake", tmp_path / "lake")
    receipt = answer(capsys, "ingest", tmp_path / "set", *lake)
    assert receipt["streams"]
    assert answer(capsys, "check", "--deep", *lake) == {"sound": True, "problems": []}
    assert "opposites" in refusal(capsys, "check", "--deep", "--quick", *lake)


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


def test_a_dry_run_finds_what_the_receipt_then_records(capsys, tmp_path, recording):
    path = tmp_path / "holed.hdf5"
    path.write_bytes(recording.read_bytes())
    with h5py.File(path, "r+") as file:
        del file["data/demo_3/actions"]
    source = (path, "--lake", tmp_path / "lake")
    found = answer(capsys, "ingest", *source, "--dry-run")
    receipt = answer(capsys, "ingest", *source)
    assert found["inferred"] and all(finding["evidence"] for finding in found["inferred"])
    for name in ("columns", "inferred", "control_mode", "embodiment", "fps", "quarantined", "defects"):
        assert found[name] == receipt[name], name
    assert set(found["notes"]) <= set(receipt["notes"])
    assert len(found["sampled"]) == 6
    code, out, _ = call(capsys, "ingest", *source, "--dry-run")
    assert code == 0
    (bad,) = found["quarantined"]
    assert f"demo_3: {bad['reason']}" in out
    assert all(finding["evidence"] in out for finding in found["inferred"])
    assert f"{found['control_mode']['mode']} ({found['control_mode']['evidence']})" in out


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
    assert call(capsys, "vacuum", *lake)[1].startswith("0 files removed, 0 bytes; ")
    code, out, _ = call(capsys, "check", "--fingerprint", *lake)
    assert code == 0
    assert out.startswith("sound\n")


def test_remove_and_erase_say_what_they_did(capsys, tmp_path, curated):
    shutil.copytree(curated / "lake", tmp_path / "lake")
    lake = ("--lake", tmp_path / "lake")
    answer(capsys, "export", "reach", "--format", "lerobot_v3", "--out", tmp_path / "mine", *lake)
    assert "nothing is said" in refusal(capsys, "remove", *lake)
    assert "no episode is to be removed" in refusal(capsys, "remove", "--operator", "nobody", *lake)
    code, out, _ = call(capsys, "remove", "--operator", "steady", "--dry-run", *lake)
    assert code == 0 and out.startswith("6 episodes would be removed\n") and "\nmixture    reach " in out
    assert len(answer(capsys, "query", *lake)["items"]) == 18
    told = answer(capsys, "remove", "--operator", "steady", "--reason", "withdrew", *lake)
    assert told["removed"] == 6 and {row["uri"] for row in told["exports"]} >= {str(tmp_path / "mine")}
    code, out, _ = call(capsys, "remove", "--operator", "steady", *lake)
    assert code == 0 and out.startswith("0 episodes removed; 6 were out already")
    assert len(answer(capsys, "query", *lake)["items"]) == 12

    code, out, _ = call(capsys, "vacuum", "--erase", *lake)
    assert code == 0 and out.startswith("6 episodes erased\n")
    assert f"export     {tmp_path / 'mine'} is not reachable from here" in out
    assert {row["status"] for row in answer(capsys, "mixtures", *lake)["items"]} == {"broken"}
    flagged = answer(capsys, "fits", *lake)["items"]
    assert flagged and all(row["flagged"].startswith("6 erased on ") for row in flagged)
    assert "is broken: " in refusal(capsys, "export", "reach", "--format", "lerobot_v3", "--out", tmp_path / "x", *lake)
    assert call(capsys, "check", *lake)[0] == 0
    assert answer(capsys, "vacuum", "--erase", *lake)["erased"] == 0


def test_ingest_takes_back_only_when_asked(capsys, tmp_path, recording):
    lake = ("--lake", tmp_path / "lake")
    call(capsys, "ingest", recording, *lake)
    answer(capsys, "remove", "--where", "n_steps > 0", *lake)
    code, out, _ = call(capsys, "ingest", recording, *lake)
    assert code == 0 and "18 removed stay out (--take-back takes them in)" in out
    answer(capsys, "vacuum", "--erase", *lake)
    assert answer(capsys, "ingest", recording, *lake)["removed"] == 18
    assert answer(capsys, "ingest", recording, "--take-back", *lake)["stored"]["episodes"] == 18


def test_videos_are_left_where_they_are_and_their_drift_is_reported(capsys, tmp_path):
    write_v3(tmp_path / "set", [6, 5], video=True)
    lake = ("--lake", tmp_path / "lake")
    (stream,) = answer(capsys, "ingest", tmp_path / "set", "--by-reference", *lake)["streams"].values()
    assert stream["kept"] == "by reference"
    assert answer(capsys, "check", *lake)["sound"]
    with Path(stream["uri"]).open("ab") as file:
        file.write(b"more")
    code, out, _ = call(capsys, "check", "--quick", *lake, "--json")
    assert (code, json.loads(out)["error"]["code"]) == (1, "damaged_lake")
    assert stream["uri"] in json.loads(out)["error"]["message"]
