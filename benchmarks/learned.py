"""How soon the learned forms tell good demonstrations from bad: AUC against the CPU time of their training.

    python benchmarks/learned.py [--quick] [--json]

The 180 Meta-World episodes of three tasks at three tiers, 30,568 steps. Each form is trained anew with a bound on its
iterations, and then for as long as its held-out loss falls; a line says what that cost, the loss it ended at, and the
AUC inside tasks of expert against okay and of okay against worse. ``compatibility`` gets ten experts of each
task for its base set and ``influence`` five for its targets, and neither is judged by those.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from benchmarks.measures import auc, batch_of
from benchmarks.planting import Course
from benchmarks.table import Machine, options
from data_engine.scoring import EpisodeBatch, Scorer
from flows.executor import set_threads
from scorers.action_divergence import ActionDivergence
from scorers.compatibility import Compatibility
from scorers.influence import Influence
from scorers.mutual_information import MutualInformation

BOUNDS = (50, 150, 500, 3000)
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


def measured(tiers: Tiers, scorer: Scorer, metric: str) -> dict[str, Any]:
    """CPU seconds to fit and to score, where the training ended, and the two AUCs."""
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
    better = next(each.better for each in scorer.spec.metrics if each.name == metric)
    value = np.array([next(row.value for row in found if row.metric == metric) for found in rows], dtype=float)
    badness = -value if better == "higher" else value
    (trained,) = fit.meta["clones"]["trained"].values() if "clones" in fit.meta else ({},)
    task, tier = tiers.task[rest], tiers.tier[rest]
    found = {}
    for good, bad in (("expert", "okay"), ("okay", "worse")):
        some = np.isin(tier, (good, bad))
        found[f"{good}/{bad}"] = auc(badness[some], tier[some] == bad, task[some])
    return {"fit_s": fitted - began, "score_s": scored - fitted, **trained, **found}


def main() -> int:
    asked = options(__doc__)
    root = asked.data / "metaworld_tiers"
    if not root.exists():
        print(f"{root} is not there; give --data", file=sys.stderr)
        return 2
    machine, tiers = Machine(), Tiers(root)
    set_threads(1)
    forms = {
        "action_divergence.cloning_error": lambda n: ActionDivergence(cloning=True, iterations=n),
        "compatibility.rejected": lambda n: Compatibility(iterations=n),
        "influence.influence": lambda n: Influence(iterations=n),
        "mutual_information.information": lambda n: MutualInformation(codes="vae", vae_steps=n),
    }
    lines = []
    for name, form in forms.items():
        for bound in BOUNDS[:2] if asked.quick else BOUNDS:
            line = {"what": name, "bound": bound, **measured(tiers, form(bound), name.partition(".")[2])}
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
    loss = line.get("held_out")
    ended = f"ended at {line.get('iterations', line['bound']):>4}" + (f", held-out loss {loss:.3f}" if loss else "")
    return (
        f"{line['what']:32} bound {line['bound']:>4}  fit {line['fit_s']:6.1f} s  score {line['score_s']:5.1f} s  "
        f"expert/okay {line['expert/okay']:.3f}  okay/worse {line['okay/worse']:.3f}  {ended}"
    )


if __name__ == "__main__":
    sys.exit(main())
