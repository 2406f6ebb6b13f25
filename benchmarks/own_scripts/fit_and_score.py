"""SOURCE SCORER[=PARAMETERS]...: steps a second of fitting and scoring, from a LeRobot set's step tables to score rows.

``PARAMETERS`` are a JSON object.
"""

import json
import sys
import tempfile
from pathlib import Path

from benchmarks.own_scripts.lake import ingested
from benchmarks.rival_scripts.figures import Work
from data_engine import registry
from flows.executor import set_threads


def main() -> None:
    set_threads(1)  # what both scorers declare, and so what flows give them
    with tempfile.TemporaryDirectory() as folder:
        lake = ingested(Path(sys.argv[1]), Path(folder), "lerobot_v3")
        named = (each.partition("=") for each in sys.argv[2:])
        scorers = [registry.make("scorers", name, json.loads(given or "{}")) for name, _, given in named]
        episodes = lake.episodes().sort("content_hash")
        batches = list(lake.batches(episodes))
        for scorer in scorers:  # a few episodes, as warm-up
            few = list(lake.batches(episodes.head(8)))
            scorer.score(few[0], scorer.fit(few))
        work = Work()
        for scorer in scorers:
            fit = scorer.fit(batches)
            for batch in batches:
                scorer.score(batch, fit)
        work.report("data-engine", "fit and score", int(episodes["n_steps"].sum()))


if __name__ == "__main__":
    main()
