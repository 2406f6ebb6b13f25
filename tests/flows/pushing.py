"""A process of its own that has pairs compared, for a test to kill: ``python -m tests.flows.pushing LAKE URL``."""

from __future__ import annotations

import sys

from flows.preferences import Judging, judge
from flows.progress import silent
from storage.lake import Lake


def judging(url: str, pairs: int = 60, **changes: object) -> Judging:
    """How the tests have pairs judged."""
    endpoint = {"url": url, "model": "vlm", "pause_s": 0.01, "concurrency": 4, **changes.pop("endpoint", {})}
    return Judging.model_validate({"endpoint": endpoint, "pairs": pairs, **changes})


if __name__ == "__main__":
    lake = Lake.open(sys.argv[1])
    judge(lake, judging(sys.argv[2]), lake.episodes(), progress=silent(), run_id="killed")
