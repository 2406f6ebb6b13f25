"""The clock and the one line of JSON that every measured process ends with."""

import json
import time
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


def peak_mb() -> float:
    """The most memory this process has had, in MiB. (``ru_maxrss`` would count what the parent had before exec.)"""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024
