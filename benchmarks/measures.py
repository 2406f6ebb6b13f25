"""What registered scorers say of episodes that are arrays, and how well that tells the bad from the good.

No lake: a set becomes one ``EpisodeBatch``, each scorer fits on it and scores it. Baselines stand beside the scores:
``length``, ``log dimensionless jerk`` and ``random``, the first two told which direction is the bad one.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.planting import Course
from data_engine import registry
from data_engine.canonical import digest
from data_engine.errors import EngineError
from data_engine.model import ACTION, STATE, TIMESTAMP, Dataset, Feature
from data_engine.scoring import EpisodeBatch, Metric, ScoreRow

__all__ = [
    "BASELINES", "Figure", "Measured", "above", "auc", "baselines", "batch_of", "measure", "resampled", "spearman",
]  # fmt: skip

BASELINES = ("length", "log dimensionless jerk", "random")
_BASE = 10  # good demonstrations of each task that a scorer is given which needs a base set


@dataclass(frozen=True)
class Figure:
    """One metric of a set: ``badness`` [E], higher is worse, NaN where undefined. ``based`` bool [E]: the episodes that
    served as its base set, which it is not judged by."""

    badness: np.ndarray
    headline: bool
    based: np.ndarray
    seconds: float = 0.0


@dataclass
class Measured:
    """What all scorers say: figures by ``scorer`` (its headline) or ``scorer.metric``, every row, what failed, and the
    ``seconds`` of CPU time to fit and score."""

    figures: dict[str, Figure] = field(default_factory=dict)
    rows: dict[str, list[dict[str, ScoreRow]]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    def only(self, which: np.ndarray) -> Measured:
        """What is said of the episodes ``which`` (bool [E])."""
        figures = {
            name: replace(figure, badness=figure.badness[which], based=figure.based[which])
            for name, figure in self.figures.items()
        }
        rows = {name: [found[i] for i in np.flatnonzero(which)] for name, found in self.rows.items()}
        return replace(self, figures=figures, rows=rows)


def batch_of(
    courses: Sequence[Course], *, fps: float, names: Sequence[str] | None = None, extra: bool = False
) -> EpisodeBatch:
    """One dataset of ``courses``. ``extra`` adds what no scorer may look at: rewards, success, other hashes for it."""
    lengths = [len(course) for course in courses]
    state = np.concatenate([course.state for course in courses]).astype(np.float32)
    action = np.concatenate([course.action for course in courses]).astype(np.float32)
    steps: dict[str, Any] = {
        STATE: pa.FixedSizeListArray.from_arrays(pa.array(state.ravel()), state.shape[1]),
        ACTION: pa.FixedSizeListArray.from_arrays(pa.array(action.ravel()), action.shape[1]),
        TIMESTAMP: np.concatenate([course.time for course in courses]).astype(np.float64),
    }
    episodes: dict[str, Any] = {
        "episode_id": list(names) if names else [f"set-{i}" for i in range(len(courses))],
        "content_hash": [
            digest(course.state.astype(np.float32).tobytes(), course.action.astype(np.float32).tobytes(), str(extra))
            for course in courses
        ],
        "embodiment": ["arm"] * len(courses),
        "control_mode": ["delta"] * len(courses),
        "task": pa.array([course.task or None for course in courses], pa.string()),
        "n_steps": lengths,
    }
    if extra:
        draw = np.random.default_rng(1)
        steps["reward"] = draw.normal(size=sum(lengths))
        steps["terminated"] = draw.random(sum(lengths)) < 0.1
        episodes["success"] = draw.random(len(courses)) < 0.5
        episodes["operator"] = [f"operator {i % 3}" for i in range(len(courses))]
    features = (
        Feature(name=STATE, dtype="float32", shape=state.shape[1:]),
        Feature(name=ACTION, dtype="float32", shape=action.shape[1:]),
    )
    dataset = Dataset(
        name="set", embodiment="arm", control_mode="delta", fps=fps, features=features, origin="-", format="-"
    )
    return EpisodeBatch(dataset, pa.table(episodes), pa.table(steps), np.r_[0, np.cumsum(lengths)].astype(np.int64))


def measure(
    batch: EpisodeBatch, names: Sequence[str], *, good: np.ndarray | None = None, seed: int = 0, device: str = "cpu"
) -> Measured:
    """Each scorer of ``names``, fitted on ``batch``; one that needs a base set is given a few of the ``good`` [E].

    One that combines others' scores comes last; those that are not among ``names`` are null to it.
    """
    found = Measured()
    for name in sorted(names, key=_combines):
        began = time.process_time()
        try:
            batch = replace(batch, scores=_told(found, name, len(batch)))
            rows, metrics, based = _scored(batch, name, good, seed, device)
        except EngineError as error:
            found.failed[name] = str(error).splitlines()[0]
            continue
        except Exception as error:  # one scorer that breaks is a line in the report, not the end of a run of hours
            found.failed[name] = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            continue
        found.seconds[name] = time.process_time() - began
        found.rows[name] = rows
        for metric in metrics:
            if metric.better != "neither":
                values = np.array([_value(row.get(metric.name)) for row in rows])
                sign = 1.0 if metric.better == "lower" else -1.0
                head = metric is metrics[0]
                found.figures[name if head else f"{name}.{metric.name}"] = Figure(sign * values, head, based)
    return found


def _combines(name: str) -> bool:
    return name in registry.names("scorers") and bool(registry.load("scorers", name).spec.needs.scores)


def _told(found: Measured, name: str, episodes: int) -> dict[str, np.ndarray]:
    """What ``name`` needs of the scores found so far: [E] each, null as NaN."""
    told = {}
    for metric in registry.load("scorers", name).spec.needs.scores:
        other, _, which = metric.partition(".")
        rows = found.rows.get(other)
        told[metric] = np.array([_value(row.get(which)) for row in rows]) if rows else np.full(episodes, np.nan)
    return told


def _scored(
    batch: EpisodeBatch, name: str, good: np.ndarray | None, seed: int, device: str
) -> tuple[list[dict[str, ScoreRow]], tuple[Metric, ...], np.ndarray]:
    scorer = registry.make("scorers", name)
    need = scorer.spec.base
    based = np.zeros(len(batch), bool)
    if need == "optional":
        fit = scorer.fit([batch], seed=seed, device=device)
    else:
        based = _base_set(batch, good, seed)
        base = list(_some(batch, based))
        if need == "reference":
            fit = scorer.fit(base, seed=seed, device=device)
        else:
            targets = scorer.fit(base, seed=seed, device=device)
            fit = scorer.fit(list(_some(batch, ~based)), base=targets, seed=seed, device=device)
    rows = [{row.metric: row for row in episode} for episode in scorer.score(batch, fit, device=device)]
    return rows, scorer.spec.metrics, based


def _base_set(batch: EpisodeBatch, good: np.ndarray | None, seed: int) -> np.ndarray:
    """bool [E]: ``_BASE`` good ones of each task, at most half of them, drawn by ``seed``."""
    good = np.ones(len(batch), bool) if good is None else good
    tasks = np.array([task or "" for task in batch.tasks])
    draw = np.random.default_rng([seed, 77])
    based = np.zeros(len(batch), bool)
    for task in sorted(set(tasks)):
        members = np.flatnonzero((tasks == task) & good)
        based[draw.permutation(members)[: min(_BASE, len(members) // 2)]] = True
    return based


def _some(batch: EpisodeBatch, which: np.ndarray) -> Iterator[EpisodeBatch]:
    return (batch.one(int(i)) for i in np.flatnonzero(which))


def _value(row: ScoreRow | None) -> float:
    return np.nan if row is None or row.value is None else float(row.value)


def baselines(courses: Sequence[Course], hand: Sequence[int], seed: int, kind: str = "") -> dict[str, Figure]:
    """``length`` in steps, ``log dimensionless jerk`` of the state dimensions ``hand``, and ``random``: [E] each."""
    values = {
        "length": np.array([len(course) for course in courses], float),
        "log dimensionless jerk": np.array([-_smoothness(course, hand) for course in courses]),
        "random": np.random.default_rng([seed, 5, *kind.encode()]).random(len(courses)),
    }
    none = np.zeros(len(courses), bool)
    return {name: Figure(found, True, none) for name, found in values.items()}


def _smoothness(course: Course, hand: Sequence[int]) -> float:
    """Log dimensionless jerk (Balasubramanian, Melendez-Calderon and Burdet 2012) of the speed: higher is smoother."""
    usable = np.isfinite(course.state[:, list(hand)]).all(axis=1) & np.isfinite(course.time)
    x, t = course.state[usable][:, list(hand)].astype(np.float64), course.time[usable]
    if len(t) < 4 or (np.diff(t) <= 0).any():
        return np.nan
    speed = np.linalg.norm(np.diff(x, axis=0) / np.diff(t)[:, None], axis=1)
    middle = (t[1:] + t[:-1]) / 2
    jerk = np.gradient(np.gradient(speed, middle), middle)
    top, span = speed.max(), middle[-1] - middle[0]
    if not top > 0:
        return np.nan
    return -float(np.log(np.trapezoid(jerk**2, middle) * span**3 / top**2 + 1e-12))


def above(badness: np.ndarray, bad: np.ndarray, tasks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of each bad episode (rows) and each good one (columns): 1 where the bad one looks worse, 0.5 for a tie or where
    either is undefined; and whether they are of one task, which is what is compared."""
    rows, columns = np.flatnonzero(bad), np.flatnonzero(~bad)
    a, b = badness[rows][:, None], badness[columns][None]
    won = np.where(np.isnan(a) | np.isnan(b), 0.5, (a > b) + 0.5 * (a == b))
    return won, tasks[rows][:, None] == tasks[columns][None]


def auc(badness: np.ndarray, bad: np.ndarray, tasks: np.ndarray) -> float:
    """The chance that a bad episode looks worse than a good one of its task; NaN where no task has both."""
    won, same = above(badness, bad, tasks)
    return float((won * same).sum() / same.sum()) if same.any() else np.nan


def resampled(badness: np.ndarray, bad: np.ndarray, tasks: np.ndarray, rounds: int, seed: int) -> np.ndarray:
    """[rounds] AUCs with episodes drawn again, good and bad apart: the same draws for every measure of a set."""
    won, same = above(badness, bad, tasks)
    draw = np.random.default_rng([seed, 11])
    found = np.full(rounds, np.nan)
    for i in range(rounds):
        rows, columns = (np.bincount(draw.integers(n, size=n), minlength=n) for n in won.shape)
        pairs = rows @ same @ columns
        found[i] = rows @ (won * same) @ columns / pairs if pairs else np.nan
    return found


def spearman(x: np.ndarray, y: np.ndarray, tasks: np.ndarray) -> float:
    """Rank correlation within each task, the mean over tasks by episodes; undefined values take the middle rank."""
    found, weights = [], []
    for task in sorted(set(tasks)):
        a, b = x[tasks == task], y[tasks == task]
        a = np.where(np.isnan(a), np.nanmedian(a) if np.isfinite(a).any() else 0.0, a)
        ranks = [_ranks(v) for v in (a, b)]
        if len(a) > 2 and all(np.ptp(r) > 0 for r in ranks):
            found.append(float(np.corrcoef(*ranks)[0, 1]))
        else:
            found.append(0.0)
        weights.append(len(a))
    return float(np.average(found, weights=weights))


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 0, ties at their mean."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return (ends - (counts + 1) / 2)[inverse]
