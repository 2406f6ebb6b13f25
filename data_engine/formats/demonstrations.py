"""HDF5 files of one group a demonstration (``data/demo_0``, ...): what robomimic's and robosuite's layouts share.

The features are what most demonstrations hold under each name. One that holds something else under a name is
unreadable; one that lacks a name has nulls there, with a note.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from data_engine.errors import RequestError, SourceError
from data_engine.formats import EpisodeRef, Format, Probe, RawFrames, Source, SourceEpisode, Unreadable
from data_engine.formats.arrays import EPISODE_BYTES, Layout, Spec, natural
from data_engine.formats.attributes import pick, plain
from data_engine.formats.environment import Environment
from data_engine.formats.hdf5 import FAULTS, Array, Frames, child, is_hdf5, open_file, walk

if TYPE_CHECKING:
    import h5py

__all__ = ["DemonstrationFile"]

_LENGTH_FROM = ("actions", "joint_velocities", "states")
_CORE = frozenset({"actions", "rewards", "dones", "states"})
_SMALL = 4096  # numbers: a list up to this long that is no step column becomes an attribute
_DEFAULT_FPS = 20.0


class DemonstrationFile(Format):
    """Base of the two layouts. ``state_keys`` and ``action_keys`` name the arrays to join instead of the usual ones."""

    skipped: ClassVar[str | None] = None  # a group of a demonstration that holds no columns
    recorded_in: ClassVar[str | None] = None  # the provenance that the layout itself implies

    state_keys: tuple[str, ...] | None = None
    action_keys: tuple[str, ...] | None = None

    @abstractmethod
    def claims(self, has_observations: bool) -> bool:
        """Whether a file whose demonstrations have (or have not) an ``obs`` group is of this layout."""

    @abstractmethod
    def layout(self, specs: Mapping[str, Spec]) -> tuple[Layout, list[str]]:
        """The columns for the arrays of a demonstration, and notes."""

    def clock(self, arrays: Mapping[str, Array]) -> np.ndarray | None:
        """The demonstration's own clock, float64 [n] seconds, or None where it has none to trust."""
        return None

    def beyond(self, demo: h5py.Group, arrays: Mapping[str, Array]) -> tuple[dict[str, Any], list[str]]:
        """Attributes and notes that this layout adds to an episode."""
        return {}, []

    def probe(self, source: Source) -> Probe | None:
        """See :meth:`Format.probe`. An HDF5 file without a ``data`` group of demonstrations is None."""
        if not is_hdf5(source):
            return None
        with open_file(source) as file:
            try:
                return self._probe(source, file)
            except FAULTS as error:
                raise SourceError(f"{source.uri} is damaged: {error}", code="damaged_file") from error

    def _probe(self, source: Source, file: h5py.File) -> Probe | None:
        import h5py

        if "data" not in list(file):
            return None
        data = child(file, "data")
        if not isinstance(data, h5py.Group):
            return None
        keys, strays = _members(data)
        has_observations = any("obs" in names for names in map(list, _readable(data, keys)))
        if not self.claims(has_observations):
            return None
        if not keys:
            raise SourceError(f"{source.uri} holds no demonstrations", code="no_episodes")
        specs, declared, notes = self._scan(source, data, keys)
        if not has_observations and not set(_LENGTH_FROM) & specs.keys():
            return None
        layout, more = self.layout({path: spec for path, spec in specs.items() if spec.size})
        labels, unknown = _labels(file, set(keys))
        attributes = {name: plain(value) for name, value in data.attrs.items()}
        environment = Environment.of(attributes)
        fps, rate_notes = self._rate(environment, data, keys)
        notes += [f"{path} has no numbers a step and is left out" for path, spec in specs.items() if not spec.size]
        notes += [f"data/{name} is no demonstration and is not read" for name in strays]
        path = source.relative(source.root)
        return Probe(
            format=self.name,
            fps=fps,
            features=layout.features,
            episodes=tuple(EpisodeRef(key, declared.get(key), (path,)) for key in keys),
            embodiment=self.embodiment or environment.embodiment or "unknown",
            control_mode=self.control_mode or environment.control_mode,
            licence=self.licence,
            provenance=self.provenance or self.recorded_in,
            notes=(*notes, *more, *unknown, *environment.notes, *rate_notes),
            context={"layout": layout, "labels": labels, "task": environment.task, "attributes": attributes},
        )

    def _scan(
        self, source: Source, data: h5py.Group, keys: Sequence[str]
    ) -> tuple[dict[str, Spec], dict[str, int], list[str]]:
        """What most demonstrations hold under each path, the declared lengths, and notes."""
        counts: dict[str, Counter[Spec]] = {}
        declared: dict[str, int] = {}
        broken: list[str] = []
        for key in keys:
            try:
                demo = child(data, key)
                length = plain(demo.attrs.get("num_samples"))
                for path, found in _columns(walk(demo, self.skipped))[0].items():
                    counts.setdefault(path, Counter())[found.spec] += 1
            except (SourceError, *FAULTS) as error:
                broken.append(f"{key}: {error}")
                continue
            if isinstance(length, int):
                declared[key] = length
        if not counts:
            why = broken[0] if broken else "all are empty"
            raise SourceError(f"no demonstration of {source.uri} can be read: {why}", code="no_episodes")
        notes = [
            f"{path} differs between demonstrations: {sum(seen.values()) - max(seen.values())} cannot be read"
            for path, seen in sorted(counts.items())
            if len(seen) > 1
        ]
        return {path: counts[path].most_common(1)[0][0] for path in sorted(counts)}, declared, notes

    def _rate(self, environment: Environment, data: h5py.Group, keys: Sequence[str]) -> tuple[float, list[str]]:
        if self.fps is not None:
            return self.fps, []
        if environment.control_hz:
            return environment.control_hz, []
        for demo in _readable(data, keys):
            try:
                clock = self.clock(walk(demo, self.skipped))
            except (SourceError, *FAULTS):
                continue
            if clock is not None:
                rate = float(f"{1 / np.median(np.diff(clock)):.4g}")
                return rate, [f"fps {rate:g} is the median rate of the recorded clock of {demo.name}"]
        return _DEFAULT_FPS, [f"fps is not stated: {_DEFAULT_FPS:g} is assumed; give the option fps"]

    def read(self, source: Source, probe: Probe, keys: Sequence[str]) -> Iterator[SourceEpisode | Unreadable]:
        """See :meth:`Format.read`."""
        with open_file(source) as file:
            data = child(file, "data")
            for key in keys:
                found: SourceEpisode | Unreadable
                try:
                    found = self._episode(source, probe, child(data, key), key)
                except SourceError as error:
                    found = Unreadable(key, error.code, str(error))
                except FAULTS as error:
                    found = Unreadable(key, "damaged", f"{key} cannot be read: {error}")
                yield found

    def _episode(self, source: Source, probe: Probe, demo: h5py.Group, key: str) -> SourceEpisode:
        layout: Layout = probe.context["layout"]
        columns, values = _columns(walk(demo, self.skipped))
        arrays = {path: found for path, found in columns.items() if path in layout.specs}
        own = {name: plain(value) for name, value in demo.attrs.items()}
        n = _length(arrays, own.pop("num_samples", None))
        for path, found in arrays.items():
            layout.check(path, found.spec)
        cameras = {camera: path for camera, path in layout.cameras.items() if path in arrays}
        notes = [f"no frames of camera {camera}" for camera in layout.cameras if camera not in cameras]
        notes += [f"{path} was never written and reads as its fill value" for path in arrays if arrays[path].unwritten]
        wanted = [path for path in arrays if path not in cameras.values()]
        if sum(arrays[path].nbytes for path in wanted) > EPISODE_BYTES:
            raise SourceError(f"{key} declares more than {EPISODE_BYTES >> 30} GiB of columns", code="too_large")
        clock = self.clock(arrays) if self.fps is None else None
        timestamp = np.arange(n) / probe.fps if clock is None else clock - clock[0]
        steps, nulls = layout.table({path: arrays[path].load() for path in wanted}, timestamp)
        added, oddities = self.beyond(demo, arrays)
        attributes = {
            **{name: value for name, value in probe.context["attributes"].items() if name != "total"},
            **{path: plain(value.load()) for path, value in values.items()},
            **own,
            **added,
        }
        fields = {"task": probe.context["task"], **pick(attributes)}
        stated = {"task": self.task, "operator": self.operator, "provenance": self.provenance}
        return SourceEpisode(
            key=key,
            steps=steps,
            cameras={
                camera: RawFrames(Frames(source, f"data/{key}/{path}"), *layout.specs[path].image_shape[:2])
                for camera, path in cameras.items()
            },
            labels=probe.context["labels"].get(key, ()),
            attributes=attributes,
            notes=(*notes, *nulls, *oddities),
            **{**fields, **{name: value for name, value in stated.items() if value is not None}},
        )

    def chosen(self, option: str, prefix: str, specs: Mapping[str, Spec]) -> tuple[str, ...] | None:
        """The paths that the option ``state_keys`` or ``action_keys`` names, None without it.

        Raises ``RequestError`` for a name that is no vector under ``prefix``.
        """
        names: tuple[str, ...] | None = getattr(self, option)
        if names is None:
            return None
        known = sorted(path.removeprefix(prefix) for path in specs if path.startswith(prefix) and specs[path].is_vector)
        for name in names:
            if name not in known:
                raise RequestError(f"{option} names {name!r}", code="bad_option", fix=f"known: {', '.join(known)}")
        return tuple(prefix + name for name in names)


def _members(data: h5py.Group) -> tuple[list[str], list[str]]:
    """Names of the demonstrations in natural order (a link too: it is refused when read), and of other members."""
    import h5py
    from h5py import h5l

    keys: list[str] = []
    strays: list[str] = []
    for name in data:
        hard = data.id.links.get_info(name.encode()).type == h5l.TYPE_HARD
        (strays if hard and data.get(name, getclass=True) != h5py.Group else keys).append(name)
    return sorted(keys, key=natural), strays


def _readable(data: h5py.Group, keys: Sequence[str]) -> Iterator[h5py.Group]:
    """The demonstrations that open, one at a time."""
    for key in keys:
        try:
            yield child(data, key)
        except (SourceError, *FAULTS):
            continue


def _columns(found: Mapping[str, Array]) -> tuple[dict[str, Array], dict[str, Array]]:
    """The arrays of a demonstration that are step columns, and the scalars and short lists that are not."""
    n = next((found[path].shape[0] for path in _LENGTH_FROM if path in found and found[path].shape), None)

    def is_value(path: str, array: Array) -> bool:
        if len(array.shape) != 1:
            return array.shape == ()
        small = 0 < len(array) <= _SMALL and "/" not in path and path not in _CORE
        return small and n is not None and len(array) != n

    values = {path: array for path, array in found.items() if is_value(path, array)}
    return {path: array for path, array in found.items() if path not in values}, values


def _length(arrays: Mapping[str, Array], declared: Any) -> int:
    """The one length of all arrays, as declared. Raises ``SourceError`` where they differ or there is nothing."""
    first = next((path for path in _LENGTH_FROM if path in arrays), next(iter(arrays), None))
    if first is None or not max(map(len, arrays.values())):
        raise SourceError("the demonstration holds no steps", code="empty_episode")
    n = len(arrays[first])
    for path, found in arrays.items():
        if len(found) != n:
            raise SourceError(f"{path} holds {len(found)} steps, {first} {n}", code="lengths_differ")
    if declared is not None and declared != n:
        raise SourceError(f"num_samples says {declared}, the arrays hold {n} steps", code="lengths_differ")
    return n


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
