"""robomimic HDF5: ``data/demo_i/{obs/*, actions, rewards, dones, states}`` and filter keys under ``mask``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from data_engine.formats.arrays import Layout, Spec, free_name
from data_engine.formats.attributes import plain
from data_engine.formats.demonstrations import DemonstrationFile
from data_engine.formats.dialect import dialect
from data_engine.formats.hdf5 import child, split, walk
from data_engine.formats.rows import Rows
from data_engine.model import ACTION, REWARD, STATE, TERMINATED

if TYPE_CHECKING:
    import h5py

__all__ = ["Robomimic"]

_PROPRIOCEPTION = re.compile(r"robot(\d+)_(right_|left_)?(eef_pos|eef_quat|gripper_qpos)")
_PARTS = ("eef_pos", "eef_quat", "gripper_qpos")
_OBJECT = ("object", "object-state")
_NAMES = {"rewards": REWARD, "dones": TERMINATED}


class Robomimic(DemonstrationFile):
    """robomimic's layout.

    ``observation.state`` joins what robomimic's own policies are given by default: for each robot (and arm) in order
    ``robot<i>_eef_pos``, ``_eef_quat``, ``_gripper_qpos``, then ``object``; a file with no such names joins all its
    vector observations by name; ``state_keys`` names others. Each component keeps its source: ``object.3``. Vector
    observations outside the state stay columns ``observation.<key>``, uint8 (h, w, 3) ones are cameras.
    ``actions`` -> ``action`` (or ``action_keys``, e.g. ``actions_abs``), ``rewards`` -> ``reward``, ``dones`` ->
    ``terminated`` (0 and 1 only; robomimic sets it at the end of a demonstration, at success, or at both: it proves
    no success). ``next_obs`` is ``obs`` one step on: only its last row is new, and is kept as ``next_obs.last``.
    """

    name: ClassVar[str] = "robomimic"
    skipped: ClassVar[tuple[str, ...]] = ("next_obs",)

    def claims(self, data: h5py.Group, members: frozenset[str]) -> bool:
        """Demonstrations with an ``obs`` group, of no other library."""
        return dialect(data, members) == self.name

    def state(self, specs: Mapping[str, Spec]) -> tuple[str, ...]:
        """The arrays that are joined into ``observation.state`` where no option names others."""
        return _state_keys(specs)

    def entries(self, specs: Mapping[str, Spec]) -> dict[str, tuple[str, ...]]:
        """Arrays whose entries have names of their own."""
        return {}

    def layout(self, specs: Mapping[str, Spec]) -> tuple[Layout, list[str]]:
        """See the class."""
        state = self.chosen("state_keys", "obs/", specs) or self.state(specs)
        action = self.chosen("action_keys", "", specs) or ("actions",)
        cameras = {
            path.removeprefix("obs/"): path
            for path, found in specs.items()
            if path.startswith("obs/") and found.is_rgb and found.dtype == "uint8"
        }
        columns = {name: keys for name, keys in ((STATE, state), (ACTION, action)) if set(keys) & specs.keys()}
        taken = {*state, *action, *cameras.values()}
        for path in specs:
            if path not in taken:
                name = _NAMES.get(path, path).replace("obs/", "observation.", 1).replace("/", ".")
                columns[free_name(name, columns)] = (path,)
        notes = [] if state else ["no vector observations: there is no observation.state"]
        if ACTION not in columns:
            notes.append("no actions")
        return Layout(specs, columns, cameras, frozenset({TERMINATED}), self.entries(specs)), notes

    def beyond(self, demo: h5py.Group, arrays: Mapping[str, Rows]) -> tuple[dict[str, Any], list[str]]:
        """The observation after the last action, where there is one, and a note where it is not ``obs`` shifted."""
        if "next_obs" not in list(demo):
            return {}, []
        last, notes = {}, []
        for key, after in split(walk(child(demo, "next_obs")))[0].items():
            now = arrays.get(f"obs/{key}")
            if now is None or now.spec != after.spec or len(now) != len(after):
                notes.append(f"next_obs/{key} does not match obs and is not read")
                continue
            n = len(now)
            if n > 1 and not np.array_equal(after.read(n - 2, n - 1), now.read(n - 1, n), equal_nan=now.spec.is_vector):
                notes.append(f"next_obs/{key} is not obs/{key} one step later")
            if now.spec.is_vector:
                last[key] = plain(after.read(n - 1, n)[0])
        return ({"next_obs.last": last} if last else {}), notes


def _state_keys(specs: Mapping[str, Spec]) -> tuple[str, ...]:
    vectors = [path for path, found in specs.items() if path.startswith("obs/") and found.is_vector]
    ranked = []
    for path in vectors:
        key = path.removeprefix("obs/")
        match = _PROPRIOCEPTION.fullmatch(key)
        if match:
            ranked.append(((0, int(match[1]), match[2] or "", _PARTS.index(match[3])), path))
        elif key in _OBJECT:
            ranked.append(((1, 0, key, 0), path))
    return tuple(path for _, path in sorted(ranked)) or tuple(sorted(vectors))
