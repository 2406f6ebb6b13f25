"""Turns at what a machine has few of: its GPUs.

A turn is a lock on a file that the kernel lets go of with the process, however that ends: no lease is left behind, and
nobody waits for the dead. The files lie in the user's cache, so that every lake and every service of theirs counts.
"""

from __future__ import annotations

import fcntl
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

__all__ = ["gpu_turn", "turn"]

_LOOK_S = 0.2


def gpu_turn(count: int) -> Any:
    """One of ``count`` turns to compute where this machine has a GPU; at once where it has none."""
    from flows.score import device

    return turn("gpu", count) if device() == "cuda" else nullcontext()


@contextmanager
def turn(name: str, count: int) -> Iterator[int]:
    """Hold one of ``count`` turns of that name, once one is free; which one. Says on stderr that it waits."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "data-engine" / "turns"
    cache.mkdir(parents=True, exist_ok=True)
    said = False
    while True:
        for place in range(count):
            with (cache / f"{name}-{place}.lock").open("w") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue
                yield place
                return
        if not said:
            print(f"waiting for a turn: {count} of {count} ({name}) are taken", file=sys.stderr, flush=True)
            said = True
        time.sleep(_LOOK_S)
