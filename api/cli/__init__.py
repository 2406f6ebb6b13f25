"""The command line: ``data-engine VERB``. Reads a request, calls a flow, prints the answer.

Exit 0 done, 1 the run failed or found defects it was asked to gate on, 2 the request was wrong. With ``--json`` one
object on stdout and everything else on stderr; an error is ``{"error": {"code", "message", "fix"}}``. Heavy packages
(torch, Prefect, Ray) are imported by the verbs that need them only.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import click

from api.cli import (  # noqa: F401  (each hangs its verbs on the group)
    curation,
    data,
    evaluation,
    evidence,
    listings,
    preferences,
    schedules,
    serving,
)
from api.cli.verb import cli
from data_engine.errors import EngineError
from data_engine.outages import is_outage
from flows.progress import printable

__all__ = ["fail", "main"]


def main(argv: Sequence[str] | None = None) -> None:
    """The command line in this process, which it ends with 0, 1 or 2. (The console script: :mod:`api.supervised`.)"""
    arguments = list(sys.argv[1:] if argv is None else argv)
    as_json = "--json" in arguments
    try:
        cli.main(args=arguments, prog_name="data-engine", standalone_mode=False)
        sys.stdout.flush()
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(2)
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        fix = f"see `{context.command_path} --help`" if context else None
        message = " ".join(error.format_message().split()).rstrip(".")
        sys.exit(fail({"code": "bad_request", "message": message, "fix": fix}, 2, as_json))
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        fix = "run it again: it goes on where it was"
        sys.exit(fail({"code": "interrupted", "message": "interrupted", "fix": fix}, 1, as_json))
    except BrokenPipeError:  # whoever read the answer has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except EngineError as error:
        sys.exit(fail(error.as_dict(), error.exit_code, as_json))
    except Exception as error:
        if is_outage(error):
            message = f"a store did not answer: {' '.join(str(error).split())[:500]}"
            sys.exit(fail({"code": "unreachable", "message": message, "fix": "run it again: it goes on"}, 1, as_json))
        if os.environ.get("DATA_ENGINE_DEBUG"):
            raise
        message = f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"
        fix = "this is a defect of data-engine: DATA_ENGINE_DEBUG=1 shows where"
        sys.exit(fail({"code": "internal", "message": message, "fix": fix}, 1, as_json))


def fail(error: Mapping[str, Any], code: int, as_json: bool) -> int:
    """Print ``error`` (code, message, fix) as one line, or as the one object of ``--json``. Returns ``code``."""
    if as_json:
        print(json.dumps({"error": dict(error)}))
    else:
        fix = f" ({error['fix']})" if error.get("fix") else ""
        print(f"error: {printable(error['message'] + fix)}", file=sys.stderr)
    return code
