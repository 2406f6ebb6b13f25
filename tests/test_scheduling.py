from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

CONFTEST = """
from pathlib import Path
import tests.scheduling
tests.scheduling._shares = lambda module: 'scope="module"' in Path(module).read_text()

def pytest_xdist_make_scheduler(config, log):
    return tests.scheduling.Scheduling(config, log)
"""
TESTS = """
import os, signal, pytest
@pytest.fixture{scope}
def made():
    return 1
@pytest.mark.parametrize("number", range({count}))
def test_it(made, number):
    if number in {crash}:
        os.kill(os.getpid(), signal.SIGSEGV)
"""


@pytest.mark.parametrize(("count", "crash"), [(20, {7}), (3, {0, 1, 2})])
@pytest.mark.parametrize("scope", ["", '(scope="module")'])
def test_where_a_worker_crashes_the_rest_is_run_once_and_the_end_is_reached(tmp_path, scope, count, crash):
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "pytest.ini").write_text("[pytest]")
    for name in "ab":
        text = TESTS.format(scope=scope, count=count, crash=crash if name == "a" else {})
        (tmp_path / f"test_{name}.py").write_text(text)
    command = [sys.executable, "-m", "pytest", "-n", "2", "-p", "no:cacheprovider", "-p", "no:randomly", "."]
    root = str(Path(__file__).parents[1])
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=100, env={"PYTHONPATH": root}, check=False
    )
    ended = {kind: int(number) for number, kind in re.findall(r"(\d+) (passed|failed)", done.stdout.splitlines()[-1])}
    assert ended == {"failed": len(crash), "passed": 2 * count - len(crash)}, done.stdout
