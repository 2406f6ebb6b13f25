"""Code inside which no thread of the process may collect cyclic garbage.

A library with one lock for all of its objects (h5py) needs that lock to free any of them. Where it calls back into
Python with the lock held, to read a file over the network, and the thread that serves the read happens to collect such
an object, each waits for the other for ever (h5py's documentation, "Python file-like objects"; h5py issue 2019).
"""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["uncollected"]

_LONGEST_COLLECTION_S = 60.0
_lock = threading.RLock()  # a finaliser may come here while its thread is here
_inside = 0
_was_on = False


@contextmanager
def uncollected() -> Iterator[None]:
    """Inside, no collection starts by itself, and none that had begun goes on. Nests, over all threads together.

    What becomes garbage meanwhile is freed after it, by the next collection of whoever allocates.
    """
    global _inside, _was_on
    with _lock:
        if not _inside:
            _was_on = gc.isenabled()
            gc.disable()
        _inside += 1
    try:
        _settle()
        yield
    finally:
        with _lock:
            _inside -= 1
            if not _inside and _was_on:
                gc.enable()


def _settle() -> None:
    """Wait until a collection of another thread has ended: one of ours runs only where no other does."""
    latest = time.monotonic() + _LONGEST_COLLECTION_S  # and where a finaliser calls us, the other one is our own
    while True:
        before = gc.get_stats()[0]["collections"]
        gc.collect(0)
        if gc.get_stats()[0]["collections"] > before or time.monotonic() > latest:
            return
        time.sleep(0.001)
