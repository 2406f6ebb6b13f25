"""Defects of behaviour acted in a simulator, never spliced into columns, which leaves a seam that gives them away.

A scene is acted twice, well and badly; a set draws each scene once, well or badly, and so that lengths do not tell:
neither the length nor a twin gives the bad one away:

    acts, bad = drawn(pairs, share=0.2, seed=0)

``noise`` tracks worse than everybody's common noise; ``pause`` waits 8 to 25 steps; ``detour`` goes out of its way and
returns; ``late_failure`` goes all right until late and fails, as the simulator itself says. No defects are ``strategy``
(both sides succeed, by another approach) and ``slower`` (the same, over 8 to 25 steps more). The simulators are in
``acting_metaworld`` and ``acting_pusht``.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.planting import Course

__all__ = ["DEFECTS", "KINDS", "Act", "Pair", "Plan", "acted", "drawn", "end_with_parent"]

DEFECTS = ("noise", "pause", "detour", "late_failure")
KINDS = (*DEFECTS, "strategy", "slower")
_EXCHANGES = 2000  # tried at most to even out the lengths of a task
_VERSION = 5  # of what is acted: a cache of another one is made anew


@dataclass(frozen=True)
class Plan:
    """One scene to act: a pure function of it. ``index`` counts the scenes of a ``task`` and ``kind``."""

    task: str
    kind: str
    index: int
    seed: int

    def draw(self, attempt: int = 0) -> np.random.Generator:
        """The randomness of this scene at its ``attempt``."""
        key = hashlib.sha256(f"{self.task} {self.kind} {self.seed}".encode()).digest()[:4]
        return np.random.default_rng([int.from_bytes(key, "big"), self.index, attempt])


@dataclass(frozen=True)
class Act:
    """One acted episode. ``span``: the steps of the defect, (0, 0) where there is none. ``magnitude``: 0 to 1, how much
    of it there is. ``success``: what the simulator says at the end."""

    course: Course
    success: bool
    span: tuple[int, int] = (0, 0)
    magnitude: float = 0.0


@dataclass(frozen=True)
class Pair:
    """One scene acted ``well`` and ``badly`` (where neither is bad: in the one and the other way)."""

    well: Act
    badly: Act


def drawn(pairs: Sequence[Pair], *, share: float, seed: int) -> tuple[list[Act], np.ndarray]:
    """Each scene once, ``share`` of each task's badly (at least two of them, all but two at most), and which: bool [E].

    Which scenes are bad is drawn by ``seed`` and then exchanged one by one until the length does not tell: until a bad
    episode of a task is longer than a good one as often as shorter, to 2 %, or no exchange brings it nearer.
    """
    tasks = [pair.well.course.task for pair in pairs]
    lengths = np.array([[len(pair.well.course), len(pair.badly.course)] for pair in pairs])
    draw = np.random.default_rng([seed, len(pairs)])
    bad = np.zeros(len(pairs), bool)
    for task in sorted(set(tasks)):
        members = draw.permutation([i for i, other in enumerate(tasks) if other == task])
        count = int(np.clip(round(share * len(members)), 2, max(len(members) - 2, 0)))
        bad[members[:count]] = True
        tilt = _tilt(lengths[members], bad[members])
        for _ in range(_EXCHANGES):
            if abs(tilt) <= 0.02 or not 0 < count < len(members):
                break
            pair = [draw.choice(members[bad[members]]), draw.choice(members[~bad[members]])]
            bad[pair] = bad[pair[::-1]]
            nearer = _tilt(lengths[members], bad[members])
            if abs(nearer) < abs(tilt):
                tilt = nearer
            else:
                bad[pair] = bad[pair[::-1]]
    return [pair.badly if spoilt else pair.well for pair, spoilt in zip(pairs, bad, strict=True)], bad


def _tilt(lengths: np.ndarray, bad: np.ndarray) -> float:
    """How much more often than not a bad episode is longer than a good one: -0.5 to 0.5."""
    a, b = lengths[bad, 1][:, None], lengths[~bad, 0][None]
    return float(((a > b) + 0.5 * (a == b)).mean() - 0.5) if a.size and b.size else 0.0


def acted(
    simulator: str,
    perform: Callable[[Plan], Pair | None],
    plans: Sequence[Plan],
    cache: Path | None,
    workers: int = 2,
) -> list[Pair]:
    """``perform`` of each plan, in order, in ``workers`` processes; those that cannot be acted (None) are left out.

    What lies in the folder ``cache`` is taken from there, the rest is recorded and kept there, one file for each
    (simulator, task, kind, seed).
    """
    found: dict[Plan, Pair | None] = {}
    for plan in {(p.task, p.kind, p.seed): p for p in plans}.values() if cache else ():
        found |= _load(cache, simulator, plan)
    missing = sorted({plan for plan in plans if plan not in found}, key=lambda p: (p.task, p.kind, p.seed, p.index))
    if missing:
        found |= dict(zip(missing, _performed(perform, missing, workers), strict=True))
        for key in {(p.task, p.kind, p.seed): p for p in missing}.values() if cache else ():
            mine = {p: pair for p, pair in found.items() if (p.task, p.kind, p.seed) == (key.task, key.kind, key.seed)}
            _save(cache, simulator, key, mine)
    return [pair for plan in plans if (pair := found[plan]) is not None]


def _performed(perform: Callable[[Plan], Pair | None], plans: Sequence[Plan], workers: int) -> list[Pair | None]:
    if workers <= 1 or len(plans) < 2:
        return [perform(plan) for plan in plans]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(plans)), mp_context=context, initializer=end_with_parent) as pool:
        return list(pool.map(perform, plans, chunksize=4))


def end_with_parent() -> None:
    """Start a watch in a worker: it ends when its parent does, however that ended."""
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _path(cache: Path, simulator: str, plan: Plan) -> Path:
    return cache / f"{simulator}-{plan.task}-{plan.kind}-{plan.seed}-v{_VERSION}.npz"


def _save(cache: Path, simulator: str, plan: Plan, pairs: dict[Plan, Pair | None]) -> None:
    """One file of plain arrays and a JSON text, moved into place whole."""
    cache.mkdir(parents=True, exist_ok=True)
    indices = {p.index: pair for p, pair in pairs.items()}
    acts = [act for pair in indices.values() if pair for act in (pair.well, pair.badly)]
    facts = {
        "scenes": [[index, pair is not None] for index, pair in indices.items()],
        "acts": [[len(a.course), a.success, *a.span, a.magnitude, a.course.task] for a in acts],
    }
    empty = np.empty((0, 0))
    arrays = {
        name: np.concatenate([getattr(a.course, name) for a in acts]) if acts else empty
        for name in ("state", "action", "time")
    }
    path = _path(cache, simulator, plan)
    part = path.with_suffix(f".{os.getpid()}.part.npz")
    np.savez(part, facts=np.array(json.dumps(facts)), **arrays)
    part.replace(path)


def _load(cache: Path, simulator: str, plan: Plan) -> dict[Plan, Pair | None]:
    path = _path(cache, simulator, plan)
    if not path.exists():
        return {}
    with np.load(path, allow_pickle=False) as file:
        facts = json.loads(str(file["facts"]))
        state, action, time = file["state"], file["action"], file["time"]
    acts, at = [], 0
    for n, success, start, stop, magnitude, task in facts["acts"]:
        rows = slice(at, at + n)
        acts.append(Act(Course(state[rows], action[rows], time[rows], task), success, (start, stop), magnitude))
        at += n
    ready = iter(acts)
    return {
        Plan(plan.task, plan.kind, index, plan.seed): Pair(next(ready), next(ready)) if there else None
        for index, there in facts["scenes"]
    }
