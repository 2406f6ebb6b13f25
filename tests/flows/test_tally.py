from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from flows.tally import Tally, teller


def test_workers_of_this_machine_tell_and_the_end_counts_whatever_was_told() -> None:
    with Tally([5, 10, 2], shared=True) as tally:
        assert tally.done == (0, 0)
        tell = teller(tally.ticket(1))
        tell(1, 30)
        tell(2, 40)
        assert tally.done == (3, 70)
        told = f"from flows.tally import teller; teller({tally.ticket(0)!r})(4, 100)"
        subprocess.run([sys.executable, "-c", told], check=True)
        assert tally.done == (7, 170)
        teller(tally.ticket(1))  # run again from its start
        assert tally.done == (4, 100)
        tally.end(0, 120)
        tally.end(1)
        tally.end(2, 9)
        assert tally.done == (17, 129)
        path = Path(str(tally.ticket(0)[0]))  # type: ignore[index]
        assert path.exists()
    assert not path.exists()


def test_a_worker_elsewhere_tells_nobody(tmp_path: Path) -> None:
    for ticket in (None, (str(tmp_path / "absent"), 0)):
        teller(ticket)(1, 2)
    with Tally([3], shared=False) as tally:
        assert tally.ticket(0) is None
        tally.end(0, 7)
        assert tally.done == (3, 7)
    with Tally([], shared=True) as tally:
        assert tally.done == (0, 0)
