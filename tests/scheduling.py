"""Which worker runs which test, and what happens to the tests of one that crashed."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from xdist.scheduler import LoadScopeScheduling
from xdist.workermanage import WorkerController

__all__ = ["Scheduling"]


class Scheduling(LoadScopeScheduling):
    """Tests go to whichever worker is free, but those of a module with fixtures of its own together: made once.

    Where a worker crashes, xdist's own gives the crashed test out again, and also tests that are done: they start
    nothing, and everybody waits for ever. Here the others go on with what is left.
    """

    def remove_node(self, node: WorkerController) -> str | None:
        left = {
            scope: {test: done for test, done in unit.items() if not done}
            for scope, unit in self.assigned_work.pop(node).items()
        }
        crashed = next((test for unit in left.values() for test in unit), None)
        if crashed is not None:
            for unit in left.values():
                unit.pop(crashed, None)
            self.workqueue.update({scope: unit for scope, unit in left.items() if unit})
            for other in self.assigned_work:
                self._reschedule(other)
        return crashed

    def schedule(self) -> None:
        super().schedule()
        for node in self.nodes:  # one that took a crashed one's place has one unit now, and begins with the second
            self._reschedule(node)

    def _split_scope(self, nodeid: str) -> str:
        module = nodeid.partition("::")[0]
        return module if _shares(module) else nodeid


@cache
def _shares(module: str) -> bool:
    return 'scope="module"' in (Path(__file__).parents[1] / module).read_text()
