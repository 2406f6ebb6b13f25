"""The labelled sets that measures are held against: recording defects planted, behaviour acted, tiers, two strategies.

    case = make(Job("metaworld acted", "pause", share=0.2, seed=0), settings)

Every case is a pure function of its job and settings. ``view`` is what a state shows: ``state`` all of it, objects
included, ``proprioception`` the hand and gripper alone.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from benchmarks import acting_metaworld, acting_pusht
from benchmarks.acting import DEFECTS, Act, Pair, drawn
from benchmarks.planting import KINDS as PLANTED
from benchmarks.planting import Course, spoil

__all__ = ["SETS", "Case", "Job", "Settings", "make", "tiers"]

SETS = {  # by set: the kinds that it has
    "pusht planted": tuple(kind for kind in PLANTED if kind not in ("gripper_flipped", "mislabelled")),
    "metaworld planted": tuple(PLANTED),
    "pusht acted": DEFECTS,
    "metaworld acted": DEFECTS,
}
FPS = {"pusht": acting_pusht.FPS, "metaworld": acting_metaworld.FPS}
HAND = {"pusht": (0, 1), "metaworld": (0, 1, 2)}  # the dimensions of a state that the jerk is taken of


@dataclass(frozen=True)
class Settings:
    """Where data and recordings lie, and how much of them is used: ``scenes`` of each Meta-World task and kind,
    ``people`` of PushT (None: all 206), ``tasks`` of Meta-World."""

    data: Path
    cache: Path | None
    scenes: int = 24
    people: int | None = None
    tasks: tuple[str, ...] = tuple(acting_metaworld.TASKS)
    workers: int = 2


@dataclass(frozen=True)
class Job:
    """One labelled set: ``share`` of the episodes are bad, drawn by ``seed``."""

    set: str
    kind: str
    share: float = 0.2
    seed: int = 0
    view: str = "state"


@dataclass(frozen=True)
class Case:
    """Episodes and what is known of them: ``bad`` bool [E], ``worth`` [E] (0 for good, minus how bad otherwise),
    ``spans`` of the defects, ``hand``: state dimensions for the jerk."""

    courses: list[Course]
    bad: np.ndarray
    worth: np.ndarray
    spans: list[tuple[int, int]]
    fps: float
    hand: tuple[int, ...]

    @property
    def tasks(self) -> np.ndarray:
        """The task of each episode, as it is labelled."""
        return np.array([course.task for course in self.courses])


def make(job: Job, settings: Settings) -> Case:
    """The case of ``job``. Raises ``ImportError`` without the simulator that its recordings would take."""
    family, how = job.set.split(" ", 1)
    if how == "planted":
        clean = (
            list(acting_pusht.recordings(settings.data)[: settings.people]) if family == "pusht" else _clean(settings)
        )
        gripper = acting_metaworld.GRIPPER if family == "metaworld" else ()
        courses, bad = spoil(clean, job.kind, share=job.share, seed=job.seed, gripper=gripper)
        case = Case(courses, bad, -bad.astype(float), [(0, 0)] * len(bad), FPS[family], HAND[family])
    elif how == "acted":
        acts, bad = drawn(_pairs(family, job.kind, settings), share=job.share, seed=job.seed)
        case = _acted(acts, bad, family)
    elif how == "clean":
        acts = [pair.well for pair in _pairs(family, "pause", settings)]
        case = _acted(acts, np.zeros(len(acts), bool), family)
    else:
        raise ValueError(f"no such set: {job.set}")
    return _seen(case, family) if job.view == "proprioception" else case


def _acted(acts: Sequence[Act], bad: np.ndarray, family: str) -> Case:
    worth = np.array([-float(spoilt) * (1 + act.magnitude) for act, spoilt in zip(acts, bad, strict=True)])
    spans = [act.span for act in acts]
    return Case([act.course for act in acts], bad, worth, spans, FPS[family], HAND[family])


def _pairs(family: str, kind: str, settings: Settings) -> list[Pair]:
    if family == "pusht":
        return acting_pusht.pairs(kind, settings.data, settings.people, 0, settings.cache, settings.workers)
    return acting_metaworld.pairs(kind, settings.tasks, settings.scenes, 0, settings.cache, settings.workers)


def _clean(settings: Settings) -> list[Course]:
    """Every good Meta-World episode of the tiers set's experts."""
    courses, tier = tiers(settings.data)
    return [course for course, t in zip(courses, tier, strict=True) if t == "expert"]


@cache
def tiers(data: Path) -> tuple[list[Course], np.ndarray]:
    """The 180 Meta-World episodes of ``data/metaworld_tiers``, and the tier of each: expert, okay or worse."""
    root = data / "metaworld_tiers"
    table = pq.read_table(root / "lerobot_v3/data/chunk-000/file-000.parquet")
    truth = json.loads((root / "truth.json").read_text())
    cuts = np.flatnonzero(np.diff(table["episode_index"].to_numpy())) + 1
    columns = (np.stack(table[c].to_numpy(zero_copy_only=False)) for c in ("observation.state", "action"))
    state, action = (np.split(column, cuts) for column in columns)
    courses = [
        Course(s, a, np.arange(len(s)) / acting_metaworld.FPS, str(t["task"]))
        for s, a, t in zip(state, action, truth, strict=True)
    ]
    return courses, np.array([t["tier"] for t in truth])


def _seen(case: Case, family: str) -> Case:
    """``case`` with the state that a robot knows of itself."""
    own = list(acting_pusht.PROPRIOCEPTION if family == "pusht" else acting_metaworld.PROPRIOCEPTION)
    return replace(case, courses=[replace(course, state=course.state[:, own]) for course in case.courses])
