"""How shards are run: in this process, in a pool of processes, or on Ray. Same shards, same results, any executor.

A shard is a fingerprint and a payload that pickles. Its function is named ``module:function`` and called as
``function(lake, payload, fingerprint, cpus)``; what it returns (plain JSON) is written to the ledger after its files
exist, so a run that was cut off finds what is done and goes on from there.
"""

from __future__ import annotations

import ctypes
import importlib
import math
import os
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pyarrow as pa

from data_engine.errors import EngineError, RequestError
from data_engine.scoring import Resources
from flows.apart import expendable
from flows.guard import die_with_parent
from flows.progress import Progress
from flows.tally import Tally, Ticket
from storage.lake import Lake

__all__ = ["Executor", "Local", "Shard", "execute", "executor", "run_shards", "set_threads"]


ONE_CPU = Resources()
_WORTH_S = 3.0  # of work that pays for the start of one more process, which takes 1.6 s of computing


@dataclass(frozen=True)
class Shard:
    """A unit of work, named by what it is made from: equal fingerprints give equal results.

    ``size``: its episodes, where its function tells how far it is by ``payload["ticket"]`` (:mod:`flows.tally`).
    """

    fingerprint: str
    payload: Mapping[str, Any] = field(default_factory=dict)
    size: int | None = None


class Executor(ABC):
    """Runs shards, each at most once at a time, and yields ``(index, result)`` as they end."""

    @abstractmethod
    def run(
        self, lake: Lake, function: str, shards: Sequence[Shard], resources: Resources
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        """Run ``shards``; an error of the function itself is raised, not retried."""

    def close(self) -> None:  # noqa: B027  (nothing to give back is the usual case)
        """Give back what the executor holds."""

    def __enter__(self) -> Executor:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Local(Executor):
    """This process, or a pool of spawned ones that die with it.

    ``workers``: so many spawned ones, or this process alone for 1. None: this process, which spawns others to help it,
    up to one a core, where the shards it has done show that the rest takes long enough to pay for their start.
    """

    def __init__(self, workers: int | None = 1) -> None:
        self.workers = workers

    def run(
        self, lake: Lake, function: str, shards: Sequence[Shard], resources: Resources
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        """See :class:`Executor`."""
        if self.workers is not None and min(self.workers, len(shards)) > 1:
            yield from self._pooled(lake, function, dict(enumerate(shards)), resources, min(self.workers, len(shards)))
            return
        began = time.monotonic()
        for index, shard in enumerate(shards):
            left = len(shards) - index
            helpers = 0 if self.workers else _helpers(left, (time.monotonic() - began) / max(index, 1), resources)
            if helpers:
                rest = dict(islice(enumerate(shards), index, None))
                yield from self._pooled(lake, function, rest, resources, helpers, helping=True)
                return
            yield index, execute(lake.uri, function, shard, resources.cpus)

    def _pooled(
        self,
        lake: Lake,
        function: str,
        shards: Mapping[int, Shard],
        resources: Resources,
        workers: int,
        helping: bool = False,
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        """``shards`` by index in ``workers`` processes; ``helping``: beside this one, which begins at the other end."""
        import multiprocessing
        from concurrent.futures import BrokenExecutor, ProcessPoolExecutor

        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, context, initializer=_worker, initargs=(os.getpid(),)) as pool:
            give = partial(pool.submit, execute, lake.uri, function)
            fed = _Fed(give, shards, resources.cpus, ahead=2 * workers, backwards=helping)
            try:
                while helping and (index := fed.take()) is not None:
                    yield index, execute(lake.uri, function, shards[index], resources.cpus)
                    yield from fed.ended(wait=False)
                yield from fed.ended(wait=True)
            except BrokenExecutor as error:
                raise EngineError(
                    "a worker was killed, perhaps for want of memory",
                    code="worker_killed",
                    fix="run it again with fewer --workers: it goes on",
                ) from error
            except BaseException:
                fed.stop()
                pool.shutdown(wait=False, cancel_futures=True)
                raise


class _Fed:
    """Shards that a pool is given a few at a time, ``ahead`` of its work, so that the others can be taken back.

    No future is cancelled for that: where a worker dies, a cancelled one keeps the pool of Python 3.11 from ending the
    other workers (InvalidStateError), and those keep this process from ending.
    """

    def __init__(
        self,
        give: Callable[[Shard, int], Future[Any]],
        shards: Mapping[int, Shard],
        cpus: int,
        *,
        ahead: int,
        backwards: bool,
    ) -> None:
        self._give, self._shards, self._cpus = give, shards, cpus
        self._waiting = deque(sorted(shards, reverse=backwards))
        self._over: SimpleQueue[tuple[int, Future[Any]]] = SimpleQueue()
        self._lock = threading.Lock()
        self._given = self._told = 0
        for _ in range(ahead):
            self._feed()

    def take(self) -> int | None:
        """The shard that the pool would be given last, which it is not given now; None where it has them all."""
        with self._lock:
            return self._waiting.pop() if self._waiting else None

    def stop(self) -> None:
        """Give the pool no more."""
        with self._lock:
            self._waiting.clear()

    def ended(self, *, wait: bool) -> Iterator[tuple[int, Any]]:
        """(index, result) of shards of the pool as they end, all of them or those that did; errors are raised."""
        while self._told < self._given and (wait or not self._over.empty()):
            index, future = self._over.get()
            self._told += 1
            yield index, future.result()

    def _feed(self) -> None:
        with self._lock:
            if not self._waiting:
                return
            index = self._waiting.popleft()
            self._given += 1
        try:
            future = self._give(self._shards[index], self._cpus)
        except RuntimeError as error:  # the pool broke, or was shut down
            future = Future()
            future.set_exception(error)
        future.add_done_callback(partial(self._end, index))

    def _end(self, index: int, future: Future[Any]) -> None:
        """In the pool's own thread: feed it before this is told, so that what was given is known once all is told."""
        if not future.cancelled() and future.exception() is None:
            self._feed()
        self._over.put((index, future))


def _worker(parent: int) -> None:
    die_with_parent(parent)
    expendable()


def _helpers(left: int, seconds: float, resources: Resources) -> int:
    """Processes to spawn beside this one for ``left`` shards that take ``seconds`` each here; 0 before one is known."""
    if resources.gpus:  # one device, which this process has
        return 0
    most = min(int(_cores() / max(resources.cpus, 1)), left) - 1
    room = int(_free_mb() / max(resources.memory_mb, 1))
    return max(min(most, room, int(left * seconds / _WORTH_S)), 0)


def _free_mb() -> float:
    """MiB that further processes may take: what the machine has left, and at most all that this container may have."""
    free = math.inf
    with suppress(OSError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = int(next(line for line in lines if line.startswith("MemAvailable")).split()[1]) / 1024
    with suppress(OSError, ValueError):  # "max" where there is no limit
        free = min(free, int(Path("/sys/fs/cgroup/memory.max").read_text()) / 2**20)
    return free


def _cores() -> float:
    """Cores that this process may use: of its affinity and its container's quota."""
    cores = float(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    with suppress(OSError, ValueError):  # "max 100000" where there is no quota
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        cores = min(cores, int(quota) / int(period))
    return cores


def executor(name: str | None = None, workers: int | None = None) -> Executor:
    """The executor called ``name``: ``local`` or ``ray``; default: as ``DATA_ENGINE_EXECUTOR`` says, else ``local``.

    ``workers``: None for as many as pay, on Ray one a CPU.
    """
    name = name or os.environ.get("DATA_ENGINE_EXECUTOR") or "local"
    if name == "local":
        return Local(workers)
    if name == "ray":
        from flows.ray_executor import Ray

        return Ray(workers)
    raise RequestError(f"unknown executor {name!r}", code="unknown_executor", fix="local or ray")


def run_shards(
    lake: Lake,
    function: str,
    shards: Sequence[Shard],
    *,
    on: Executor,
    progress: Progress,
    title: str,
    resources: Resources = ONE_CPU,
) -> list[dict[str, Any]]:
    """The result of every shard, in order; those that the ledger knows as done are not run again."""
    with ThreadPoolExecutor(1 if lake.is_local else 16) as pool:  # a store is asked for each, over the network
        results: list[dict[str, Any] | None] = list(pool.map(lake.done, [shard.fingerprint for shard in shards]))
    todo = [index for index, result in enumerate(results) if result is None]
    telling = any(shard.size is not None for shard in shards)
    sizes = [1 if shard.size is None else shard.size for shard in shards]
    with Tally(sizes, shared=telling and (progress.bars or progress.lines)) as tally:
        for index in sorted(set(range(len(shards))).difference(todo)):
            tally.end(index)
        parts = [_sent(shards[index], tally.ticket(index)) for index in todo]
        with progress.stage(title, sum(sizes), lambda: tally.done, "episodes" if telling else ""):
            for index, result in on.run(lake, function, parts, resources):
                results[todo[index]] = result
                tally.end(todo[index], result.get("steps", 0) if telling else 0)
    return [result for result in results if result is not None]


def _sent(shard: Shard, ticket: Ticket | None) -> Shard:
    return shard if ticket is None else replace(shard, payload={**shard.payload, "ticket": ticket})


@lru_cache(maxsize=4)
def _lake(uri: str) -> Lake:
    return Lake.open(uri)


def execute(lake_uri: str, function: str, shard: Shard, cpus: int) -> dict[str, Any]:
    """Run one shard in this process and write its result to the ledger."""
    module, _, name = function.partition(":")
    work = getattr(importlib.import_module(module), name)
    lake = _lake(lake_uri)
    result = work(lake, shard.payload, shard.fingerprint, cpus)
    lake.mark_done(shard.fingerprint, result)
    _give_back()
    return result


def _give_back() -> None:
    """Hand memory that a shard has freed to the system: what allocators keep, in ever smaller pieces, adds up.

    Without it a process was measured to grow from 350 to 430 MB over 34 shards, with it to stay below 350.
    """
    pa.default_memory_pool().release_unused()
    with suppress(AttributeError, OSError):  # only glibc has it
        ctypes.CDLL(None).malloc_trim(0)


def set_threads(cpus: int) -> None:
    """Fix the threads of torch and of numpy's BLAS at what the scorer declares, so that sums round alike under every
    executor, and so that BLAS, whose threads wait by spinning, takes no more of a busy machine than it was given: a
    singular value decomposition of 180 rows was measured at 0.6 s there, and at 12 ms by one thread."""
    import torch
    from threadpoolctl import threadpool_limits

    torch.set_num_threads(max(cpus, 1))
    threadpool_limits(max(cpus, 1), "blas")
