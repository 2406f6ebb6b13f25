"""What a selection is worth: behaviour cloning on what it keeps, rolled out in the simulator, against all the data.

    python benchmarks/uplift.py [--quick] [--cache DIR] [--sets mixed clean strategies pusht] [--json FILE]

Sets are recorded in Meta-World and PushT (``uplift_sets``). Each arm is a way to choose and a budget; its policies are
trained on what it keeps, several seeds of each task as one batched model, and rolled out from the same initial
conditions as every other arm's, beginning alike. Differences are paired by training (task and seed); the interval is a
bootstrap over trainings, and beside it stands the least true difference that this many trainings would have shown
(power 80 %).
``random`` draws anew for each seed. Label-free scores see states and actions; those that use labels are told a few good
demonstrations that nobody trains on; ``oracle`` knows which succeeded, then which had the least noise.

Outcomes are kept in ``--cache``, so that a run that was cut off goes on. A full run takes hours.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import uplift_sets as sets
from benchmarks.acting import end_with_parent
from benchmarks.measures import baselines, batch_of
from benchmarks.uplift_sets import Demonstration
from data_engine import registry
from data_engine.canonical import digest
from data_engine.outcomes import Difference, paired_difference, wilson
from data_engine.reference import Reference
from data_engine.scoring import EpisodeBatch
from data_engine.view import fit_views
from flows.policy import Coordinates, Policy, PolicyConfig
from flows.rollout import roll

BASELINES = ("random", "shortest", "lowest jerk")
LABEL_FREE = ("composite", "mutual_information", "action_divergence")
LABEL_USING = ("compatibility", "influence")
ALL, ORACLE, RIVAL = "all data", "oracle", "rdq"
PARTS = ("mixed", "clean", "strategies", "pusht")
DATA = Path(__file__).resolve().parents[2] / "shared/data"


@dataclass(frozen=True)
class Settings:
    """How large a run is. ``rollouts`` are of one training; an arm has tasks x seeds x rollouts of them."""

    tasks: tuple[str, ...] = sets.TASKS
    candidates: int = 120
    targets: int = 8
    budgets: tuple[float, ...] = (0.1, 0.25, 0.5, 0.75)
    seeds: int = 5
    rollouts: int = 60
    config: PolicyConfig = field(default_factory=lambda: PolicyConfig(limit=1500))
    seed: int = 0

    @property
    def key(self) -> dict[str, Any]:
        """What an outcome depends on besides its arm."""
        return {"candidates": self.candidates, "targets": self.targets, "seeds": self.seeds, "seed": self.seed,
                "rollouts": self.rollouts, "config": self.config.config}  # fmt: skip


QUICK = Settings(
    tasks=sets.TASKS[:2], candidates=60, targets=6, budgets=(0.25, 0.5), seeds=3, rollouts=8,
    config=PolicyConfig(limit=600, hidden=96),
)  # fmt: skip


@dataclass(frozen=True)
class Arm:
    """A way to choose, and the share of the candidates that is kept."""

    method: str
    budget: float


@dataclass
class Found:
    """Everything that came of a set: by arm, for each task the mean success (in PushT, progress) of each training
    [seeds]; the shares of good episodes kept; what was not measured and why."""

    success: dict[Arm, list[np.ndarray]] = field(default_factory=dict)
    kept_good: dict[Arm, list[float]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)


Each = Callable[[Callable[..., Any], Sequence[Any]], Iterable[Any]]


def arms(part: str, methods: Sequence[str], budgets: Sequence[float]) -> list[Arm]:
    """All data, and every method at every budget; a set that selection can only harm is halved and no more."""
    kept = budgets if part in ("mixed", "pusht") else (0.5,)
    return [Arm(ALL, 1.0), *(Arm(method, budget) for method in methods for budget in kept)]


@dataclass(frozen=True)
class Judging:
    """A set of one task, and the method that is to order it."""

    task: str
    demos: Sequence[Demonstration]
    targets: Sequence[Demonstration]
    method: str
    seed: int


def badness(job: Judging) -> np.ndarray:
    """[E] float64, higher is left out first; what a score leaves undefined comes last of all. Raises whatever the
    method raises: it may not be installed."""
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
        targets = batch_of([demo.course for demo in job.targets], fps=where.fps)
        values = _scored(job.method, batch_of(courses, fps=where.fps), targets, job.seed)
    return np.where(np.isnan(values), np.inf, values)


def judged(job: Judging) -> np.ndarray | str:
    """:func:`badness`, or in one line why there is none: a method that cannot be had does not end a run."""
    import torch

    torch.set_num_threads(1)
    try:
        return badness(job)
    except Exception as error:
        return " ".join(str(error).split())[:160] or type(error).__name__


def _scored(name: str, batch: EpisodeBatch, targets: EpisodeBatch, seed: int) -> np.ndarray:
    from benchmarks.measures import measure

    scorer = registry.make("scorers", name)
    if scorer.spec.base == "optional":
        found = measure(batch, [name], seed=seed)
        if name in found.failed:
            raise RuntimeError(found.failed[name])
        return found.figures[name].badness
    if scorer.spec.base == "reference":
        fit = scorer.fit([targets], seed=seed)
    else:
        fit = scorer.fit([batch], base=scorer.fit([targets], seed=seed), seed=seed)
    metric = scorer.spec.metrics[0]
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
    """An arm of one task: what its trainings learn from, bool [seeds, E], and what they are put through."""

    task: str
    demos: Sequence[Demonstration]
    kept: np.ndarray
    how: Settings


def tried(trial: Trial) -> dict[str, Any]:
    """What came of an arm: mean ``success`` and ``progress`` of each training, the share of good episodes that it
    kept, steps taken, and seconds of processor time for training and rollouts."""
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


class Kept:
    """Outcomes of arms that were measured before, one JSON line each; in memory alone without a folder."""

    def __init__(self, folder: Path | None) -> None:
        self._path = folder / "uplift-outcomes.jsonl" if folder else None
        self._known: dict[str, dict[str, Any]] = {}
        if self._path and self._path.exists():
            for line in self._path.read_text().splitlines():
                row = json.loads(line)
                self._known[row["key"]] = row

    def get(self, key: str) -> dict[str, Any] | None:
        """What is known of an arm."""
        return self._known.get(key)

    def put(self, key: str, **facts: Any) -> None:
        """Keep what came of an arm."""
        self._known[key] = {"key": key, **facts}
        if self._path:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a") as file:
                file.write(json.dumps(self._known[key]) + "\n")


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
    part: str, methods: Sequence[str], how: Settings, cache: Path | None, each: Each, data: Path = DATA
) -> Found:
    """Train and roll out every arm of a set."""
    found, known, asked = Found(), Kept(cache), arms(part, methods, how.budgets)
    for task in how.tasks:
        keys = {arm: _key(part, task, arm, how) for arm in asked}
        missing = [arm for arm in asked if known.get(keys[arm]) is None]
        if missing:
            demos, targets = gathered(part, task, how, cache, data, each)
            told = sorted({arm.method for arm in missing} - {ALL, "random"} - set(found.missing))
            worth = dict(
                zip(told, each(judged, [Judging(task, demos, targets, m, how.seed) for m in told]), strict=True)
            )
            found.missing |= {method: value for method, value in worth.items() if isinstance(value, str)}
            todo = [(arm, keys[arm], _kept(task, len(demos), arm, how, worth))
                    for arm in missing if arm.method not in found.missing]  # fmt: skip
            _perform(task, demos, todo, how, known, each)
        for arm in asked:
            row = known.get(keys[arm])
            if row is not None:
                found.success.setdefault(arm, []).append(np.array(row[sets.stage(task).outcome]))
                found.kept_good.setdefault(arm, []).append(row["kept_good"])
    found.success = {arm: rows for arm, rows in found.success.items() if len(rows) == len(how.tasks)}
    return found


def _key(part: str, task: str, arm: Arm, how: Settings) -> str:
    """What an outcome is kept under: another version of a set or a score is another arm."""
    kind: Any = registry.load("scorers", arm.method) if arm.method in registry.names("scorers") else None
    version = [kind.spec.version, kind().config_hash] if kind else []
    return digest("uplift", how.key, sets.VERSION, part, task, asdict(arm), version, length=16)


def _kept(task: str, count: int, arm: Arm, how: Settings, worth: dict[str, Any]) -> np.ndarray:
    """bool [seeds, E]: what each training of the arm learns from."""
    if arm.method == ALL:
        return np.ones((how.seeds, count), bool)
    if arm.method == "random":
        number = int(digest(task, length=8), 16)
        draws = [np.random.default_rng([how.seed, seed, number]).random(count) for seed in range(how.seeds)]
        return np.stack([keep(draw, arm.budget, how.seed) for draw in draws])
    return np.stack([keep(worth[arm.method], arm.budget, how.seed)] * how.seeds)


def _perform(
    task: str, demos: Sequence[Demonstration], todo: Sequence[tuple[Arm, str, np.ndarray]], how: Settings, known: Kept,
    each: Each,
) -> None:  # fmt: skip
    began = time.perf_counter()
    for (arm, key, _), facts in zip(
        todo, each(tried, [Trial(task, demos, kept, how) for _, _, kept in todo]), strict=True
    ):
        known.put(key, **facts)
        print(
            f"{task}: {arm.method} {arm.budget:.0%} at {time.perf_counter() - began:.0f} s (processor: training "
            f"{facts['training_s']:.0f} s, {facts['steps']} steps of rollouts {facts['rollout_s']:.0f} s)",
            file=sys.stderr,
            flush=True,
        )


# the report


def report(part: str, found: Found, methods: Sequence[str], how: Settings) -> list[str]:
    """The tables of a set, as lines."""
    everything = found.success.get(Arm(ALL, 1.0))
    if everything is None:
        return [f"{part}: nothing was measured"]
    trials = len(how.tasks) * how.seeds * how.rollouts
    low, high = wilson(round(_mean(everything) * trials), trials)
    what = "coverage of the goal" if part == sets.PUSHT else f"success (Wilson {low:.1%} to {high:.1%})"
    lines = [
        f"{part}: {len(how.tasks)} tasks x {how.seeds} seeds x {how.rollouts} rollouts = {trials} an arm, of "
        f"{how.candidates} candidates a task",
        f"  all data: {_mean(everything):.1%} {what}; "
        f"{np.mean(found.kept_good[Arm(ALL, 1.0)]):.0%} of the episodes succeeded",
    ]
    for title, names in (
        ("label-free", [name for name in methods if name not in (*LABEL_USING, ORACLE)]),
        ("label-using", [name for name in methods if name in (*LABEL_USING, ORACLE)]),
    ):
        lines += ["", f"  {title:<20} budget  success  gain over all data          detectable  good kept  "]
        for name in names:
            lines += [_line(arm, found, everything, part) for arm in found.success if arm.method == name]
            if name in found.missing:
                lines.append(f"  {name:<20} not measured: {found.missing[name]}")
    return [*lines, "", *_verdicts(part, found, methods, everything), ""]


def _line(arm: Arm, found: Found, everything: Sequence[np.ndarray], part: str) -> str:
    gain = paired_difference(found.success[arm], everything)
    return (
        f"  {arm.method:<20} {arm.budget:>5.0%}  {_mean(found.success[arm]):>7.1%}  {_span(gain):<26}  "
        f"{gain.detectable:>9.1%}  {np.mean(found.kept_good[arm]):>9.0%}  {_verdict(gain, part)}"
    )


def _span(gain: Difference) -> str:
    return f"{gain.mean:+7.1%} ({gain.low:+.1%} to {gain.high:+.1%})"


def _verdict(gain: Difference, part: str) -> str:
    if gain.low > 0:
        return "helps"
    if part in ("clean", "strategies"):
        return "HARMS" if gain.mean < -gain.detectable else "no harm shown"
    return "HARMS" if gain.high < 0 else "no help shown"


def _verdicts(part: str, found: Found, methods: Sequence[str], everything: Sequence[np.ndarray]) -> Iterator[str]:
    if part in ("clean", "strategies"):
        gains = {arm: paired_difference(rows, everything) for arm, rows in found.success.items() if arm.method != ALL}
        lost = [f"{arm.method} ({gain.mean:+.1%})" for arm, gain in gains.items() if _verdict(gain, part) == "HARMS"]
        verdict = f"MISSED by {', '.join(lost)}" if lost else "held"
        yield f"  do no harm (none may lose more than is detectable): {verdict}"
        return
    for budget in sorted({arm.budget for arm in found.success if arm.method == ORACLE}):
        best = found.success[Arm(ORACLE, budget)]
        gain = paired_difference(best, everything)
        yield f"  at {budget:.0%} the oracle gains {_span(gain)}; within its reach (interval of the gap to it holds 0):"
        for name in methods:
            rows = found.success.get(Arm(name, budget))
            if rows is not None and name != ORACLE:
                gap = paired_difference(rows, best)
                share = f", {(_mean(rows) - _mean(everything)) / gain.mean:.0%} of its gain" if gain.low > 0 else ""
                yield f"    {name:<20} {_span(gap)}{share}{': reached' if gap.high >= 0 else ''}"


def _mean(rows: Sequence[np.ndarray]) -> float:
    return float(np.mean([row.mean() for row in rows]))


def main() -> int:
    """Run it and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="minutes, and what it cannot resolve is said")
    parser.add_argument("--cache", type=Path, help="a folder for recordings and outcomes")
    parser.add_argument("--sets", nargs="+", choices=PARTS)
    parser.add_argument("--data", type=Path, default=DATA, help="the folder of recordings")
    parser.add_argument("--methods", nargs="+", help="only these, beside all data")
    parser.add_argument("--seeds", type=int, help="trainings of each arm and task")
    parser.add_argument("--rollouts", type=int, help="of each training")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", type=Path, help="write every arm's figures there")
    asked = parser.parse_args()
    how = QUICK if asked.quick else Settings()
    how = replace(how, **{name: getattr(asked, name) for name in ("seeds", "rollouts") if getattr(asked, name)})
    installed = registry.names("scorers")
    methods = asked.methods or [*BASELINES, *LABEL_FREE, *([] if asked.quick else [RIVAL]), *LABEL_USING, ORACLE]
    parts = asked.sets or (PARTS[:1] if asked.quick else PARTS)
    began, arms_done, everything = time.perf_counter(), 0, {}
    context = multiprocessing.get_context("spawn")
    with (
        tempfile.TemporaryDirectory(prefix="benchmark-") as work,
        ProcessPoolExecutor(asked.workers, context, initializer=end_with_parent) as pool,
    ):

        def in_pool(function: Callable[..., Any], items: Sequence[Any]) -> Iterable[Any]:
            return pool.map(function, items, chunksize=1)

        for part in parts:
            this = replace(how, tasks=(sets.PUSHT,)) if part == sets.PUSHT else how
            found = measure_set(part, methods, this, asked.cache or Path(work), in_pool, asked.data)
            arms_done += len(found.success)
            print("\n".join(report(part, found, methods, this)), flush=True)
            everything[part] = {
                f"{arm.method}@{arm.budget:g}": [row.tolist() for row in rows] for arm, rows in found.success.items()
            }
    seconds = time.perf_counter() - began
    print(f"{arms_done} arms in {seconds:.0f} s, {60 * arms_done / seconds:.1f} a minute (those in the cache included)")
    left = [name for name in (*LABEL_FREE, *LABEL_USING) if name not in installed]
    if left:
        print(f"not registered here: {', '.join(left)}")
    if asked.quick:
        print("--quick: 2 tasks, 3 trainings of each, two budgets, one set: it resolves only gains above the "
              "`detectable` column, no do-no-harm arm, no rival")  # fmt: skip
    if asked.json:
        asked.json.write_text(json.dumps({"settings": how.key, "success": everything}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
