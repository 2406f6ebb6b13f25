"""HDF5 files of one group a demonstration (``data/demo_0``, ...): what robomimic's and robosuite's layouts share.

The features are what most demonstrations hold under each name. One that holds something else under a name is unreadable;
one that lacks a name has nulls there, with a note.
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
from data_engine.formats.hdf5 import FAULTS, Frames, child, is_hdf5, load, open_file, spec, walk

if TYPE_CHECKING:
    import h5py

__all__ = ["DemonstrationFile"]

_LENGTH_FROM = ("actions", "joint_velocities", "states")
_CORE = frozenset({"actions", "rewards", "dones", "states"})
_SMALL = 4096  # numbers: a list shorter than this that is no step column becomes an attribute
_DEFAULT_FPS = 20.0


class DemonstrationFile(Format):
    """Base of the two layouts. ``state_keys`` and ``action_keys`` name the arrays to join instead of the default ones."""

    skipped: ClassVar[frozenset[str]] = frozenset()

    state_keys: tuple[str, ...] | None = None
    action_keys: tuple[str, ...] | None = None

    @abstractmethod
    def claims(self, has_observations: bool) -> bool:
        """Whether a file whose demonstrations have (or have not) an ``obs`` group is of this layout."""

    @abstractmethod
    def layout(self, specs: Mapping[str, Spec]) -> tuple[Layout, list[str]]:
        """The columns for the arrays of a demonstration, and notes."""

    def clock(self, demo: h5py.Group) -> np.ndarray | None:
        """The demonstration's own clock, float64 [n] seconds, or None where it has none to trust."""
        return None

    def beyond(self, demo: h5py.Group, layout: Layout) -> tuple[dict[str, Any], list[str]]:
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

        if (
            not isinstance(file.get("data", getlink=True), h5py.HardLink)
            or file.get("data", getclass=True) != h5py.Group
        ):
            return None
        data = child(file, "data")
        keys, strays = _demonstrations(data)
        members = [set(demo) for key in keys if (demo := _open(data, key)) is not None]
        has_observations = any("obs" in names for names in members)
        recognised = has_observations or any(names & set(_LENGTH_FROM) for names in members)
        if not recognised and (keys or strays):
            return None
        if not self.claims(has_observations):
            return None
        if not keys:
            raise SourceError(f"{source.uri} holds no demonstrations", code="no_episodes", fix="record some first")
        specs, notes = self._specs(source, data, keys)
        layout, more = self.layout(specs)
        labels, unknown = _labels(file, set(keys))
        attributes = {name: plain(value) for name, value in data.attrs.items()}
        environment = Environment.of(attributes)
        fps, fps_notes = self._rate(environment, data, keys)
        notes += more + unknown + list(environment.notes) + fps_notes
        notes += [f"data/{name} is no demonstration and is not read" for name in strays]
        path = source.relative(source.root)
        return Probe(
            format=self.name,
            fps=fps,
            features=layout.features,
            episodes=tuple(EpisodeRef(key, _declared(data, key), (path,)) for key in keys),
            embodiment=self.embodiment or environment.embodiment or "unknown",
            control_mode=self.control_mode or environment.control_mode,
            licence=self.licence,
            provenance=self.provenance,
            notes=tuple(notes),
            context={"layout": layout, "labels": labels, "task": environment.task, "attributes": attributes},
        )

    def _specs(self, source: Source, data: h5py.Group, keys: Sequence[str]) -> tuple[dict[str, Spec], list[str]]:
        """What most demonstrations hold under each path; paths of zero width are left out with a note."""
        counts: dict[str, Counter[Spec]] = {}
        lost, first = 0, ""
        for key in keys:
            try:
                demo = child(data, key)
                found = [(path, spec(dataset)) for path, dataset in _columns(demo, self.skipped)[0]]
            except (SourceError, *FAULTS) as error:
                lost, first = lost + 1, first or f"{key}: {error}"
                continue
            for path, seen in found:
                counts.setdefault(path, Counter())[seen] += 1
        if not counts:
            raise SourceError(f"no demonstration of {source.uri} can be read: {first or 'all are empty'}")
        specs = {path: max(counts[path].items(), key=lambda item: item[1])[0] for path in sorted(counts)}
        empty = [path for path, seen in specs.items() if seen.size == 0]
        return (
            {path: seen for path, seen in specs.items() if path not in empty},
            [f"{path} has no numbers a step and is left out" for path in empty],
        )

    def _rate(self, environment: Environment, data: h5py.Group, keys: Sequence[str]) -> tuple[float, list[str]]:
        if self.fps is not None:
            return self.fps, []
        if environment.control_hz:
            return environment.control_hz, []
        for key in keys:
            demo = _open(data, key)
            clock = None if demo is None else self.clock(demo)
            if clock is not None:
                rate = float(f"{1 / np.median(np.diff(clock)):.4g}")
                return rate, [f"fps {rate:g} is the median rate of the recorded clock of {key}"]
        return _DEFAULT_FPS, [f"fps is not stated: {_DEFAULT_FPS:g} is assumed; give the option fps"]

    def read(self, source: Source, probe: Probe, keys: Sequence[str]) -> Iterator[SourceEpisode | Unreadable]:
        """See :meth:`Format.read`."""
        with open_file(source) as file:
            data = child(file, "data")
            for key in keys:
                found: SourceEpisode | Unreadable
                try:
                    found = self._episode(source, probe, data, key)
                except SourceError as error:
                    found = Unreadable(key, error.code, str(error))
                except FAULTS as error:
                    found = Unreadable(key, "damaged", f"{key} cannot be read: {error}")
                yield found

    def _episode(self, source: Source, probe: Probe, data: h5py.Group, key: str) -> SourceEpisode:
        layout: Layout = probe.context["layout"]
        demo = child(data, key)
        columns, values = _columns(demo, self.skipped)
        datasets = {path: dataset for path, dataset in columns if path in layout.specs}
        n = _length(datasets, demo)
        notes = [
            f"{path} was never written and reads as its fill value" for path in datasets if _unwritten(datasets[path])
        ]
        for path, dataset in datasets.items():
            layout.check(path, spec(dataset))
        cameras = {camera: path for camera, path in layout.cameras.items() if path in datasets}
        notes += [f"no camera {camera}" for camera in layout.cameras if camera not in cameras]
        wanted = [path for path in datasets if path not in cameras.values()]
        if sum(datasets[path].nbytes for path in wanted) > EPISODE_BYTES:
            raise SourceError(f"{key} declares more than {EPISODE_BYTES >> 30} GiB of columns", code="too_large")
        clock = self.clock(demo) if self.fps is None else None
        timestamp = np.arange(n) / probe.fps if clock is None else clock - clock[0]
        steps, more = layout.table({path: load(datasets[path]) for path in wanted}, timestamp)
        own = {name: plain(value) for name, value in demo.attrs.items() if name != "num_samples"}
        shared = {name: value for name, value in probe.context["attributes"].items() if name != "total"}
        added, noted = self.beyond(demo, layout)
        attributes = {**shared, **{path: plain(load(value)) for path, value in values}, **own, **added}
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
            notes=tuple(notes + more + noted),
            **{**fields, **{name: value for name, value in stated.items() if value is not None}},
        )

    def chosen(self, option: str, prefix: str, specs: Mapping[str, Spec]) -> tuple[str, ...] | None:
        """The paths that the option ``state_keys`` or ``action_keys`` names, or None. ``RequestError`` for unknown ones."""
        names: tuple[str, ...] | None = getattr(self, option)
        if names is None:
            return None
        known = sorted(path.removeprefix(prefix) for path in specs if path.startswith(prefix) and specs[path].is_vector)
        for name in names:
            if name not in known:
                raise RequestError(f"{option} names {name!r}", code="bad_option", fix=f"known: {', '.join(known)}")
        return tuple(prefix + name for name in names)


def _demonstrations(data: h5py.Group) -> tuple[list[str], list[str]]:
    """Names of the demonstrations in natural order (a link is kept: it is refused when read), and of other members."""
    import h5py

    keys, strays = [], []
    for name in data:
        hard = isinstance(data.get(name, getlink=True), h5py.HardLink)
        (keys if not hard or data.get(name, getclass=True) == h5py.Group else strays).append(name)
    return sorted(keys, key=natural), strays


def _open(data: h5py.Group, key: str) -> h5py.Group | None:
    try:
        return child(data, key)
    except SourceError:
        return None


def _columns(
    demo: h5py.Group, skipped: frozenset[str]
) -> tuple[list[tuple[str, h5py.Dataset]], list[tuple[str, h5py.Dataset]]]:
    """The datasets of a demonstration that are step columns, and the scalars and short lists that are not."""
    found = list(walk(demo, skipped))
    lengths = {path: dataset.shape[0] for path, dataset in found if dataset.shape}
    n = next((lengths[path] for path in _LENGTH_FROM if path in lengths), None)

    def is_value(path: str, dataset: h5py.Dataset) -> bool:
        if dataset.shape == ():
            return True
        listed = len(dataset.shape or ()) == 1 and 0 < dataset.size <= _SMALL and "/" not in path and path not in _CORE
        return listed and n is not None and lengths[path] != n

    return (
        [(path, dataset) for path, dataset in found if not is_value(path, dataset)],
        [(path, dataset) for path, dataset in found if is_value(path, dataset)],
    )


def _length(datasets: Mapping[str, h5py.Dataset], demo: h5py.Group) -> int:
    """The one length of all arrays, as declared. Raises ``SourceError`` where they differ or there is nothing."""
    lengths = {path: len(dataset) for path, dataset in datasets.items()}
    if not lengths or not max(lengths.values()):
        raise SourceError("the demonstration holds no steps", code="empty_episode")
    first = next((path for path in _LENGTH_FROM if path in lengths), next(iter(lengths)))
    n = lengths[first]
    for path, length in lengths.items():
        if length != n:
            raise SourceError(f"{path} holds {length} steps, {first} {n}", code="lengths_differ")
    declared = demo.attrs.get("num_samples")
    if declared is not None and plain(declared) != n:
        raise SourceError(f"num_samples says {plain(declared)}, the arrays hold {n} steps", code="lengths_differ")
    return n


def _declared(data: h5py.Group, key: str) -> int | None:
    demo = _open(data, key)
    value = None if demo is None else plain(demo.attrs.get("num_samples"))
    return value if isinstance(value, int) else None


def _unwritten(dataset: h5py.Dataset) -> bool:
    return bool(dataset.size) and dataset.id.get_storage_size() == 0


def _labels(file: h5py.File, keys: set[str]) -> tuple[dict[str, tuple[str, ...]], list[str]]:
    """Demonstration -> the filter keys under ``mask`` that list it, sorted; and notes on names that are not there."""
    labels: dict[str, list[str]] = {}
    notes = []
    if "mask" in file.keys():  # noqa: SIM118 - `in file` would follow a link
        for path, dataset in walk(child(file, "mask")):
            try:
                listed = {str(plain(name)) for name in np.atleast_1d(load(dataset)).tolist()}
            except FAULTS as error:
                raise SourceError(f"mask/{path} cannot be read: {error}", code="damaged_file") from error
            for name in sorted(listed & keys):
                labels.setdefault(name, []).append(path)
            absent = sorted(listed - keys, key=natural)
            if absent:
                notes.append(
                    f"mask/{path} lists {len(absent)} demonstrations that are not there: {', '.join(absent[:3])}"
                )
    return {name: tuple(sorted(paths)) for name, paths in labels.items()}, notes
