"""robosuite's own demonstration files: ``data/demo_i/{states, actions, ...}`` without observations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from data_engine.formats.arrays import Layout, Spec, free_name
from data_engine.formats.demonstrations import DemonstrationFile
from data_engine.formats.dialect import dialect
from data_engine.formats.rows import Rows
from data_engine.model import ACTION, REWARD, STATE, TERMINATED

if TYPE_CHECKING:
    import h5py

__all__ = ["Robosuite"]

_NAMES = {"rewards": REWARD, "dones": TERMINATED}
_VELOCITIES = ("joint_velocities", "gripper_actuations")  # what the environments before 1.0 take as their action


class Robosuite(DemonstrationFile):
    """Both of robosuite's layouts.

    ``states`` -> ``observation.state`` whole: MuJoCo's flattened simulator state (time, positions, velocities); the
    file does not say where one ends, so components are ``states.<i>``. ``actions`` -> ``action``; files before 1.0 have
    groups instead, of which ``joint_velocities`` then ``gripper_actuations`` are joined, as their environments take
    them (``action_keys`` names others: right_dpos, right_dquat, gripper_actuations). The rest are columns by name.

    ``timestamp`` is the recorded simulation time from the start, where it rises, and the rate is its median: old files
    were recorded at an uneven rate. The option ``fps`` puts an even clock in its place.
    """

    name: ClassVar[str] = "robosuite"
    recorded_in: ClassVar[str | None] = "sim"

    def claims(self, data: h5py.Group, members: frozenset[str]) -> bool:
        """Demonstrations without an ``obs`` group, whose actions, velocities or states say how long they are."""
        return dialect(data, members) == self.name and (not members or not members.isdisjoint(self.length_from))

    def layout(self, specs: Mapping[str, Spec]) -> tuple[Layout, list[str]]:
        """See the class."""
        state = self.chosen("state_keys", "", specs) or (("states",) if "states" in specs else ())
        default = ("actions",) if "actions" in specs else tuple(key for key in _VELOCITIES if key in specs)
        action = self.chosen("action_keys", "", specs) or default
        columns = {name: keys for name, keys in ((STATE, state), (ACTION, action)) if keys}
        for path in specs:
            if path not in state and path not in action:
                columns[free_name(_NAMES.get(path, path).replace("/", "."), columns)] = (path,)
        notes = [f"no arrays for {name}" for name in (STATE, ACTION) if name not in columns]
        return Layout(specs, columns, {}, frozenset({TERMINATED})), notes

    def clock(self, arrays: Mapping[str, Rows]) -> np.ndarray | None:
        """The simulation time, the first number of each state, where it rises by 0.1 ms to 1 s a step; else None."""
        states = arrays.get("states")
        if states is None or not states.spec.dtype.startswith("float") or states.spec.size < 3 or len(states) < 2:
            return None
        time: np.ndarray = states.load()[:, 0].astype(np.float64)
        gaps = np.diff(time)
        return time if np.isfinite(time).all() and gaps.min() >= 1e-4 and gaps.max() <= 1.0 else None

    def beyond(self, demo: h5py.Group, arrays: Mapping[str, Rows]) -> tuple[dict[str, Any], list[str]]:
        """A note where the recorded clock is uneven, or cannot be trusted."""
        if self.fps is not None:
            return {}, []
        clock = self.clock(arrays)
        if clock is None:
            return {}, ["the states hold no rising simulation time: timestamps are even"]
        gaps = np.diff(clock)
        if np.ptp(gaps) > 0.01 * np.median(gaps):
            return {}, [f"the recorded clock is uneven: {gaps.min() * 1e3:.3g} to {gaps.max() * 1e3:.3g} ms a step"]
        return {}, []
