"""Candidates of which some are what the targets are: several clusters, an outlier source, duplicates, loud directions.

What is judged is what no method here optimises: how well a policy cloned from the chosen does on held-out targets, and
how near the chosen come to the held-out targets of the worst-served cluster, in the coordinates that were planted. A
candidate is an episode: its vector is what a space shows of it, its steps are states about a point and the actions of
its cluster's own demonstrator. What is not planted is demonstrated otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from data_engine.selection import Candidates
from data_engine.selection.nearest import Nearest
from data_engine.selection.random import Random
from data_engine.selection.transport import Transport

__all__ = ["CASES", "METHODS", "Case", "Judged", "Planted", "automatic", "chosen_by", "judge", "judged", "planted"]

_STEPS = 6  # of an episode
_ACTIONS = 3
_FEATURES = 150  # random Fourier features of the cloned policy
_CLUSTERS = (0.4, 0.25, 0.15, 0.12, 0.08)  # how much of the targets each has
_HELD_OUT = 200  # targets that judge, and are shown to nobody


@dataclass(frozen=True)
class Case:
    """``candidates`` vectors of ``dimensions`` numbers that lie on ``rank`` directions; ``planted`` of them are like
    the ``targets``, a tenth are an outlier source, a tenth are copies of others. ``away``: how far the middle of the
    space lies from its origin, which cosines are taken from; an encoder's vectors never have theirs there."""

    name: str
    candidates: int = 1500
    dimensions: int = 64
    rank: int = 16
    planted: float = 0.2
    targets: int = 40
    loud: float = 4.0
    away: float = 0.0


CASES = (
    Case("full rank", dimensions=32, rank=32),
    Case("low rank", dimensions=256, rank=16),
    Case("fewer candidates than dimensions", candidates=300, dimensions=512, rank=16),
    Case("fewer candidates than dimensions, full rank", candidates=300, dimensions=512, rank=300),
    Case("no loud direction", loud=1.0),
    Case("no loud direction, away from the origin", loud=1.0, away=4.0),
)


@dataclass(frozen=True)
class Planted:
    """``truth`` bool [n]: which candidates are planted. ``ours``, ``asked``, ``judges``: the planted coordinates of
    candidates, targets and held-out targets, their clusters beside them (-1: none)."""

    candidates: Candidates
    targets: Candidates
    truth: np.ndarray
    ours: np.ndarray
    our_cluster: np.ndarray
    judges: np.ndarray
    judge_cluster: np.ndarray
    seed: int

    @cached_property
    def demonstrators(self) -> np.ndarray:
        """[clusters + 1, signal, actions]: how each cluster is demonstrated; the last one is everybody else's."""
        rng = np.random.default_rng([self.seed, 7])
        return rng.normal(size=(len(_CLUSTERS) + 1, self.ours.shape[1], _ACTIONS))


def planted(case: Case, seed: int) -> Planted:
    """Draw a problem."""
    rng = np.random.default_rng(seed)
    signal = min(case.rank - 4, 12)
    centres = rng.normal(size=(len(_CLUSTERS), signal))
    centres *= 3.0 / np.linalg.norm(centres, axis=1, keepdims=True)
    n, m = case.candidates, case.targets
    count = round(case.planted * n)
    copies = outliers = n // 10
    kind = np.full(n, -1)
    kind[:count] = rng.choice(len(_CLUSTERS), count)  # the pool is not in the targets' proportions
    ours = rng.normal(size=(n, signal)) * 1.2
    ours[:count] = centres[kind[:count]] + 0.5 * rng.normal(size=(count, signal))
    ours[count : count + outliers] = 6 * _unit(rng.normal(size=signal)) + 0.3 * rng.normal(size=(outliers, signal))
    target_kind, judge_kind = (_drawn(rng, size) for size in (m, _HELD_OUT))
    asked, judges = (centres[k] + 0.5 * rng.normal(size=(len(k), signal)) for k in (target_kind, judge_kind))
    rest = case.rank - signal
    spread = np.r_[np.full(min(4, rest), case.loud), np.full(max(rest - 4, 0), 0.3)]
    basis = np.linalg.qr(rng.normal(size=(case.dimensions, case.rank)))[0].T

    middle = case.away * _unit(np.random.default_rng([seed, 13]).normal(size=case.rank))

    def shown(points: np.ndarray) -> np.ndarray:
        others = spread * rng.normal(size=(len(points), rest))
        return (np.concatenate([points, others], axis=1) + middle) @ basis + 1e-3 * rng.normal(
            size=(len(points), case.dimensions)
        )

    vectors, wanted = shown(ours), shown(asked)
    copied = rng.choice(n - copies, copies)  # of anybody before them, planted or not
    vectors[n - copies :] = vectors[copied]
    ours[n - copies :], kind[n - copies :] = ours[copied], kind[copied]
    truth = kind >= 0
    return Planted(_units(vectors, "c"), _units(wanted, "t"), truth, ours, kind, judges, judge_kind, seed)


@dataclass(frozen=True)
class Judged:
    """``precision``: share of the chosen that is planted. ``loss``: of the cloned policy on held-out targets, as a
    share of the actions' variance. ``worst``: how far the nearest chosen are from the held-out targets of the
    worst-served cluster, on average."""

    chosen: int
    precision: float
    loss: float
    worst: float


def judge(problem: Planted, order: np.ndarray, weights: np.ndarray | None = None) -> Judged:
    """What a choice is worth; ``weights`` of the chosen weigh their steps in cloning."""
    rng = np.random.default_rng([problem.seed, 11])
    weights = np.ones(len(order)) if weights is None else weights
    state, action = _steps(problem, problem.ours[order], problem.our_cluster[order], rng)
    asked, wanted = _steps(problem, problem.judges, problem.judge_cluster, rng)
    away = np.linalg.norm(problem.judges[:, None] - problem.ours[order][None], axis=2).min(axis=1)
    return Judged(
        len(order),
        float(problem.truth[order].mean()),
        float(((_cloned(state, action, np.repeat(weights, _STEPS), asked) - wanted) ** 2).mean() / wanted.var()),
        max(float(away[problem.judge_cluster == one].mean()) for one in np.unique(problem.judge_cluster)),
    )


def chosen_by(problem: Planted, selector: object, budget: int | str) -> tuple[np.ndarray, np.ndarray]:
    """The order and weights of what a selector chooses."""
    found = selector.select(problem.candidates, problem.targets, budget=budget, seed=problem.seed)  # type: ignore[attr-defined]
    return found.order, found.weights


def judged(case: Case, seeds: Iterable[int], *, choose: Iterable[str] | None = None) -> dict[str, list[Judged]]:
    """Every method's judgements on the same problems, at as many chosen as are planted before the copies."""
    found: dict[str, list[Judged]] = {}
    for seed in seeds:
        problem = planted(case, seed)
        for name in choose or METHODS:
            order, weights = METHODS[name](problem, round(case.planted * case.candidates))
            found.setdefault(name, []).append(judge(problem, order))
            if name == "transport":
                found.setdefault("transport, weighted", []).append(judge(problem, order, weights))
    return found


def automatic(shares: Iterable[float], targets: Iterable[int], seeds: Iterable[int]) -> list[dict[str, Any]]:
    """How many ``budget: auto`` chooses by either ``rule``, and how many of them are planted, by share of planted and
    number of targets; means over ``seeds``. ``recall``: of the planted. ``loss``: see :class:`Judged`."""
    rows = []
    for share in shares:
        for count in targets:
            case = replace(CASES[1], planted=share, targets=count)
            problems = [planted(case, seed) for seed in seeds]
            for rule in ("share", "folds"):
                found = []
                for problem in problems:
                    order, _ = chosen_by(problem, Transport(baselines=False, automatic=rule), "auto")
                    true = problem.truth[order].sum()
                    figures = len(order) / len(problem.truth), true / len(order), true / problem.truth.sum()
                    found.append([problem.truth.mean(), *figures, judge(problem, order).loss])
                means = dict(zip(("planted", "chosen", "precision", "recall", "loss"), np.mean(found, 0), strict=True))
                rows.append({"rule": rule, "targets": count} | {name: float(mean) for name, mean in means.items()})
    return rows


def _mean_cosine(problem: Planted, budget: int) -> tuple[np.ndarray, np.ndarray]:
    ours, asked = (_unit(np.asarray(x.vectors, np.float64)) for x in (problem.candidates, problem.targets))
    return np.argsort(-(ours @ asked.mean(axis=0)), kind="stable")[:budget], np.ones(budget)


METHODS: dict[str, Callable[[Planted, int], tuple[np.ndarray, np.ndarray]]] = {
    "transport": lambda problem, budget: chosen_by(problem, Transport(baselines=False), budget),
    "unwhitened transport": lambda problem, budget: chosen_by(
        problem, Transport(whiten=False, baselines=False), budget
    ),
    "nearest": lambda problem, budget: chosen_by(problem, Nearest(), budget),
    "mean cosine": _mean_cosine,
    "random": lambda problem, budget: chosen_by(problem, Random(), budget),
}


def _steps(
    problem: Planted, points: np.ndarray, cluster: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    state = np.repeat(points, _STEPS, axis=0) + 0.2 * rng.normal(size=(len(points) * _STEPS, points.shape[1]))
    matrix = problem.demonstrators[np.repeat(cluster, _STEPS)]  # -1 is the last
    action = np.einsum("nd,nda->na", state, matrix)
    return state, action + 0.1 * rng.normal(size=action.shape)


def _cloned(state: np.ndarray, action: np.ndarray, weight: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """Actions after ``asked``: ridge regression on random Fourier features (Rahimi and Recht 2007) and the state."""
    rng = np.random.default_rng(0)
    frequency, phase = rng.normal(size=(state.shape[1], _FEATURES)) / 3, rng.uniform(0, 2 * np.pi, _FEATURES)

    def features(x: np.ndarray) -> np.ndarray:
        return np.concatenate([np.cos(x @ frequency + phase), x / 3, np.ones((len(x), 1))], axis=1)

    x = features(state)
    gram = (x * weight[:, None]).T @ x + 1e-4 * weight.sum() * np.eye(x.shape[1])
    return features(asked) @ np.linalg.solve(gram, (x * weight[:, None]).T @ action)


def _drawn(rng: np.random.Generator, count: int) -> np.ndarray:
    """Clusters of ``count`` targets in their proportions, each at least once where there are enough."""
    kind = rng.choice(len(_CLUSTERS), count, p=_CLUSTERS)
    kind[: len(_CLUSTERS)] = np.arange(len(_CLUSTERS))[:count]
    return kind


def _unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def _units(vectors: np.ndarray, prefix: str) -> Candidates:
    names = [f"{prefix}{i:05d}" for i in range(len(vectors))]
    hashes = [f"{(i * 2654435761) % 2**32:08x}{prefix}" for i in range(len(vectors))]
    return Candidates(names, hashes, np.full(len(vectors), _STEPS), vectors.astype(np.float32))
