"""A policy in a simulator: what came of each initial condition."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from flows.policy import Policy
from flows.simulators import World

__all__ = ["Outcome", "roll"]


@dataclass(frozen=True)
class Outcome:
    """How a rollout from the initial condition ``condition`` (the seed of the reset) ended, after ``steps`` steps."""

    condition: int
    success: bool
    progress: float
    steps: int


def roll(policy: Policy, world: World, task: str, conditions: Iterable[int]) -> list[Outcome]:
    """One rollout from each of ``conditions``: the policy looks, acts ``execute`` steps and looks again.

    A rollout whose state or action is not finite has failed there.
    """
    return [_one(policy, world, task, condition) for condition in conditions]


def _one(policy: Policy, world: World, task: str, condition: int) -> Outcome:
    seen = [world.reset(condition)] * policy.config.history
    progress, steps = 0.0, 0
    while True:
        actions = policy.act(np.stack(seen), task)
        for action in actions:
            if not np.isfinite(action).all():
                return Outcome(condition, False, progress, steps)
            step = world.step(action)
            steps += 1
            if not (np.isfinite(step.observation).all() and np.isfinite(step.progress)):
                return Outcome(condition, False, progress, steps)
            progress = max(progress, step.progress)
            if step.done:
                return Outcome(condition, bool(step.success), progress, steps)
            seen = [*seen[1:], step.observation]
