"""A mixture as MDS shards, which mosaicml-streaming draws by proportion, repeat or choose: as a mixture itself does."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from data_engine.errors import RequestError
from data_engine.exports.columns import camera_name, chosen, left_out
from data_engine.exports.folder import FolderExporter, Written, write_json
from data_engine.exports.lerobot_data import task_text
from data_engine.exports.pictures import Pictures, encoded
from data_engine.exports.rates import Stratum, strata
from data_engine.exports.rows import rows_and_steps
from data_engine.exports.values import episode_arrays
from data_engine.mixture import Mixture
from data_engine.model import TIMESTAMP, Dataset, Feature

__all__ = ["MDSExporter"]

_STREAMS = "streams.json"
_BESIDE = ("episode_index", "frame_index", "task")
_SHARES = {
    "probability": "proportion, the share of all draws, with epoch_size beside it",
    "repeat": "repeat, the rate",
    "choose": "choose, the samples an epoch, rounded to whole ones",
}
_KINDS = frozenset(f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)) | {
    "float16", "float32", "float64",
}  # fmt: skip


class MDSExporter(FolderExporter):
    """``<stream>/<split>/shard.00000.mds`` and ``index.json``, a stream for each rate of a dataset, and
    ``streams.json``: split -> the arguments of each ``Stream``, and of the ``StreamingDataset``.

    A sample is a step. Columns keep their canonical names and original dtypes (``bool``, which MDS does not know, as
    ``uint8``), cameras are pictures encoded as ``images``. Beside them ``timestamp`` (float64 seconds, also of an
    uneven clock), ``episode_index`` (as in provenance.parquet), ``frame_index`` and ``task``. Several embodiments are
    streams apart, which one ``StreamingDataset`` serves; batch them as they fit. ``columns``: ``all``, or the canonical
    names to keep. ``shard_mb``: the size at which a shard ends.
    """

    name: ClassVar[str] = "mds"

    columns: Literal["all"] | tuple[str, ...] = "all"
    images: Literal["jpeg", "png"] = "jpeg"
    quality: int = Field(default=95, ge=1, le=100)
    shard_mb: int = Field(default=64, gt=0, lt=4096)

    def write(self, mixture: Mixture, order: list[int], folder: Path) -> Written:
        """See :meth:`FolderExporter.write`. Memory: one shard."""
        pictures, numbers = Pictures(mixture), {i: number for number, i in enumerate(order)}
        frames: dict[str, int] = {}
        notes: list[str] = []
        groups = strata(mixture, order)
        for group in groups:
            dataset = mixture.datasets[group.dataset]
            features = self._features(dataset)
            root = folder / group.name / group.split
            shards = _Shards(root, _columns(features, self.images), self.shard_mb << 20)
            for i, (row, steps) in zip(group.rows, rows_and_steps(mixture, group.rows), strict=True):
                for sample in self._samples(features, row, steps, numbers[i], pictures):
                    shards.add(sample)
                for feature in features:
                    if feature.is_camera:
                        frames[camera_name(feature)] = frames.get(camera_name(feature), 0) + steps.num_rows
            shards.close()
            notes += [note for note in self._remarks(dataset, features) if note not in notes]
        write_json(folder / _STREAMS, _streams(mixture, groups))
        kind = _SHARES[mixture.document.weight_kind]
        return Written(f"streams.json gives each stream its {kind}; streaming shuffles steps", tuple(notes), frames)

    def differences(self, mixture: Mixture, order: list[int], folder: Path) -> Iterator[str]:
        """See :meth:`FolderExporter.differences`. The bytes of every value are compared."""
        pictures, numbers = Pictures(mixture), {i: number for number, i in enumerate(order)}
        groups = strata(mixture, order)
        if json.loads((folder / _STREAMS).read_bytes()) != _streams(mixture, groups):
            yield f"{_STREAMS} is not the mixture's"
        for group in groups:
            features = self._features(mixture.datasets[group.dataset])
            columns = _columns(features, self.images)
            root = folder / group.name / group.split
            held = _read(root, columns)
            for i, (row, steps) in zip(group.rows, rows_and_steps(mixture, group.rows), strict=True):
                where = (
                    f"{group.name} {group.split} ({row['dataset']}/{row['source_key']} {row['start']}:{row['stop']})"
                )
                for step, sample in enumerate(self._samples(features, row, steps, numbers[i], pictures)):
                    found = next(held, None)
                    if found is None:
                        yield f"{where}: {step} steps, {steps.num_rows} in the mixture"
                        break
                    wrong = [name for name, mine, theirs in zip(columns, sample, found, strict=True) if mine != theirs]
                    yield from (f"{where}: {name} of step {step} differs" for name in wrong)
            if next(held, None) is not None:
                yield f"{group.name} {group.split}: more steps than in the mixture"

    def _features(self, dataset: Dataset) -> list[Feature]:
        features = chosen(dataset, self.columns)
        for feature in features:
            if feature.name in (*_BESIDE, TIMESTAMP):
                raise RequestError(f"column {feature.name!r} has the name of one that is added", code="name_taken")
            text = feature.dtype == "string"
            if (text and feature.shape) or not (text or feature.is_camera or feature.dtype in (*_KINDS, "bool")):
                raise RequestError(
                    f"MDS has no column of dtype {feature.dtype} {feature.shape} ({feature.name!r})",
                    code="bad_dtype",
                    fix="leave it out with the exporter's columns",
                )
        return features

    def _samples(
        self, features: list[Feature], row: Mapping[str, Any], steps: pa.Table, number: int, pictures: Pictures
    ) -> Iterator[list[bytes]]:
        """The coded values of each step of one episode, in the order of the columns."""
        arrays = episode_arrays(row, steps, [feature for feature in features if not feature.is_camera], "MDS")
        cameras = {f.name: pictures.frames(row, steps, f) for f in features if f.is_camera}
        task = task_text(row).encode()
        for step in range(steps.num_rows):
            coded = {
                "episode_index": np.int64(number).tobytes(),
                "frame_index": np.int64(step).tobytes(),
                "task": task,
            }
            for name, values in arrays.items():
                coded[name] = values[step].encode() if values.dtype == object else _little(values[step])
            for name, shown in cameras.items():
                coded[name] = encoded(next(shown), self.images, self.quality)
            yield [coded[name] for name in sorted(coded)]

    def _remarks(self, dataset: Dataset, features: list[Feature]) -> list[str]:
        flags = [feature.name for feature in features if feature.dtype == "bool"]
        notes = [f"{dataset.name}: {', '.join(flags)} are uint8, as MDS knows no bool"] if flags else []
        if any(feature.is_camera for feature in features):
            how = f"JPEG of quality {self.quality}, which loses detail" if self.images == "jpeg" else "PNG"
            notes.append(f"{dataset.name}: frames are decoded and kept as {how}")
        return notes + left_out(dataset, features)


class _Shards:
    """The shards of one stream as they grow. Layout: MosaicML's, ``mds`` version 2, without compression."""

    def __init__(self, folder: Path, columns: Mapping[str, tuple[str, int | None]], max_bytes: int) -> None:
        folder.mkdir(parents=True)
        self.folder, self.max_bytes = folder, max_bytes
        self.fixed = [size is not None for _, size in columns.values()]
        self.config = {
            "column_encodings": [encoding for encoding, _ in columns.values()],
            "column_names": list(columns),
            "column_sizes": [size for _, size in columns.values()],
            "compression": None,
            "format": "mds",
            "hashes": [],
            "size_limit": max_bytes,
            "version": 2,
        }
        self._header = json.dumps(self.config, sort_keys=True).encode()
        self._samples: list[bytes] = []
        self._held = 0
        self._shards: list[dict[str, Any]] = []

    def add(self, values: list[bytes]) -> None:
        """Append a sample, its coded values in the order of the columns."""
        sizes = [len(value) for value, fixed in zip(values, self.fixed, strict=True) if not fixed]
        sample = np.array(sizes, "<u4").tobytes() + b"".join(values)
        if self._samples and self._size(len(sample)) > self.max_bytes:
            self._flush()
        self._samples.append(sample)
        self._held += len(sample)

    def close(self) -> None:
        """Write what is pending and the index."""
        self._flush()
        index = {"shards": self._shards, "version": 2}
        (self.folder / "index.json").write_text(json.dumps(index, sort_keys=True), encoding="utf-8")

    def _size(self, more: int = 0) -> int:
        return 8 + 4 * (len(self._samples) + bool(more)) + len(self._header) + self._held + more

    def _flush(self) -> None:
        if not self._samples:
            return
        name, size = f"shard.{len(self._shards):05d}.mds", self._size()
        lengths = np.array([0, *map(len, self._samples)], np.int64).cumsum()
        offsets = lengths + 4 + 4 * len(lengths) + len(self._header)
        if offsets[-1] > np.iinfo(np.uint32).max:
            raise RequestError("a step is larger than an MDS shard can be", code="too_large")
        with (self.folder / name).open("wb") as file:
            file.write(np.array([len(self._samples)], "<u4").tobytes() + offsets.astype("<u4").tobytes() + self._header)
            file.writelines(self._samples)
        raw = {"basename": name, "bytes": size, "hashes": {}}
        self._shards.append({**self.config, "raw_data": raw, "samples": len(self._samples), "zip_data": None})
        self._samples, self._held = [], 0


def _read(folder: Path, columns: Mapping[str, tuple[str, int | None]]) -> Iterator[list[bytes]]:
    """The coded values of each sample at ``folder``, by its index. Raises ``ValueError`` for another layout."""
    for shard in json.loads((folder / "index.json").read_bytes())["shards"]:
        told = list(zip(shard["column_encodings"], shard["column_sizes"], strict=True))
        if shard["column_names"] != list(columns) or told != list(columns.values()):
            raise ValueError(f"{folder} has other columns than the mixture")
        data = (folder / Path(shard["raw_data"]["basename"]).name).read_bytes()
        count = int(np.frombuffer(data, "<u4", 1)[0])
        if len(data) != shard["raw_data"]["bytes"] or count != shard["samples"]:
            raise ValueError(f"{shard['raw_data']['basename']} is not what its index says")
        offsets = np.frombuffer(data, "<u4", count + 1, 4).tolist()
        for start, stop in itertools.pairwise(offsets):
            loose = sum(size is None for _, size in columns.values())
            sizes = iter(np.frombuffer(data, "<u4", loose, start).tolist())
            at, values = start + 4 * loose, []
            for _, fixed in columns.values():
                size = next(sizes) if fixed is None else fixed
                values.append(data[at : at + size])
                at += size
            if at != stop:
                raise ValueError(f"{shard['raw_data']['basename']} has a sample of another length than it says")
            yield values


def _columns(features: list[Feature], images: str) -> dict[str, tuple[str, int | None]]:
    """Column -> its encoding and its size in bytes where that is fixed, by name."""
    found: dict[str, tuple[str, int | None]] = {
        "episode_index": ("int64", 8), "frame_index": ("int64", 8), TIMESTAMP: ("float64", 8), "task": ("str", None),
    }  # fmt: skip
    for feature in features:
        if feature.is_camera:
            found[feature.name] = (images, None)
        elif feature.dtype == "string":
            found[feature.name] = ("str", None)
        else:
            dtype = "uint8" if feature.dtype == "bool" else feature.dtype
            shape = ",".join(map(str, feature.shape))
            found[feature.name] = (
                f"ndarray:{dtype}:{shape}" if feature.shape else dtype,
                feature.size * np.dtype(dtype).itemsize,
            )
    return dict(sorted(found.items()))


def _little(values: np.ndarray) -> bytes:
    held = np.asarray(values)
    return held.astype(held.dtype.newbyteorder("<"), copy=False).tobytes()


def _streams(mixture: Mixture, groups: list[Stratum]) -> dict[str, Any]:
    kind = mixture.document.weight_kind
    found: dict[str, Any] = {}
    for group in groups:
        steps = int(mixture.rows["row_count"][list(group.rows)].sum())
        weight: dict[str, float] = {"proportion": group.share}
        if kind == "repeat":
            weight = {"repeat": group.rate}
        elif kind == "choose":
            weight = {"choose": round(group.rate * steps)}
        into = found.setdefault(group.split, {"streams": []})
        into["streams"].append({"local": f"{group.name}/{group.split}", **weight})
        if kind == "probability":
            into["epoch_size"] = into.get("epoch_size", 0) + group.rate * steps
    for told in found.values():
        if "epoch_size" in told:
            told["epoch_size"] = round(told["epoch_size"])
    return found
