"""Children die with their parent: a killed run leaves no process behind.

A watchdog thread in the child asks every 0.2 s whether its parent is still there. (Linux's parent-death signal fires
when the *thread* that started the child ends, which a flow engine's worker threads do.) ``python -P -m flows.guard PID
MODULE ARGS...`` runs any module that way.
"""

from __future__ import annotations

import os
import runpy
import sys
import threading
import time

__all__ = ["die_with_parent"]


def die_with_parent(parent: int) -> None:
    """End this process within 0.2 s of the end of ``parent``, the pid of the process that started it."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.2)
        os._exit(1)

    threading.Thread(target=watch, name="die-with-parent", daemon=True).start()


if __name__ == "__main__":
    die_with_parent(int(sys.argv[1]))
    module, sys.argv = sys.argv[2], sys.argv[2:]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
