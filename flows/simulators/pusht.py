"""PushT (Chi et al. 2023, "Diffusion Policy"): ``pusht``, a round pusher and a T-shaped block on a plane, in pixels.

The state is pusher x and y, block x and y and its angle; the action is where the pusher shall go. Success is 95 % of
the goal covered; progress the largest share of it so far.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import ClassVar

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
        world = GymWorld(Gymnasium(id=which, limit=self.limit, progress="coverage", make=make))
        world.version = f"gym-pusht {version('gym-pusht')}"
        return world
