from __future__ import annotations

import signal
import subprocess
import sys

from flows.turns import turn

HOLD = "from flows.turns import turn\nwith turn('t', 1): print('mine', flush=True); input()"


def test_turns_are_as_many_as_said_and_are_free_again_after_a_kill(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with turn("t", 2) as first, turn("t", 2) as second:
        assert {first, second} == {0, 1}
    held = subprocess.Popen([sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert held.stdout.readline() == "mine\n"
    waits = subprocess.Popen([sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                             stderr=subprocess.PIPE, text=True)  # fmt: skip
    assert "waiting for a turn" in waits.stderr.readline()
    held.send_signal(signal.SIGKILL)
    assert waits.stdout.readline() == "mine\n"
    waits.communicate("\n")
    held.wait()
