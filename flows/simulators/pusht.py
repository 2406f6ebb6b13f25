"""PushT (Chi et al. 2023, "Diffusion Policy"): ``pusht``, a round pusher and a T-shaped block on a plane, in pixels.

The state is pusher x and y, block x and y and its angle; the action is where the pusher shall go. Success is 95 % of
the goal covered; progress the largest share of it so far.
"""

from __future__ import annotations

from importlib.metadata import version
from importlib.util import find_spec
from typing import ClassVar

from data_engine.errors import EngineError
from flows.simulators import Simulator
from flows.simulators.gymnasium import Gymnasium, GymWorld

__all__ = ["PushT"]


class PushT(Simulator):
    """PushT with the state of 5 numbers, ten steps a second."""

    control_modes: ClassVar[tuple[str, ...]] = ("absolute", "ee_absolute", "ee_position")

    def open(self) -> GymWorld:
        """See :meth:`Simulator.open`."""
        make = {"obs_type": "state", "max_episode_steps": self.limit, "disable_env_checker": True}
        which = "gym_pusht:gym_pusht/PushT-v0"
        if find_spec("gym_pusht") is None:
            raise EngineError(
                "simulator 'pusht' needs a package that is not installed: gym-pusht",
                code="missing_package",
                fix="pip install 'gym-pusht>=0.1.6', which the extra `bench` brings",
            )
        world = GymWorld(Gymnasium(id=which, limit=self.limit, progress="coverage", make=make))
        world.version = f"gym-pusht {version('gym-pusht')}"
        return world
