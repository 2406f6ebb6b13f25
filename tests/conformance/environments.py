"""Virtual environments for other people's software, kept beside the checkout's own and apart from it."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def environment(name: str, packages: Sequence[str]) -> Path:
    """The Python of an environment ``.venv-<name>`` at the repository root that has ``packages``, made once.

    Made anew where an earlier one was for other packages or was left half done. Raises ``RuntimeError`` with uv's own
    words where that fails (no network, say).
    """
    folder = ROOT / f".venv-{name}"
    python = folder / "bin" / "python"
    wanted = hashlib.sha256(" ".join([sys.version, *packages]).encode()).hexdigest()
    mark = folder / "made-for"
    if mark.exists() and mark.read_text() == wanted and python.exists():
        return python
    shutil.rmtree(folder, ignore_errors=True)
    uv = _uv()
    _run([uv, "venv", "--quiet", "--python", sys.executable, str(folder)])
    _run([uv, "pip", "install", "--quiet", "--python", str(python), *packages])
    mark.write_text(wanted)
    return python


def _uv() -> str:
    beside = Path(sys.executable).parent / "uv"
    found = str(beside) if beside.exists() else shutil.which("uv")
    if found is None:
        raise RuntimeError("uv is not installed")
    return found


def _run(command: Sequence[str]) -> None:
    environ = {key: value for key, value in os.environ.items() if key not in ("VIRTUAL_ENV", "PYTHONPATH")}
    done = subprocess.run(command, capture_output=True, text=True, env=environ, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
