"""A mixture as WebDataset tar shards, an episode a sample, with the blend that Megatron Energon draws them by."""

from __future__ import annotations

import io
import json
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import yaml
from pydantic import Field

from data_engine.arrays import to_array
from data_engine.errors import RequestError
from data_engine.exports.columns import camera_name, chosen, left_out
from data_engine.exports.films import LEAST_DB, likeness
from data_engine.exports.folder import FolderExporter, Written
from data_engine.exports.pictures import video_of
from data_engine.exports.rates import Stratum, strata
from data_engine.exports.rows import rows_and_steps
from data_engine.exports.values import episode_arrays, equal
from data_engine.mixture import Mixture
from data_engine.model import TIMESTAMP, Dataset, Feature
from data_engine.video import FrameReader, can_copy, copy_spans, transcode_span

__all__ = ["WebDatasetExporter"]

_BLEND = "metadataset.yaml"
_META = "json"
_NV = ".nv-meta"
_ENERGON = "megatron.energon"
_TOLD = (
    "dataset", "source_key", "episode_id", "start", "stop", "embodiment", "control_mode", "fps", "task", "language",
    "success", "operator",
)  # fmt: skip
_REPEATS = "blend_epochized repeats each dataset by the rate"
_BLENDS = "blend draws datasets by their episodes times the rate"


class WebDatasetExporter(FolderExporter):
    """``<dataset>/<split>-000000.tar`` for each rate of a dataset, one sample an episode, and ``metadataset.yaml``, the
    blend for Energon.

    A sample has ``json`` (where it comes from, texts, ``rate``, and for each camera at which second of its file the
    episode's time 0 lies), ``<column>.npy`` of one row a step in original dtype and shape, ``timestamp.npy`` (float64
    seconds, also of an uneven clock), text columns as ``<column>.json``, and ``<camera>.mp4``: the coded packets of its
    frames, or those encoded again where the range does not start on a keyframe. Several embodiments stay apart.

    Where a camera has a clock of its own, its seconds are those of the column ``frame_time.<camera>``. ``columns``:
    ``all``, or the canonical names to keep. ``shard_mb``: the size at which a shard ends. Run ``energon
    prepare`` in each dataset's folder: its index is Energon's own.
    """

    name: ClassVar[str] = "webdataset"

    columns: Literal["all"] | tuple[str, ...] = "all"
    shard_mb: int = Field(default=256, gt=0)

    def write(self, mixture: Mixture, order: list[int], folder: Path) -> Written:
        """See :meth:`FolderExporter.write`. Memory: one episode."""
        groups = strata(mixture, order)
        numbers = {i: number for number, i in enumerate(order)}
        frames: dict[str, int] = {}
        notes: list[str] = []
        again: list[str] = []
        shards: dict[str, dict[str, list[str]]] = {}
        for group in groups:
            dataset = mixture.datasets[group.dataset]
            features = self._features(dataset)
            files = _Shards(folder / group.name, group.split, self.shard_mb << 20)
            for i, (row, steps) in zip(group.rows, rows_and_steps(mixture, group.rows), strict=True):
                members, told = self._sample(features, row, steps, group.rate)
                for feature in features:
                    if feature.is_camera:
                        name = camera_name(feature)
                        data, start_s, copied = _film(mixture, row, steps, name)
                        members[f"{name}.mp4"] = data
                        told["videos"][name] = {"start_s": start_s, "copied": copied}
                        frames[name] = frames.get(name, 0) + steps.num_rows
                        again += [f"{numbers[i]:09d}.{name}"] * (not copied)
                members[_META] = json.dumps(told, ensure_ascii=False).encode()
                files.add(f"{numbers[i]:09d}", members)
            shards.setdefault(group.name, {})[group.split] = files.close()
            notes += [note for note in left_out(dataset, features) if note not in notes]
        for name, splits in shards.items():
            (folder / name / _NV).mkdir()
            for file, content in _meta(splits).items():
                (folder / name / _NV / file).write_text(_yaml(content), encoding="utf-8")
        (folder / _BLEND).write_text(_yaml(_blend(mixture, groups)), encoding="utf-8")
        if again:
            notes.append(f"{len(again)} videos start on no keyframe and were encoded again: {again[0]}")
        notes.append("run `energon prepare` in each dataset's folder before Energon reads it; webdataset needs none")
        how = _REPEATS if mixture.document.weight_kind == "repeat" else _BLENDS
        weights = (
            f"{_BLEND}: {how}; a sample is an episode, so this holds where a drawn episode is read whole; webdataset"
            " alone has no weights"
        )
        return Written(weights, tuple(notes), frames, {"reencoded": again})

    def differences(self, mixture: Mixture, order: list[int], folder: Path) -> Iterator[str]:
        """See :meth:`FolderExporter.differences`. Every array is compared, every packet of a video that was copied, and
        up to 16 frames of every video.
        """
        groups = strata(mixture, order)
        numbers = {i: number for number, i in enumerate(order)}
        if yaml.safe_load((folder / _BLEND).read_bytes()) != _blend(mixture, groups):
            yield f"{_BLEND} is not the mixture's"
        for group in groups:
            features = self._features(mixture.datasets[group.dataset])
            samples = _samples(sorted((folder / group.name).glob(f"{group.split}-*.tar")))
            for i, (row, steps) in zip(group.rows, rows_and_steps(mixture, group.rows), strict=True):
                where = (
                    f"{group.name} {group.split} ({row['dataset']}/{row['source_key']} {row['start']}:{row['stop']})"
                )
                key, held = next(samples, ("", {}))
                if key != f"{numbers[i]:09d}":
                    yield f"{where}: the next sample is {key or 'none'}, not {numbers[i]:09d}"
                    break
                members, told = self._sample(features, row, steps, group.rate)
                films = {f"{camera_name(feature)}.mp4" for feature in features if feature.is_camera}
                differing = set(held) ^ {*members, *films, _META}
                if differing:
                    yield f"{where}: {min(differing)} is on one side only"
                    continue
                read = json.loads(held[_META])
                yield from (f"{where}: {name} is {read.get(name)!r}" for name in told if name != "videos"
                            and read.get(name) != told[name])  # fmt: skip
                for name, data in members.items():
                    if not _same(data, held[name], name):
                        yield f"{where}: {name} differs"
                for name in films:
                    camera = name.removesuffix(".mp4")
                    line = _unlike(mixture, row, steps, camera, held[name], read["videos"][camera])
                    if line:
                        yield f"{where}: {camera}: {line}"
            if next(samples, None) is not None:
                yield f"{group.name} {group.split}: more samples than in the mixture"
        for name in dict.fromkeys(group.name for group in groups):
            splits = {
                group.split: sorted(path.name for path in (folder / name).glob(f"{group.split}-*.tar"))
                for group in groups
                if group.name == name
            }
            for file, content in _meta(splits).items():
                path = folder / name / _NV / file
                if not path.exists() or yaml.safe_load(path.read_bytes()) != content:
                    yield f"{name}/{_NV}/{file} is not the mixture's"

    def _features(self, dataset: Dataset) -> list[Feature]:
        features = chosen(dataset, self.columns)
        names = [_member(feature) for feature in features]
        taken = [name for name in names if names.count(name) > 1 or name == f"{TIMESTAMP}.npy"]
        if taken:
            raise RequestError(f"two columns of {dataset.name!r} would be {taken[0]!r}", code="name_taken")
        return features

    def _sample(
        self, features: list[Feature], row: Mapping[str, Any], steps: pa.Table, rate: float
    ) -> tuple[dict[str, bytes], dict[str, Any]]:
        """The members of one sample by extension, without its videos, and what its ``json`` tells."""
        columns = {feature.name: feature for feature in features if not feature.is_camera}
        members: dict[str, bytes] = {}
        for name, values in episode_arrays(row, steps, list(columns.values()), "WebDataset").items():
            member = _member(columns[name]) if name in columns else f"{name}.npy"
            if values.dtype == object:
                members[member] = json.dumps(values.tolist(), ensure_ascii=False).encode()
            else:
                out = io.BytesIO()
                np.save(out, values, allow_pickle=False)
                members[member] = out.getvalue()
        return members, {**{name: row[name] for name in _TOLD}, "rate": rate, "videos": {}}


class _Shards:
    """The tar files of one split as they grow; their bytes depend on the samples alone."""

    def __init__(self, folder: Path, split: str, max_bytes: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.split, self.max_bytes = folder, split, max_bytes
        self._names: list[str] = []
        self._tar: tarfile.TarFile | None = None
        self._held = 0

    def add(self, key: str, members: Mapping[str, bytes]) -> None:
        """Append a sample: its members by extension, sorted."""
        size = sum(map(len, members.values()))
        if self._tar is not None and self._held + size > self.max_bytes:
            self._tar.close()
            self._tar = None
        if self._tar is None:
            self._names.append(f"{self.split}-{len(self._names):06d}.tar")
            self._tar = tarfile.open(self.folder / self._names[-1], "w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115
            self._held = 0
        for extension in sorted(members):
            entry = tarfile.TarInfo(f"{key}.{extension}")
            entry.size = len(members[extension])
            self._tar.addfile(entry, io.BytesIO(members[extension]))
        self._held += size

    def close(self) -> list[str]:
        """The names of the files."""
        if self._tar is not None:
            self._tar.close()
        return self._names


def _samples(paths: list[Path]) -> Iterator[tuple[str, dict[str, bytes]]]:
    """The samples of tar shards: key and members by extension."""
    for path in paths:
        held: dict[str, bytes] = {}
        key = ""
        with tarfile.open(path, "r:") as tar:
            for entry in tar:
                found, _, extension = entry.name.partition(".")
                if found != key and held:
                    yield key, held
                    held = {}
                file = tar.extractfile(entry)
                key, held[extension] = found, file.read() if file else b""
        if held:
            yield key, held


def _film(mixture: Mixture, row: Mapping[str, Any], steps: pa.Table, camera: str) -> tuple[bytes, float, bool]:
    """The video of an episode's steps as a file of its own, the second of it at the episode's time 0, and whether its
    packets were copied.
    """
    video = video_of(row, camera)
    path, (times, zero) = mixture.local(video["blob"]), _times(steps, camera)
    with FrameReader(path) as reader:
        period = 1 / reader.info.fps
    start, stop = video["start_s"] + float(times.min()), video["start_s"] + float(times.max()) + period
    with tempfile.TemporaryDirectory(prefix="data-engine-video-") as scratch:
        out = Path(scratch) / "film.mp4"
        copied = can_copy([(path, start, stop)])
        if copied:
            ((from_s, _),) = copy_spans([(path, start, stop)], out)
        else:
            transcode_span(path, start, stop, out)
            from_s = 0.0
        return out.read_bytes(), from_s + zero - float(times.min()), copied


def _unlike(
    mixture: Mixture, row: Mapping[str, Any], steps: pa.Table, camera: str, data: bytes, told: Mapping[str, Any]
) -> str | None:
    """How the frames of a written video differ from the mixture's, or None."""
    video, (times, zero) = video_of(row, camera), _times(steps, camera)
    mine = mixture.local(video["blob"])
    with tempfile.TemporaryDirectory(prefix="data-engine-video-") as scratch:
        path = Path(scratch) / "film.mp4"
        path.write_bytes(data)
        with FrameReader(path) as film, FrameReader(mine) as source:
            start, stop = (video["start_s"] + float(edge) for edge in (times.min(), times.max() + 1 / source.info.fps))
            copied = can_copy([(mine, start, stop)])
            if told["copied"] is not copied:
                return f"copied is {told['copied']!r}"
            if copied and film.digest() != source.digest(start, stop):
                return "the coded frames are not the mixture's"
            found = likeness(source, video["start_s"] + times, film, told["start_s"] + times - zero)
    if found is None:
        return "frames of another size"
    if copied:
        return None if found == float("inf") else "frames differ"
    return f"frames at {found:.1f} dB" if found < LEAST_DB else None


def _times(steps: pa.Table, camera: str) -> tuple[np.ndarray, float]:
    """The times of a camera's frames, one a step, as the mixture has them, and which of them is 0 in the export."""
    clock = f"frame_time.{camera}" if f"frame_time.{camera}" in steps.column_names else TIMESTAMP
    times = to_array(steps[clock], clock).astype(np.float64)
    if not np.isfinite(times).all():
        raise RequestError(
            f"{clock!r} lacks values, and WebDataset has no missing values",
            code="missing_values",
            fix="leave the camera out with the exporter's columns",
        )
    return times, float(times[0]) if clock == TIMESTAMP else 0.0


def _same(mine: bytes, theirs: bytes, name: str) -> bool:
    if not name.endswith(".npy"):
        return bool(json.loads(mine) == json.loads(theirs))
    left, right = (np.load(io.BytesIO(data), allow_pickle=False) for data in (mine, theirs))
    return equal(left, right)


def _member(feature: Feature) -> str:
    """The extension of a column's member."""
    if feature.is_camera:
        return f"{camera_name(feature).replace('/', '_')}.mp4"
    return f"{feature.name.replace('/', '_')}.{'json' if feature.dtype == 'string' else 'npy'}"


def _blend(mixture: Mixture, groups: list[Stratum]) -> dict[str, Any]:
    repeats = mixture.document.weight_kind == "repeat"
    splits: dict[str, Any] = {}
    for group in groups:
        into = splits.setdefault(group.split, {"blend_epochized" if repeats else "blend": []})
        weight = {"repetitions": group.rate} if repeats else {"weight": float(f"{group.rate * len(group.rows):.9g}")}
        into[next(iter(into))].append({**weight, "path": f"./{group.name}", "split_part": group.split})
    return {"__module__": _ENERGON, "__class__": "MetadatasetV2", "splits": splits}


def _meta(splits: Mapping[str, list[str]]) -> dict[str, Any]:
    """Energon's files on a dataset of these shards by split."""
    return {
        "split.yaml": {"exclude": [], "split_parts": dict(splits)},
        "dataset.yaml": {"__module__": _ENERGON, "__class__": "CrudeWebdataset"},
    }


def _yaml(value: Any) -> str:
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True)
