"""What reads are answered from: a snapshot of the lake, looked after by one thread, and the keys beside it."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from anyio import CapacityLimiter, to_thread

from api.service.settings import Settings
from data_engine.errors import EngineError
from flows.paging import warm
from flows.query import score_metric
from storage.keys import KEYS, Keyring, keys
from storage.lake import Lake
from storage.snapshot import Snapshot

__all__ = ["Live"]

T = TypeVar("T")

_LOOKED_UP = (
    ("episodes", "episode_id"), ("episodes", "content_hash"), ("episodes", "parent"), ("annotations", "episode_id"),
    ("selections", "episode_id"),
)  # fmt: skip
"""What one episode is found by, with all that is known of it."""
_log = logging.getLogger("data_engine.service")


class Live:
    """The lake, and its newest snapshot. Reads take the snapshot there is and never wait for the next."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.lake = Lake.open(settings.lake)
        self.writing = threading.Lock()
        """Held by writes that look at what is there before they append: of those, one at a time."""
        self.refresh_s = 0.0
        self.on_warm: Callable[[], None] = lambda: None
        """Called once, when the first questions would be answered without delay."""
        self._snapshot: Snapshot | None = None
        self._keyring, self._keys_version = Keyring(()), None
        self._turn = threading.Lock()
        self._turns = CapacityLimiter(2 * len(os.sched_getaffinity(0)))
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look_after, name="snapshot", daemon=True)

    def start(self) -> None:
        """Begin to look after the snapshot; the first one is taken in the background too."""
        self._thread.start()

    def stop(self) -> None:
        """Stop looking. Returns once a look that has begun has ended."""
        self._stop.set()
        self._thread.join()

    @property
    def snapshot(self) -> Snapshot:
        """The newest snapshot. Raises ``EngineError`` (``starting``) before the first."""
        if self._snapshot is None:
            raise EngineError("the lake is still being read", code="starting", fix="ask again in a moment")
        return self._snapshot

    @property
    def keyring(self) -> Keyring:
        """The keys that count now."""
        return self._keyring

    @property
    def age_s(self) -> float:
        """How old the snapshot's look at the lake is; infinite before the first."""
        return time.monotonic() - self._snapshot.taken if self._snapshot is not None else float("inf")

    def refresh(self) -> None:
        """Look at the lake now: what was committed before this call is in the snapshot after it."""
        with self._turn:
            began = time.monotonic()
            version = self.lake.version(KEYS)
            if version != self._keys_version:
                self._keyring, self._keys_version = Keyring(keys(self.lake)), version
            new = Snapshot.take(self.lake, self._snapshot)
            if self._snapshot is not None and new is not self._snapshot:
                warm(new, self._snapshot)
            elif self._snapshot is None:
                new.slots()
                for table, name in _LOOKED_UP:
                    new.places_of(table, name, "")
            self._snapshot = new  # last: with it the service is ready
            self.refresh_s = time.monotonic() - began

    async def in_turn(self, answer: Callable[[], T]) -> T:
        """What ``answer`` returns, on a thread of its own. Two at once for each core, in the order in which they came:
        one waits for polars while the other speaks Python, and of more on a core all would end late.
        """
        return await to_thread.run_sync(answer, limiter=self._turns)

    def _look_after(self) -> None:
        warm = False
        while not self._stop.is_set():
            try:
                self.refresh()
                if not warm:
                    warm = True
                    self._import_scorers()
                    self.on_warm()
            except Exception as error:  # the store may be away for a while: the last snapshot stays, and ages
                _log.warning("the lake could not be looked at: %s", error)
            self._stop.wait(self.settings.refresh_s)

    def _import_scorers(self) -> None:
        """Import the scorers that there are scores of: the first question about one would wait seconds for torch."""
        for name in self.snapshot.pivot.scorers:
            with suppress(EngineError):  # one that is not installed here
                score_metric(name)
