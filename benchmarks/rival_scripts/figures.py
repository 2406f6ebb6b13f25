"""The clock and the one line of JSON that every rival's script ends with."""

import json
import resource
import time

_LOADED = time.perf_counter()


class Work:
    """Times the work from ``Work()`` to ``report``; what went before, imports included, is start-up."""

    def __init__(self) -> None:
        self.startup = time.perf_counter() - _LOADED
        self.cpu = time.process_time()
        self.began = time.perf_counter()

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.began

    def report(self, tool: str, task: str, n: int, **more: object) -> None:
        """Print the figures of ``n`` frames, windows or steps; ``cpu_s`` is of this process, all its threads."""
        seconds, cpu = self.seconds, time.process_time() - self.cpu
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        timing = {"per_second": n / seconds, "seconds": seconds, "cpu_s": cpu, "startup_s": self.startup}
        print(json.dumps({"tool": tool, "task": task, "n": n, **timing, "peak_mb": peak, **more}))
