"""The console script: the command line in a child of a small process that waits for it.

A C library that crashes over a stranger's file, or never returns, ends the child alone. Verbs that read sources are
then run once more with every source read in processes apart (:mod:`flows.apart`), which find the episode that is to
blame; any other verb becomes one line. Nothing heavy is imported here: the fork is safe and takes a millisecond.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable

__all__ = ["main", "supervise"]

_APART = "DATA_ENGINE_READ_APART"  # as in flows.apart: sources are read apart from the start
_SUPERVISED = "DATA_ENGINE_SUPERVISED"  # as there: the pid of a process that may end itself where it gets nowhere
_CRASHES = {signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGILL, signal.SIGFPE, signal.SIGPROF}
_READING = {"ingest", "survey", "curate"}  # they can be run again at any point, and go on from there
_PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)


def main() -> None:
    """``data-engine``: ends the process with 0, 1 or 2, or by the signal that somebody sent."""
    ended = supervise(_run)
    if ended in _CRASHES and _APART not in os.environ and _READING.intersection(sys.argv[1:]):
        os.environ[_APART] = "1"
        ended = supervise(_run)
    if ended in _CRASHES:
        from api.cli import fail

        name = signal.Signals(ended).name
        fix = "a file that it read is damaged, or this is a defect of a library"
        sys.exit(
            fail({"code": "crashed", "message": f"the process ended ({name})", "fix": fix}, 1, "--json" in sys.argv)
        )
    if isinstance(ended, signal.Signals):
        if ended != signal.SIGKILL:
            signal.signal(ended, signal.SIG_DFL)
        os.kill(os.getpid(), ended)
    sys.exit(ended)


def _run() -> None:
    from api.cli import main

    main()


def supervise(work: Callable[[], None]) -> int | signal.Signals:
    """How ``work()`` ended in a child of this process: its exit status, or the signal that ended it.

    Signals to this process are passed on, except those of a terminal, which reach the child by themselves. The child
    dies with this process. Where the system has no such waiting, ``work`` runs in this process.
    """
    if not hasattr(signal, "sigwaitinfo"):
        work()
        return 0
    waited = {signal.SIGCHLD, *_PASSED_ON}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, waited)
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        _die_with(parent)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        os.environ[_SUPERVISED] = str(os.getpid())
        work()
        sys.exit(0)
    while True:
        seen = signal.sigwaitinfo(waited)
        if seen.si_signo != signal.SIGCHLD:
            if seen.si_code <= 0:  # a process sent it, not the terminal
                os.kill(child, seen.si_signo)
            continue
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else signal.Signals(-code)


def _die_with(parent: int) -> None:
    """Have the kernel end this process with ``parent``, whose only thread started it."""
    import ctypes

    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
