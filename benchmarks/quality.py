"""How well each score tells the bad from the good: AUC and Spearman by defect, beside baselines and rivals.

    python benchmarks/quality.py [--quick] [--data ../shared/data] [--cache DIR] [--scorers NAME ...] [--json FILE]
                                 [--rivals NAME ...] [--only KIND ...] [--seeds N] [--shares F ...]
                                 [--sets WORD ...] [--minutes N] [--workers N]

Recording defects are planted in columns, behaviour is acted in simulators (``planting``, ``acting``), both by seed;
what is acted is recorded on the first run, and kept where ``--cache`` says. Every AUC is within the task, a tie or a
null counts as half, and counts those episodes alone that were left out when constants were fixed (the split is in
``cases``). ``length`` and ``log dimensionless jerk`` are baselines that are told by defect which direction
is the bad one, which no score is; ``random`` is told nothing. Scorers that need a base set get up to ten good
demonstrations a task, and are not judged by those.

A full run takes hours: five seeds, shares of 5, 20 and 50 %, every view. What is measured is kept in ``--cache`` as it
comes, one JSON line a set, so that a run that was cut off goes on; after ``--minutes`` nothing new is begun, and the
report says what is missing. Sets come in the order of their weight: a fifth bad with object state, what is acted of
every seed and what is planted of the first, then rivals, scorers that train policies, other seeds, shares and views.
``--quick`` takes minutes, of one seed, one share and fewer episodes, and says what it can't resolve.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field, fields, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import acting_metaworld, cases
from benchmarks.acting import end_with_parent
from benchmarks.cases import Case, Job, Settings
from benchmarks.kept import Kept
from benchmarks.measures import BASELINES, Measured, auc, baselines, batch_of, measure, resampled, spearman
from benchmarks.quality_report import report
from benchmarks.quality_rivals import RIVALS, install, rate
from data_engine import registry
from data_engine.canonical import digest
from data_engine.scoring import ScoreRow

VERSION = 1  # of what is measured: what was kept of another one is measured anew
ROUNDS = 200  # of the bootstrap
SHARE = 0.2  # of bad episodes, where one share stands for all
TOLD = BASELINES[:2]  # the baselines that are told the direction


@dataclass
class Outcome:
    """What came of one job. ``auc``, ``spearman``, ``nulls`` by measure; ``boot`` [ROUNDS] AUCs for the few that bars
    compare; ``by_magnitude``: AUC of the mildest, middle and worst third; ``facts``: counts that are no AUC."""

    job: Job
    auc: dict[str, float] = field(default_factory=dict)
    spearman: dict[str, float] = field(default_factory=dict)
    nulls: dict[str, float] = field(default_factory=dict)
    boot: dict[str, list[float]] = field(default_factory=dict)
    by_magnitude: dict[str, list[float]] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


def perform(job: Job, settings: Settings, scorers: Sequence[str]) -> Outcome:
    """Make the set of ``job``, score it with every one of ``scorers``, and hold that against what is known."""
    import torch

    torch.set_num_threads(1)
    outcome = Outcome(job)
    try:
        if job.set == "metaworld tiers":
            _tiers(outcome, settings, scorers)
        elif job.set == "leak":
            _leak(outcome, settings, scorers)
        else:
            _defects(outcome, cases.make(job, settings), scorers)
    except ImportError as error:
        outcome.failed["set"] = f"needs a simulator that is not installed: {error.name}"
    return outcome


def _defects(outcome: Outcome, case: Case, scorers: Sequence[str]) -> None:
    found = measure(batch_of(case.courses, fps=case.fps), scorers, good=~case.bad, seed=outcome.job.seed)
    copied = _copied(case)[case.counted]  # the other one may be of the other half
    found, case = found.only(case.counted), case.of_those_counted()
    job, tasks = outcome.job, case.tasks
    outcome.facts |= {"episodes": len(case.courses), "bad": int(case.bad.sum())}
    outcome.seconds, outcome.failed = found.seconds, found.failed
    if case.bad.any():
        for name, figure in (found.figures | baselines(case.courses, case.hand, job.seed, job.kind)).items():
            use = ~figure.based
            badness, bad, task, worth = figure.badness[use], case.bad[use], tasks[use], case.worth[use]
            sign = -1.0 if name in TOLD and auc(badness, bad, task) < 0.5 else 1.0
            outcome.auc[name] = auc(sign * badness, bad, task)
            outcome.spearman[name] = spearman(-sign * badness, worth, task)
            outcome.nulls[name] = float(np.isnan(badness).mean())
            if name == "composite" or name in TOLD:
                outcome.boot[name] = resampled(sign * badness, bad, task, ROUNDS, job.seed).tolist()
            if job.set.endswith(" acted") and figure.headline:
                outcome.by_magnitude[name] = _by_magnitude(sign * badness, bad, task, worth)
    outcome.facts |= (
        _flags(found, case, copied if job.kind == "duplicated" else case.bad)
        | _modes(found, case, job)
        | _extraneous(found, case, job)
    )


def _by_magnitude(badness: np.ndarray, bad: np.ndarray, tasks: np.ndarray, worth: np.ndarray) -> list[float]:
    edges = np.quantile(worth[bad], [0, 1 / 3, 2 / 3, 1])
    thirds = ((worth >= low) & (worth <= high) for low, high in pairwise(edges))
    return [auc(badness[third | ~bad], bad[third | ~bad], tasks[third | ~bad]) for third in thirds][::-1]


def _flags(found: Measured, case: Case, truth: np.ndarray) -> dict[str, Any]:
    """Integrity's verdict-like evidence: episodes with any defect (or an exact copy), and those with a span at all.

    ``truth`` bool [E]: those to be flagged; of a copy, the original counts in.
    """
    facts: dict[str, Any] = {}
    for name in ("integrity", "consistency"):
        rows = found.rows.get(name)
        if rows is not None:
            spans = np.array([any(row.spans for row in episode.values()) for episode in rows])
            facts[f"{name} spans, clean"] = [int(spans[~case.bad].sum()), int((~case.bad).sum())]
    rows = found.rows.get("integrity")
    if rows is None:
        return facts
    copies = np.array([(episode["copies"].value or 0) > 1 for episode in rows])
    flagged = np.array([(episode["defect_fraction"].value or 0) > 0 for episode in rows]) | copies
    facts["flagged"] = [int((flagged & truth).sum()), int((flagged & ~truth).sum()), int((~flagged & truth).sum())]
    return facts


def _copied(case: Case) -> np.ndarray:
    """bool [E]: episodes that the set holds more than once."""
    keys = [course.state.tobytes() + course.action.tobytes() for course in case.courses]
    return np.array([keys.count(key) > 1 for key in keys])


def _modes(found: Measured, case: Case, job: Job) -> dict[str, Any]:
    """Adjusted mutual information of ``mode_id`` with the strategy, the mean over tasks."""
    rows = found.rows.get("diversity")
    if job.kind != "strategy" or rows is None or not any("mode_id" in episode for episode in rows):
        return {}
    from sklearn.metrics import adjusted_mutual_info_score

    modes = np.array([-1 if (row := episode.get("mode_id")) is None or row.value is None else row.value
                      for episode in rows])  # fmt: skip
    return {
        "AMI": float(
            np.mean(
                [
                    adjusted_mutual_info_score(case.bad[case.tasks == task], modes[case.tasks == task])
                    for task in sorted(set(case.tasks))
                ]
            )
        )
    }


def _extraneous(found: Measured, case: Case, job: Job) -> dict[str, Any]:
    """Overlap of dropped with planted steps, intersection over union, of every bad episode; and what good ones lose."""
    rows = found.rows.get("extraneous")
    if job.kind not in ("pause", "detour") or rows is None:
        return {}
    overlap, lost = [], []
    for episode, (start, stop), course in zip(rows, case.spans, case.courses, strict=True):
        dropped = np.zeros(len(course), bool)
        for row in episode.values():
            for span in row.spans:
                dropped[span.start : span.stop] = True
        planted = np.zeros(len(course), bool)
        planted[start:stop] = True
        if stop > start:
            overlap.append(float((dropped & planted).sum() / (dropped | planted).sum()))
        else:
            lost.append(float(dropped.mean()))
    return {"IoU": float(np.mean(overlap)), "lost": float(np.mean(lost))}


def _tiers(outcome: Outcome, settings: Settings, scorers: Sequence[str]) -> None:
    """Expert against okay by task, among pairs of like length too; and the rank of the three tiers by task."""
    courses, tier = cases.tiers(settings.data)
    found = measure(batch_of(courses, fps=acting_metaworld.FPS), scorers, good=tier == "expert", seed=outcome.job.seed)
    outcome.seconds, outcome.failed = found.seconds, found.failed
    tasks = np.array([course.task for course in courses])
    lengths = np.array([len(course) for course in courses])
    order = np.select([tier == "expert", tier == "okay"], [2.0, 1.0], 0.0)
    for name, figure in (found.figures | baselines(courses, cases.HAND["metaworld"], outcome.job.seed)).items():
        outcome.spearman[name] = spearman(-figure.badness, order, tasks)
        outcome.nulls[name] = float(np.isnan(figure.badness).mean())
        for task in sorted(set(tasks)):
            some = (tier != "worse") & (tasks == task) & ~figure.based
            bad, badness = tier[some] == "okay", figure.badness[some]
            outcome.auc[f"{name} / {task}"] = auc(badness, bad, tasks[some])
            outcome.facts[f"{name} / {task}"] = _length_matched(badness, bad, lengths[some])


def _length_matched(badness: np.ndarray, bad: np.ndarray, lengths: np.ndarray) -> list[float]:
    """AUC among pairs whose lengths are within a tenth, and how many there are."""
    a, b = badness[bad][:, None], badness[~bad][None]
    like = np.abs(np.log(lengths[bad][:, None] / lengths[~bad][None])) < 0.1
    won = np.where(np.isnan(a) | np.isnan(b), 0.5, (a > b) + 0.5 * (a == b))
    return [float(won[like].mean()) if like.any() else float("nan"), int(like.sum())]


def _leak(outcome: Outcome, settings: Settings, scorers: Sequence[str]) -> None:
    """The largest change of any score when order, ids and names change and rewards, success and operators come in."""
    courses, tier = cases.tiers(settings.data)
    courses = [course for course, t in zip(courses, tier, strict=True) if t != "worse"][::2]
    good = np.arange(len(courses)) % 2 == 0
    order = np.random.default_rng(outcome.job.seed).permutation(len(courses))
    one = batch_of(courses, fps=acting_metaworld.FPS)
    other = batch_of(
        [courses[i] for i in order], fps=acting_metaworld.FPS, names=[f"x{i * 7}" for i in order], extra=True
    )
    names = [name for name in scorers if registry.load("scorers", name).spec.base == "optional"]
    first, second = measure(one, names, good=good), measure(other, names, good=good[order])
    outcome.failed = first.failed | second.failed
    for name in first.rows.keys() & second.rows.keys():
        outcome.facts[name] = largest_change([first.rows[name][i] for i in order], second.rows[name])


def largest_change(before: Sequence[dict[str, ScoreRow]], after: Sequence[dict[str, ScoreRow]]) -> float:
    """The largest relative difference of any metric of any episode; infinite where one is null in one of the two."""
    largest = 0.0
    for one, other in zip(before, after, strict=True):
        for metric, row in one.items():
            a, b = row.value, other[metric].value
            if (a is None) != (b is None):
                return float("inf")
            if a is not None and b is not None:
                largest = max(largest, abs(a - b) / max(abs(a), 1e-3))
    return largest


def jobs(quick: bool, only: Sequence[str], seeds: Sequence[int], shares: Sequence[float]) -> Iterator[Job]:
    """Every set to be scored, in the order of the report: both views at ``SHARE``, the other shares with objects."""
    yield Job("metaworld clean", "none")
    yield Job("pusht clean", "none")
    yield Job("metaworld tiers", "tiers")
    yield Job("leak", "none")
    for seed in seeds:
        yield Job("pusht acted", "slower", seed=seed)
        for view in ("state", "proprioception"):
            yield Job("metaworld acted", "strategy", 0.5, seed, view)
    for share in shares:
        for seed in seeds:
            for name, kinds in cases.SETS.items():
                for view in ("state", "proprioception"):
                    if view != "state" and (share != SHARE or (quick and name.endswith("planted"))):
                        continue
                    if quick and name == "metaworld planted":
                        kinds = ("gripper_flipped", "mislabelled")
                    yield from (Job(name, kind, share, seed, view) for kind in kinds if not only or kind in only)


def record(settings: Settings, words: Sequence[str]) -> str | None:
    """Act every scene that the cache lacks, before sets are made of them; why it can't be, or None."""
    acts = [(name, kind) for name, kinds in cases.SETS.items() if name.endswith("acted") for kind in kinds]
    try:
        for name, kind in [*acts, ("metaworld acted", "strategy"), ("pusht acted", "slower")]:
            if any(word in f"{name} {name.split()[0]} clean" for word in words):
                cases.make(Job(name, kind), settings)
    except ImportError as error:
        return f"behaviour is left out: {error.name} is not installed"
    return None


def rival(job: Job, settings: Settings, name: str) -> Outcome:
    """What the rival ``name`` makes of the set of ``job``."""
    outcome = Outcome(job)
    case = cases.make(job, settings)
    try:
        badness = rate(name, case.courses, case.fps)
    except RuntimeError as error:
        outcome.failed[f"{name} (rival), {job.set}, {job.kind}"] = str(error)
        return outcome
    badness, case = badness[case.counted], case.of_those_counted()
    outcome.auc[name] = auc(badness, case.bad, case.tasks)
    outcome.spearman[name] = spearman(-badness, case.worth, case.tasks)
    outcome.nulls[f"{name} (rival)"] = float(np.isnan(badness).mean())
    return outcome


@dataclass(frozen=True)
class Piece:
    """One set, and what is measured on it: some scorers, or the rival of that name."""

    job: Job
    scorers: tuple[str, ...] = ()
    rival: str = ""

    @property
    def who(self) -> str:
        """Who is measured, for people."""
        return self.rival or f"{len(self.scorers)} scorers"

    def key(self, settings: Settings) -> str:
        """What the outcome is kept under: another version or configuration of a score is another one."""
        versions = [
            [name, registry.load("scorers", name).spec.version, registry.make("scorers", name).config_hash]
            for name in self.scorers
        ]
        how = [settings.scenes, settings.people, settings.tasks, settings.half]
        return digest("quality", VERSION, asdict(self.job), how, versions, self.rival, length=16)

    def measured(self, settings: Settings, until: float) -> Outcome | None:
        """What comes of it; None where the time is over."""
        if time.time() > until:
            return None
        return rival(self.job, settings, self.rival) if self.rival else perform(self.job, settings, self.scorers)


def run(
    pieces: Sequence[Piece], settings: Settings, known: Kept, workers: int, until: float = float("inf")
) -> list[Outcome | None]:
    """Every piece that is not ``known``, in processes, in order; a line on stderr for each as it ends."""
    keys = [piece.key(settings) for piece in pieces]
    left = {key: piece for key, piece in zip(keys, pieces, strict=True) if known.get(key) is None}
    context = multiprocessing.get_context("spawn")
    began = time.monotonic()
    failed: dict[str, Outcome] = {}  # and tried again by the next run
    with ProcessPoolExecutor(workers, mp_context=context, initializer=end_with_parent) as pool:
        work = {pool.submit(piece.measured, settings, until): key for key, piece in left.items()}
        for ended, done in enumerate(as_completed(work)):
            key, outcome = work[done], done.result()
            if outcome is None:
                continue
            if outcome.failed:
                failed[key] = outcome
            else:
                known.put(key, **asdict(outcome))
            job = outcome.job
            head = f"{ended + 1}/{len(work)} {job.set}, {job.kind}, {job.share:.0%}, {job.view}, seed {job.seed}"
            print(f"{time.monotonic() - began:6.0f} s  {head}: {left[key].who}", file=sys.stderr, flush=True)
    return [failed.get(key) or _kept(known.get(key)) for key in keys]


def _kept(row: dict[str, Any] | None) -> Outcome | None:
    if row is None:
        return None
    return Outcome(Job(**row["job"]), **{name: value for name, value in row.items() if name not in ("key", "job")})


def merged(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """One outcome for each job of what its pieces found."""
    found: dict[Job, Outcome] = {}
    for outcome in outcomes:
        whole = found.setdefault(outcome.job, Outcome(outcome.job))
        for part in fields(Outcome)[1:]:
            getattr(whole, part.name).update(getattr(outcome, part.name))
    return list(found.values())


def pieces(work: Sequence[Job], compared: Sequence[tuple[Job, str]], scorers: Sequence[str]) -> list[Piece]:
    """Everything to measure, in the order of its weight."""
    trained = tuple(name for name in scorers if registry.load("scorers", name).spec.base != "optional")
    plain = tuple(name for name in scorers if name not in trained)
    usual = [job for job in work if (job.share == SHARE or job.kind == "strategy") and job.view == "state"]
    once = [job for job in usual if job.seed == 0]
    acted = [job for job in usual if not job.set.endswith("planted")]
    first = sorted({*once, *acted}, key=lambda job: (job.set.endswith("planted"), work.index(job)))
    rest = [job for job in [*usual, *(job for job in work if job not in usual)] if job not in first]
    found = [Piece(job, plain) for job in first]
    found += [
        Piece(job, rival=name) for job, name in sorted(compared, key=lambda pair: pair[0].set.endswith("planted"))
    ]
    found += [Piece(job, trained) for job in once] + [Piece(job, plain) for job in rest]
    found += [Piece(job, trained) for job in work if job not in once]
    return [
        piece
        for piece in found
        if piece.rival or (piece.scorers and (piece.job.set != "leak" or piece.scorers == plain))
    ]


def _rivals(asked: argparse.Namespace, work: Sequence[Job], notes: list[str]) -> list[tuple[Job, str]]:
    """Which rival is held against which set: every kind once; for ``--quick`` one rival and behaviour alone."""
    names = (["rdq"] if asked.quick else list(RIVALS)) if asked.rivals is None else asked.rivals
    if asked.quick and asked.rivals is None:
        notes.append("quick leaves out the rivals but rdq, and rdq on recording defects")
    usable = []
    for name in names:
        try:
            install(name)  # before processes would race to
            usable.append(name)
        except RuntimeError as error:
            notes.append(f"{name} cannot be installed: {str(error).splitlines()[-1]}")
    sets = [job for job in work if job.kind in cases.SETS.get(job.set, ())]
    once = [job for job in sets if (job.share, job.seed, job.view) == (SHARE, 0, "state")]
    return [(job, name) for job in once for name in usable if not asked.quick or job.set.endswith("acted")]


def main() -> int:
    asked = _asked()
    if not asked.data.is_dir():
        print(f"{asked.data} is not there; give --data", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="benchmark-") as scratch:
        print(
            _measured(asked, Settings(asked.data, asked.cache or Path(scratch), workers=asked.workers, half=asked.half))
        )
    return 0


def _measured(asked: argparse.Namespace, settings: Settings) -> str:
    every = registry.names("scorers")  # but those that look at frames, which these sets are measured without
    scorers = asked.scorers or [name for name in every if not registry.load("scorers", name).spec.needs.spaces]
    notes = []
    if asked.quick and not asked.scorers:
        trained = [name for name in scorers if registry.load("scorers", name).spec.base != "optional"]
        scorers = [name for name in scorers if name not in trained]
        notes.append(f"quick leaves out what trains policies on a base set, unless named: {', '.join(trained)}")
    if asked.quick:
        settings = replace(settings, scenes=16, people=100)
        notes.append("quick: one seed, 20 % bad, 100 of 206 people, 16 of 24 scenes a task; see the standard errors")
    began = time.monotonic()
    missing = record(settings, asked.sets)
    recorded = time.monotonic() - began
    seeds = range(asked.seeds or (1 if asked.quick else 5))
    shares = asked.shares or ((SHARE,) if asked.quick else (SHARE, 0.05, 0.5))
    work = [
        job
        for job in jobs(asked.quick, asked.only, seeds, shares)
        if any(word in job.set for word in asked.sets)
        and (missing is None or "planted" in job.set or job.set in ("metaworld tiers", "leak"))
    ]
    asked_for = pieces(work, _rivals(asked, work, notes), scorers)
    until = time.time() + 60 * asked.minutes
    found = run(asked_for, settings, Kept(asked.cache / "quality.jsonl" if asked.cache else None), asked.workers, until)
    done = list(zip(asked_for, found, strict=True))
    outcomes = merged([outcome for piece, outcome in done if outcome and not piece.rival])
    rivals = [outcome for piece, outcome in done if outcome and piece.rival]
    if asked.json:
        asked.json.write_text(json.dumps([asdict(outcome) for outcome in [*outcomes, *rivals]]))
    notes += _open(done)
    notes += [missing] if missing else []
    notes.append(f"counted: the half that is there to {asked.half}, of the split in benchmarks/cases.py")
    cpu = sum(seconds for outcome in outcomes for seconds in outcome.seconds.values())
    spent = f"{time.monotonic() - began:.0f} s in all, {recorded:.0f} s of it recording"
    notes.append(f"{spent}; {len(work)} sets, on which scorers used {cpu:.0f} s of CPU time")
    return report(outcomes, rivals, notes)


def _open(done: Sequence[tuple[Piece, Outcome | None]]) -> list[str]:
    """What there was no time for."""
    left = [piece for piece, outcome in done if outcome is None]
    if not left:
        return []
    parts = Counter(
        f"{piece.who}, {piece.job.share:.0%} bad, {piece.job.view}, seed {piece.job.seed}" for piece in left
    )
    head = f"cut off: {len(left)} of {len(done)} sets were not measured"
    return ["\n".join([head, *(f"  {n} of {what}" for what, n in parts.items())])]


def _asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="minutes in the place of hours")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument(
        "--cache", type=Path, help="folder that keeps what is acted in simulators, and what is measured"
    )
    parser.add_argument("--scorers", nargs="+", help="some of the registered ones; all by default")
    parser.add_argument("--rivals", nargs="*", choices=list(RIVALS), help="some of them, or none; all by default")
    parser.add_argument("--seeds", type=int, help="how many draws of which episodes are bad; 5, for --quick 1")
    parser.add_argument("--shares", type=float, nargs="+", help="of bad episodes; 0.2 0.05 0.5, for --quick 0.2")
    parser.add_argument("--sets", nargs="+", default=[""], help="those whose name has one of these words in it")
    parser.add_argument("--only", nargs="+", default=[], help="some kinds of defect")
    parser.add_argument("--half", choices=("judge", "fix"), default="judge", help="fix: those that constants may see")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="after which nothing new is begun")
    parser.add_argument("--json", type=Path, help="file for every figure")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
