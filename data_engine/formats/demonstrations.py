"""HDF5 files of one group a demonstration (``data/demo_0``, ...): what robomimic's and robosuite's layouts share."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from data_engine.errors import SourceError
from data_engine.formats import EpisodeRef, Source
from data_engine.formats.arrays import natural
from data_engine.formats.attributes import plain
from data_engine.formats.environment import Environment
from data_engine.formats.episode_arrays import EpisodeArrays, Recording, Survey
from data_engine.formats.hdf5 import child, is_hdf5, members, open_file, split, walk
from data_engine.formats.rows import FAULTS, Rows

if TYPE_CHECKING:
    import h5py

__all__ = ["DemonstrationFile"]


class DemonstrationFile(EpisodeArrays):
    """Base of these layouts. ``state_keys`` and ``action_keys`` name the arrays to join instead of the usual ones."""

    length_from: ClassVar[tuple[str, ...]] = ("actions", "joint_velocities", "states")
    skipped: ClassVar[tuple[str, ...]] = ()  # members of a demonstration that hold no columns
    recorded_in: ClassVar[str | None] = None  # the provenance that the layout itself implies

    state_keys: tuple[str, ...] | None = None
    action_keys: tuple[str, ...] | None = None

    @abstractmethod
    def claims(self, data: h5py.Group, members: frozenset[str]) -> bool:
        """Whether the group ``data``, whose demonstrations have ``members`` between them, is of this layout."""

    def clock(self, arrays: Mapping[str, Rows]) -> np.ndarray | None:
        """The demonstration's own clock, float64 [n] seconds, or None where it has none to trust."""
        return None

    def beyond(self, demo: h5py.Group, arrays: Mapping[str, Rows]) -> tuple[dict[str, Any], list[str]]:
        """Attributes and notes that this layout adds to an episode."""
        return {}, []

    def remarks(self, data: h5py.Group) -> list[str]:
        """Notes on the file as a whole that this layout adds."""
        return []

    def survey(self, source: Source) -> Survey | None:
        """See :meth:`EpisodeArrays.survey`. An HDF5 file without a ``data`` group of demonstrations is None."""
        if not is_hdf5(source):
            return None
        with open_file(source) as file:
            return self._survey(source, file)

    def _survey(self, source: Source, file: h5py.File) -> Survey | None:
        import h5py

        if "data" not in list(file):
            return None
        data = child(file, "data")
        if not isinstance(data, h5py.Group):
            return None
        keys, strays, members = _content(source, source.stamp())
        if not self.claims(data, members):
            return None
        if not keys:
            raise SourceError(f"{source.uri} holds no demonstrations", code="no_episodes")
        attributes = {name: plain(value) for name, value in data.attrs.items()}
        environment = Environment.of(attributes)
        labels, unknown = _labels(file, set(keys))
        fps, rate_notes = self._rate(environment, data, keys)
        path = source.relative(source.root)
        return Survey(
            episodes=tuple(EpisodeRef(key, files=(path,)) for key in keys),
            fps=fps,
            embodiment=environment.embodiment,
            control_mode=environment.control_mode,
            provenance=self.recorded_in,
            task=environment.task,
            language=environment.language,
            attributes={name: value for name, value in attributes.items() if name != "total"},
            notes=(
                *(f"data/{name} is no demonstration and is not read" for name in strays),
                *unknown,
                *environment.notes,
                *rate_notes,
                *self.remarks(data),
            ),
            context={"places": {key: labels.get(key, ()) for key in keys}},
        )

    def _rate(self, environment: Environment, data: h5py.Group, keys: Sequence[str]) -> tuple[float | None, list[str]]:
        if self.fps is not None or environment.control_hz:
            return environment.control_hz, []
        if type(self).clock is DemonstrationFile.clock:  # a look at every demonstration would find none
            return None, []
        for demo in _readable(data, keys):
            try:
                clock = self.clock(split(walk(demo, self.skipped, self.leave_out))[0])
            except (SourceError, *FAULTS):
                continue
            if clock is not None:
                rate = float(f"{1 / np.median(np.diff(clock)):.4g}")
                return rate, [f"fps {rate:g} is the median rate of the recorded clock of {demo.name}"]
        return None, []

    @contextmanager
    def opened(self, source: Source, context: Mapping[str, Any]) -> Iterator[Callable[[str], Recording]]:
        """See :meth:`EpisodeArrays.opened`."""
        with open_file(source) as file:
            data = child(file, "data")

            def recording(key: str) -> Recording:
                demo = child(data, key)
                arrays, values = split(walk(demo, self.skipped, self.leave_out))
                own = {name: plain(value) for name, value in demo.attrs.items()}
                length = own.pop("num_samples", None)
                return Recording(
                    arrays=arrays,
                    values={**values, **own},
                    n_steps=int(length) if isinstance(length, int) or str(length).isdecimal() else None,
                    clock=lambda: self.clock(arrays) if self.fps is None else None,
                    beyond=lambda: self.beyond(demo, arrays),
                    labels=context["places"].get(key, ()),
                )

            yield recording


@lru_cache(maxsize=2)  # each layout asks the same of a file
def _content(source: Source, stamp: tuple[int, str]) -> tuple[list[str], list[str], frozenset[str]]:
    """:func:`_members` of ``data``, and the names of the members that its demonstrations have between them."""
    with open_file(source) as file:
        data = child(file, "data")
        keys, strays = _members(data)
        return keys, strays, frozenset(os.fsdecode(name) for demo in _readable(data, keys) for name in demo.id)


def _members(data: h5py.Group) -> tuple[list[str], list[str]]:
    """Names of the demonstrations in natural order (a link too: it is refused when read), and of other members."""
    found = members(data)
    strays = [name for name, kind in found.items() if kind == "array"]
    return sorted(found.keys() - strays, key=natural), strays


def _readable(data: h5py.Group, keys: Sequence[str]) -> Iterator[h5py.Group]:
    """The demonstrations that open, one at a time."""
    for key in keys:
        try:
            yield child(data, key)
        except (SourceError, *FAULTS):
            continue


def _labels(file: h5py.File, keys: set[str]) -> tuple[dict[str, tuple[str, ...]], list[str]]:
    """Demonstration -> the filter keys under ``mask`` that list it, sorted; and notes on names that are not there."""
    labels: dict[str, list[str]] = {}
    notes = []
    masks = walk(child(file, "mask")) if "mask" in list(file) else {}
    for path, found in masks.items():
        listed = {str(plain(name)) for name in np.atleast_1d(found.load()).tolist()}
        for name in listed & keys:
            labels.setdefault(name, []).append(path)
        absent = sorted(listed - keys, key=natural)
        if absent:
            notes.append(f"mask/{path} lists {len(absent)} demonstrations that are not there: {', '.join(absent[:3])}")
    return {name: tuple(paths) for name, paths in labels.items()}, notes
