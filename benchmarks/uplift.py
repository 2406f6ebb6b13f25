"""What a selection is worth: behaviour cloning on what it keeps, rolled out in the simulator, against all the data.

    python benchmarks/uplift.py [--quick] [--cache DIR] [--sets mixed clean strategies pusht] [--budgets 0.5 0.25]
                                [--minutes N] [--json FILE]

Sets are recorded in Meta-World and PushT (``uplift_sets``). Each arm is a way to choose and a budget; its policies are
trained on what it keeps, several seeds of each task as one batched model, and rolled out from the same initial
conditions as every other arm's, beginning alike. Differences are paired by training (task and seed); the interval is a
bootstrap over trainings, and beside it stands the least true difference that this many trainings would have shown
(power 80 %). The recorded set is taken as it is: what another one would give is outside of the intervals.
``random`` draws anew for each seed. Label-free scores see states and actions; those that use labels are told a few good
demonstrations that nobody trains on; ``oracle`` knows which succeeded, then which had the least noise.

Outcomes are kept in ``--cache`` as they come, one JSON line an arm and task, so that a run that was cut off goes on.
Budgets are measured in the order asked for; after ``--minutes`` nothing new is begun and the tables show what is whole.
A full run takes hours.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import uplift_sets as sets
from benchmarks.acting import end_with_parent
from benchmarks.kept import Kept
from benchmarks.measures import baselines, batch_of, measure
from benchmarks.uplift_arms import ALL, METHODS, ORACLE, PARTS, QUICK, RIVAL, Arm, Found, Settings, arms, of_pusht
from benchmarks.uplift_report import report
from benchmarks.uplift_sets import Demonstration
from data_engine import registry
from data_engine.canonical import digest
from data_engine.reference import Reference
from data_engine.scoring import EpisodeBatch
from data_engine.view import fit_views
from flows.policy import Coordinates, Policy, PolicyConfig
from flows.rollout import roll

DATA = Path(__file__).resolve().parents[2] / "shared/data"
NO_TIME = "no time was left"

Each = Callable[[Callable[..., Any], Sequence[Any]], Iterable[Any]]


@dataclass(frozen=True)
class Judging:
    """A set of one task, and the method that is to order it before the time ``until`` (seconds since 1970)."""

    task: str
    demos: Sequence[Demonstration]
    targets: Sequence[Demonstration]
    method: str
    seed: int
    until: float = float("inf")


def badness(job: Judging) -> np.ndarray:
    """[E] float64, higher is left out first; what a score leaves undefined comes last of all. Raises whatever the
    method raises (it may not be installed), and ``RuntimeError`` where it says nothing of any episode."""
    courses, where = [demo.course for demo in job.demos], sets.stage(job.task)
    if job.method in ("shortest", "lowest jerk"):
        figures = baselines(courses, where.hand, job.seed)
        values = figures["length" if job.method == "shortest" else "log dimensionless jerk"].badness
    elif job.method == ORACLE:
        values = np.array([10.0 * (not demo.success) + demo.noise for demo in job.demos])
    elif job.method == RIVAL:
        from benchmarks.quality_rivals import rate

        values = rate(RIVAL, courses, where.fps)
    else:
        targets = batch_of([demo.course for demo in job.targets], fps=where.fps) if job.targets else None
        values = _scored(job.method, batch_of(courses, fps=where.fps), targets, job.seed)
    if np.isnan(values).all():
        raise RuntimeError("it is undefined for every episode")
    return np.where(np.isnan(values), np.inf, values)


def judged(job: Judging) -> np.ndarray | str:
    """:func:`badness`, or in one line why there is none: a method that cannot be had does not end a run."""
    import torch

    torch.set_num_threads(1)
    if time.time() > job.until:
        return NO_TIME
    try:
        return badness(job)
    except Exception as error:
        return " ".join(str(error).split())[:160] or type(error).__name__


def _scored(method: str, batch: EpisodeBatch, targets: EpisodeBatch | None, seed: int) -> np.ndarray:
    """[E] badness by ``SCORER`` (its headline metric) or ``SCORER.METRIC``."""
    name, _, which = method.partition(".")
    scorer = registry.make("scorers", name)
    if scorer.spec.base == "optional":
        parts = {metric.partition(".")[0] for metric in scorer.spec.needs.scores}
        found = measure(batch, [name, *sorted(parts)], seed=seed)
        failed = [f"{part}: {found.failed[part]}" for part in (name, *sorted(parts)) if part in found.failed]
        if failed:
            raise RuntimeError("; ".join(failed))
        return found.figures[method].badness
    if targets is None:
        raise RuntimeError("it needs targets")
    if scorer.spec.base == "reference":
        fit = scorer.fit([targets], seed=seed)
    else:
        fit = scorer.fit([batch], base=scorer.fit([targets], seed=seed), seed=seed)
    metric = next(each for each in scorer.spec.metrics if each.name == (which or scorer.spec.metrics[0].name))
    rows = [next(row for row in rows if row.metric == metric.name) for rows in scorer.score(batch, fit)]
    sign = -1.0 if metric.better == "higher" else 1.0
    return np.array([np.nan if row.value is None else sign * row.value for row in rows])


def keep(values: np.ndarray, budget: float, seed: int) -> np.ndarray:
    """bool [E]: the least bad, ``budget`` of them and at least two; ties are broken at random."""
    order = np.lexsort((np.random.default_rng([seed, 3]).random(len(values)), values))
    kept = np.zeros(len(values), bool)
    kept[order[: max(2, round(budget * len(values)))]] = True
    return kept


def trained(demos: Sequence[Demonstration], kept: np.ndarray, config: PolicyConfig, seed: int) -> list[Policy]:
    """A policy for each row of ``kept`` bool [K, E], trained on those episodes alone, all as one batched model.

    Each holds out a tenth of its episodes, another one for each row. Equal seeds begin alike, whatever is kept.
    """
    import torch

    from scorers.kernels import policy

    torch.set_num_threads(1)
    lengths = [len(demo.course) for demo in demos]
    owner, state = np.repeat(np.arange(len(demos)), lengths), np.concatenate([demo.course.state for demo in demos])
    action = np.concatenate([demo.course.action for demo in demos])
    batch = batch_of([demo.course for demo in demos], fps=20.0)  # a view's velocities are not used
    (view,) = fit_views(Reference([batch], seed=0, budget=len(state))).values()
    coordinates = Coordinates.of(view, state, action)
    chunk, known = policy.action_chunks(action, owner, np.concatenate([np.arange(n) for n in lengths]), config.horizon)
    rank = np.cumsum(kept, axis=1) - kept  # how many kept ones stand before
    stops = kept & (rank % 10 == np.arange(len(kept))[:, None] % np.minimum(kept.sum(axis=1, keepdims=True), 10))
    stops &= kept.sum(axis=1, keepdims=True) >= 5
    weights = policy.train(
        coordinates.see(state[:, None]), coordinates.mean(state, chunk), known, owner, kept & ~stops, stops,
        seed=seed, hidden=config.hidden, limit=config.limit, batch=128,
    ).weights  # fmt: skip
    shared = {name: weights[name] for name in ("mean", "deviation", "horizon")}
    return [
        Policy(config, coordinates, ("",), {n: x if n in shared else x[k : k + 1] for n, x in weights.items()}, {})
        for k in range(len(kept))
    ]


@dataclass(frozen=True)
class Trial:
    """An arm of one task: what its trainings learn from, bool [seeds, E], and what they are put through; not begun
    after ``until`` (seconds since 1970)."""

    task: str
    demos: Sequence[Demonstration]
    kept: np.ndarray
    how: Settings
    until: float = float("inf")


def tried(trial: Trial) -> dict[str, Any] | None:
    """What came of an arm: mean ``success`` and ``progress`` of each training, the share of good episodes that it
    kept, steps taken, and seconds of processor time for training and rollouts. None where no time was left."""
    if time.time() > trial.until:
        return None
    began = time.process_time()
    policies = trained(trial.demos, trial.kept, trial.how.config, trial.how.seed)
    middle = time.process_time()
    world, count = sets.world_of(trial.task), trial.how.rollouts
    found = [roll(policy, world, "", range(100_000 * seed, 100_000 * seed + count))
             for seed, policy in enumerate(policies)]  # fmt: skip
    good = np.array([demo.success for demo in trial.demos])
    return {
        "success": [float(np.mean([each.success for each in outcomes])) for outcomes in found],
        "progress": [float(np.mean([each.progress for each in outcomes])) for outcomes in found],
        "kept_good": float(np.mean([good[row].mean() for row in trial.kept])),
        "steps": sum(each.steps for outcomes in found for each in outcomes),
        "training_s": middle - began,
        "rollout_s": time.process_time() - middle,
    }


def gathered(
    part: str, task: str, how: Settings, cache: Path | None, data: Path, each: Each
) -> tuple[Sequence[Demonstration], Sequence[Demonstration]]:
    """The candidates and the targets of a set and task."""
    if part == sets.PUSHT:
        demos, targets = sets.pusht(how.candidates, how.targets, how.seed, data, cache)
        return demos, targets
    demos = sets.recorded(sets.plans(part, task, how.candidates, how.seed), cache, each)
    return demos, sets.recorded(sets.plans("targets", task, how.targets, how.seed), cache, each)


def measure_set(
    part: str, methods: Sequence[str], how: Settings, cache: Path | None, each: Each, data: Path = DATA,
    until: float = float("inf"),
) -> Found:  # fmt: skip
    """Train and roll out every arm of a set, as far as there is time."""
    known = Kept(cache / "uplift-outcomes.jsonl" if cache else None)
    found, asked = Found(), arms(part, methods, how.budgets)
    keys = {(arm, task): _key(part, task, arm, how) for arm in asked for task in how.tasks}
    left = [pair for pair in keys if known.get(keys[pair]) is None]
    trials: dict[tuple[Arm, str], Trial] = {}
    for task in sorted({task for _, task in left}, key=how.tasks.index):
        mine = [arm for arm, where in left if where == task]
        demos, targets = gathered(part, task, how, cache, data, each)
        told = list(dict.fromkeys(arm.method for arm in mine if arm.method not in (ALL, "random", *found.missing)))
        jobs = [Judging(task, demos, targets, method, how.seed, until) for method in told]
        worth = dict(zip(told, _judged(part, jobs, how, known, each), strict=True))
        found.missing |= {method: value for method, value in worth.items() if isinstance(value, str)}
        for arm in mine:
            if arm.method not in found.missing:
                trials[arm, task] = Trial(task, demos, _kept(task, len(demos), arm, how, worth), how, until)
    order = [pair for pair in left if pair in trials and pair[0].method not in found.missing]
    began = time.perf_counter()
    for (arm, task), facts in zip(order, each(tried, [trials[pair] for pair in order]), strict=True):
        if facts is None:
            continue
        known.put(keys[arm, task], part=part, task=task, **asdict(arm), **facts)
        print(
            f"{part} {task}: {arm.method} {arm.budget:.0%} at {time.perf_counter() - began:.0f} s (processor: training "
            f"{facts['training_s']:.0f} s, {facts['steps']} steps of rollouts {facts['rollout_s']:.0f} s)",
            file=sys.stderr,
            flush=True,
        )
    for arm in asked:
        rows = [known.get(keys[arm, task]) for task in how.tasks]
        whole = [row for row in rows if row is not None]
        if len(whole) == len(rows):
            found.success[arm] = [
                np.array(row[sets.stage(task).outcome]) for row, task in zip(whole, how.tasks, strict=True)
            ]
            found.kept_good[arm] = [row["kept_good"] for row in whole]
        elif arm.method not in found.missing:
            found.open.append(arm)
    return found


def _judged(part: str, jobs: Sequence[Judging], how: Settings, known: Kept, each: Each) -> list[np.ndarray | str]:
    """What each method says of a set, as it was said before or anew."""
    keys = [
        digest("uplift judgement", sets.VERSION, part, job.task, job.method, _version(job.method), job.seed,
               how.candidates, how.targets, length=16)
        for job in jobs
    ]  # fmt: skip
    new = [(key, job) for key, job in zip(keys, jobs, strict=True) if known.get(key) is None]
    fresh: dict[str, np.ndarray | str] = {}
    for (key, job), values in zip(new, each(judged, [job for _, job in new]), strict=True):
        fresh[key] = values
        if not isinstance(values, str):
            said = [value if np.isfinite(value) else None for value in values.tolist()]
            known.put(key, part=part, task=job.task, method=job.method, badness=said)
    return [fresh[key] if key in fresh else _told(known.get(key)) for key in keys]


def _told(row: dict[str, Any] | None) -> np.ndarray:
    assert row is not None
    return np.array([np.inf if value is None else value for value in row["badness"]])


def _version(method: str) -> list[str]:
    """Another version of a score is another method."""
    name = method.partition(".")[0]
    if name not in registry.names("scorers"):
        return []
    parts = sorted({metric.partition(".")[0] for metric in registry.load("scorers", name).spec.needs.scores})
    return [str(fact) for part in (name, *parts) for fact in
            (registry.load("scorers", part).spec.version, registry.make("scorers", part).config_hash)]  # fmt: skip


def versions(methods: Sequence[str]) -> str:
    """The scorers among ``methods`` with their versions, in brackets those that they combine."""
    found = []
    for name in dict.fromkeys(method.partition(".")[0] for method in methods):
        if name in registry.names("scorers"):
            spec = registry.load("scorers", name).spec
            parts = sorted({metric.partition(".")[0] for metric in spec.needs.scores})
            told = ", ".join(f"{part} {registry.load('scorers', part).spec.version}" for part in parts)
            found.append(f"{name} {spec.version}" + (f" ({told})" if told else ""))
    return ", ".join(found) or "no scorer"


def _key(part: str, task: str, arm: Arm, how: Settings) -> str:
    """What an outcome is kept under."""
    return digest("uplift", how.key, sets.VERSION, part, task, asdict(arm), _version(arm.method), length=16)


def _kept(task: str, count: int, arm: Arm, how: Settings, worth: dict[str, Any]) -> np.ndarray:
    """bool [seeds, E]: what each training of the arm learns from."""
    if arm.method == ALL:
        return np.ones((how.seeds, count), bool)
    if arm.method == "random":
        number = int(digest(task, length=8), 16)
        draws = [np.random.default_rng([how.seed, seed, number]).random(count) for seed in range(how.seeds)]
        return np.stack([keep(draw, arm.budget, how.seed) for draw in draws])
    return np.stack([keep(worth[arm.method], arm.budget, how.seed)] * how.seeds)


def main() -> int:
    """Run it and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="minutes, and what it cannot resolve is said")
    parser.add_argument("--cache", type=Path, help="a folder for recordings and outcomes")
    parser.add_argument("--sets", nargs="+", choices=PARTS)
    parser.add_argument("--tasks", nargs="+", help="of Meta-World")
    parser.add_argument("--budgets", nargs="+", type=float, help="shares of the candidates, in this order")
    parser.add_argument("--data", type=Path, default=DATA, help="the folder of recordings")
    parser.add_argument("--methods", nargs="+", help="only these, beside all data")
    parser.add_argument("--seeds", type=int, help="trainings of each arm and task")
    parser.add_argument("--rollouts", type=int, help="of each training")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="after them nothing new is begun")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", type=Path, help="write every arm's figures there")
    asked = parser.parse_args()
    if asked.seeds is not None and asked.seeds < 2:
        parser.error("--seeds: intervals are over trainings, of which two of each task are needed at least")
    how = QUICK if asked.quick else Settings()
    how = replace(how, **{name: getattr(asked, name) for name in ("seeds", "rollouts") if getattr(asked, name)})
    how = replace(how, **{name: tuple(getattr(asked, name)) for name in ("tasks", "budgets") if getattr(asked, name)})
    methods = asked.methods or [name for name in METHODS if not (asked.quick and name == RIVAL)]
    parts = asked.sets or (PARTS[:1] if asked.quick else PARTS)
    began, everything = time.perf_counter(), {}
    context = multiprocessing.get_context("spawn")
    with (
        tempfile.TemporaryDirectory(prefix="benchmark-") as work,
        ProcessPoolExecutor(asked.workers, context, initializer=end_with_parent) as pool,
    ):

        def in_pool(function: Callable[..., Any], items: Sequence[Any]) -> Iterable[Any]:
            return pool.map(function, items, chunksize=1)

        for part in parts:
            this = of_pusht(how) if part == sets.PUSHT else how
            until = time.time() + 60 * asked.minutes - (time.perf_counter() - began)
            found = measure_set(part, methods, this, asked.cache or Path(work), in_pool, asked.data, until)
            print("\n".join(report(part, found, methods, this)), flush=True)
            print(f"  versions: {versions(methods)}\n", flush=True)
            everything[part] = {
                f"{arm.method}@{arm.budget:g}": [row.tolist() for row in rows] for arm, rows in found.success.items()
            }
    print(f"{time.perf_counter() - began:.0f} s (what was in the cache took none)")
    if asked.quick:
        print("--quick: 2 tasks, 3 trainings of each, two budgets, one set: it resolves only gains above the "
              "`detectable` column, no do-no-harm arm, no rival")  # fmt: skip
    if asked.json:
        asked.json.write_text(json.dumps({"settings": how.key, "success": everything}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
