"""A library that crashes takes neither the ingest nor this process with it."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest

from data_engine import registry
from data_engine.errors import SourceError
from data_engine.fragile import Fragile, fragile, spared
from data_engine.recipe import SourceRecipe
from flows.apart import Crash, apart, carefully
from flows.executor import executor
from flows.ingest import ingest
from flows.progress import silent
from flows.survey import survey
from storage.check import check, fingerprint
from storage.lake import Lake
from tests.api.commands import refusal
from tests.flows import crashing
from tests.flows.endings import add, cut_off, die, fail_oddly, refuse, spin, tread
from tests.flows.test_executor import session, wait_for
from tests.recordings import write_robomimic


def test_work_apart_answers_and_leaves_no_process():
    answer, pid = apart(add, 1, 2)
    assert answer == 3 and pid != os.getpid()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_only_what_is_fragile_goes_apart():
    assert carefully(add, 1, 2) == (3, os.getpid())
    assert carefully(tread, "rows") != os.getpid()
    fragile("nobody cares")
    with spared(), pytest.raises(Fragile, match="rows"):
        fragile("rows")


def test_errors_come_back_as_they_are():
    with pytest.raises(EOFError, match="the file ends"):
        apart(cut_off)
    with pytest.raises(SourceError, match="cannot") as caught:
        apart(refuse)
    assert (caught.value.code, caught.value.fix) == ("no", "do another")
    with pytest.raises(RuntimeError, match="Odd: 1 and 2"):
        apart(fail_oddly)


@pytest.mark.parametrize("how", ["SIGSEGV", "SIGABRT", "SIGKILL"])
def test_a_death_says_how_and_over_what(how):
    with pytest.raises(Crash) as caught:
        apart(die, how, "first", "second")
    assert (caught.value.how, caught.value.reading) == (how, "second")


def test_one_that_gets_nowhere_is_ended(monkeypatch):
    monkeypatch.setattr("flows.apart.STUCK_S", 1)
    with pytest.raises(Crash) as caught:
        apart(spin, "first")
    assert (caught.value.how, caught.value.reading) == ("no end of it in 1 s of computing", "first")


def test_it_dies_with_the_one_that_waits_for_it():
    code = "import time; from flows.apart import apart; apart(time.sleep, 600)"
    waiting = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    assert len(wait_for(lambda: session(waiting.pid), lambda found: len(found) == 2)) == 2
    time.sleep(0.5)
    waiting.kill()
    waiting.wait()
    assert not wait_for(lambda: session(waiting.pid), lambda found: not found)


@pytest.fixture
def crash(tmp_path, monkeypatch):
    """Writes a source of the format that crashes, which is installed."""
    crashing.install(tmp_path / "site", monkeypatch)
    monkeypatch.setenv("CRASHED_ONCE", str(tmp_path / "once"))

    def write(**episodes) -> Path:
        (tmp_path / "a.crashing").write_text(json.dumps(episodes))
        return tmp_path / "a.crashing"

    yield write
    registry._registered.cache_clear()


def bring(lake: Lake, path: Path, on: str = "local", workers: int = 1) -> dict:
    with executor(on, workers) as pool:
        return ingest(lake, SourceRecipe(name="crashed", uri=str(path)), on=pool, progress=silent(), run_id="run_test")


def test_an_episode_over_which_a_library_crashes_is_quarantined_and_the_rest_goes_in(lake, crash):
    receipt = bring(lake, crash(a=3, b="SIGSEGV", c=4, d=5, e=2, f=2, g=2, h="exit", i=3, j="SIGKILL"))
    assert {bad["code"] for bad in receipt["quarantined"]} == {"reader_crash"}
    assert {bad["key"]: bad["reason"].rpartition("(")[2] for bad in receipt["quarantined"]} == {
        "b": "SIGSEGV)", "h": "exit status 7)", "j": "SIGKILL)",
    }  # fmt: skip
    assert lake.episodes()["source_key"].to_list() == list("acdefgi")
    assert set(lake.scan("quarantine").collect()["code"]) == {"reader_crash"}
    assert check(lake) == []


@pytest.mark.parametrize("on", ["local", "ray"])
def test_workers_survive_it_too(lake, crash, monkeypatch, on):
    monkeypatch.setattr("flows.ingest._SHARD_EPISODES", 2)
    receipt = bring(lake, crash(a=3, b="SIGSEGV", c=4, d=5), on, 2)
    assert [(bad["key"], bad["code"]) for bad in receipt["quarantined"]] == [("b", "reader_crash")]
    assert lake.episodes()["source_key"].to_list() == ["a", "c", "d"]


def test_a_process_that_was_killed_by_someone_is_tried_again(lake, crash):
    receipt = bring(lake, crash(a=3, b="once", c=4))
    assert receipt["quarantined"] == []
    assert receipt["stored"]["episodes"] == 3


def test_a_probe_that_crashes_is_one_line(lake, crash, capsys):
    line = refusal(capsys, "ingest", crash(probe="SIGSEGV", a=3), "--lake", lake.uri)
    assert "SIGSEGV" in line and "copy it again" in line
    line = refusal(capsys, "ingest", crash(probe="SIGSEGV", a=3), "--lake", lake.uri, "--dry-run")
    assert "SIGSEGV" in line
    assert "episodes" not in lake.tables()


def test_a_survey_names_what_crashes_and_goes_on(crash, tmp_path):
    path = crash(a=3, b="SIGSEGV", c=4)
    (tmp_path / "b.crashing").write_text(json.dumps({"probe": "SIGSEGV"}))
    first, second = survey([str(path), str(tmp_path / "b.crashing")], progress=silent())["items"]
    assert (first["episodes"], first["steps"], first["sampled"]) == (3, 10, 3)
    assert ("reader_crash", 1) in [(seen["code"], seen["episodes"]) for seen in first["defects"]]
    assert second["error"]["code"] == "reader_crash"


def test_running_it_again_reads_nothing_again(lake, crash):
    path = crash(a=3, b="SIGSEGV")
    bring(lake, path)
    before = fingerprint(lake)
    again = bring(lake, path)
    assert again["repeated"] and again["unchanged"] == 1
    assert [bad["code"] for bad in again["quarantined"]] == ["reader_crash"]
    assert fingerprint(lake) == before


def test_a_file_that_sends_libhdf5_round_in_circles(lake, tmp_path, monkeypatch):
    """An entry of the heap that holds rows of variable length says that it is free and takes no room."""
    monkeypatch.setattr("flows.apart.STUCK_S", 4)
    source = write_robomimic(tmp_path / "a.hdf5", episodes=4)
    with h5py.File(source, "r+") as file:
        for number, demo in enumerate(file["data"].values()):
            rows = demo.create_dataset("obs/notes", (len(demo["actions"]),), h5py.vlen_dtype(np.uint8))
            for step in range(len(rows)):
                rows[step] = np.full(5000, 10 * number + step % 10, np.uint8)
        held = {name: (demo["obs/notes"].id.get_offset(), len(demo["actions"])) for name, demo in file["data"].items()}
    data = bytearray(source.read_bytes())
    heaps = {
        name: {struct.unpack_from("<Q", data, at + 16 * step + 4)[0] for step in range(steps)}
        for name, (at, steps) in held.items()
    }
    heap = max(set.union(*heaps.values()))
    struct.pack_into("<HHIQ", data, heap + 16, 0, 0, 0, 0)
    source.write_bytes(data)
    hurt = sorted(name for name in heaps if heap in heaps[name])
    assert len(hurt) == 1
    receipt = bring(lake, source)
    assert sorted(bad["key"] for bad in receipt["quarantined"]) == hurt
    assert all("no end of it" in bad["reason"] for bad in receipt["quarantined"])
    assert receipt["stored"]["episodes"] == 3
