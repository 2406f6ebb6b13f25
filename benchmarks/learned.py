"""How soon the learned forms tell good demonstrations from bad: AUC against the CPU time of their training.

    python benchmarks/learned.py [--quick] [--json] [--only SCORER ...]

The 180 Meta-World episodes of three tasks at three tiers, 30,568 steps. Each form is trained anew with bounds on its
iterations, the last of which is its own; a line says what that cost, whether the held-out loss or the bound ended it
and at which loss, and by metric the AUC inside tasks of expert against okay and of okay against worse.
``compatibility`` gets ten experts of each task for its base set and ``influence`` five for its targets, and neither is
judged by those. Beside ``compatibility`` stand the milliseconds in which its online call judges one demonstration, the
usual and the longest.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from benchmarks.measures import auc, batch_of
from benchmarks.planting import Course
from benchmarks.table import Machine, options_of
from data_engine.scoring import EpisodeBatch, Fit, Scorer
from flows.executor import set_threads
from scorers.action_divergence import ActionDivergence
from scorers.compatibility import Compatibility, judge
from scorers.influence import Influence
from scorers.mutual_information import MutualInformation

FORMS: tuple[tuple[type[Scorer], dict[str, Any], str, tuple[str, ...]], ...] = (  # settings, bound, metrics
    (ActionDivergence, {"cloning": True}, "iterations", ("cloning_error",)),
    (Compatibility, {}, "iterations", ("rejected", "bad_fraction", "compatibility")),
    (Influence, {}, "iterations", ("influence",)),
    (MutualInformation, {"codes": "vae"}, "vae_steps", ("information",)),
)
BOUNDS: tuple[int | None, ...] = (50, 150, 500, None)  # None: its own
LIMIT_S = 300.0


class Tiers:
    """The courses of the set, their tasks and tiers, and batches of some of them."""

    def __init__(self, root: Path) -> None:
        table = pq.read_table(root / "lerobot_v3/data/chunk-000/file-000.parquet")
        truth = json.loads((root / "truth.json").read_text())
        cuts = np.flatnonzero(np.diff(table["episode_index"].to_numpy())) + 1
        state, action = (
            np.split(np.stack(table[name].to_numpy(zero_copy_only=False)), cuts)
            for name in ("observation.state", "action")
        )
        self.task, self.tier = (np.array([each[name] for each in truth]) for name in ("task", "tier"))
        self.courses = [
            Course(s, a, np.arange(len(s)) / 20.0, str(task))
            for s, a, task in zip(state, action, self.task, strict=True)
        ]

    def batch(self, some: np.ndarray) -> EpisodeBatch:
        """The episodes at the indices ``some``."""
        return batch_of([self.courses[i] for i in some], fps=20.0)

    def experts(self, count: int) -> np.ndarray:
        """bool [E]: the first ``count`` experts of each task."""
        best = np.zeros(len(self.courses), bool)
        for task in np.unique(self.task):
            best[np.flatnonzero((self.task == task) & (self.tier == "expert"))[:count]] = True
        return best


def measured(tiers: Tiers, scorer: Scorer, metrics: Sequence[str]) -> dict[str, Any]:
    """CPU seconds to fit and to score, where the training ended, and by metric the two AUCs (``auc``)."""
    role = scorer.spec.base
    based = tiers.experts({"reference": 10, "targets": 5}.get(role, 0))
    rest = np.flatnonzero(~based)
    base, others = tiers.batch(np.flatnonzero(based)) if based.any() else None, tiers.batch(rest)
    began = time.process_time()
    if role == "targets":
        fit = scorer.fit([others], base=scorer.fit([base]))
    else:
        fit = scorer.fit([base if role == "reference" else others])
    fitted = time.process_time()
    rows = scorer.score(others, fit)
    scored = time.process_time()
    task, tier = tiers.task[rest], tiers.tier[rest]
    found: dict[str, dict[str, float]] = {}
    for metric in scorer.spec.metrics:
        if metric.name in metrics:
            value = np.array([next(row.value for row in each if row.metric == metric.name) for each in rows], float)
            badness = -value if metric.better == "higher" else value
            found[metric.name] = {
                f"{good}/{bad}": auc(badness[some], tier[some] == bad, task[some])
                for good, bad in (("expert", "okay"), ("okay", "worse"))
                for some in [np.isin(tier, (good, bad))]
            }
    online = {"judged_ms": judged(tiers, fit, rest)} if isinstance(scorer, Compatibility) else {}
    return {"fit_s": fitted - began, "score_s": scored - fitted, **ended(fit), **online, "auc": found}


def judged(tiers: Tiers, fit: Fit, some: np.ndarray) -> tuple[float, float]:
    """The median and the longest of the times, ms by the clock, in which each of ``some`` is judged alone."""
    times = []
    for i in some:
        one, began = tiers.courses[i], time.perf_counter()
        judge(fit, one.state, one.action, fps=20.0, task=one.task)
        times.append(1000 * (time.perf_counter() - began))
    return float(np.median(times)), max(times)


def ended(fit: Fit) -> dict[str, Any]:
    """The iterations of the longest training of ``fit``, the sum of held-out losses, and whether all converged."""
    facts = fit.meta["clones"]["trained"] if "clones" in fit.meta else next(iter(fit.meta["trained"].values()))
    return {
        "iterations": max(each["iterations"] for each in facts.values()),
        "held_out": sum(each["held_out"] for each in facts.values()),
        "converged": all(each["converged"] for each in facts.values()),
    }


def main() -> int:
    parser = options_of(__doc__)
    names = [form.spec.name for form, *_ in FORMS]
    parser.add_argument("--only", nargs="+", default=names, choices=names, help="these and no others")
    asked = parser.parse_args()
    root = asked.data / "metaworld_tiers"
    if not root.exists():
        print(f"{root} is not there; give --data", file=sys.stderr)
        return 2
    machine, tiers = Machine(), Tiers(root)
    set_threads(1)
    lines = []
    for form, settings, bound, metrics in FORMS:
        for limit in BOUNDS[:2] if asked.quick else BOUNDS:
            if form.spec.name not in asked.only:
                continue
            scorer = form(**settings, **({bound: limit} if limit else {}))
            line = {"what": form.spec.name, "bound": getattr(scorer, bound), **measured(tiers, scorer, metrics)}
            lines.append(line)
            if not asked.json:
                print(_text(line), flush=True)
    slow = [line["what"] for line in lines if line["fit_s"] > LIMIT_S]
    if asked.json:
        print(json.dumps({"lines": lines, "slow": slow, "machine": machine.facts()}))
    else:
        print(f"over {LIMIT_S:g} s: {', '.join(slow) or 'none'}; others used {machine.facts()['others']:.0%} meanwhile")
    return 0


def _text(line: dict[str, Any]) -> str:
    by = "the held-out loss" if line["converged"] else "the bound"
    ended = f"ended at {line['iterations']:>5} by {by}, {line['held_out']:.3f}"
    found = ", ".join(f"{name} {' '.join(f'{x:.3f}' for x in aucs.values())}" for name, aucs in line["auc"].items())
    online = "  one judged in {:.0f} ms, {:.0f} at most".format(*line["judged_ms"]) if "judged_ms" in line else ""
    return (
        f"{line['what']:19} bound {line['bound']:>5}  fit {line['fit_s']:6.1f} s  score {line['score_s']:4.1f} s  "
        f"{ended}  {found}{online}"
    )


if __name__ == "__main__":
    sys.exit(main())
