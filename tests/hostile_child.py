"""Runs commands one after the other in a process that may have 6 GiB, and says what each came to.

``python -m tests.hostile_child PLAN`` reads ``[{"name", "commands": [[argument, ...], ...]}]`` from a JSON file and
prints a line of JSON for each name. A command that has the word PROPOSAL is given the options that the one before it
proposed, and is left out where that proposed none. The name is told first, so that whoever dies is known.
"""

from __future__ import annotations

import contextlib
import io
import json
import resource
import signal
import sys
import time
from pathlib import Path
from typing import Any

import yaml

from api.cli import main

MEMORY = 6 << 30
SECONDS = 120  # of a machine that does other things too; a source that hangs never ends


class Hangs(BaseException):
    """A command took longer than ``SECONDS``."""


def run(arguments: list[str]) -> dict[str, Any]:
    """``{"code", "out", "err"}`` of a command; code -1 where it hangs."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main(arguments)
    except SystemExit as ended:
        code = int(ended.code or 0)
    except Hangs:
        code = -1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return {"command": arguments, "code": code, "out": out.getvalue(), "err": err.getvalue()}


def peak(reset: bool = False) -> int:
    """Bytes of memory that this process held at most since the last reset."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM"))


def hang(*_: object) -> None:
    raise Hangs


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    signal.signal(signal.SIGALRM, hang)
    plan = Path(sys.argv[1])
    for item in json.loads(plan.read_text()):
        print(json.dumps({"begins": item["name"]}), flush=True)
        began, answers = time.perf_counter(), []
        peak(reset=True)
        for arguments in item["commands"]:
            if "PROPOSAL" in arguments:
                said = json.loads(answers[-1]["out"] or "{}").get("proposal")
                if said is None:
                    arguments = [a for a in arguments if a not in ("PROPOSAL", "--options")]
                else:
                    file = plan.with_name("options.yaml")
                    file.write_text(yaml.safe_dump(said))
                    arguments = [str(file) if a == "PROPOSAL" else a for a in arguments]
            answers.append(run(arguments))
        seconds = time.perf_counter() - began
        print(json.dumps({"name": item["name"], "answers": answers, "peak": peak(), "seconds": seconds}), flush=True)
