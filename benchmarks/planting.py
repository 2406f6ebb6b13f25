"""Recording defects planted in clean episodes, for measuring what scores find: pure functions of arrays and a seed.

Each kind is what goes wrong between a robot and its file: columns are cut, shifted, mixed up or corrupted, and the
motion stays what it was. Defects of behaviour (noise, pauses, detours, failures) are acted in a simulator instead: a
splice of columns leaves a seam that gives it away.

    courses, bad = spoil(courses, "lagged", share=0.2, seed=0)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

__all__ = ["CONSISTENCY", "INTEGRITY", "KINDS", "Course", "spoil"]


@dataclass(frozen=True)
class Course:
    """One episode: ``state`` [n, ds], ``action`` [n, da], ``time`` [n] seconds and its task."""

    state: np.ndarray
    action: np.ndarray
    time: np.ndarray
    task: str = ""

    def __len__(self) -> int:
        return len(self.state)


@dataclass(frozen=True)
class Site:
    """Where a defect is planted: the set it is drawn from, the random draw, and the action's gripper dimensions."""

    courses: Sequence[Course]
    draw: np.random.Generator
    gripper: tuple[int, ...]

    def other(self, course: Course, least: int = 0) -> Course:
        """Another episode at random, of at least ``least`` steps where there is one, else the longest."""
        others = [other for other in self.courses if other is not course]
        long = [other for other in others if len(other) >= least]
        return long[self.draw.integers(len(long))] if long else max(others, key=len)

    def axes(self, action: np.ndarray) -> np.ndarray:
        """The action dimensions that are no gripper."""
        return np.setdiff1d(np.arange(action.shape[1]), self.gripper)


def truncated(course: Course, site: Site) -> Course:
    """Only the first 5 to 15 % are there."""
    keep = max(2, round(len(course) * site.draw.uniform(0.05, 0.15)))
    return _cut(course, slice(0, keep))


def not_finite(course: Course, site: Site) -> Course:
    """A run of 1 to 10 % of the steps is NaN or infinite in one dimension of the state or the action."""
    start, stop = _run(len(course), site.draw, 0.01, 0.1)
    column = ("state", "action")[site.draw.integers(2)]
    values = getattr(course, column).astype(np.float64)
    values[start:stop, site.draw.integers(values.shape[1])] = (np.nan, np.inf)[site.draw.integers(2)]
    return replace(course, **{column: values})


def reversed_in_time(course: Course, site: Site) -> Course:
    """States and actions run backwards; the clock does not."""
    return replace(course, state=course.state[::-1], action=course.action[::-1])


def frozen(course: Course, site: Site) -> Course:
    """The state hangs for 20 to 40 % of the steps while actions go on."""
    start, stop = _run(len(course), site.draw, 0.2, 0.4)
    state = course.state.copy()
    state[start:stop] = state[start]
    return replace(course, state=state)


def duplicated(course: Course, site: Site) -> Course:
    """Another episode's recording once more."""
    other = site.other(course)
    return replace(other, task=course.task)


def lagged(course: Course, site: Site) -> Course:
    """Actions come 3 to 8 steps late, the first one repeated until then."""
    lag = int(site.draw.integers(3, 9))
    return replace(course, action=course.action[np.maximum(np.arange(len(course)) - lag, 0)])


def swapped(course: Course, site: Site) -> Course:
    """Two axes of the action are exchanged."""
    first, second = site.draw.choice(site.axes(course.action), 2, replace=False)
    action = course.action.copy()
    action[:, [first, second]] = action[:, [second, first]]
    return replace(course, action=action)


def negated(course: Course, site: Site) -> Course:
    """One or more axes of the action have the other sign."""
    axes = site.axes(course.action)
    chosen = site.draw.choice(axes, site.draw.integers(1, len(axes) + 1), replace=False)
    action = course.action.copy()
    action[:, chosen] *= -1
    return replace(course, action=action)


def wrong_units(course: Course, site: Site) -> Course:
    """The action's axes are in another unit: degrees for radians, millimetres or centimetres for metres, or back."""
    factor = site.draw.choice([180 / np.pi, 100.0, 1000.0]) ** site.draw.choice([-1, 1])
    action = course.action.astype(np.float64)
    action[:, site.axes(action)] *= factor
    return replace(course, action=action.astype(np.result_type(course.action, np.float32)))


def joined(course: Course, site: Site) -> Course:
    """The first half goes on with the second half of another episode, cut to the same length."""
    other = site.other(course, least=len(course))
    half = len(course) // 2
    rest = slice(max(len(other) - (len(course) - half), 0), None)
    return replace(
        course,
        state=np.concatenate([course.state[:half], other.state[rest]]),
        action=np.concatenate([course.action[:half], other.action[rest]]),
        time=course.time[: half + len(other.state[rest])],
    )


def foreign(course: Course, site: Site) -> Course:
    """The actions are those of another episode, from its start; its last is repeated where it is shorter."""
    other = site.other(course, least=len(course))
    return replace(course, action=other.action[np.minimum(np.arange(len(course)), len(other) - 1)])


def teleported(course: Course, site: Site) -> Course:
    """One to three times, from a step on, some moving dimensions of the state are off by 15 to 50 % of their range."""
    state = course.state.astype(np.float64)
    pooled = np.concatenate([other.state for other in site.courses])
    reach = np.subtract(*np.percentile(pooled, [95, 5], axis=0))
    moving = np.flatnonzero((np.ptp(course.state, axis=0) > 0) & (reach > 0))
    for _ in range(site.draw.integers(1, 4)):
        if len(moving) and len(course) > 4:
            chosen = site.draw.choice(moving, site.draw.integers(1, len(moving) + 1), replace=False)
            step = site.draw.integers(2, len(course) - 2)
            sign = site.draw.choice([-1, 1], len(chosen))
            state[step:, chosen] += sign * site.draw.uniform(0.15, 0.5, len(chosen)) * reach[chosen]
    return replace(course, state=state.astype(np.result_type(course.state, np.float32)))


def gripper_flipped(course: Course, site: Site) -> Course:
    """The gripper's command has the other sign (the other end of its range) for 20 to 60 % of the steps, in one run."""
    start, stop = _run(len(course), site.draw, 0.2, 0.6)
    action = course.action.copy()
    for dim in site.gripper:
        low = min(other.action[:, dim].min() for other in site.courses)
        high = max(other.action[:, dim].max() for other in site.courses)
        action[start:stop, dim] = low + high - action[start:stop, dim]
    return replace(course, action=action)


def mislabelled(course: Course, site: Site) -> Course:
    """It carries another task of the set."""
    tasks = sorted({other.task for other in site.courses} - {course.task})
    return replace(course, task=tasks[site.draw.integers(len(tasks))])


Plant = Callable[[Course, Site], Course]
INTEGRITY: dict[str, Plant] = {
    "truncated": truncated,
    "not_finite": not_finite,
    "frozen": frozen,
    "duplicated": duplicated,
}
CONSISTENCY: dict[str, Plant] = {
    "reversed": reversed_in_time,
    "lagged": lagged,
    "swapped": swapped,
    "negated": negated,
    "wrong_units": wrong_units,
    "joined": joined,
    "foreign": foreign,
    "teleported": teleported,
    "gripper_flipped": gripper_flipped,
}
KINDS: dict[str, Plant] = {**INTEGRITY, **CONSISTENCY, "mislabelled": mislabelled}


def spoil(
    courses: Sequence[Course], kind: str, *, share: float, seed: int, gripper: Sequence[int] = ()
) -> tuple[list[Course], np.ndarray]:
    """``courses`` with ``kind`` planted in ``share`` of them, drawn at random, and bool [E]: which those are.

    Nothing given is changed, and what is not chosen is handed back as it is. Donors of joined, foreign and duplicated
    parts are clean. The same seed plants the same. Raises ``ValueError`` for an unknown kind, and where the set has no
    room for it: no gripper, fewer than two axes, episodes or tasks.
    """
    draw = np.random.default_rng([seed, *kind.encode()])
    site = Site(courses, draw, tuple(gripper))
    _check(kind, site)
    chosen = draw.choice(len(courses), round(share * len(courses)), replace=False)
    bad = np.isin(np.arange(len(courses)), chosen)
    return [KINDS[kind](course, site) if spoilt else course for course, spoilt in zip(courses, bad, strict=True)], bad


def _check(kind: str, site: Site) -> None:
    if kind not in KINDS:
        raise ValueError(f"{kind} is none of {', '.join(KINDS)}")
    room = {
        "gripper_flipped": (len(site.gripper), 1, "gripper dimension"),
        "swapped": (len(site.axes(site.courses[0].action)), 2, "axes"),
        "mislabelled": (len({course.task for course in site.courses}), 2, "tasks"),
    }
    have, need, what = room.get(kind, (len(site.courses), 2, "episodes"))
    if have < need:
        raise ValueError(f"{kind} needs at least {need} {what}, the set has {have}")


def _cut(course: Course, rows: slice) -> Course:
    return replace(course, state=course.state[rows], action=course.action[rows], time=course.time[rows])


def _run(n: int, draw: np.random.Generator, least: float, most: float) -> tuple[int, int]:
    """A run of at least one step and of ``least`` to ``most`` of ``n``, anywhere."""
    length = min(n, max(1, round(n * draw.uniform(least, most))))
    start = int(draw.integers(n - length + 1))
    return start, start + length
