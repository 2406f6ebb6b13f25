"""TIERS COPIES SCORER[=PARAMETERS] [DEVICE]: fitting and scoring so many copies of the tiers set, streamed.

Each copy has noise of its own on state and action, a thousandth of the coordinate's deviation, so that no two steps are
alike. Batches of 36 episodes are made while they stream past, as flows read them from a lake; what it takes to make
them is timed apart and taken off. ``fit_s`` and ``score_s`` are CPU seconds, ``wall_s`` is that of both by the clock.
``PARAMETERS`` are a JSON object. A scorer that combines others' scores is given drawn ones.
"""

import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.learned import Tiers
from benchmarks.measures import batch_of
from benchmarks.rival_scripts.figures import Work
from data_engine import registry
from data_engine.scoring import EpisodeBatch
from flows.executor import set_threads

EPISODES = 36


class Copies:
    """The set ``times`` over, with ``scores`` of those names drawn; ``made_s`` is the CPU time that making the batches
    took so far, ``waited_s`` the time by the clock."""

    def __init__(self, tiers: Tiers, times: int, scores: Sequence[str] = ()) -> None:
        self.tiers, self.times, self.scores, self.made_s, self.waited_s = tiers, times, scores, 0.0, 0.0
        self.spread = {
            name: np.std(np.concatenate([getattr(course, name) for course in tiers.courses]), axis=0)
            for name in ("state", "action")
        }

    def __iter__(self) -> Iterator[EpisodeBatch]:
        for copy in range(self.times):
            for first in range(0, len(self.tiers.courses), EPISODES):
                began, waited = time.process_time(), time.perf_counter()
                rng = np.random.default_rng([copy, first])
                some = [
                    replace(
                        course,
                        **{
                            name: getattr(course, name) + 1e-3 * rng.standard_normal(spread.shape) * spread
                            for name, spread in self.spread.items()
                        },
                    )
                    for course in self.tiers.courses[first : first + EPISODES]
                ]
                drawn = {each: rng.random(len(some)) for each in self.scores}
                batch = replace(batch_of(some, fps=20.0), scores=drawn)
                self.made_s += time.process_time() - began
                self.waited_s += time.perf_counter() - waited
                yield batch


def main() -> None:
    root, times, named, device = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], (*sys.argv[4:], "cpu")[0]
    set_threads(1)  # what scorers declare, and so what flows give them
    tiers = Tiers(root)
    name, _, given = named.partition("=")
    scorer = registry.make("scorers", name, json.loads(given or "{}"))
    few = next(iter(Copies(tiers, 1, scorer.spec.needs.scores)))
    scorer.score(few, scorer.fit([few], device=device), device=device)  # as warm-up
    steps = times * sum(len(course) for course in tiers.courses)
    work, copies = Work(), Copies(tiers, times, scorer.spec.needs.scores)
    fit = scorer.fit(copies, device=device)
    fit_s = time.process_time() - work.cpu - copies.made_s
    for batch in copies:
        scorer.score(batch, fit, device=device)
    score_s = time.process_time() - work.cpu - copies.made_s - fit_s
    wall_s = work.seconds - copies.waited_s
    work.report("data-engine", name, steps, fit_s=fit_s, score_s=score_s, made_s=copies.made_s, wall_s=wall_s)


if __name__ == "__main__":
    main()
