"""ALOHA and ACT HDF5 (Zhao et al. 2023): one file an episode, ``observations/{qpos, images/*}`` and ``action``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from data_engine.formats.arrays import Layout, Spec, free_name
from data_engine.formats.attributes import plain
from data_engine.formats.episode_arrays import Survey
from data_engine.formats.episode_files import EpisodeFiles, has
from data_engine.model import ACTION, STATE

if TYPE_CHECKING:
    import h5py

__all__ = ["Aloha"]

_QPOS, _IMAGES = "observations/qpos", "observations/images/"
_ARM = ("waist", "shoulder", "elbow", "forearm_roll", "wrist_angle", "wrist_rotate", "gripper")
_BOTH = tuple(f"{side}_{joint}" for side in ("left", "right") for joint in _ARM)


class Aloha(EpisodeFiles):
    """Files as ACT's recorder writes them, one (``episode_0.hdf5``) or a folder.

    ``observations/qpos`` -> ``observation.state`` and ``action`` -> ``action``, with the joints' names where both arms
    are there (14 entries); ``state_keys`` and ``action_keys`` name other arrays to join (``action``, ``base_action``).
    Everything else keeps its name (``observation.qvel``, ``base_action``). Images are raw frames, or JPEG files padded
    with zeros, which are decoded as the JPEG standard says. The rate is 50 Hz unless stated.
    """

    name: ClassVar[str] = "aloha"
    length_from: ClassVar[tuple[str, ...]] = ("action",)
    aside: ClassVar[tuple[str, ...]] = (*EpisodeFiles.aside, "compress_len")
    usual_fps: ClassVar[float] = 50.0

    state_keys: tuple[str, ...] | None = None
    action_keys: tuple[str, ...] | None = None

    def claims(self, file: h5py.File) -> bool:
        """See the class."""
        return has(file, "action", _QPOS)

    def described(self, file: h5py.File, survey: Survey) -> Survey:
        """Whether it was simulated, as the attribute ``sim`` says."""
        sim = plain(file.attrs.get("sim"))
        notes = []
        if plain(file.attrs.get("compress")) and self.channel_order == "rgb":
            notes.append(
                "frames were JPEG files in the source and are decoded as the standard says; recorders that gave RGB to "
                "OpenCV's encoder stored red and blue swapped: look at one, and give the option channel_order: bgr"
            )
        place = ("sim" if sim else "real") if isinstance(sim, bool | int) else None
        return replace(survey, embodiment="aloha", provenance=place, notes=tuple(notes))

    def layout(self, specs: Mapping[str, Spec]) -> tuple[Layout, list[str]]:
        """See the class."""
        state = self.chosen("state_keys", "observations/", specs) or (_QPOS,)
        action = self.chosen("action_keys", "", specs) or ("action",)
        cameras = {
            path.removeprefix(_IMAGES): path for path, spec in specs.items() if path.startswith(_IMAGES) and spec.is_rgb
        }
        columns = {name: keys for name, keys in ((STATE, state), (ACTION, action)) if set(keys) & specs.keys()}
        taken = {*state, *action, *cameras.values()}
        for path in specs:
            if path not in taken:
                name = path.replace("observations/", "observation.", 1).replace("/", ".")
                columns[free_name(name, columns)] = (path,)
        entries = dict.fromkeys((_QPOS, "observations/qvel", "observations/effort", "action"), _BOTH)
        named = all(path in specs and specs[path].size == len(_BOTH) for path in (_QPOS, "action"))
        notes = ["14 joints are named in ALOHA's order, left arm first"] if named else []
        return Layout(specs, columns, cameras, names=entries), notes
