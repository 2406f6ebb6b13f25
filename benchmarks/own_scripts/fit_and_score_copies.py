"""TIERS COPIES SCORER [DEVICE]: steps a second of fitting and scoring so many copies of the tiers set, streamed.

Each copy has noise of its own on state and action, a thousandth of the coordinate's deviation, so that no two steps are
alike. Batches of 36 episodes are made while they stream past, as flows read them from a lake; what it takes to make
them is timed apart and taken off. ``fit_s`` and ``score_s`` are CPU seconds.
"""

import sys
import time
from collections.abc import Iterator
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
    """The set ``times`` over; ``made_s`` is the CPU time that making the batches took so far."""

    def __init__(self, tiers: Tiers, times: int) -> None:
        self.tiers, self.times, self.made_s = tiers, times, 0.0
        self.spread = {
            name: np.std(np.concatenate([getattr(course, name) for course in tiers.courses]), axis=0)
            for name in ("state", "action")
        }

    def __iter__(self) -> Iterator[EpisodeBatch]:
        for copy in range(self.times):
            for first in range(0, len(self.tiers.courses), EPISODES):
                began = time.process_time()
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
                batch = batch_of(some, fps=20.0)
                self.made_s += time.process_time() - began
                yield batch


def main() -> None:
    root, times, name, device = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], (*sys.argv[4:], "cpu")[0]
    set_threads(1)  # what scorers declare, and so what flows give them
    tiers = Tiers(root)
    scorer = registry.make("scorers", name, {})
    few = tiers.batch(np.arange(0, len(tiers.courses), 12))
    scorer.score(few, scorer.fit([few], device=device), device=device)  # as warm-up
    steps = times * sum(len(course) for course in tiers.courses)
    work, copies = Work(), Copies(tiers, times)
    fit = scorer.fit(copies, device=device)
    fit_s = time.process_time() - work.cpu - copies.made_s
    for batch in copies:
        scorer.score(batch, fit, device=device)
    score_s = time.process_time() - work.cpu - copies.made_s - fit_s
    work.report("data-engine", name, steps, fit_s=fit_s, score_s=score_s, made_s=copies.made_s)


if __name__ == "__main__":
    main()
