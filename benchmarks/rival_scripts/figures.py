"""The clock and the one line of JSON that every measured process ends with."""

import json
import multiprocessing
import time
from collections.abc import Iterator
from pathlib import Path


class Work:
    """Times the work from ``Work()`` to ``report``, and nothing before it."""

    def __init__(self) -> None:
        self.cpu = time.process_time()
        self.began = time.perf_counter()

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.began

    def report(self, tool: str, task: str, n: int, **more: object) -> None:
        """Print the figures of ``n`` frames, windows or steps; ``cpu_s`` is of this process, all its threads."""
        seconds, cpu = self.seconds, time.process_time() - self.cpu
        timing = {"per_second": n / seconds, "seconds": seconds, "cpu_s": cpu}
        print(json.dumps({"tool": tool, "task": task, "n": n, **timing, "peak_mb": peak_mb(), **more}))


def worker_mb() -> float | None:
    """The mean memory of this process's children, in MiB, what they share divided among those who share it (PSS)."""
    sizes = []
    for child in multiprocessing.active_children():
        lines = Path(f"/proc/{child.pid}/smaps_rollup").read_text().splitlines()
        sizes.append(next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024)
    return sum(sizes) / len(sizes) if sizes else None


def measured(work: Work, tool: str, stream: Iterator[int], limit: float, rounds: int, **more: object) -> None:
    """Report the rate of ``stream``, the windows of each batch for ever, in ``rounds`` of ``limit`` seconds.

    ``work`` began before the data was opened: ``first_batch_s`` is from then to the first batch.
    """
    next(stream)
    first, rates, windows = work.seconds, [], 0
    for _ in range(9):  # caches and workers warm
        next(stream)
    counted = Work()
    for _ in range(rounds):
        part, before = Work(), windows
        while part.seconds < limit:
            windows += next(stream)
        rates.append((windows - before) / part.seconds)
    found = {"first_batch_s": first, "worker_mb": worker_mb()}
    counted.report(tool, "windows", windows, rates=rates, **{k: v for k, v in found.items() if v is not None}, **more)


def peak_mb() -> float:
    """The most memory this process has had, in MiB. (``ru_maxrss`` would count what the parent had before exec.)"""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024
