"""Sets of demonstrations of known worth, recorded in simulators: what ``uplift`` selects from.

``mixed``: few good demonstrations among people who misjudge where things are (all by the same way), wander, or quit;
failures last about as long as successes. ``clean``: good demonstrations alone. ``strategies``: good ones of which half
approach from one side and half from the other. ``targets``: a few good ones that are held apart and told to scores
that need to know what is wanted. One plan is one demonstration, a pure function of it. ``pusht``: people's recordings
of PushT performed again, three in five of them going wrong late (``acting_pusht``).
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import acting_pusht
from benchmarks.planting import Course
from flows.simulators import World, named

__all__ = [
    "PUSHT", "SETS", "TASKS", "VERSION", "Demonstration", "Plan", "Stage", "perform", "plans", "pusht", "recorded",
    "stage", "world_of",
]  # fmt: skip

LIMIT = 160  # steps of a rollout in Meta-World, and of who goes on for longest
PUSHT = "pusht"
TASKS = ("window-open-v3", "door-open-v3", "button-press-topdown-v3")
SETS: dict[str, tuple[str, ...]] = {  # who demonstrates, in turn
    "mixed": ("good", "misjudging", "wandering", "good", "misjudging", "quitting", "good", "misjudging", "wandering",
              "quitting"),
    "clean": ("good",),
    "strategies": ("good left", "good right"),
    "targets": ("good",),
}  # fmt: skip
_BAD = 0.6  # of PushT's candidates
VERSION = 2  # of what is recorded: a cache of another one is made anew


@dataclass(frozen=True)
class Stage:
    """Where a task is performed: its simulator and the steps of a rollout, frames a second, the state's dimensions that
    say where the hand is (for its jerk), and whether success or progress tells policies apart."""

    simulator: str
    limit: int
    fps: float
    hand: tuple[int, ...]
    outcome: str


def stage(task: str) -> Stage:
    """The stage of ``task``. Few policies cover 95 % of PushT's goal, so there the largest coverage counts."""
    if task == PUSHT:
        return Stage(PUSHT, 200, acting_pusht.FPS, (0, 1), "progress")
    return Stage(f"metaworld:{task}", LIMIT, 20.0, (0, 1, 2), "success")


@dataclass(frozen=True)
class Plan:
    """Demonstration ``index`` of ``task`` by somebody of ``kind`` in a set of name ``part``."""

    part: str
    task: str
    kind: str
    index: int
    seed: int


@dataclass(frozen=True)
class Demonstration:
    """One recording. ``noise``: standard deviation of its action noise, the less the better among successes."""

    course: Course
    kind: str
    success: bool
    noise: float


def plans(part: str, task: str, count: int, seed: int) -> list[Plan]:
    """``count`` demonstrations of a task by the people of the set ``part``."""
    people = SETS[part]
    return [Plan(part, task, people[index % len(people)], index, seed) for index in range(count)]


def perform(plan: Plan) -> Demonstration:
    """Record ``plan``. Who is good is asked again until it succeeds, the others fail as they do."""
    for attempt in range(20):
        found = _attempt(plan, attempt)
        if found.success or not plan.kind.startswith("good"):
            return found
    raise RuntimeError(f"the expert fails at {plan.task}")


def recorded(
    work: Sequence[Plan], cache: Path | None, each: Callable[[Callable[..., Any], Sequence[Any]], Iterable[Any]]
) -> list[Demonstration]:
    """The demonstrations of one set and task, from the folder ``cache`` or through ``each`` (a parallel map)."""
    first = work[0]
    name = f"uplift-{first.part}-{first.task}-{len(work)}-{first.seed}-v{VERSION}.npz"
    if cache is None or not (cache / name).exists():
        found = list(each(perform, work))
        if cache is not None:
            cache.mkdir(parents=True, exist_ok=True)
            _save(cache / name, found)
        return found
    return _load(cache / name, first.task)


@cache
def world_of(task: str) -> World:
    """The simulator of ``task``, built once a process."""
    where = stage(task)
    return named(where.simulator, {"limit": where.limit}).open()


def pusht(count: int, targets: int, seed: int, data: Path, cache: Path | None) -> tuple[list[Demonstration], ...]:
    """At most ``count`` candidates and ``targets`` good ones that are none of them, of twice as many recordings: some
    cannot be made to fail late."""
    pairs = acting_pusht.pairs("late_failure", data, 2 * (count + targets), seed, cache)
    order = np.random.default_rng([seed, 8]).permutation(len(pairs))
    mine = order[targets : targets + count]
    bad = np.arange(len(mine)) < _BAD * len(mine)
    acts = [pairs[i].badly if spoilt else pairs[i].well for i, spoilt in zip(mine, bad, strict=True)]
    found = [
        Demonstration(act.course, "failing" if b else "good", not b, 0.0) for act, b in zip(acts, bad, strict=True)
    ]
    return found, [Demonstration(pairs[i].well.course, "good", True, 0.0) for i in order[:targets]]


def _attempt(plan: Plan, attempt: int) -> Demonstration:
    from metaworld.policies import ENV_POLICY_MAP

    draw, world, expert = _draw(plan, attempt), world_of(plan.task), ENV_POLICY_MAP[plan.task]()
    state = world.reset(int(draw.integers(2**30, 2**31)))  # rollouts start from lower seeds
    noise, gain, linger = draw.uniform(0.02, 0.15), draw.uniform(0.7, 1.0), int(draw.integers(5, 15))
    patience = LIMIT if plan.kind.startswith("good") else int(draw.integers(70, 130))
    still = int(draw.integers(15, 50)) if plan.kind == "quitting" else LIMIT
    belief = _belief(plan, draw)
    via = _via(plan.kind, state)
    states: list[np.ndarray] = []
    actions: list[np.ndarray] = []
    success = False
    while len(actions) < patience and linger > 0:
        if via is not None and np.linalg.norm(state[:3] - via) < 0.03:
            via = None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the experts ask for more than the arm's limits, which cut it below
            action = np.asarray(expert.get_action(state + belief), np.float64)
        if via is not None:
            action[:3] = 10 * (via - state[:3])
        action[:3] = gain * np.clip(action[:3], -1, 1) + draw.normal(0, noise, 3)
        if len(actions) >= still:
            action[:3] = draw.normal(0, 0.02, 3)
        action = np.clip(action, -1, 1).astype(np.float32)
        states.append(state.astype(np.float32))
        actions.append(action)
        step = world.step(action)
        state, success = step.observation, success or step.success
        linger -= success
    course = Course(np.stack(states), np.stack(actions), np.arange(len(states)) / stage(plan.task).fps, plan.task)
    return Demonstration(course, plan.kind, success, float(noise))


def _draw(plan: Plan, *more: int) -> np.random.Generator:
    key = hashlib.sha256(f"{plan.part} {plan.task} {plan.seed}".encode()).digest()[:4]
    return np.random.default_rng([int.from_bytes(key, "big"), plan.index, *more])


def _belief(plan: Plan, draw: np.random.Generator) -> np.ndarray:
    """By how much the state is believed to be another: object and goal in the plane."""
    belief = np.zeros(39)
    if plan.kind == "misjudging":  # one camera is out of place: the same way for all
        shared = np.random.default_rng([int.from_bytes(plan.task.encode()[:4], "big"), plan.seed])
        angle, metres = shared.uniform(0, 2 * np.pi), draw.uniform(0.06, 0.1)
    elif plan.kind == "wandering":
        angle, metres = draw.uniform(0, 2 * np.pi), draw.uniform(0.1, 0.25)
    else:
        return belief
    belief[4:6] = belief[36:38] = metres * np.array([np.cos(angle), np.sin(angle)])
    return belief


def _via(kind: str, state: np.ndarray) -> np.ndarray | None:
    side = {"good left": -0.12, "good right": 0.12}.get(kind)
    if side is None:
        return None
    half = (state[:2] + state[4:6]) / 2
    return np.array([half[0] + side, half[1], max(float(state[2]), 0.15) + 0.1])  # above what is in the way


def _save(path: Path, found: Sequence[Demonstration]) -> None:
    lengths = [len(each.course) for each in found]
    np.savez_compressed(
        path,
        state=np.concatenate([each.course.state for each in found]),
        action=np.concatenate([each.course.action for each in found]),
        lengths=lengths,
        kind=np.array([each.kind for each in found]),
        success=[each.success for each in found],
        noise=[each.noise for each in found],
    )


def _load(path: Path, task: str) -> list[Demonstration]:
    with np.load(path) as file:
        cuts = np.cumsum(file["lengths"])[:-1]
        state, action = np.split(file["state"], cuts), np.split(file["action"], cuts)
        facts = zip(state, action, file["kind"].tolist(), file["success"].tolist(), file["noise"].tolist(), strict=True)
        return [
            Demonstration(Course(s, a, np.arange(len(s)) / stage(task).fps, task), k, ok, n) for s, a, k, ok, n in facts
        ]
