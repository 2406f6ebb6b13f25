"""Work in a process of its own, whose death is an answer too: which signal ended it, and what it was reading.

One that computes without getting anywhere is ended as well.

The other process is a plain interpreter and no fork: threads and locks of this one do not come along, and the caller's
script is not run again. It ends with this one (:mod:`flows.guard`). Its start costs a second, so only what is known to
be fragile goes there, or everything where the environment says ``DATA_ENGINE_READ_APART``: after a crash of what was
not known to be (:mod:`api.supervised`), and in a service.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from multiprocessing.connection import Connection, Pipe
from typing import Any, TypeVar

import numpy as np

from data_engine.errors import EngineError
from data_engine.formats import RawFrames, SourceEpisode, Unreadable
from data_engine.fragile import Fragile, hear, reading, spared
from flows.guard import die_with_parent

__all__ = ["APART", "Crash", "apart", "carefully", "expendable", "serve", "watched"]

T = TypeVar("T")

APART = "DATA_ENGINE_READ_APART"  # in the environment: read every source apart
STUCK_S = 600.0  # of computing without progress: a damaged file can also send a library round in circles

_EXPENDABLE = "DATA_ENGINE_SUPERVISED"  # in the environment: the pid of a process whose end somebody waits for
_line: Connection | None = None  # to the process that waits for us
_stuck: float | None = None  # set where this process is to end after so long without progress


class Crash(Exception):
    """The other process died. ``how``: the signal's name, the exit status, or that it got nowhere.

    ``reading``: what it was :func:`data_engine.fragile.reading`.
    """

    def __init__(self, how: str, reading: str | None) -> None:
        super().__init__(how)
        self.how, self.reading = how, reading


def carefully(function: Callable[..., T], *arguments: Any) -> T:
    """``function(*arguments)`` in this process, or where it comes to something fragile, from its start again apart.

    What it did before must bear being done twice. Raises ``Crash`` where the other process died. A process that is
    expendable ends itself where it gets nowhere; another would hang over what nobody knew to be fragile.
    """
    if os.environ.get(APART):
        return apart(function, *arguments)
    try:
        with spared(), _limited():
            return function(*arguments)
    except Fragile:
        return apart(function, *arguments)


def apart(function: Callable[..., T], *arguments: Any) -> T:
    """``function(*arguments)`` in a process of its own; function, arguments and answer pickle.

    Raises what the function raises, ``Crash`` where the process died, and ``EngineError`` where none started. It costs
    a start of Python and its imports.
    """
    ours, theirs = Pipe()
    command = [sys.executable, "-P", "-c", f"from flows.apart import serve; serve({theirs.fileno()})"]
    null, last, started = subprocess.DEVNULL, None, False
    with ours, theirs, tempfile.TemporaryDirectory(prefix="data-engine-") as folder:
        child = subprocess.Popen(
            command, pass_fds=[theirs.fileno()], stdin=null, stdout=null, stderr=null,
            env={**os.environ, "TMPDIR": folder},
        )  # fmt: skip
        theirs.close()
        try:
            ours.send((os.getpid(), sys.path, STUCK_S))
            ours.send((function, arguments))
            while (message := ours.recv())[0] == "reading":
                started, last = True, message[1]
        except (EOFError, BrokenPipeError, ConnectionResetError):
            how = _how(child.wait())
            if not started:
                raise EngineError(f"a process to read in did not start ({how})", code="worker_failed") from None
            raise Crash(how, last) from None
        finally:
            child.kill()
            child.wait()
    kind, value = message
    if kind == "failed":
        raise value
    return value


def expendable() -> None:
    """Say of this process that somebody waits for it and knows what to do if it ends."""
    os.environ[_EXPENDABLE] = str(os.getpid())


@contextmanager
def _limited() -> Iterator[None]:
    """Inside, this process is ended after ``STUCK_S`` without progress, if it is expendable."""
    global _stuck
    if _line is not None or os.environ.get(_EXPENDABLE) != str(os.getpid()):
        yield
        return
    _stuck = STUCK_S
    hear(lambda _: _progress())
    _progress()
    try:
        yield
    finally:
        hear(None)
        signal.setitimer(signal.ITIMER_PROF, 0)
        _stuck = None


def _how(code: int) -> str:
    if code == -signal.SIGPROF:
        return f"no end of it in {STUCK_S:g} s of computing"
    return signal.Signals(-code).name if code < 0 else f"exit status {code}"


def _progress() -> None:
    """Put off the kernel's signal that ends this process; it comes also where a library never lets Python run again."""
    if _stuck is not None:
        signal.setitimer(signal.ITIMER_PROF, _stuck)


def watched(items: Iterable[SourceEpisode | Unreadable], keys: Sequence[str]) -> Iterator[SourceEpisode | Unreadable]:
    """The episodes ``items`` of ``keys``, in their order; each is spoken of (:func:`reading`) until the next's turn."""
    after = dict(zip(keys, [*keys[1:], None], strict=True))
    reading(keys[0] if keys else None)
    for item in items:
        yield item if _stuck is None else _ticking(item)
        reading(after.get(item.key))


def _ticking(item: SourceEpisode | Unreadable) -> SourceEpisode | Unreadable:
    """``item``, each of whose raw frames counts as progress."""
    if isinstance(item, Unreadable):
        return item
    cameras = {
        name: replace(camera, frames=partial(_ticked, camera.frames)) if isinstance(camera, RawFrames) else camera
        for name, camera in item.cameras.items()
    }
    return replace(item, cameras=cameras)


def _ticked(frames: Callable[[], Iterator[np.ndarray]]) -> Iterator[np.ndarray]:
    for frame in frames():
        _progress()
        yield frame


def serve(fd: int) -> None:
    """The other process: answer the one request that comes over the connection ``fd``."""
    global _line, _stuck
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the one that waits is interrupted too, and ends us
    _no_core_file()
    _line = Connection(fd)
    parent, sys.path[:], _stuck = _line.recv()
    die_with_parent(parent)
    hear(_tell)
    function, arguments = _line.recv()
    _tell(None)
    try:
        answer = ("done", function(*arguments))
    except Exception as error:
        answer = ("failed", _portable(error))
    _line.send(answer)


def _tell(what: str | None) -> None:
    assert _line is not None
    _line.send(("reading", what))
    _progress()


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
