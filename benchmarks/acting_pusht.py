"""Scenes of PushT: people's recorded actions performed again in ``gym-pusht``, as they were and with a defect acted.

The agent is a point that a PD controller pulls to its action, so inserted actions are lived through by agent and block.
The well acted side is the recording as it is: one that is played slower to be as long looks better than it is (which
``slower`` measures), so a set's lengths are evened out by which scenes are bad. Nobody is given more action noise than
the person had, except for the kind ``noise``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.acting import DEFECTS, Act, Pair, Plan, acted
from benchmarks.planting import Course

__all__ = ["FPS", "KINDS", "PROPRIOCEPTION", "TASK", "pairs", "recordings", "replayed"]

FPS = 10
TASK = "push the T to the goal"
PROPRIOCEPTION = (0, 1)  # of agent x and y, block x, y and angle
KINDS = (*DEFECTS, "slower")

_ATTEMPTS = 8
_REACHED = 0.75  # coverage of the goal that counts as a success: half of the people peak below 0.894
_LOSS = 0.1  # of coverage, that a harmless change may cost
_WALLS = (20.0, 492.0)


@dataclass(frozen=True)
class Take:
    """States [n, 5], before each of the actions [n, 2], and the coverage of the goal after the last."""

    state: np.ndarray
    action: np.ndarray
    coverage: float

    def __len__(self) -> int:
        return len(self.state)

    def act(self, span: tuple[int, int] = (0, 0), magnitude: float = 0.0) -> Act:
        """The take as an episode."""
        course = Course(self.state, self.action, np.arange(len(self)) / FPS, TASK)
        return Act(course, self.coverage >= _REACHED, span, magnitude)


def pairs(kind: str, data: Path, count: int | None, seed: int, cache: Path | None, workers: int = 2) -> list[Pair]:
    """The first ``count`` recordings (all for None) acted well and badly; see :func:`benchmarks.acting.acted`."""
    some = range(len(recordings(data)))[:count]
    return acted("pusht", partial(perform, data=data), [Plan("pusht", kind, i, seed) for i in some], cache, workers)


@cache
def recordings(data: Path) -> tuple[Course, ...]:
    """The 206 human episodes in ``data/pusht_zarr``: states [n, 5], actions [n, 2]."""
    import zarr

    with zarr.storage.ZipStore(data / "pusht_zarr/pusht_cchi_v7_replay.zarr.zip", mode="r") as store:
        root = zarr.open_group(store, mode="r")
        root = root if "data" in root else root[next(iter(root.group_keys()))]
        cuts = root["meta/episode_ends"][:][:-1]
        found = [np.split(root[f"data/{name}"][:].astype(np.float32), cuts) for name in ("state", "action")]
    return tuple(Course(s, a, np.arange(len(s)) / FPS, TASK) for s, a in zip(*found, strict=True))


def perform(plan: Plan, data: Path) -> Pair | None:
    """One recording acted well and badly; None where no draw comes out as it should."""
    course = recordings(data)[plan.index]
    plain = replayed(course.state[0], course.action)
    if plain.coverage < _REACHED:
        return None
    for attempt in range(_ATTEMPTS):
        draw = plan.draw(attempt)
        magnitude = draw.uniform()
        action, span = _spoilt(plan.kind, course.action, plain, magnitude, draw)
        badly = replayed(course.state[0], action)
        if plan.kind == "late_failure" and badly.coverage > _REACHED - _LOSS:
            continue
        if plan.kind in ("pause", "detour", "slower") and badly.coverage < plain.coverage - _LOSS:
            continue
        return Pair(plain.act(), badly.act(span, magnitude))
    return None


def replayed(start: np.ndarray, action: np.ndarray) -> Take:
    """Perform ``action`` [n, 2] from the state ``start`` [5]."""
    env = _environment()
    env.reset(seed=0)
    env.block.angle = float(start[4])  # before the position: turning is about the centre of mass, and moves it
    env.block.position = tuple(map(float, start[2:4]))
    env.agent.position = tuple(map(float, start[:2]))
    env.agent.velocity = env.block.velocity = (0.0, 0.0)
    env.block.angular_velocity = 0.0
    states = [np.asarray(start, np.float64)]
    for target in action.astype(np.float64):
        state, _, _, _, info = env.step(target)
        states.append(state)
    return Take(np.array(states[:-1], np.float32), action.astype(np.float32), float(info["coverage"]))


def _spoilt(
    kind: str, action: np.ndarray, plain: Take, magnitude: float, draw: np.random.Generator
) -> tuple[np.ndarray, tuple[int, int]]:
    """The actions with the defect in them, and its steps."""
    n = len(action)
    if kind == "noise":
        return np.clip(action + draw.normal(0, 4 + 16 * magnitude, action.shape), 0, 512), (0, n)
    if kind == "late_failure":
        start = round(draw.uniform(0.7, 0.85) * n)
        angle = np.deg2rad(60 + 120 * magnitude) * draw.choice([-1, 1])
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        elsewhere = action[start] + (action[start:] - action[start]) @ turn.T  # as fast as the person, another way
        return np.concatenate([action[:start], np.clip(elsewhere, *_WALLS)]), (start, n)
    longer = round(8 + 17 * magnitude)
    if kind == "slower":
        return _slower(action, longer), (0, 0)
    start = round(draw.uniform(0.2, 0.75) * n)
    if kind == "pause":
        inserted = np.repeat(action[start : start + 1], longer, axis=0)
    elif kind == "detour":
        inserted = _excursion(action, plain.state[start], start, 60 + 120 * magnitude, draw)
    else:
        raise ValueError(f"{kind} is not acted in PushT")
    spoilt = np.concatenate([action[: start + 1], inserted, action[start + 1 :]])
    return spoilt, (start + 1, start + 1 + len(inserted))


def _excursion(
    action: np.ndarray, state: np.ndarray, start: int, reach: float, draw: np.random.Generator
) -> np.ndarray:
    """Actions [k, 2] from ``action[start]`` out by ``reach`` pixels, away from the block, and back, at a usual pace."""
    here = action[start].astype(np.float64)
    away = np.arctan2(*(here - state[2:4])[::-1]) + draw.uniform(-0.8, 0.8)
    end = np.clip(here + reach * np.array([np.cos(away), np.sin(away)]), *_WALLS)
    speeds = np.linalg.norm(np.diff(action, axis=0), axis=1)
    pace = float(np.median(speeds[speeds > 1])) if (speeds > 1).any() else 10.0
    steps = int(np.clip(round(2 * np.linalg.norm(end - here) / pace), 8, 25))
    out = (1 - np.cos(np.linspace(0, 2 * np.pi, steps))) / 2
    return here + out[:, None] * (end - here)


def _slower(action: np.ndarray, longer: int) -> np.ndarray:
    """The same path of actions over ``longer`` more steps."""
    n = len(action)
    at = np.linspace(0, n - 1, n + longer)
    return np.stack([np.interp(at, np.arange(n), column) for column in action.T], axis=1)


@cache
def _environment() -> Any:
    """The simulator, built once a process."""
    import gym_pusht  # noqa: F401, registers it
    import gymnasium

    return gymnasium.make("gym_pusht/PushT-v0", obs_type="state").unwrapped
