"""Which library wrote an HDF5 file of demonstrations: four share ``data/demo_0`` and differ in little."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from data_engine.formats.attributes import parse, plain

if TYPE_CHECKING:
    import h5py

__all__ = ["dialect"]


def dialect(data: h5py.Group, members: frozenset[str]) -> Literal["isaac_lab", "libero", "robomimic", "robosuite"]:
    """The library that wrote the group ``data``, whose demonstrations have ``members`` between them.

    Isaac Lab records an initial state, or says how its simulator steps; LIBERO names its task's problem; robomimic has
    observations and robosuite none.
    """
    if "initial_state" in members or "sim_args" in parse(plain(data.attrs.get("env_args"))):
        return "isaac_lab"
    if "obs" not in members:
        return "robosuite"
    return "libero" if "problem_info" in data.attrs or "bddl_file_name" in data.attrs else "robomimic"
