"""Simulators that a trained policy is rolled out in: one file each, registered under ``data_engine.simulators``.

A :class:`Simulator` names one (``metaworld:drawer-open-v3``) and holds its options; :class:`World` is it, running. What
a world observes is what the mixture's ``observation.state`` holds, in its order; what it takes is its ``action``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from data_engine import registry
from data_engine.registry import Plugin

__all__ = ["Simulator", "Step", "World", "named"]


@dataclass(frozen=True)
class Step:
    """What followed an action. ``progress`` is 0 to 1, the most that was reached so far; ``done`` ends the rollout."""

    observation: np.ndarray
    success: bool
    progress: float
    done: bool


class World(ABC):
    """A simulator that runs. One seed and the same actions give the same rollout."""

    observation_size: int
    action_size: int
    version: str  # of the software: rollouts of another may differ

    @abstractmethod
    def reset(self, seed: int) -> np.ndarray:
        """Start anew from the initial condition ``seed`` and return the observation, float64 [observation_size]."""

    @abstractmethod
    def step(self, action: np.ndarray) -> Step:
        """Take ``action`` [action_size], cut to what the simulator allows."""

    def close(self) -> None:  # noqa: B027  (nothing to give back is the usual case)
        """Give back what the world holds."""


class Simulator(Plugin):
    """Names a simulator. ``id`` is what follows the colon; ``limit`` ends a rollout after so many steps.

    ``control_modes`` says what its actions may mean in a mixture; empty where it cannot tell.
    """

    control_modes: ClassVar[tuple[str, ...]] = ()

    id: str = ""
    limit: int = 300

    @abstractmethod
    def open(self) -> World:
        """The simulator, running. Raises ``RequestError`` for an ``id`` it does not know, ``EngineError`` where a
        package is missing."""


def named(text: str, options: Mapping[str, Any] | None = None) -> Simulator:
    """The simulator that ``NAME`` or ``NAME:ID`` names. Raises ``RequestError`` where there is none."""
    name, _, which = text.partition(":")
    simulator: Simulator = registry.make("simulators", name, {**(options or {}), **({"id": which} if which else {})})
    return simulator
