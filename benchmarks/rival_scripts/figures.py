"""The clock and the one line of JSON that every rival's script ends with."""

import json
import resource
import time


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
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        timing = {"per_second": n / seconds, "seconds": seconds, "cpu_s": cpu}
        print(json.dumps({"tool": tool, "task": task, "n": n, **timing, "peak_mb": peak, **more}))
