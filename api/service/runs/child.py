"""The process of one run: ``python -P -m flows.guard PID api.service.runs.child FOLDER``.

Reads ``request.json`` in the folder, says on stderr what a person should read, and leaves ``answer.json``: the result,
or the error with its code and fix. Exit 0 done, 1 failed.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from api.service.runs.work import Work, perform
from data_engine.errors import EngineError
from flows.runs import named

__all__ = ["main"]


def main(folder: Path) -> int:
    """Do what ``request.json`` says; the exit status."""
    request = json.loads((folder / "request.json").read_text())
    signal.signal(signal.SIGTERM, _interrupted)
    work: Any = TypeAdapter(Work).validate_python(request["work"])
    try:
        with named(request["run_id"]):
            answer = {"result": perform(request["lake"], work, request["flow_run"], request["gpu_runs"])}
    except KeyboardInterrupt:
        answer = {"error": {"code": "cancelled", "message": "cancelled", "fix": "start it again: it goes on"}}
    except EngineError as error:
        answer = {"error": error.as_dict()}
    except Exception as error:
        import traceback

        traceback.print_exc()
        answer = {"error": {"code": "internal", "message": f"{type(error).__name__}: {error}"[:500], "fix": None}}
    if "error" in answer:
        print(f"error: {answer['error']['message']}", file=sys.stderr, flush=True)
    written = folder / ".answer.json"
    written.write_text(json.dumps(answer, default=str))
    os.replace(written, folder / "answer.json")
    return 0 if "result" in answer else 1


def _interrupted(number: int, frame: Any) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
