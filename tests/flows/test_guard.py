from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

from tests.flows.test_executor import session, wait_for

SERVER = ("http.server", "--bind", "127.0.0.1", "0")  # a module that runs until it is ended


def guarded(parent: int, *module: str) -> list[str]:
    return [sys.executable, "-P", "-m", "flows.guard", str(parent), *module]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_it_runs_the_module_as_if_it_stood_alone():
    done = subprocess.run(
        guarded(os.getpid(), "json.tool", "--compact"), input='{"a": 1}', capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout.strip()) == (0, '{"a":1}')
    failed = subprocess.run(guarded(os.getpid(), "json.tool"), input="{", capture_output=True, text=True, timeout=60)
    assert failed.returncode == 1


def test_the_child_dies_with_a_killed_parent(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(
        "import os, subprocess, sys, time\n"
        f"command = [sys.executable, '-P', '-m', 'flows.guard', str(os.getpid()), *{SERVER!r}]\n"
        "print(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    parent = subprocess.Popen([sys.executable, str(script)], start_new_session=True, stdout=subprocess.PIPE, text=True)
    child = int(parent.stdout.readline())
    assert alive(child)
    parent.send_signal(signal.SIGKILL)
    parent.communicate()
    assert not wait_for(lambda: session(parent.pid), lambda found: not found)
    assert not alive(child)


def test_a_child_whose_parent_is_gone_already_ends_at_once():
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    assert subprocess.run(guarded(gone.pid, *SERVER), capture_output=True, timeout=60).returncode == 1


def test_the_child_outlives_the_thread_that_started_it():
    started: list[subprocess.Popen] = []

    def start() -> None:
        command = [*guarded(os.getpid(), *SERVER)]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
                                        env={**os.environ, "PYTHONUNBUFFERED": "1"}))  # fmt: skip

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    (child,) = started
    try:
        port = int(child.stdout.readline().split(" port ")[1].split()[0])  # "Serving HTTP on 127.0.0.1 port 1234 ..."
        for _ in range(5):  # it answers, after several of the watchdog's looks
            assert child.poll() is None
            with socket.create_connection(("127.0.0.1", port), timeout=10):
                threading.Event().wait(0.2)
    finally:
        child.kill()
        child.communicate()
