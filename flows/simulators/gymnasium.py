"""Any Gymnasium environment: ``gymnasium:ID`` or ``gymnasium:MODULE:ID``, its observation and success told by key.

Actions are cut to the environment's box. Without ``success`` a rollout succeeds where its last step says
``is_success``; an environment that says nothing of success is refused.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from pydantic import Field

from data_engine.errors import EngineError, RequestError
from flows.simulators import Simulator, Step, World

__all__ = ["GymWorld", "Gymnasium"]


class Gymnasium(Simulator):
    """A Gymnasium environment.

    ``observation``: keys of a dictionary observation that make up the state, in its order; empty for a flat one.
    ``success`` and ``progress``: keys of ``info``. ``make``: what ``gymnasium.make`` is given besides the id.
    """

    observation: tuple[str, ...] = ()
    success: str = "is_success"
    progress: str | None = None
    make: dict[str, Any] = Field(default_factory=dict)

    def open(self) -> GymWorld:
        """See :meth:`Simulator.open`."""
        return GymWorld(self)


class GymWorld(World):
    """An environment behind the seam."""

    def __init__(self, asked: Gymnasium) -> None:
        try:
            import gymnasium
        except ImportError as error:
            raise EngineError(
                "simulator 'gymnasium' needs a package that is not installed: gymnasium",
                code="missing_package",
                fix="pip install gymnasium",
            ) from error
        if not asked.id:
            raise RequestError("which environment? none is named", code="bad_option", fix="gymnasium:ID")
        try:
            self.env: Any = gymnasium.make(asked.id, **asked.make)
        except ImportError as error:
            raise EngineError(
                f"environment {asked.id!r} needs a package that is not installed: {error.name or error}",
                code="missing_package",
            ) from error
        except (gymnasium.error.Error, TypeError, ValueError) as error:
            raise RequestError(f"cannot make environment {asked.id!r}: {error}", code="unknown_environment") from error
        self.asked = asked
        box = self.env.action_space
        if not hasattr(box, "low") or len(box.shape) != 1:
            raise RequestError(f"{asked.id!r} takes no vector of real numbers as action", code="bad_environment")
        self._low, self._high = box.low, box.high
        self.action_size = int(box.shape[0])
        self.observation_size = len(self.reset(0))
        self.version = f"gymnasium {gymnasium.__version__}"

    def reset(self, seed: int) -> np.ndarray:
        """See :meth:`World.reset`."""
        observation, _ = self.env.reset(seed=seed)
        self._taken, self._best = 0, 0.0
        return self._flat(observation)

    def step(self, action: np.ndarray) -> Step:
        """See :meth:`World.step`."""
        cut = np.clip(action, self._low, self._high).astype(self._low.dtype)
        observation, _, terminated, truncated, info = self.env.step(cut)
        for key in filter(None, (self.asked.success, self.asked.progress)):
            if key not in info:
                raise RequestError(
                    f"{self.asked.id!r} says no {key!r} of a step",
                    code="bad_environment",
                    fix=f"it says: {', '.join(sorted(info)) or 'nothing'}",
                )
        success = bool(info[self.asked.success])
        now = float(info[self.asked.progress]) if self.asked.progress else float(success)
        self._taken += 1
        self._best = max(self._best, min(now, 1.0))
        done = success or bool(terminated or truncated) or self._taken >= self.asked.limit
        return Step(self._flat(observation), success, self._best, done)

    def close(self) -> None:
        """See :meth:`World.close`."""
        self.env.close()

    def _flat(self, observation: Any) -> np.ndarray:
        if not isinstance(observation, dict):
            return np.asarray(observation, np.float64).ravel()
        missing = [key for key in self.asked.observation if key not in observation]
        if missing or not self.asked.observation:
            what = f"no {missing[0]!r}" if missing else "several parts"
            raise RequestError(
                f"{self.asked.id!r} observes {what}",
                code="bad_environment",
                fix=f"-o observation=[KEY, ...] of {', '.join(sorted(observation))}",
            )
        return np.concatenate([np.asarray(observation[key], np.float64).ravel() for key in self.asked.observation])
