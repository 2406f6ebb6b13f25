"""``describe``: what datasets offer a learner that no scorer may look at: rewards, names of scenes, outcomes.

Trajectory quality after Schweighofer et al., "A Dataset Perspective on Offline RL" (2022); shortcut risk after
"Shortcut Learning in Generalist Robot Policies" (2025); scaling after Lin et al., "Data Scaling Laws in Imitation
Learning" (2024).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import polars as pl

from data_engine import mixture as mixtures
from data_engine.errors import EngineError, RequestError
from data_engine.model import REWARD
from flows.agreement import agreements
from flows.index import vectors
from flows.levels import levels
from scorers.kernels.diversity import bandwidth, mmd, normalised_information, sinkhorn
from storage.lake import Lake

__all__ = ["describe", "held_episodes", "law"]

_PERMUTATIONS = 100
_DRAWN = 256  # vectors of a dataset that disparity is measured on
_BLUR = 0.1  # of the median distance
_FACTORS = ("dataset", "operator", "scene", "provenance", "embodiment")  # what a task should not be told by
_POINTS = 3  # mixtures of unlike breadth below which no law is fitted


def describe(
    lake: Lake, episodes: pl.DataFrame, space: str = "trajectory", fits: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """``{"items", "levels", "shortcuts", "disparities", "scaling", "agreements"}`` of ``episodes``. What cannot be
    known is None beside a ``reason``.

    ``items``: of each dataset the counts and ``trajectory_quality``, (mean return - worst) / (best - worst) by task,
    worst and best over all of ``episodes``, mean over tasks weighed by their episodes. ``levels``: what scores say of
    each dataset and operator, by the fits that ``fits`` names (:func:`flows.levels.levels`). ``shortcuts``: by factor
    beside the task, the ``nmi`` of the two and what is ``above_chance`` of it (0: the factor tells nothing of the task;
    1: it gives it away). ``disparities``: of every two datasets, how unlike their vectors in ``space`` are: squared
    ``mmd`` (0 for one distribution) and ``sinkhorn`` divergence, on at most 256 each. ``scaling``: by ``scenes`` and
    ``objects``, the power law 1 - success = a n^b over the mixtures that were evaluated, by how many their episodes
    hold; ``left_out`` of them it is not fitted to: gone, naming none, or never failing. ``agreements``: of every two
    labellers that cut episodes into segments, how far their cuts agree (:func:`flows.agreement.agreement`).
    """
    returns = _returns(lake, episodes)
    quality = _quality(episodes, returns)
    items = []
    for (name,), part in sorted(episodes.partition_by("dataset", as_dict=True).items()):
        value, reason = quality[str(name)]
        items.append(
            {
                "name": name,
                "episodes": len(part),
                "steps": int(part["n_steps"].sum()),
                "tasks": part["task"].drop_nulls().n_unique(),
                "operators": part["operator"].drop_nulls().n_unique(),
                "scenes": part["scene"].drop_nulls().n_unique(),
                "objects": _objects(part),
                "trajectory_quality": value,
                "reason": reason,
            }
        )
    return {
        "items": items,
        "levels": levels(lake, episodes, fits),
        "shortcuts": [_shortcut(episodes, factor) for factor in _FACTORS],
        "disparities": _disparities(lake, episodes, space),
        "scaling": [_scaling(lake, breadth) for breadth in ("scenes", "objects")],
        "agreements": agreements(lake, episodes),
    }


def _returns(lake: Lake, episodes: pl.DataFrame) -> dict[str, float]:
    """The sum of rewards of every episode that has one at each of its steps."""
    found: dict[str, float] = {}
    rewarded = [name for name, dataset in lake.datasets().items() if dataset.feature(REWARD) is not None]
    for _, part in episodes.filter(pl.col("dataset").is_in(rewarded)).group_by("dataset", maintain_order=True):
        for batch in lake.batches(part, columns=[REWARD]):
            reward = batch.array(REWARD)
            if reward is None:
                continue
            sums = [float(reward[rows].sum()) for rows in batch]
            ids = batch.episodes["episode_id"].to_pylist()
            found |= {name: value for name, value in zip(ids, sums, strict=True) if np.isfinite(value)}
    return found


def _quality(episodes: pl.DataFrame, returns: dict[str, float]) -> dict[str, tuple[float | None, str | None]]:
    """(trajectory quality, why there is none) of each dataset."""
    by_task: dict[Any, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for name, dataset, task, embodiment in episodes.select("episode_id", "dataset", "task", "embodiment").iter_rows():
        if name in returns:
            by_task[task, embodiment][dataset].append(returns[name])
    parts: dict[str, list[tuple[float, int]]] = defaultdict(list)
    rewarded: set[str] = set()
    for found in by_task.values():
        rewarded |= set(found)
        everyone = [value for values in found.values() for value in values]
        low, high = min(everyone), max(everyone)
        if high > low:
            for dataset, values in found.items():
                parts[dataset].append(((float(np.mean(values)) - low) / (high - low), len(values)))
    answer: dict[str, tuple[float | None, str | None]] = {}
    for dataset in episodes["dataset"].unique():
        if parts[dataset]:
            values, weights = zip(*parts[dataset], strict=True)
            answer[dataset] = float(np.average(values, weights=weights)), None
        else:
            answer[dataset] = None, "all returns of a task are equal" if dataset in rewarded else "no rewards"
    return answer


def _shortcut(episodes: pl.DataFrame, factor: str) -> dict[str, Any]:
    known = episodes.select("task", factor).drop_nulls()
    row: dict[str, Any] = {"factor": factor, "episodes": len(known), "nmi": None, "above_chance": None, "reason": None}
    lacking = next((name for name in (factor, "task") if known[name].n_unique() < 2), None)
    if lacking is not None:
        return {**row, "reason": f"{lacking} has fewer than two values"}
    nmi, above = normalised_information(
        known["task"].to_numpy(), known[factor].to_numpy(), permutations=_PERMUTATIONS, seed=0
    )
    return {**row, "nmi": nmi, "above_chance": above}


def _disparities(lake: Lake, episodes: pl.DataFrame, space: str) -> list[dict[str, Any]]:
    """A row for every two datasets of one robot; vectors of unlike robots lie in unlike spaces."""
    names = sorted(episodes["dataset"].unique())
    if len(names) < 2:
        return []
    found, reason = episodes.clear(), None
    try:
        found, _ = vectors(lake, space, episodes)
    except RequestError as error:
        reason = error.message
    drawn: dict[str, tuple[set[tuple[str, str]], np.ndarray]] = {}
    for name in names if reason is None else ():
        part = found.filter((pl.col("dataset") == name) & pl.col("vector").is_not_null()).sort("content_hash")
        part = part.head(_DRAWN)  # by content: a draw that depends on nothing else
        drawn[name] = set(part.select("embodiment", "control_mode").iter_rows()), np.array(part["vector"].to_list())
    rows = []
    for first, second in combinations(names, 2):
        row = {"first": first, "second": second, "space": space, "mmd": None, "sinkhorn": None, "reason": reason}
        if reason is None:
            (kind, x), (other, y) = drawn[first], drawn[second]
            if min(len(x), len(y)) < 2:
                row["reason"] = "fewer than two vectors"
            elif len(kind | other) > 1:
                row["reason"] = "unlike robots or control modes"
            else:
                width = bandwidth(np.concatenate([x, y]))
                row |= {"mmd": mmd(x, y, width), "sinkhorn": sinkhorn(x, y, _BLUR * width)}
        rows.append(row)
    return rows


def _objects(episodes: pl.DataFrame) -> int:
    return int(episodes["objects"].explode().drop_nulls().n_unique())


def _scaling(lake: Lake, breadth: str) -> dict[str, Any]:
    """The power law of failure over how many scenes or objects a mixture's training episodes hold."""
    points = []
    outcomes = lake.scan("evaluations").filter(pl.col("success").is_not_null() & pl.col("mixture_id").is_not_null())
    rates = outcomes.group_by("mixture_id").agg(pl.col("success").mean(), pl.len()).collect().sort("mixture_id")
    for mixture, success, rollouts in rates.iter_rows():
        held = held_episodes(lake, str(mixture))
        if held is None:
            continue
        count = held["scene"].drop_nulls().n_unique() if breadth == "scenes" else _objects(held)
        if count:
            points.append({"mixture_id": mixture, breadth: count, "success": success, "rollouts": rollouts})
    left_out = len(rates) - sum(point["success"] < 1 for point in points)
    row = {"over": breadth, "points": points, "left_out": left_out, "exponent": None, "factor": None, "r": None}
    return {**row, **law([point[breadth] for point in points], [point["success"] for point in points])}


def law(counts: Sequence[float], success: Sequence[float]) -> dict[str, Any]:
    """``exponent`` b, ``factor`` a and correlation ``r`` (of the logarithms) of 1 - success = a n^b; or a ``reason``.

    A success rate of 1 has no logarithm and leaves its point out. Least squares on logarithms.
    """
    pairs = np.array([(n, 1 - rate) for n, rate in zip(counts, success, strict=True) if rate < 1]).reshape(-1, 2)
    if len(np.unique(pairs[:, 0])) < _POINTS:
        return {"reason": f"fewer than {_POINTS} evaluated mixtures of unlike breadth"}
    x, y = np.log(pairs).T
    if not np.ptp(y):
        return {"exponent": 0.0, "factor": float(np.exp(y[0])), "r": None, "reason": None}
    slope, height = np.polyfit(x, y, 1)
    r = float(np.corrcoef(x, y)[0, 1])
    return {"exponent": float(slope), "factor": float(np.exp(height)), "r": r, "reason": None}


def held_episodes(lake: Lake, mixture: str) -> pl.DataFrame | None:
    """The lake's episodes that a mixture holds; None where the mixture is no longer there."""
    try:
        ids = mixtures.open(lake.uri_of(f"mixtures/{mixture}")).episodes["episode_id"].to_pylist()
    except EngineError:
        return None
    return lake.episodes().filter(pl.col("episode_id").is_in(ids))
