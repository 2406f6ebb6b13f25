"""Scenes of Meta-World acted well and badly by its scripted experts (Yu et al. 2019, "Meta-World").

Everybody moves at a gain drawn for the scene, with the same action noise. The well acted side of a scene has the gain
at which it takes exactly as many steps as the bad one (harmlessly slower), a late failure simply goes on for as long.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.acting import Act, Pair, Plan, acted
from benchmarks.planting import Course
from flows.simulators import named

__all__ = ["FPS", "GRIPPER", "PROPRIOCEPTION", "TASKS", "pairs", "perform"]

FPS = 20
PROPRIOCEPTION = (0, 1, 2, 3)  # of the 39 numbers of a state: the hand's x, y, z and the gripper's opening
GRIPPER = (3,)  # of the action
TASKS = {  # what a demonstration is told to do; the first two are in the tiers set, the others were left out of it
    "drawer-open-v3": "open the drawer",
    "pick-place-v3": "pick up the puck and place it at the goal",
    "button-press-topdown-v3": "press the button from above",
    "window-open-v3": "open the window",
}

_SIMULATOR = "metaworld-2"  # the number is of what is recorded: a cache of another one is made anew
_NOISE = 0.05  # standard deviation of everybody's action noise; actions lie in [-1, 1]
_GAIN = (0.7, 1.0)
_LIMIT = 320  # steps; nobody goes on for longer
_ATTEMPTS = 8  # scenes tried before one is given up
_LINGER = (4, 14)  # steps of staying after the success
_LONGEST = 60  # steps of a detour
_REACHED = 0.03  # metres from a point on the way to it


@dataclass(frozen=True)
class Way:
    """How a scene is acted. ``gain``: share of the expert's speed. ``start``: the step at which the defect begins.

    ``noise`` instead of the common one; ``pause`` steps; ``detour`` [3] metres there and back; ``miss`` [2] metres by
    which object and goal are believed to be elsewhere; ``drop``: opens the gripper and never notices; ``via`` [3]
    metres off the straight line to the object that the approach goes by.
    """

    gain: float
    start: int = 0
    noise: float = _NOISE
    pause: int = 0
    detour: np.ndarray | None = None
    miss: np.ndarray | None = None
    drop: bool = False
    via: np.ndarray | None = None


@dataclass(frozen=True)
class Take:
    """What came of a way: states [n, 39], actions [n, 4], the first step of success or None, steps of the defect."""

    state: np.ndarray
    action: np.ndarray
    done: int | None
    span: tuple[int, int]

    def __len__(self) -> int:
        return len(self.state)

    def act(self, task: str, magnitude: float = 0.0) -> Act:
        """The take as an episode."""
        course = Course(self.state, self.action, np.arange(len(self)) / FPS, TASKS[task])
        return Act(course, self.done is not None, self.span, magnitude)


def pairs(kind: str, tasks: Sequence[str], count: int, seed: int, cache: Path | None, workers: int = 2) -> list[Pair]:
    """``count`` scenes of each of ``tasks``, acted well and badly; see :func:`benchmarks.acting.acted`."""
    return acted(
        _SIMULATOR, perform, [Plan(task, kind, i, seed) for task in tasks for i in range(count)], cache, workers
    )


def perform(plan: Plan) -> Pair | None:
    """One scene, tried with other draws until both sides come out as they should; None where none does."""
    for attempt in range(_ATTEMPTS):
        pair = _late_failure(plan, attempt) if plan.kind == "late_failure" else _matched(plan, attempt)
        if pair is not None:
            return pair
    return None


def _matched(plan: Plan, attempt: int) -> Pair | None:
    """Both sides succeed, and the well acted one is as slow as the other takes."""
    draw = plan.draw(attempt)
    seed, linger = int(draw.integers(2**31)), int(draw.integers(*_LINGER))
    plain, magnitude = Way(draw.uniform(*_GAIN)), draw.uniform()
    if plan.kind == "strategy":
        aside = np.array([0.1 + 0.1 * magnitude, 0.0, 0.0])
        plain, odd = replace(plain, via=aside), replace(plain, via=-aside)
    else:
        nominal = _run(plan.task, seed, plain, linger=linger)
        if nominal.done is None:
            return None
        odd = _spoilt(plain, plan.kind, magnitude, int(draw.uniform(0.2, 0.7) * nominal.done), draw)
    badly = _run(plan.task, seed, odd, linger=linger)
    if badly.done is None or (plan.kind in ("pause", "detour") and not 0 < badly.span[1] <= badly.done):
        return None
    if badly.span[1] - badly.span[0] > _LONGEST and plan.kind == "detour":
        return None  # something was in the way
    well = _as_long(plan.task, seed, plain, len(badly), linger)
    return None if well is None else Pair(well.act(plan.task), badly.act(plan.task, magnitude))


def _spoilt(way: Way, kind: str, magnitude: float, start: int, draw: np.random.Generator) -> Way:
    if kind == "noise":
        return replace(way, noise=0.15 + 0.35 * magnitude)
    if kind == "pause":
        return replace(way, start=start, pause=round(8 + 17 * magnitude))
    if kind == "detour":
        angle, lift = draw.uniform(0, 2 * np.pi), draw.uniform(0.0, 1.0)  # never down into the table
        out = np.array([np.cos(angle), np.sin(angle), lift])
        return replace(way, start=start, detour=(0.05 + 0.1 * magnitude) * out / np.linalg.norm(out))
    raise ValueError(f"{kind} is no defect that Meta-World's experts act")


def _as_long(task: str, seed: int, way: Way, steps: int, linger: int) -> Take | None:
    """A success of ``steps`` steps, by the gain at which it is done ``linger`` steps before the end, give or take two.

    More of a difference would give it away: who is done early rests longer.
    """
    gain, aim = way.gain, steps - 1 - linger
    for _ in range(6):
        take = _run(task, seed, replace(way, gain=gain), steps=steps)
        if take.done is not None and abs(take.done - aim) <= 2:
            return take
        gain *= (take.done if take.done is not None else 1.15 * steps) / aim
        if not 0.4 <= gain <= 1.0:
            return None
    return None


def _late_failure(plan: Plan, attempt: int) -> Pair | None:
    """All right until 60 to 80 % of the way; then the object is lost or missed, and that is never noticed."""
    draw = plan.draw(attempt)
    seed, linger = int(draw.integers(2**31)), int(draw.integers(*_LINGER))
    way, magnitude = Way(draw.uniform(*_GAIN)), draw.uniform()
    angle, late = draw.uniform(0, 2 * np.pi), draw.uniform(0.6, 0.8)
    drop = plan.task == "pick-place-v3" and draw.uniform() < 0.5
    well = _run(plan.task, seed, way, linger=linger)
    if well.done is None:
        return None
    off = (0.06 + 0.1 * magnitude) * np.array([np.cos(angle), np.sin(angle)])
    failing = replace(way, start=int(late * well.done), drop=drop, miss=None if drop else off)
    badly = _run(plan.task, seed, failing, steps=len(well))
    if badly.done is not None or badly.span == (0, 0):
        return None
    return Pair(well.act(plan.task), badly.act(plan.task, magnitude))


def _run(task: str, seed: int, way: Way, *, steps: int | None = None, linger: int = 0) -> Take:
    """Act ``way`` for ``steps`` steps; without, until ``linger`` steps after the success or ``_LIMIT``."""
    from metaworld.policies import ENV_POLICY_MAP

    world, expert = _world(task), ENV_POLICY_MAP[task]()
    state = world.reset(seed)
    draw = np.random.default_rng(seed)
    mind = _Mind(way, state)
    states: list[np.ndarray] = []
    actions: list[np.ndarray] = []
    done: int | None = None
    while len(states) < (steps or _LIMIT) and (steps or done is None or len(states) <= done + linger):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the experts ask for more than the arm's limits, which cut it below
            action = np.clip(np.asarray(expert.get_action(mind.believed(state, len(states))), np.float64), -1, 1)
        action = mind.acted(state, action, len(states))
        noise = draw.normal(0.0, way.noise, 3)
        action[:3] = way.gain * action[:3] + noise
        action = np.clip(action, -1, 1).astype(np.float32)
        states.append(state.astype(np.float32))
        actions.append(action)
        state, _, _, _, info = world.env.step(action)
        if done is None and info["success"]:
            done = len(states) - 1
    return Take(np.stack(states), np.stack(actions), done, mind.span(len(states)))


class _Mind:
    """What the actor believes and intends beside the expert: the defect while it lasts."""

    def __init__(self, way: Way, state: np.ndarray) -> None:
        self._way = way
        self._goals: list[np.ndarray] = []
        if way.via is not None:
            self._goals = [(state[:3] + state[4:7]) / 2 * [1, 1, 0] + [0, 0, state[2]] + way.via]
        self._grip = -1.0
        self._began: int | None = None
        self._ended: int | None = None

    def span(self, steps: int) -> tuple[int, int]:
        """The steps of the defect so far."""
        if self._way.noise != _NOISE:
            return 0, steps
        return (0, 0) if self._began is None else (self._began, steps if self._ended is None else self._ended)

    def believed(self, state: np.ndarray, step: int) -> np.ndarray:
        """The state as the actor takes it to be."""
        way = self._way
        if not (way.drop or way.miss is not None) or step < way.start:
            return state
        lifted = state[6] > 0.05 and np.linalg.norm(state[:3] - state[4:7]) < 0.08
        if way.drop and self._began is None and not lifted:
            return state  # nothing in the hand to lose yet
        self._began = step if self._began is None else self._began
        state = state.copy()
        if way.drop:
            state[3], state[4:7] = 0.4, state[:3]  # still in the hand, as far as the actor knows
        else:
            state[4:6] += way.miss
            state[36:38] += way.miss
        return state

    def acted(self, state: np.ndarray, action: np.ndarray, step: int) -> np.ndarray:
        """What the actor wants to do in place of the expert's ``action``."""
        way, hand = self._way, state[:3]
        if way.pause and way.start <= step < way.start + way.pause:
            self._began, self._ended = way.start, way.start + way.pause
            return np.array([0.0, 0.0, 0.0, self._grip])
        if way.detour is not None and self._began is None and step >= way.start:
            self._began, self._goals = step, [hand + way.detour, hand.copy()]
        if self._goals and np.linalg.norm(hand - self._goals[0]) < _REACHED:
            self._goals.pop(0)
            if not self._goals and way.detour is not None:
                self._ended = step
        if way.drop and self._began is not None:
            action[3] = -1.0
        if self._goals:
            action = np.r_[np.clip(10 * (self._goals[0] - hand), -1, 1), self._grip]
        self._grip = action[3]
        return action


@cache
def _world(task: str) -> Any:
    """The simulator of ``task``, built once a process: every reset starts from the same clean state."""
    return named(f"metaworld:{task}").open()
