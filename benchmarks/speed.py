"""What scores cost: every scorer without a learned form on 30,568 steps, and on ten and a hundred times as many.

    python benchmarks/speed.py [--quick] [--json] [--only SCORER ...] [--device cuda]

The 180 Meta-World episodes and noisy copies of them, streamed; each scorer fits and scores in a process of its own, on
one thread. Pools and samples of a reference set are of bounded size, so the cost of a step should stay as it is while
the set grows: ``us a step`` says whether it does (``--quick`` asks that of ten times the steps only), and what drawing
costs is told by the ranks and the AUC that the same scorer has with every step in its pool. Beside them, in the same
run: `rdq rank`, the KSG estimate on scikit-learn's trees, and DemInf's recipe in plain torch against ours.

On a machine with CUDA (or with ``--device``) the same command measures the device too: the kernels against its ceilings
(benchmarks/on_device.py), the scorers of dynamics, divergence and information on ten million steps, and what one stored
fit says there against what it says on the CPU. The learned forms are in benchmarks/learned.py.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import on_device, quality_rivals, rivals
from benchmarks.learned import Tiers
from benchmarks.measures import auc, spearman
from benchmarks.table import Machine, options_of
from data_engine import registry
from flows.executor import set_threads

OWN = Path(__file__).parent / "own_scripts"
SCORERS = (
    "integrity", "consistency", "action_divergence", "transition_diversity", "mutual_information", "task_match",
    "smoothness", "extraneous", "ending", "composite", "diversity",
)  # fmt: skip
LIMIT_S, LIMIT_MB = 20.0, 2048
STEPS, SIZES = 30_568, (1, 10, 100)
SAMPLED = {  # scorers that draw from their reference, and how they draw next to all of it
    "action_divergence": {"pool_size": 32_768},
    "transition_diversity": {"pool_size": 32_768},
    "mutual_information": {"passes": 32},
}
ON_DEVICE = ("consistency", "action_divergence", "transition_diversity", "mutual_information")
TOLERANCE = 1e-6  # of a score's difference between devices, relative to the largest score


def main() -> int:
    parser = options_of(__doc__)
    parser.add_argument("--only", nargs="+", default=[], choices=SCORERS, help="the table of these, and nothing else")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else None, help="measure this one too")
    asked = parser.parse_args()
    root = asked.data / "metaworld_tiers"
    if not root.exists():
        print(f"{root} is not there; give --data", file=sys.stderr)
        return 2
    set_threads(1)
    machine, tiers = Machine(), Tiers(root)
    say = (lambda *_: None) if asked.json else (lambda text: print(text, flush=True))
    sizes = SIZES[:2] if asked.quick else SIZES
    found = {"scorers": table(root, asked.only or SCORERS, sizes, say)}
    found |= totals(found["scorers"], sizes, say)
    if not asked.only:
        found["sampling"] = sampling(tiers, say)
        found["rivals"] = beside(asked.data, tiers, 400 if asked.quick else 4000, say)
        if asked.device:
            found["device"] = device(root, tiers, asked.device, asked.quick, say)
    found["machine"] = machine.facts()
    say(f"others used {found['machine']['others']:.0%} of the machine meanwhile")
    if asked.json:
        print(json.dumps(found))
    return 0


def table(root: Path, names: Any, sizes: Any, say: Any) -> dict[str, list[dict[str, Any]]]:
    """The figures of each scorer at each of ``sizes``."""
    say(f"{'CPU seconds':22}" + "".join(f"{f'{STEPS * size:,} steps':>40}" for size in sizes))
    say(f"{'':22}" + f"{'fit s':>10}{'score s':>10}{'us a step':>11}{'MB':>9}" * len(sizes))
    found = {}
    for name in names:
        found[name] = [_run(root, size, name) for size in sizes]
        say(f"{name:22}" + "".join(map(_cells, found[name])))
    return found


def totals(found: dict[str, list[dict[str, Any]]], sizes: Any, say: Any) -> dict[str, Any]:
    """What all scorers together need of time and memory for the set, and how the cost of a step grows with it."""
    first = [figures[0] for figures in found.values() if "error" not in figures[0]]
    seconds = sum(each["fit_s"] + each["score_s"] for each in first)
    most = max((each["peak_mb"] for each in first), default=0.0)
    whole = {name: figures for name, figures in found.items() if not any("error" in each for each in figures)}
    growth = {name: _per_step(figures[-1]) / _per_step(figures[0]) for name, figures in whole.items()}
    verdict = "reached" if seconds < LIMIT_S and most < LIMIT_MB else "MISSED"
    say(f"\nall {len(first)} on {STEPS:,} steps: {seconds:.1f} s of CPU on one core, {most:,.0f} MB at most")
    say(f"less than {LIMIT_S:g} s and {LIMIT_MB:,} MB are aimed at: {verdict}")
    say(f"cost of a step at {sizes[-1]} times the steps: " + ", ".join(f"{n} {g:.2f}x" for n, g in growth.items()))
    return {"seconds": seconds, "peak_mb": most, "growth": growth}


def sampling(tiers: Tiers, say: Any) -> dict[str, dict[str, float]]:
    """What it costs to hold steps against a draw of the reference: Spearman of the scores inside tasks with those
    against (nearly) all of it, the AUC of expert against okay episodes of both, and the time."""
    say(
        f"\n{'what drawing from the reference costs':46}{'rank with all':>20}{'AUC drawn':>12}{'all':>8}"
        f"{'CPU s drawn':>15}{'all':>8}"
    )
    batch, found = tiers.batch(np.arange(len(tiers.courses))), {}
    judged = np.isin(tiers.tier, ("expert", "okay"))
    for name, more in SAMPLED.items():
        values, seconds = [], []
        for options in ({}, more):
            scorer = registry.make("scorers", name, options)
            began = time.process_time()
            rows = scorer.score(batch, scorer.fit([batch]))
            seconds.append(time.process_time() - began)
            sign = -1.0 if scorer.spec.metrics[0].better == "higher" else 1.0
            values.append(sign * np.array([row[0].value for row in rows], dtype=float))
        aucs = [auc(each[judged], tiers.tier[judged] == "okay", tiers.task[judged]) for each in values]
        found[name] = {
            "spearman": spearman(*values, tiers.task),
            "auc": aucs[0],
            "auc_all": aucs[1],
            "seconds": seconds[0],
            "seconds_all": seconds[1],
        }
        what = ", ".join(f"{option} {value:,}" for option, value in more.items())
        say(
            f"{f'{name} ({what})':46}{found[name]['spearman']:20.4f}{aucs[0]:12.3f}{aucs[1]:8.3f}"
            f"{seconds[0]:15.1f}{seconds[1]:8.1f}"
        )
    return found


def beside(data: Path, tiers: Tiers, training: int, say: Any) -> dict[str, Any]:
    """The rivals' seconds of CPU on the same set, and ours for the same problem."""
    root = data / "metaworld_tiers"
    coded = json.dumps({"codes": "vae", "vae_steps": training})
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        arrays = rivals.tiers_slice(data, Path(folder) / "tiers.npz", len(tiers.courses))
        codes = rivals.codes(arrays, Path(folder) / "codes.npz")
        found = {
            "rdq rank, with its start": rdq(tiers),
            "KSG kernel, one pass in batches of 1,024": rivals.measure(None, OWN / "ksg_kernel.py", codes, 1),
            "the same on scikit-learn's trees": rivals.ksg(codes, passes=1),
            f"mutual_information on VAE codes, {training:,} training steps": _run(
                root, 1, f"mutual_information={coded}"
            ),
            "DemInf's recipe in plain torch, as many": rivals.deminf(arrays, training),
        }
    say(f"\n{f'beside, {STEPS:,} steps':66}{'CPU s':>8}{'MB':>8}")
    for name, figures in found.items():
        if "error" in figures:
            say(f"{name:66}{figures['error']}")
        else:
            spent = figures["cpu_s"] - figures.get("made_s", 0.0)
            size = f"{figures['peak_mb']:8,.0f}" if "peak_mb" in figures else ""
            say(f"{name:66}{spent:8.2f}{size}")
    return found


def rdq(tiers: Tiers) -> dict[str, Any]:
    """Seconds that the rival's ranking takes, with its start and the writing of the set, or an ``error``."""
    try:
        quality_rivals.install("rdq")
        began, before = time.perf_counter(), os.times()
        quality_rivals.rate("rdq", tiers.courses, 20.0)
    except RuntimeError as error:
        return {"error": str(error).splitlines()[0]}
    after = os.times()
    spent = after.children_user + after.children_system - before.children_user - before.children_system
    return {"seconds": time.perf_counter() - began, "cpu_s": spent}


def device(root: Path, tiers: Tiers, name: str, quick: bool, say: Any) -> dict[str, Any]:
    """Kernels, whole scorers on ten million steps (30,568 on a CPU), and parity of what one fit says."""
    kernels = on_device.measured(name, on_device.default_steps(name, quick), quick)
    say("\n" + on_device.text(kernels))
    times = 1 if name == "cpu" else 10 if quick else -(-10_000_000 // STEPS)
    say(f"\n{f'scorers on {name}, {times * STEPS:,} steps':44}{'s':>9}{'CPU s':>9}{'MB':>8}{'from the CPU':>15}")
    scorers = {}
    for scorer in ON_DEVICE:
        figures = _run(root, times, scorer, name)
        figures["difference"] = parity(tiers, scorer, name)
        scorers[scorer] = figures
        said = "" if figures["difference"] <= TOLERANCE else f" MISSED, {TOLERANCE:g} is tolerated"
        say(
            f"{scorer:44}{figures['error']}"
            if "error" in figures
            else f"{scorer:44}{figures['wall_s']:9.1f}{figures['fit_s'] + figures['score_s']:9.1f}"
            f"{figures['peak_mb']:8,.0f}{figures['difference']:15.1e}{said}"
        )
    return {"kernels": kernels, "scorers": scorers}


def parity(tiers: Tiers, name: str, there: str) -> float:
    """The largest difference between what one fit of ``name`` says of any metric on the CPU and ``there``, relative to
    the largest value of the metric; infinite where only one says something."""
    scorer, batch = registry.make("scorers", name), tiers.batch(np.arange(len(tiers.courses)))
    fit = scorer.fit([batch])
    here, other = (
        np.array([[row.value for row in rows] for rows in scorer.score(batch, fit, device=each)], dtype=float)
        for each in ("cpu", there)
    )
    return on_device.difference(list(here.T), list(other.T))


def _run(root: Path, times: int, scorer: str, device: str = "cpu") -> dict[str, Any]:
    return rivals.measure(None, OWN / "fit_and_score_copies.py", root, times, scorer, device, timeout=3600)


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
