"""Isaac Lab HDF5, as its recorder and Isaac Lab Mimic write it: robomimic's layout with nested groups."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from data_engine.formats.arrays import Spec
from data_engine.formats.attributes import plain
from data_engine.formats.hdf5 import child, walk
from data_engine.formats.robomimic import Robomimic
from data_engine.formats.rows import Rows

if TYPE_CHECKING:
    import h5py

__all__ = ["IsaacLab"]

_STATE = ("obs/eef_pos", "obs/eef_quat", "obs/gripper_pos", "obs/object")
_INITIAL = "initial_state"
_LARGE = 1 << 16  # bytes


class IsaacLab(Robomimic):
    """Isaac Lab's demonstrations.

    ``observation.state`` joins what its Mimic tasks train on, ``eef_pos``, ``eef_quat``, ``gripper_pos`` and
    ``object``, where they are there; else every vector directly under ``obs`` but ``actions``, the action before.
    Nested arrays are columns by their path (``states.articulation.robot.joint_position``), ``initial_state`` is an
    attribute of the episode. The rate is that of its ``sim_args``.
    """

    name: ClassVar[str] = "isaac_lab"
    recorded_in: ClassVar[str | None] = "sim"
    skipped: ClassVar[tuple[str, ...]] = ("next_obs", _INITIAL)

    def state(self, specs: Mapping[str, Spec]) -> tuple[str, ...]:
        """See the class."""
        usual = tuple(path for path in _STATE if path in specs)
        direct = (path for path, spec in specs.items() if path.count("/") == 1 and spec.is_vector)
        return usual or tuple(sorted(path for path in direct if path.startswith("obs/") and path != "obs/actions"))

    def remarks(self, data: h5py.Group) -> list[str]:
        """The order of its quaternions, which a version of the file's format changed."""
        version = plain(data.file.attrs.get("format_version"))
        order = "x, y, z, w" if isinstance(version, int) and version >= 1 else "w, x, y, z"
        return [f"root poses hold quaternions as {order}: the file's format version is {version or 0}"]

    def beyond(self, demo: h5py.Group, arrays: Mapping[str, Rows]) -> tuple[dict[str, Any], list[str]]:
        """The initial state, by path."""
        added, notes = super().beyond(demo, arrays)
        if _INITIAL in list(demo):
            found = walk(child(demo, _INITIAL))
            large = [path for path, array in found.items() if array.nbytes > _LARGE]
            notes += [f"{_INITIAL}/{path} is too large for an attribute and is not kept" for path in large]
            added[_INITIAL] = {path: plain(array.load()) for path, array in found.items() if path not in large}
        return added, notes
