"""What scores cost: every scorer without a learned form on 30,568 steps, and on ten and a hundred times as many.

    python benchmarks/speed.py [--quick] [--json] [--only SCORER ...]

The 180 Meta-World episodes and noisy copies of them, streamed; each scorer fits and scores in a process of its own, on
one thread. Pools and samples of a reference set are of bounded size, so the cost of a step should stay as it is while
the set grows: ``us a step`` says whether it does, and ``--quick`` asks that of ten times the steps only. Beside them
`rdq rank` on the same episodes. The learned forms are in benchmarks/learned.py, the composite's parts are all here.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks import quality_rivals, rivals
from benchmarks.learned import Tiers
from benchmarks.table import Machine, options_of

OWN = Path(__file__).parent / "own_scripts"
SCORERS = (
    "consistency", "action_divergence", "transition_diversity", "mutual_information", "task_match", "diversity",
    "smoothness", "extraneous",
)  # fmt: skip
LIMIT_S, LIMIT_MB = 20.0, 2048
SIZES = (1, 10, 100)


def main() -> int:
    parser = options_of(__doc__)
    parser.add_argument("--only", nargs="+", default=list(SCORERS), choices=SCORERS)
    asked = parser.parse_args()
    root = asked.data / "metaworld_tiers"
    if not root.exists():
        print(f"{root} is not there; give --data", file=sys.stderr)
        return 2
    machine = Machine()
    sizes = SIZES[:2] if asked.quick else SIZES
    found: dict[str, list[dict[str, Any]]] = {}
    if not asked.json:
        print(f"{'':22}" + "".join(f"{f'{30_568 * size:,} steps':>40}" for size in sizes))
        print(f"{'':22}" + f"{'fit s':>10}{'score s':>10}{'us a step':>11}{'MB':>9}" * len(sizes))
    for name in asked.only:
        found[name] = [
            rivals.measure(None, OWN / "fit_and_score_copies.py", root, size, name, timeout=3600) for size in sizes
        ]
        if not asked.json:
            print(f"{name:22}" + "".join(map(_cells, found[name])), flush=True)
    checker = rdq(Tiers(root))
    first = [figures[0] for figures in found.values() if "error" not in figures[0]]
    seconds, most = sum(each["cpu_s"] - each["made_s"] for each in first), max(each["peak_mb"] for each in first)
    growth = {
        name: _per_step(figures[-1]) / _per_step(figures[0])
        for name, figures in found.items()
        if not any("error" in each for each in figures)
    }
    if asked.json:
        totals = {"seconds": seconds, "peak_mb": most, "growth": growth, "rdq_s": checker}
        print(json.dumps({"scorers": found, **totals, "machine": machine.facts()}))
        return 0
    verdict = "reached" if seconds < LIMIT_S and most < LIMIT_MB else "MISSED"
    took = checker if isinstance(checker, str) else f"{checker:.1f} s"
    print(f"\nall {len(first)} on 30,568 steps: {seconds:.1f} s of CPU, {most:,.0f} MB at most; rdq rank: {took}")
    print(f"less than {LIMIT_S:g} s and {LIMIT_MB:,} MB are aimed at: {verdict}")
    print(f"cost of a step at {sizes[-1]} times the steps: " + ", ".join(f"{n} {g:.2f}x" for n, g in growth.items()))
    print(f"others used {machine.facts()['others']:.0%} of the machine meanwhile")
    return 0


def rdq(tiers: Tiers) -> float | str:
    """Seconds that the rival's ranking takes, with its start and the writing of the set, or why there are none."""
    try:
        quality_rivals.install("rdq")
    except RuntimeError as error:
        return f"cannot be installed: {error}"
    began = time.perf_counter()
    quality_rivals.rate("rdq", tiers.courses, 20.0)
    return time.perf_counter() - began


def _per_step(figures: dict[str, Any]) -> float:
    return (figures["fit_s"] + figures["score_s"]) / figures["n"]


def _cells(figures: dict[str, Any]) -> str:
    if "error" in figures:
        return f"  {figures['error'][:36]:38}"
    return (
        f"{figures['fit_s']:10.2f}{figures['score_s']:10.2f}{1e6 * _per_step(figures):11.1f}{figures['peak_mb']:9,.0f}"
    )


if __name__ == "__main__":
    sys.exit(main())
