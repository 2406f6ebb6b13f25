"""Meta-World (Yu et al. 2019): ``metaworld:TASK``, tasks of a simulated Sawyer arm. State 39, action 4.

The state is hand, gripper, objects, the frame before and the goal; the action is a change of the hand's place and the
gripper. Object and goal are placed anew from the seed. Progress is a tenth of the shaped reward, 1 at success.
"""

from __future__ import annotations

import difflib
import warnings
from typing import Any, ClassVar

import numpy as np

from data_engine.errors import EngineError, RequestError
from flows.simulators import Simulator, Step, World

__all__ = ["MetaWorld", "MetaWorldTask"]


class MetaWorld(Simulator):
    """A Meta-World task."""

    control_modes: ClassVar[tuple[str, ...]] = ("ee_delta", "delta")

    limit: int = 200

    def open(self) -> MetaWorldTask:
        """See :meth:`Simulator.open`."""
        return MetaWorldTask(self.id, self.limit)


class MetaWorldTask(World):
    """One task. ``env`` is Meta-World's own environment, for who needs more than a world shows."""

    observation_size, action_size = 39, 4

    def __init__(self, task: str, limit: int) -> None:
        try:
            import metaworld
            from metaworld.env_dict import ALL_V3_ENVIRONMENTS_GOAL_OBSERVABLE as environments
        except ImportError as error:
            raise EngineError(
                f"simulator 'metaworld' needs a package that is not installed: {error.name}",
                code="missing_package",
                fix="pip install 'metaworld>=3'",
            ) from error
        known = [name.removesuffix("-goal-observable") for name in environments]
        if task not in known:
            near = difflib.get_close_matches(task, known, n=1)
            raise RequestError(
                f"Meta-World has no task {task!r}",
                code="unknown_task",
                fix=f"did you mean {near[0]!r}?" if near else "as in metaworld:drawer-open-v3",
            )
        self.version = f"metaworld {getattr(metaworld, '__version__', None) or _installed()}"
        self.env: Any = environments[f"{task}-goal-observable"](seed=0)
        self.env._freeze_rand_vec, self.env.seeded_rand_vec = False, True
        self._rest = self._hand_at_rest()
        self.limit, self._taken, self._best = min(limit, self.env.max_path_length), 0, 0.0

    def reset(self, seed: int) -> np.ndarray:
        """See :meth:`World.reset`."""
        import mujoco

        self.env.seed(seed)
        self.env.do_simulation = self._take_rest  # shadows the method: a reset takes 100 steps, all of them to there
        try:
            self.env.reset()
        finally:
            del self.env.do_simulation
        mujoco.mj_forward(self.env.model, self.env.data)  # the reset's own observation shows where things were before
        self.env._get_obs()  # becomes the frame before
        self._taken, self._best = 0, 0.0
        return np.asarray(self.env._get_obs(), np.float64)

    def _hand_at_rest(self) -> np.ndarray:
        """The whole physical state once the hand is where rollouts begin: the same whatever the seed."""
        import mujoco

        mujoco.mj_resetData(self.env.model, self.env.data)
        self.env._reset_hand()
        state = np.empty(mujoco.mj_stateSize(self.env.model, mujoco.mjtState.mjSTATE_INTEGRATION))
        mujoco.mj_getState(self.env.model, self.env.data, state, mujoco.mjtState.mjSTATE_INTEGRATION)
        return state

    def _take_rest(self, control: Any, frames: int) -> None:
        """In place of the simulation that brings the hand there."""
        import mujoco

        if self.env.data.time != self._rest[0]:
            mujoco.mj_setState(self.env.model, self.env.data, self._rest, mujoco.mjtState.mjSTATE_INTEGRATION)
            mujoco.mj_forward(self.env.model, self.env.data)

    def step(self, action: np.ndarray) -> Step:
        """See :meth:`World.step`."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            observation, reward, _, _, info = self.env.step(np.clip(action, -1.0, 1.0).astype(np.float32))
        self._taken += 1
        success = bool(info["success"])
        self._best = max(self._best, 1.0 if success else min(float(reward) / 10, 1.0))
        return Step(np.asarray(observation, np.float64), success, self._best, success or self._taken >= self.limit)

    def close(self) -> None:
        """See :meth:`World.close`."""
        self.env.close()


def _installed() -> str:
    from importlib.metadata import version

    return version("metaworld")
