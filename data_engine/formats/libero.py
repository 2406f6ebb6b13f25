"""LIBERO HDF5 (Liu et al. 2023): robomimic's layout with names of its own and the task's language beside the data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from data_engine.formats.arrays import Spec
from data_engine.formats.robomimic import Robomimic
from data_engine.formats.rows import Rows

if TYPE_CHECKING:
    import h5py

__all__ = ["Libero"]

_STATE = ("obs/ee_states", "obs/gripper_states")
_JOINTS, _SIMULATOR = "obs/joint_states", "states"
_ENTRIES = {
    "obs/ee_states": ("x", "y", "z", "rx", "ry", "rz"),
    "actions": ("x", "y", "z", "rx", "ry", "rz", "gripper"),
    "obs/joint_states": tuple(f"joint_{i}" for i in range(1, 8)),
    "obs/gripper_states": ("finger_1", "finger_2"),
}


class Libero(Robomimic):
    """LIBERO's demonstrations, one task a file.

    ``observation.state`` joins ``ee_states`` (position, then axis-angle) and ``gripper_states``; ``state_keys`` names
    others. ``joint_states`` and the rest stay columns, ``agentview_rgb`` and ``eye_in_hand_rgb`` are cameras. Task and
    language are the instruction in ``problem_info``.

    Images come as stored: its writer's convention ``opengl`` puts the bottom row first, and a note says so. Its writer
    also steps the simulator before it records an observation; where the joints agree with the simulator's state one
    step later, a note says that too. Nothing is turned or shifted.
    """

    name: ClassVar[str] = "libero"
    recorded_in: ClassVar[str | None] = "sim"

    def state(self, specs: Mapping[str, Spec]) -> tuple[str, ...]:
        """See the class."""
        return tuple(path for path in _STATE if path in specs) or super().state(specs)

    def entries(self, specs: Mapping[str, Spec]) -> dict[str, tuple[str, ...]]:
        """See the class."""
        return _ENTRIES

    def remarks(self, data: h5py.Group) -> list[str]:
        """How its images lie."""
        stated = data.attrs.get("macros_image_convention")
        convention = stated.decode() if isinstance(stated, bytes) else stated
        if convention == "opencv":
            return []
        how = "opengl" if convention == "opengl" else "not stated, opengl by default"
        return [f"images are kept as stored: their convention is {how}, the bottom row first (upside down)"]

    def beyond(self, demo: h5py.Group, arrays: Mapping[str, Rows]) -> tuple[dict[str, Any], list[str]]:
        """A note where observations were recorded after the action of their own row."""
        added, notes = super().beyond(demo, arrays)
        joints, states = arrays.get(_JOINTS), arrays.get(_SIMULATOR)
        if joints is not None and states is not None and len(joints) == len(states) > 1:
            width = joints.spec.size
            if states.spec.size > width:
                at, seen = states.load()[:, 1 : 1 + width], joints.load()  # time, then the arm's joints
                now, later = np.abs(seen - at).max(), np.abs(seen[:-1] - at[1:]).max()
                if later < 1e-6 < now:
                    notes.append("observations were recorded after the action of their own step, as states show")
        return added, notes
