"""RoboMIND HDF5 (Wu et al. 2024): one ``trajectory.hdf5`` an episode, ``puppet`` the robot, ``master`` who leads it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from data_engine.formats.arrays import Layout, Spec, free_name
from data_engine.formats.episode_arrays import Survey
from data_engine.formats.episode_files import EpisodeFiles, has
from data_engine.model import ACTION, STATE

if TYPE_CHECKING:
    import h5py

__all__ = ["RoboMind"]

_COLOUR, _PUPPET, _MASTER = "observations/rgb_images/", "puppet/", "master/"
_JOINTS = ("joint_position", "joint_position_left", "joint_position_right")
_OUTCOMES = {"success_episodes": True, "failure_episodes": False, "fail_episodes": False, "failed_episodes": False}


class RoboMind(EpisodeFiles):
    """Episode folders as RoboMIND ships them, or one of their files.

    ``puppet/joint_position`` (or left then right) -> ``observation.state``, the same of ``master`` -> ``action``;
    ``state_keys`` and ``action_keys`` name others (``end_effector``). The rest of ``puppet`` are columns
    ``observation.<name>``, of ``master`` ``master.<name>``. ``rgb_images`` are JPEG files, or raw frames, and cameras;
    ``depth_images`` are columns of whole numbers (``leave_out: [observations/depth_images/*]`` saves their room). Task
    and success are read from the folders ``<task>/success_episodes/...``. The rate is 30 Hz unless stated.
    """

    name: ClassVar[str] = "robomind"
    length_from: ClassVar[tuple[str, ...]] = tuple(_PUPPET + name for name in _JOINTS)
    usual_fps: ClassVar[float] = 30.0

    state_keys: tuple[str, ...] | None = None
    action_keys: tuple[str, ...] | None = None

    def claims(self, file: h5py.File) -> bool:
        """See the class."""
        return has(file, "puppet") and (has(file, "master") or has(file, "observations/rgb_images"))

    def described(self, file: h5py.File, survey: Survey) -> Survey:
        """A note on the order of colours."""
        notes = (
            "frames are decoded as their files say; where red and blue are swapped, give the option channel_order: bgr",
        )
        return replace(survey, provenance="real", notes=notes if self.channel_order == "rgb" else ())

    def recorded(self, path: str, file: h5py.File) -> dict[str, Any]:
        """The file's attributes, and what its folders say."""
        values = super().recorded(path, file)
        folders = path.split("/")
        for at, folder in enumerate(folders[:-1]):
            if folder in _OUTCOMES:
                values.setdefault("success", _OUTCOMES[folder])
                if at:
                    values.setdefault("task", folders[at - 1])
        return values

    def layout(self, specs: Mapping[str, Spec]) -> tuple[Layout, list[str]]:
        """See the class."""
        state = self.chosen("state_keys", _PUPPET, specs) or _joints(_PUPPET, specs)
        action = self.chosen("action_keys", _MASTER, specs) or _joints(_MASTER, specs)
        cameras = {
            path.removeprefix(_COLOUR): path for path, spec in specs.items() if path.startswith(_COLOUR) and spec.is_rgb
        }
        columns = {name: keys for name, keys in ((STATE, state), (ACTION, action)) if keys}
        taken = {*state, *action, *cameras.values()}
        for path in specs:
            if path not in taken:
                name = path.replace("observations/", "observation.", 1).replace(_PUPPET, "observation.", 1)
                columns[free_name(name.replace("/", "."), columns)] = (path,)
        notes = [f"no arrays for {name}" for name in (STATE, ACTION) if name not in columns]
        return Layout(specs, columns, cameras), notes


def _joints(group: str, specs: Mapping[str, Spec]) -> tuple[str, ...]:
    return tuple(group + name for name in _JOINTS if group + name in specs and specs[group + name].is_vector)
