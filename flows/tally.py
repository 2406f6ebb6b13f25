"""How far shards are while they run: a small mapped file that their workers write to and a bar reads.

A shard of one dataset may be all of it, and take an hour: a bar that moves with whole shards would say nothing. Workers
on other machines do not find the file; what they did counts when their shard ends.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TypeAlias

import numpy as np

__all__ = ["Tally", "Ticket", "teller"]

Ticket: TypeAlias = tuple[str, int]  # the file, and whose line in it


class Tally:
    """Episodes and steps done of shards of ``sizes`` episodes; ``shared`` with workers, or only told when one ends."""

    def __init__(self, sizes: Sequence[int], *, shared: bool) -> None:
        self.sizes = list(sizes)
        self._path: str | None = None
        self._counts: np.ndarray = np.zeros((len(self.sizes), 2), np.int64)
        if shared and self.sizes:
            handle, self._path = tempfile.mkstemp(prefix="data-engine-")
            os.close(handle)
            self._counts = np.memmap(self._path, np.int64, "w+", shape=self._counts.shape)

    def __enter__(self) -> Tally:
        return self

    def __exit__(self, *_: object) -> None:
        if self._path is not None:
            os.unlink(self._path)

    def ticket(self, index: int) -> Ticket | None:
        """What a shard takes along to tell how far it is."""
        return None if self._path is None else (self._path, index)

    def end(self, index: int, steps: int = 0) -> None:
        """The shard is done, whatever it told."""
        self._counts[index] = self.sizes[index], max(steps, self._counts[index, 1])

    @property
    def done(self) -> tuple[int, int]:
        """(episodes, steps) so far."""
        episodes, steps = self._counts.sum(axis=0).tolist() if self.sizes else (0, 0)
        return episodes, steps


def teller(ticket: Ticket | None) -> Callable[[int, int], None]:
    """A function to tell of episodes and their steps that are done; it starts over from nothing."""
    if ticket is not None:
        with suppress(OSError, ValueError):
            counts = np.memmap(ticket[0], np.int64, "r+").reshape(-1, 2)
            counts[ticket[1]] = 0

            def tell(episodes: int, steps: int) -> None:
                counts[ticket[1]] += episodes, steps

            return tell
    return lambda episodes, steps: None
