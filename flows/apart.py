"""Work in a process of its own, whose death is an answer too: which signal ended it, and what it was reading.

The other process is a plain interpreter and no fork: threads and locks of this one do not come along, and the caller's
script is not run again. It ends with this one (:mod:`flows.guard`).
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from multiprocessing.connection import Connection, Pipe
from typing import Any, TypeVar

from data_engine.formats import SourceEpisode, Unreadable
from data_engine.fragile import Fragile, spared
from flows.guard import die_with_parent

__all__ = ["Crash", "apart", "carefully", "reading", "serve", "watched"]

T = TypeVar("T")

_line: Connection | None = None  # to the process that waits for us


class Crash(Exception):
    """The other process died. ``how``: the signal's name or the exit status; ``reading``: the last it spoke of."""

    def __init__(self, how: str, reading: str | None) -> None:
        super().__init__(how)
        self.how, self.reading = how, reading


def carefully(function: Callable[..., T], *arguments: Any) -> T:
    """``function(*arguments)`` in this process, or where it comes to something fragile, from its start again apart.

    What it did before must bear being done twice. Raises ``Crash`` where the other process died.
    """
    try:
        with spared():
            return function(*arguments)
    except Fragile:
        return apart(function, *arguments)


def apart(function: Callable[..., T], *arguments: Any) -> T:
    """``function(*arguments)`` in a process of its own; function, arguments and answer pickle.

    Raises what the function raises, and ``Crash`` where the process died. It costs a start of Python and its imports.
    """
    ours, theirs = Pipe()
    command = [sys.executable, "-P", "-c", f"from flows.apart import serve; serve({theirs.fileno()})"]
    null, last = subprocess.DEVNULL, None
    with ours, theirs, tempfile.TemporaryDirectory(prefix="data-engine-") as folder:
        child = subprocess.Popen(
            command, pass_fds=[theirs.fileno()], stdin=null, stdout=null, stderr=null,
            env={**os.environ, "TMPDIR": folder},
        )  # fmt: skip
        theirs.close()
        try:
            ours.send((os.getpid(), sys.path))
            ours.send((function, arguments))
            while True:
                kind, value = ours.recv()
                if kind == "done":
                    return value
                if kind == "failed":
                    raise value
                last = value
        except (EOFError, BrokenPipeError, ConnectionResetError):
            code = child.wait()
            raise Crash(signal.Signals(-code).name if code < 0 else f"exit status {code}", last) from None
        finally:
            child.kill()
            child.wait()


def reading(what: str | None) -> None:
    """Say what is read from now on: what is to blame if this process dies. Nothing, where nobody waits for it."""
    if _line is not None:
        _line.send(("reading", what))


def watched(items: Iterable[SourceEpisode | Unreadable], keys: Sequence[str]) -> Iterator[SourceEpisode | Unreadable]:
    """The episodes ``items`` of ``keys``, in their order; each is spoken of (:func:`reading`) until the next's turn."""
    after = dict(zip(keys, [*keys[1:], None], strict=True))
    reading(keys[0] if keys else None)
    for item in items:
        yield item
        reading(after.get(item.key))


def serve(fd: int) -> None:
    """The other process: answer the one request that comes over the connection ``fd``."""
    global _line
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the one that waits is interrupted too, and ends us
    _no_core_file()
    _line = Connection(fd)
    parent, sys.path[:] = _line.recv()
    die_with_parent(parent)
    function, arguments = _line.recv()
    try:
        answer = ("done", function(*arguments))
    except Exception as error:
        answer = ("failed", _portable(error))
    _line.send(answer)


def _portable(error: Exception) -> Exception:
    """``error``, or one that says the same where it does not pickle."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def _no_core_file() -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
