"""WebDataset shards in any layout, by a column map: a sample of the tar is a step, or a whole episode."""

from __future__ import annotations

import io
import json
import os
import re
import tempfile
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np

from data_engine.errors import EngineError, SourceError
from data_engine.formats import EncodedVideo, Probe, Source, SourceEpisode, json_text
from data_engine.formats.arrays import EPISODE_BYTES, Spec
from data_engine.formats.attributes import plain
from data_engine.formats.column_map import ColumnMap, guess
from data_engine.formats.episode_arrays import Recording, Survey
from data_engine.formats.files import below
from data_engine.formats.mapped import MappedArrays
from data_engine.formats.npz_file import npz_arrays, parse_npy
from data_engine.formats.rows import FAULTS, Held, Rows
from data_engine.formats.tar_shard import SUFFIXES, Sample, Shard, open_shard, stem
from data_engine.model import IMAGES
from data_engine.video import FrameReader

__all__ = ["WebDataset"]

_HOW = ("sample", "key", "shard")
_IMAGES = ("jpg", "jpeg", "png")
_VIDEOS = ("mp4", "m4v", "mov", "mkv", "webm")
_TEXTS = ("txt", "text")
_READ = (*_IMAGES, *_VIDEOS, *_TEXTS, "npy", "npz", "json", "cls")
_EPISODE = ("episode_index", "episode_id", "episode", "traj_id", "trajectory")
_SCAN = 32  # episodes looked into to learn the fields
_TRIES = 8
_TIME = "/time"


class WebDataset(MappedArrays):
    """Tar shards (also gzipped), one or a folder of them. See :class:`MappedArrays` for ``map``.

    A field is a member's extension without its type: ``state.npy`` is ``state``, a lone ``jpg`` is ``jpg``; what is in
    npz and json files comes below it, ``json/pose/x``. Numbers in JSON are float64, null is NaN. ``episodes`` says what
    an episode is: ``sample`` (arrays of one row a step, and video), or with a sample a step ``shard``, ``key`` (up to
    its last number) or a field that is the same in the samples of an episode, which lie together. Of a video,
    ``<field>/time`` are its frames' times: a clock where there is nothing but video. Text that an episode holds once is
    its language; pickles and unknown types are never read.
    """

    name: ClassVar[str] = "webdataset"

    def files(self, source: Source) -> list[str]:
        """See :meth:`MappedArrays.files`."""
        if source.is_file:
            return [source.relative(source.root)] if source.root.lower().endswith(SUFFIXES) else []
        return below(source, SUFFIXES)

    @contextmanager
    def tree(self, source: Source, path: str) -> Iterator[_Tree]:
        """See :meth:`MappedArrays.tree`. A group is ``sample <i>``, or ``steps <i> <j>``, of the shard's samples."""
        with tempfile.TemporaryDirectory(prefix="data-engine-") as folder:
            yield _Tree(open_shard(source, path), folder)

    def guessed(self, specs: Mapping[str, Spec]) -> ColumnMap:
        """See :meth:`MappedArrays.guessed`."""
        times = [path for path in specs if path.endswith(_TIME)]
        found = guess({path: spec for path, spec in specs.items() if path not in times})
        return found.model_copy(update={"clock": times[0]}) if times else found

    def probed(self, source: Source, survey: Survey) -> Probe:
        """See :meth:`EpisodeArrays.probed`. Cameras that are video in the shards stay video."""
        probe = super().probed(source, survey)
        films = self._films(source, survey)
        features = tuple(
            feature.model_copy(update={"dtype": "video"})
            if feature.is_camera and self.map and self.map.cameras[feature.name.removeprefix(IMAGES)] in films
            else feature
            for feature in probe.features
        )
        return replace(probe, features=features)

    def _films(self, source: Source, survey: Survey) -> set[str]:
        with self.opened(source, survey.context) as recording:
            for ref in survey.episodes[:_TRIES]:
                try:
                    return {path for path, rows in recording(ref.key).arrays.items() if isinstance(rows, _Film)}
                except (EngineError, *FAULTS):
                    continue
        return set()

    def _scan(self, source: Source, survey: Survey) -> tuple[dict[str, Spec], dict[str, int], list[str]]:
        refs = survey.episodes
        if len(refs) > _SCAN:
            refs = tuple(refs[i] for i in np.linspace(0, len(refs) - 1, _SCAN).astype(int))
        return super()._scan(source, replace(survey, episodes=refs))

    def _structure(self, source: Source, files: list[str]) -> str:
        """What an episode seems to be, by the first shard that opens."""
        for path in files[:_TRIES]:
            try:
                with self.tree(source, path) as tree:
                    return tree.structure()
            except (EngineError, *FAULTS):
                if len(files) == 1:
                    raise
        return "sample"

    def _places(
        self, source: Source, files: list[str], how: str
    ) -> tuple[dict[str, tuple[str, str, int | None, int]], list[str]]:
        places: dict[str, tuple[str, str, int | None, int]] = {}
        notes: list[str] = []
        for path in files:
            try:
                with self.tree(source, path) as tree:
                    notes += [*tree.shard.notes, *tree.unread()]
                    for key, group in tree.episodes(how):
                        apart = how not in ("sample", "shard")
                        name = (
                            key
                            if len(files) == 1 or apart
                            else f"{stem(path)}/{key}"
                            if how == "sample"
                            else stem(path)
                        )
                        places[name] = (path, "apart" if name in places else group, None, 0)
            except (EngineError, *FAULTS) as error:
                if len(files) == 1:
                    raise
                notes.append(" ".join(f"{path} cannot be read and is left out: {error}".split()))
        if not places:
            raise SourceError(f"{source.uri} holds no samples", code="no_episodes")
        return places, notes

    def _episode(self, source: Source, probe: Probe, key: str, recording: Recording) -> SourceEpisode:
        episode = super()._episode(source, probe, key, recording)
        cameras = self.map.cameras if self.map else {}
        films = {
            camera: EncodedVideo(film.path, float(film.times[0]), None, local=film.local)
            for camera, path in cameras.items()
            if isinstance(film := recording.arrays.get(path), _Film)
        }
        return replace(episode, cameras={**episode.cameras, **films})


class _Tree:
    """The episodes of an open shard. What an episode unpacks lives in ``folder`` until the next one is asked for."""

    def __init__(self, shard: Shard, folder: str) -> None:
        self.shard, self._folder = shard, folder
        self._held: tuple[str, dict[str, Rows], dict[str, Any]] = ("", {}, {})

    def groups(self, group: str) -> list[str]:
        return []

    def arrays(self, group: str) -> dict[str, Rows]:
        return self._load(group)[1]

    def values(self, group: str) -> dict[str, Any]:
        return self._load(group)[2]

    def structure(self) -> str:
        """What an episode seems to be, by the first sample that can be read."""
        samples = self.shard.samples
        first = next((sample for sample in samples if sample.problem is None), None)
        if first is None:
            raise (
                SourceError(f"{self.shard.path}: {samples[0].problem}", code="no_episodes")
                if samples
                else SourceError(f"{self.shard.path} holds no samples", code="no_episodes")
            )
        found = self._fields(first)
        if any(_kind(extension) in _VIDEOS for extension in first.members) or any(
            isinstance(value, np.ndarray) and value.ndim >= 2 and not Spec.of(value.dtype, (1, *value.shape)).is_rgb
            for value in found.values()
        ):
            return "sample"
        named = next(
            (p for name in _EPISODE for p in found if p.rsplit("/", 1)[-1] == name and np.ndim(found[p]) == 0), None
        )
        if named is not None:
            return named
        runs = {_run(sample.key) for sample in samples}
        return "key" if 1 < len(runs) < len(samples) else "shard"

    def episodes(self, how: str) -> Iterator[tuple[str, str]]:
        """(key, group) of each run of samples that is an episode."""
        samples = self.shard.samples
        if how == "sample":
            yield from ((sample.key, f"sample {i}") for i, sample in enumerate(samples))
            return
        start, last = 0, None
        for i, sample in enumerate(samples):
            value = self._value(sample, how)
            if i and value != last:
                yield str(last), f"steps {start} {i}"
                start = i
            last = value
        if samples:
            yield str(last), f"steps {start} {len(samples)}"

    def _value(self, sample: Sample, how: str) -> str:
        if how == "shard":
            return "shard"
        if how == "key":
            return _run(sample.key)
        try:
            value = self._fields(sample, only=how).get(how)
        except (EngineError, *FAULTS):
            value = None
        if value is None or np.ndim(value):
            return f"without {how}: {sample.key}"
        number = value.item() if isinstance(value, np.ndarray | np.generic) else value
        return (
            f"episode_{int(number):06d}" if isinstance(number, int | float) and number == int(number) else str(number)
        )

    def _load(self, group: str) -> tuple[str, dict[str, Rows], dict[str, Any]]:
        if self._held[0] != group:
            for name in os.listdir(self._folder):
                os.unlink(os.path.join(self._folder, name))
            kind, *span = group.split()
            if kind == "apart":
                raise SourceError("its samples do not lie together", code="scattered", fix="sort the shards by episode")
            samples = (
                self.shard.samples[int(span[0]) : int(span[-1])]
                if kind == "steps"
                else [self.shard.samples[int(span[0])]]
            )
            for sample in samples:
                if sample.problem:
                    raise SourceError(f"sample {sample.key}: {sample.problem}", code="bad_sample")
            if (
                sum(
                    m.size
                    for sample in samples
                    for m in sample.members.values()
                    if _kind(m.extension) in ("npy", "json")
                )
                > EPISODE_BYTES
            ):
                raise SourceError(f"its samples hold more than {EPISODE_BYTES >> 30} GiB", code="too_large")
            self._held = (group, *(self._whole(samples[0]) if kind == "sample" else self._steps(samples)))
        return self._held

    def _whole(self, sample: Sample) -> tuple[dict[str, Rows], dict[str, Any]]:
        """One sample as an episode: arrays of a row a step, video, and what it says once."""
        fields = self._fields(sample)
        rows: dict[str, Rows] = {}
        values: dict[str, Any] = {}
        for path, value in fields.items():
            if isinstance(value, np.ndarray) and value.ndim:
                rows[path] = Held(path, value)
            else:
                _state(values, path, plain(value))
        for path, extension in _names(sample).items():
            if _kind(extension) in _VIDEOS:
                local = os.path.join(self._folder, f"{len(rows)}.{_kind(extension)}")
                self.shard.copy(sample.members[extension], local)
                film = rows[path] = _Film(path, f"{self.shard.path}:{sample.key}.{extension}", local)
                rows[path + _TIME] = Held(path + _TIME, film.times)
        return rows, values

    def _steps(self, samples: Sequence[Sample]) -> tuple[dict[str, Rows], dict[str, Any]]:
        """A sample a step. Raises ``SourceError`` where a sample lacks a field of the first, or holds another shape."""
        columns: dict[str, list[Any]] = {}
        for number, sample in enumerate(samples):
            fields = self._fields(sample)
            if number and fields.keys() != columns.keys():
                path = sorted(fields.keys() ^ columns.keys())[0]
                raise SourceError(f"{path} is not in every sample of it: see {sample.key}", code="missing_field")
            for path, value in fields.items():
                columns.setdefault(path, []).append(value)
        rows: dict[str, Rows] = {}
        values: dict[str, Any] = {}
        for path, found in columns.items():
            if isinstance(found[0], str):
                rows[path] = Held(path, np.array(found, dtype=str))
                said = list(dict.fromkeys(found))
                _state(values, path, said[0] if len(said) == 1 else said)
                continue
            try:
                rows[path] = Held(path, np.stack([np.asarray(value) for value in found]))
            except (ValueError, TypeError) as error:
                raise SourceError(f"{path} differs in shape between steps", code="layout_differs") from error
        for path, extension in _names(samples[0]).items():
            if _kind(extension) in _IMAGES:
                rows[path] = _Files(path, self.shard, samples, extension)
        return rows, values

    def unread(self) -> list[str]:
        """A note on the files of types that are never read."""
        kinds = Counter(_kind(extension) for sample in self.shard.samples for extension in sample.members)
        return [
            f"{self.shard.path}: {count} {kind or 'nameless'} files are not read"
            for kind, count in sorted(kinds.items())
            if kind not in _READ
        ]

    def _fields(self, sample: Sample, only: str | None = None) -> dict[str, Any]:
        """Everything in a sample but pictures and video, by field. ``only``: of the file with that field."""
        fields: dict[str, Any] = {}
        if sample.problem:
            raise SourceError(sample.problem, code="bad_sample")
        for path, extension in _names(sample).items():
            kind = _kind(extension)
            if kind in (*_IMAGES, *_VIDEOS) or kind not in _READ or (only and only.split("/", 1)[0] != path):
                continue
            data = self.shard.read(sample.members[extension])
            try:
                fields |= _decoded(path, kind, data)
            except SourceError as error:
                raise SourceError(f"sample {sample.key}: {error.message}", code=error.code) from error
            except (RecursionError, *FAULTS) as error:
                raise SourceError(f"{sample.key}.{extension} cannot be read: {error}", code="damaged") from error
        return fields


class _Files(Rows):
    """Encoded pictures, a file of each sample, read one at a time."""

    def __init__(self, name: str, shard: Shard, samples: Sequence[Sample], extension: str) -> None:
        self.name, self.spec = name, Spec("bytes", ())
        self._shard, self._samples, self._extension = shard, samples, extension

    def __len__(self) -> int:
        return len(self._samples)

    def blocks(self, start: int, stop: int) -> Iterator[np.ndarray]:
        """See :meth:`Rows.blocks`."""
        for sample in self._samples[start:stop]:
            member = sample.members.get(self._extension)
            if member is None:
                raise SourceError(f"sample {sample.key} has no {self._extension}", code="missing_image")
            block = np.empty(1, dtype=object)
            block[0] = self._shard.read(member)
            yield block


class _Film(Rows):
    """The frames of a video member. ``local`` has its bytes, which are kept; ``times`` float64 are in seconds."""

    def __init__(self, name: str, path: str, local: str) -> None:
        self.name, self.path, self.local = name, path, local
        with FrameReader(local) as reader:
            self.times, info = reader.times, reader.info
        self.spec = Spec("uint8", (info.height, info.width, 3))

    def __len__(self) -> int:
        return len(self.times)

    def blocks(self, start: int, stop: int) -> Iterator[np.ndarray]:
        """See :meth:`Rows.blocks`."""
        with FrameReader(self.local) as reader:
            for at in range(start, stop, 16):
                yield reader.at(self.times[at : min(at + 16, stop)])


def _names(sample: Sample) -> dict[str, str]:
    """Field -> extension: without its type where that is enough to tell the sample's files apart."""
    names: dict[str, str] = {}
    for extension in sample.members:
        short = extension.rpartition(".")[0] or extension
        names[extension if short in names else short] = extension
    return names


def _kind(extension: str) -> str:
    return extension.rsplit(".", 1)[-1]


def _run(key: str) -> str:
    """A key up to its last number."""
    return re.sub(r"[^A-Za-z0-9]*\d+[^0-9]*$", "", key)


def _decoded(path: str, kind: str, data: bytes) -> dict[str, Any]:
    """The fields of one file: arrays, numbers and texts."""
    if kind == "npy":
        return {path: parse_npy(data, path)}
    if kind == "npz":
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return {f"{path}/{name}": array.whole() for name, array in npz_arrays(archive).items()}
    if kind in _TEXTS:
        return {path: data.decode("utf-8").strip()}
    if kind == "cls":
        return {path: np.int64(data.decode("ascii").strip())}
    return dict(_flat(path, json_text.loads(data)))


def _flat(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _flat(f"{path}/{name}", inner)
    elif isinstance(value, bool):
        yield path, np.bool_(value)
    elif isinstance(value, str):
        yield path, value
    elif isinstance(value, int | float):
        yield path, np.float64(value)
    elif isinstance(value, list):
        try:
            kind = np.bool_ if value and all(isinstance(entry, bool) for entry in value) else np.float64
            yield path, np.array(value, dtype=kind)
        except (ValueError, TypeError):
            yield path, json.dumps(value)  # a list of texts, or ragged: kept as it is written


def _state(values: dict[str, Any], path: str, value: Any) -> None:
    """Put what an episode says once under its own name; a lone text file is its language."""
    name = path.rsplit("/", 1)[-1]
    values[path if name in values else "language" if name in _TEXTS and "language" not in values else name] = value
