"""Episodes that are named arrays of one row a step: what every HDF5, npz, zarr and Arrow layout shares.

The features are what most episodes hold under each name. An episode that holds something else under a name is
unreadable; one that lacks a name has nulls there, with a note. Arrays that are not one row a step are attributes where
they are short, and else named in a note.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any, ClassVar, Literal

import numpy as np

from data_engine.errors import EngineError, RequestError, SourceError
from data_engine.formats import EpisodeRef, Format, Probe, RawFrames, Source, SourceEpisode, Unreadable
from data_engine.formats.arrays import EPISODE_BYTES, Layout, Spec, to_rgb
from data_engine.formats.attributes import pick, plain
from data_engine.formats.pictures import Pictures, pictures
from data_engine.formats.rows import FAULTS, Rows, damage_of, unstored
from data_engine.fragile import avoided, reading

__all__ = ["EpisodeArrays", "Recording", "Survey"]

_SMALL = 4096  # numbers: an array up to this long that is no step column becomes an attribute
_PLANE = 1024  # numbers a step: more is a depth image, a mask or the like
_SAMPLE = 32  # files of one episode each whose headers are read to learn the columns


@dataclass(frozen=True)
class Survey:
    """What a source says of itself before any array is looked at.

    ``fps`` None: not stated. ``attributes`` (plain values) belong to every episode. ``context`` is what
    :meth:`EpisodeArrays.opened` needs again. ``uniform``: every episode is a cut of the same arrays.
    """

    episodes: tuple[EpisodeRef, ...]
    fps: float | None = None
    embodiment: str | None = None
    control_mode: str | None = None
    provenance: str | None = None
    task: str | None = None
    language: tuple[str, ...] = ()
    attributes: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    context: Mapping[str, Any] = field(default_factory=dict)
    uniform: bool = False


@dataclass(frozen=True)
class Recording:
    """One episode as its container holds it; nothing but headers is read before it is asked for.

    ``arrays``: those with a first axis, by the source's names. ``values``: what it says beside them, plain.
    ``n_steps``: the length it declares. ``clock``: its own time, float64 [n] seconds, or None. ``beyond``: attributes
    and notes that cost reading.
    """

    arrays: Mapping[str, Rows]
    values: Mapping[str, Any] = field(default_factory=dict)
    n_steps: int | None = None
    clock: Callable[[], np.ndarray | None] = lambda: None
    beyond: Callable[[], tuple[dict[str, Any], list[str]]] = lambda: ({}, [])
    labels: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


class EpisodeArrays(Format):
    """Base of these formats: a subclass says where the episodes are, opens them, and lays out their columns.

    ``leave_out`` names arrays (globs, ``obs/*_depth``) that are not read. ``channel_order`` is the order in which the
    source's frames hold their channels; ``bgr`` is turned into RGB. Rows that are JPEG or PNG files are decoded.
    """

    length_from: ClassVar[tuple[str, ...]] = ("actions", "action")  # the first that is there is one row a step
    aside: ClassVar[tuple[str, ...]] = ("language_raw", "language_distilbert")  # once an episode, whatever their length
    usual_fps: ClassVar[float] = 20.0  # where neither the source nor the option states it

    leave_out: tuple[str, ...] = ()
    channel_order: Literal["rgb", "bgr"] = "rgb"

    @abstractmethod
    def survey(self, source: Source) -> Survey | None:
        """The episodes of ``source``, or None (quickly) where it is not of this format."""

    @abstractmethod
    def opened(self, source: Source, context: Mapping[str, Any]) -> AbstractContextManager[Callable[[str], Recording]]:
        """``source`` open for reading: a function from an episode's key to its recording, good until the next call."""

    @abstractmethod
    def layout(self, specs: Mapping[str, Spec]) -> tuple[Layout, list[str]]:
        """The columns for the arrays of the episodes, and notes."""

    def is_column(self, path: str, fits: int, misfits: int) -> bool:
        """Whether an array that is one row a step in ``fits`` episodes, and is not in ``misfits``, is a column."""
        return fits > misfits

    def frame_top(self, spec: Spec) -> float:
        """What white is in frames of ``spec``: 255, or 1 for float frames in 0 to 1."""
        return 255.0

    def probe(self, source: Source) -> Probe | None:
        """See :meth:`Format.probe`."""
        with damage_of(source.uri):
            return self.examined(source)

    def examined(self, source: Source) -> Probe | None:
        """The probe, where damage may raise anything of ``FAULTS``."""
        survey = self.survey(source)
        return None if survey is None else self.probed(source, survey)

    def probed(self, source: Source, survey: Survey) -> Probe:
        """The probe of a surveyed source. Raises ``SourceError`` where it has no episode that can be read."""
        if not survey.episodes:
            raise SourceError(f"{source.uri} holds no episodes", code="no_episodes")
        specs, lengths, notes = self._scan(source, survey)
        notes += [f"{path} has no numbers a step and is left out" for path, spec in specs.items() if not spec.size]
        layout, more = self.layout({path: spec for path, spec in specs.items() if spec.size})
        more += [
            f"{feature.name} is {' x '.join(map(str, feature.shape))} numbers a step, kept exactly as a column and not "
            "as video; the option leave_out saves its room"
            for feature in layout.features
            if not feature.is_camera and len(feature.shape) >= 2 and feature.size >= _PLANE
        ]
        fps = self.fps or survey.fps
        if fps is None:
            fps = self.usual_fps
            more.append(f"fps is not stated: {fps:g} is assumed; give the option fps")
        return Probe(
            format=self.name,
            fps=fps,
            features=layout.features,
            episodes=tuple(
                replace(ref, n_steps=lengths.get(ref.key)) if ref.n_steps is None else ref for ref in survey.episodes
            ),
            embodiment=self.embodiment or survey.embodiment or "unknown",
            control_mode=self.control_mode or survey.control_mode,
            licence=self.licence,
            provenance=self.provenance or survey.provenance,
            notes=(*notes, *more, *survey.notes),
            context={**survey.context, "layout": layout, "survey": replace(survey, episodes=(), context={})},
        )

    def arrays(self, recording: Recording) -> dict[str, Rows]:
        """The arrays of an episode without those left out, with pictures told from other rows."""
        wanted = {
            path: rows
            for path, rows in recording.arrays.items()
            if not any(fnmatchcase(path, pattern) for pattern in self.leave_out)
        }
        return {path: pictures(rows) for path, rows in wanted.items()}

    def _scan(self, source: Source, survey: Survey) -> tuple[dict[str, Spec], dict[str, int], list[str]]:
        """What most episodes hold a step under each path, the lengths seen, and notes."""
        refs = survey.episodes
        if survey.uniform:
            refs = tuple(ref for ref in refs if ref.n_steps)[:1] or refs[:1]
        if len(refs) > _SAMPLE and len({ref.files for ref in refs}) > 1:
            refs = tuple(refs[i] for i in np.linspace(0, len(refs) - 1, _SAMPLE).astype(int))
        counts: dict[str, Counter[Spec]] = {}
        others: Counter[str] = Counter()  # not one row a step
        lengths: dict[str, int] = {}
        broken: list[str] = []
        with self.opened(source, survey.context) as recording:
            for ref in refs:
                if avoided(ref.key):
                    continue
                reading(ref.key)
                try:
                    found = recording(ref.key)
                    arrays = self.arrays(found)
                    n = self._length(arrays)
                except (EngineError, *FAULTS) as error:
                    broken.append(f"{ref.key}: {error}")
                    continue
                if found.n_steps is not None:
                    lengths[ref.key] = found.n_steps
                elif n:
                    lengths[ref.key] = n
                for path, rows in arrays.items():
                    if len(rows) == n and path not in self.aside:
                        counts.setdefault(path, Counter())[rows.spec] += 1
                    else:
                        others[path] += 1
        reading(None)
        if not counts:
            why = broken[0] if broken else "all are empty"
            raise SourceError(f"no episode of {source.uri} can be read: {why}", code="no_episodes")
        counts = {path: seen for path, seen in counts.items() if self.is_column(path, seen.total(), others[path])}
        notes = [
            f"{path} differs between episodes: {sum(seen.values()) - max(seen.values())} cannot be read"
            for path, seen in sorted(counts.items())
            if len(seen) > 1
        ]
        return {path: counts[path].most_common(1)[0][0] for path in sorted(counts)}, lengths, notes

    def _length(self, arrays: Mapping[str, Rows]) -> int | None:
        """The number of steps: of the first of ``length_from`` that is there, else what most arrays say."""
        for path in self.length_from:
            if path in arrays:
                return len(arrays[path])
        common = Counter(map(len, arrays.values())).most_common(1)
        return common[0][0] if common else None

    def read(self, source: Source, probe: Probe, keys: Sequence[str]) -> Iterator[SourceEpisode | Unreadable]:
        """See :meth:`Format.read`."""
        with damage_of(source.uri), self.opened(source, probe.context) as recording:
            for key in keys:
                found: SourceEpisode | Unreadable
                try:
                    found = self._episode(source, probe, key, recording(key))
                except EngineError as error:
                    found = Unreadable(key, error.code, str(error))
                except FAULTS as error:
                    found = Unreadable(key, "damaged", f"{key} cannot be read: {error}")
                yield found

    def _episode(self, source: Source, probe: Probe, key: str, recording: Recording) -> SourceEpisode:
        layout: Layout = probe.context["layout"]
        survey: Survey = probe.context["survey"]
        present = self.arrays(recording)
        arrays = {path: rows for path, rows in present.items() if path in layout.specs}
        n = self._steps(arrays, recording.n_steps)
        for path, rows in arrays.items():
            layout.check(path, rows.spec)
        cameras = {camera: path for camera, path in layout.cameras.items() if path in arrays}
        used = {path for paths in layout.columns.values() for path in paths} | set(cameras.values())
        notes = [*recording.notes, *(f"no frames of camera {name}" for name in layout.cameras if name not in cameras)]
        notes += [note for path, rows in arrays.items() for note in unstored(path, rows)]
        notes += [
            f"{path}: the source holds {rows.kind} files; "
            + ("frames" if path in cameras.values() else "planes, kept as numbers,")
            + " are decoded"
            for path, rows in arrays.items()
            if isinstance(rows, Pictures)
        ]
        wanted = [path for path in arrays if path in used and path not in cameras.values()]
        if sum(arrays[path].nbytes for path in wanted) > EPISODE_BYTES:
            raise SourceError(f"{key} declares more than {EPISODE_BYTES >> 30} GiB of columns", code="too_large")
        clock = recording.clock()
        timestamp = np.arange(n) / probe.fps if clock is None else clock - clock[0]
        steps, nulls = layout.table({path: arrays[path].load() for path in wanted}, timestamp)
        values, left = self._values({path: rows for path, rows in present.items() if path not in layout.specs}, n)
        added, oddities = recording.beyond()
        attributes = {**survey.attributes, **values, **recording.values, **added}
        fields: dict[str, Any] = {"task": survey.task, "language": survey.language, **pick(attributes)}
        stated = {"task": self.task, "operator": self.operator, "provenance": self.provenance or survey.provenance}
        return SourceEpisode(
            key=key,
            steps=steps,
            cameras={
                camera: RawFrames(Frames(self, source, probe.context, key, path), *layout.specs[path].image_shape[:2])
                for camera, path in cameras.items()
            },
            labels=recording.labels,
            attributes=attributes,
            notes=(*notes, *nulls, *left, *oddities),
            **{**fields, **{name: value for name, value in stated.items() if value is not None}},
        )

    def _steps(self, arrays: Mapping[str, Rows], declared: int | None) -> int:
        """The one length of all arrays, as declared. Raises ``SourceError`` where they differ or there is nothing."""
        first = next((path for path in self.length_from if path in arrays), next(iter(arrays), None))
        if first is None or not max(map(len, arrays.values())):
            raise SourceError("the episode holds no steps", code="empty_episode")
        n = len(arrays[first])
        for path, rows in arrays.items():
            if len(rows) != n:
                raise SourceError(f"{path} holds {len(rows)} steps, {first} {n}", code="lengths_differ")
        if declared is not None and declared != n:
            raise SourceError(f"{declared} steps are declared, the arrays hold {n}", code="lengths_differ")
        return n

    def _values(self, found: Mapping[str, Rows], n: int) -> tuple[dict[str, Any], list[str]]:
        """Arrays that are no columns: the short ones, not one row a step, as plain values; and notes on the rest."""
        values: dict[str, Any] = {}
        notes = []
        for path, rows in found.items():
            if not rows.spec.size:
                continue  # the probe says so
            if len(rows) == n and path not in self.aside:
                notes.append(f"{path} is no column of the dataset and is not read")
            elif not isinstance(rows, Pictures) and 0 < len(rows) * rows.spec.size <= _SMALL:
                values[path] = plain(rows.load())
            elif len(rows):
                notes.append(f"{path} holds {len(rows)} rows, not one a step, and is not read")
        return values, notes

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


@dataclass(frozen=True)
class Frames:
    """The frames of one camera of one episode, read in blocks whenever they are asked for."""

    form: EpisodeArrays
    source: Source
    context: Mapping[str, Any]
    key: str
    path: str

    def __call__(self) -> Iterator[np.ndarray]:
        """A fresh iterator of uint8 (h, w, 3). Raises ``SourceError`` where they cannot be read."""
        with damage_of(f"camera {self.path}"), self.form.opened(self.source, self.context) as recording:
            rows = self.form.arrays(recording(self.key))[self.path]
            frames = to_rgb(
                rows.blocks(0, len(rows)),
                self.path,
                top=self.form.frame_top(rows.spec),
                rounding=bool(getattr(self.form, "image_rounding", False)),
            )
            turned = self.form.channel_order == "bgr"
            yield from (np.ascontiguousarray(frame[..., ::-1]) for frame in frames) if turned else frames
