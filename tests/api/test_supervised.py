"""Over what nobody knew to be fragile the command line does not die or hang: one line says what happened."""

from __future__ import annotations

import json
import os
import shutil
import signal
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from tests.flows.test_executor import session, wait_for
from tests.recordings import write_robomimic

COMMAND = """
import os, signal, sys
import flows.apart
import api.supervised
flows.apart.STUCK_S = 3.0
if verb_ends := os.environ.get("VERB_ENDS"):
    import flows.query
    flows.query.query = lambda *_, **__: os.kill(os.getpid(), signal.Signals[verb_ends])
api.supervised.main()
"""


def run(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", COMMAND, *map(str, arguments)],
        capture_output=True, text=True, timeout=120, env={**os.environ, "PYTHONPATH": os.getcwd(), **environment},
    )  # fmt: skip


@pytest.fixture(scope="module")
def looping(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file the text of whose attributes sends libhdf5 round in circles: an entry of its heap that takes no room."""
    path = write_robomimic(tmp_path_factory.mktemp("looping") / "a.hdf5", episodes=3)
    data = bytearray(path.read_bytes())
    struct.pack_into("<HHIQ", data, data.index(b"GCOL") + 16, 0, 0, 0, 0)
    path.write_bytes(data)
    return path


def test_a_source_over_which_a_library_never_returns_is_one_line(looping, tmp_path):
    done = run("ingest", looping, "--lake", tmp_path / "lake", "--json")
    assert done.returncode == 2
    error = json.loads(done.stdout)["error"]
    assert error["code"] == "reader_crash" and "no end of it" in error["message"] and "copy it again" in error["fix"]


def test_a_survey_goes_on_after_it(looping, tmp_path):
    sound = write_robomimic(tmp_path / "sound.hdf5", episodes=3)
    done = run("survey", looping, sound, "--json")
    assert done.returncode == 0, done.stderr
    damaged, whole = json.loads(done.stdout)["items"]
    assert damaged["error"]["code"] == "reader_crash"
    assert whole["episodes"] == 3


def test_another_verb_that_crashes_is_one_line_and_is_not_run_again(tmp_path):
    source = write_robomimic(tmp_path / "a.hdf5", episodes=1)
    assert run("ingest", source, "--lake", tmp_path / "lake").returncode == 0
    done = run("query", "--lake", tmp_path / "lake", VERB_ENDS="SIGSEGV")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1 and "SIGSEGV" in done.stderr
    done = run("query", "--lake", tmp_path / "lake", "--json", VERB_ENDS="SIGBUS")
    assert json.loads(done.stdout)["error"]["code"] == "crashed"
    assert run("query", "--lake", tmp_path / "lake", VERB_ENDS="SIGKILL").returncode == -signal.SIGKILL


def test_the_installed_script_answers_and_exits_as_the_command_line_does(tmp_path):
    script = shutil.which("data-engine", path=str(Path(sys.executable).parent))
    done = subprocess.run([script, "datasets", "--lake", tmp_path / "none"], capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("error: no lake at")
    done = subprocess.run([script, "formats", "--json"], capture_output=True, text=True)
    assert done.returncode == 0 and json.loads(done.stdout)["items"]


@pytest.mark.parametrize(("sent", "code"), [("SIGTERM", -signal.SIGTERM), ("SIGINT", 5), ("SIGKILL", -signal.SIGKILL)])
def test_signals_reach_the_child_and_it_dies_with_its_parent(sent, code):
    waiting = (
        "import os, sys, time\n"
        "from api.supervised import supervise\n"
        "def work():\n"
        "    try:\n"
        "        print(os.getpid(), flush=True)\n"
        "        time.sleep(600)\n"
        "    except KeyboardInterrupt:\n"
        "        sys.exit(5)\n"
        "ended = supervise(work)\n"
        "sys.exit(5) if ended == 5 else os.kill(os.getpid(), ended)\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", waiting], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    assert child in session(parent.pid)
    parent.send_signal(signal.Signals[sent])
    assert parent.wait(30) == code
    assert not wait_for(lambda: session(parent.pid), lambda found: not found)
    parent.stdout.close()


def test_the_status_of_the_work_is_the_answer():
    code = "import sys; from api.supervised import supervise; print(supervise(lambda: sys.exit(3)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "3\n"
