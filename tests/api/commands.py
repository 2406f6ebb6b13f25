"""Running the command line in a test."""

from __future__ import annotations

import json
from typing import Any

import pytest

from api.cli import main


def call(capsys: pytest.CaptureFixture[str], *arguments: Any) -> tuple[int, str, str]:
    """(exit code, stdout, stderr) of a command."""
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
        raise SystemExit(0)
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out, err


def answer(capsys: pytest.CaptureFixture[str], *arguments: Any) -> Any:
    """The JSON answer of a command that must succeed."""
    code, out, err = call(capsys, *arguments, "--json")
    assert code == 0, out + err
    return json.loads(out)


def refusal(capsys: pytest.CaptureFixture[str], *arguments: Any, code: int = 2) -> str:
    """The one line on stderr of a command that must fail."""
    ended, out, err = call(capsys, *arguments)
    lines = [line for line in err.strip().splitlines() if not line.startswith("warning: ")]
    assert (ended, out, len(lines)) == (code, "", 1), out + err
    assert lines[0].startswith("error: ")
    return lines[0]
