"""A mixture as RLDS sets (Ramos et al. 2021) with the mixture lists that octo and OpenVLA sample them by."""

from __future__ import annotations

import json
import re
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
from data_engine.exports.tf_records import Shards, Value, example
from data_engine.exports.values import episode_arrays, equal
from data_engine.formats import Source
from data_engine.formats.tf_example import Example
from data_engine.formats.tfds_features import Leaf, read_features
from data_engine.formats.tfds_files import open_records, read_json, read_shards
from data_engine.formats.tfds_values import coded_images, step_values
from data_engine.mixture import Mixture
from data_engine.model import TERMINATED, TIMESTAMP, Dataset, Feature

__all__ = ["RLDSExporter"]

_VERSION = "1.0.0"
_LISTS = "oxe_mixtures.json"
_CORE = "tensorflow_datasets.core.features"
_OBSERVATION = "observation/"
_LANGUAGE = "language_instruction"
_FLAGS, _TERMINAL = ("is_first", "is_last"), "is_terminal"
_TRACE = ("dataset", "source_key", "episode_id")
_WEIGHTS = (
    "oxe_mixtures.json lists, split by split, (name, weight) of a set for each rate: `balanced` has the rate, for"
    " balance_weights=True, which multiplies by the size of a set; `unbalanced` the share of all draws, for"
    " balance_weights=False; both trainers draw a set by weight, so whole passes hold in expectation"
)


class RLDSExporter(FolderExporter):
    """``<set>/1.0.0`` with ``features.json``, ``dataset_info.json`` and TFRecord files, as tensorflow-datasets and
    dlimp open them; and ``oxe_mixtures.json``, the lists for ``OXE_NAMED_MIXTURES``. A set for each rate of a dataset,
    so that several embodiments stay apart; one record a row of the mixture.

    ``observation.<key>`` is ``observation/<key>``, a camera an image of ``images`` format there; other columns keep
    their names, ``timestamp`` (float64 seconds, also of an uneven clock) among them. ``is_first`` and ``is_last`` mark
    the range's ends; ``is_terminal`` is ``terminated`` and absent where a dataset has none. ``language_instruction`` is
    the source's column, else the first language instruction, else the task. ``episode_metadata`` traces the source;
    ``recording_folderpath`` and ``file_path`` are the fields that openpi finds an episode by.

    ``doubles``: TFRecords hold floats of 32 bits. float64 (and uint64) columns are kept exactly, as ``bytes``, which
    tensorflow-datasets decodes; loaders that skip its decoding (octo, OpenVLA) want ``float32``. ``columns``: ``all``,
    or the canonical names to keep. ``shard_mb``: the size at which a file ends.
    """

    name: ClassVar[str] = "rlds"

    columns: Literal["all"] | tuple[str, ...] = "all"
    doubles: Literal["bytes", "float32"] = "bytes"
    images: Literal["jpeg", "png"] = "jpeg"
    quality: int = Field(default=95, ge=1, le=100)
    shard_mb: int = Field(default=256, gt=0)

    def write(self, mixture: Mixture, order: list[int], folder: Path) -> Written:
        """See :meth:`FolderExporter.write`. Memory: one episode."""
        groups = strata(mixture, order)
        pictures, notes = Pictures(mixture), []
        frames: dict[str, int] = {}
        splits: dict[str, list[dict[str, Any]]] = {}
        for group in groups:
            dataset, name = mixture.datasets[group.dataset], _set_name(group.name)
            features = self._features(dataset)
            root = folder / name / _VERSION
            root.mkdir(parents=True, exist_ok=True)
            shards = Shards(root, name, group.split, self.shard_mb << 20)
            sizes: dict[str, tuple[int, int]] = {}
            for row, steps in rows_and_steps(mixture, group.rows):
                shards.add(example(self._example(features, row, steps, pictures, sizes)))
                for camera in sizes:
                    frames[camera] = frames.get(camera, 0) + steps.num_rows
            shards.close()
            splits.setdefault(name, []).append(
                {
                    "name": group.split,
                    "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
                    "numBytes": str(shards.data_bytes),
                    "shardLengths": [str(length) for length in shards.lengths],
                }
            )
            described = self._described(features, sizes)
            if (root / "features.json").exists() and json.loads((root / "features.json").read_bytes()) != described:
                raise RequestError(f"the images of {group.dataset!r} have several sizes", code="unlike_cameras")
            write_json(root / "features.json", described)
            write_json(root / "dataset_info.json", _info(name, dataset, splits[name]))
            notes += [note for note in self._remarks(dataset, features) if note not in notes]
        for name, held in splits.items():
            if "val" not in {split["name"] for split in held}:
                notes.append(f"{name} has no split val: octo and OpenVLA then keep the last 5 % of train for it")
        write_json(folder / _LISTS, _lists(groups))
        return Written(_WEIGHTS, tuple(notes), frames)

    def differences(self, mixture: Mixture, order: list[int], folder: Path) -> Iterator[str]:
        """See :meth:`FolderExporter.differences`. Checksums, every value and every coded image are compared."""
        groups = strata(mixture, order)
        if json.loads((folder / _LISTS).read_bytes()) != _lists(groups):
            yield f"{_LISTS} is not the mixture's"
        pictures = Pictures(mixture)
        for group in groups:
            features, name = self._features(mixture.datasets[group.dataset]), _set_name(group.name)
            source = Source(str(folder / name / _VERSION))
            leaves = {leaf.path: leaf for leaf in read_features(read_json(source, "features.json"))[0]}
            shards, notes = read_shards(source, ".", read_json(source, "dataset_info.json"))
            yield from (f"{name}: {note}" for note in notes)
            places = [(shard.path, i) for shard in shards if shard.split == group.split for i in range(shard.records)]
            if len(places) != len(group.rows):
                yield f"{name} {group.split}: {len(places)} records, {len(group.rows)} in the mixture"
            sizes: dict[str, tuple[int, int]] = {}
            for (row, steps), (path, number) in zip(rows_and_steps(mixture, group.rows), places, strict=False):
                with open_records(source, path) as records:
                    held = Example(records.read(number))
                expected = self._example(features, row, steps, pictures, sizes)
                where = f"{name} {path} {number} ({row['dataset']}/{row['source_key']} {row['start']}:{row['stop']})"
                extra = set(held.names) ^ set(expected)
                if extra:
                    yield f"{where}: {min(extra)} is on one side only"
                arrays = _arrays(features, row, steps, self.doubles)
                for place, values in expected.items():
                    if place in held.names and not _same(held, leaves[place], values, arrays.get(place)):
                        yield f"{where}: {place} differs"
            if places and read_json(source, "features.json") != self._described(features, sizes):
                yield f"{name}: features.json is not the mixture's"

    def _features(self, dataset: Dataset) -> dict[str, Feature]:
        """Place below ``steps`` -> feature. Raises ``RequestError`` for what RLDS cannot hold."""
        found: dict[str, Feature] = {}
        for feature in chosen(dataset, self.columns):
            if feature.dtype == "string" and feature.shape:
                raise RequestError(f"RLDS holds one text a step, {feature.name!r} several", code="bad_dtype")
            name = feature.name if not feature.is_camera else f"observation.{camera_name(feature)}"
            place = name.replace("/", ".")
            place = place.replace("observation.", _OBSERVATION, 1) if place.startswith("observation.") else place
            if feature.name == TERMINATED and (feature.dtype, feature.shape) == ("bool", ()):
                place = _TERMINAL
            elif place == _TERMINAL:
                place = "observation"  # which is taken, as its own name is
            if place in found or place in (*_FLAGS, TIMESTAMP, "observation"):
                raise RequestError(f"column {feature.name!r} cannot be RLDS' {place!r}", code="name_taken")
            found[place] = feature
        return found

    def _example(
        self,
        features: Mapping[str, Feature],
        row: Mapping[str, Any],
        steps: pa.Table,
        pictures: Pictures,
        sizes: dict[str, tuple[int, int]],
    ) -> dict[str, Value]:
        """One episode by its paths. ``sizes`` learns the (height, width) of each camera."""
        n = steps.num_rows
        found: dict[str, Value] = {}
        for path, values in _arrays(features, row, steps, self.doubles).items():
            found[path] = _packed(values)
        for place, feature in features.items():
            if feature.is_camera:
                size = pictures.size(row, feature)
                if sizes.setdefault(camera_name(feature), size) != size:
                    raise RequestError(f"the images of {row['dataset']!r} have several sizes", code="unlike_cameras")
                found[f"steps/{place}"] = [
                    encoded(frame, self.images, self.quality) for frame in pictures.frames(row, steps, feature)
                ]
        if _LANGUAGE not in features:
            found[f"steps/{_LANGUAGE}"] = [task_text(row).encode()] * n
        for name in _TRACE:
            found[f"episode_metadata/{name}"] = [str(row[name]).encode()]
        found["episode_metadata/recording_folderpath"] = [str(row["dataset"]).encode()]
        found["episode_metadata/file_path"] = [f"{row['source_key']}[{row['start']}:{row['stop']}]".encode()]
        for name in ("start", "stop"):
            found[f"episode_metadata/{name}"] = np.array([row[name]])
        return found

    def _described(self, features: Mapping[str, Feature], sizes: Mapping[str, tuple[int, int]]) -> dict[str, Any]:
        """``features.json``."""
        steps: dict[str, Any] = {TIMESTAMP: self._tensor("float64", ())}
        observation: dict[str, Any] = {}
        for place, feature in features.items():
            into, name = (
                (observation, place.removeprefix(_OBSERVATION)) if place.startswith(_OBSERVATION) else (steps, place)
            )
            if feature.is_camera:
                content = {"shape": _shape((*sizes[camera_name(feature)], 3)), "dtype": "uint8"}
                into[name] = _kind("image_feature.Image", "image", {**content, "encodingFormat": self.images})
            elif feature.dtype == "string":
                into[name] = _kind("text_feature.Text", "text", {})
            else:
                into[name] = self._tensor(feature.dtype, feature.shape)
        for name in _FLAGS:
            steps[name] = self._tensor("bool", ())
        steps.setdefault(_LANGUAGE, _kind("text_feature.Text", "text", {}))
        if observation:
            steps["observation"] = _dict(observation)
        texts = (*_TRACE, "recording_folderpath", "file_path")
        metadata = {name: _kind("text_feature.Text", "text", {}) for name in texts}
        metadata |= {name: self._tensor("int64", ()) for name in ("start", "stop")}
        sequence = {"feature": _dict(steps), "length": "-1"}
        held = {"steps": _kind("dataset_feature.Dataset", "sequence", sequence), "episode_metadata": _dict(metadata)}
        return _dict(held)

    def _tensor(self, dtype: str, shape: tuple[int, ...]) -> dict[str, Any]:
        if dtype == "float64" and self.doubles == "float32":
            dtype = "float32"
        encoding = "bytes" if dtype in ("float64", "uint64") else "none"
        content = {"shape": _shape(shape), "dtype": dtype, "encoding": encoding}
        scalar = not shape and encoding == "none"  # the class Scalar knows no encoding
        return _kind("scalar.Scalar" if scalar else "tensor_feature.Tensor", "tensor", content)

    def _remarks(self, dataset: Dataset, features: Mapping[str, Feature]) -> list[str]:
        wide = [TIMESTAMP, *(feature.name for feature in features.values() if feature.dtype == "float64")]
        how = "lose precision as float32" if self.doubles == "float32" else "are kept as bytes: see the option doubles"
        notes = [f"{dataset.name}: float64 columns {', '.join(wide)} {how}"]
        if any(feature.is_camera for feature in features.values()):
            how = f"JPEG of quality {self.quality}, which loses detail" if self.images == "jpeg" else "PNG"
            notes.append(f"{dataset.name}: frames are decoded and kept as {how}")
        if _TERMINAL not in features:
            notes.append(f"{dataset.name} has no column terminated: there is no is_terminal")
        return notes + left_out(dataset, list(features.values()))


def _arrays(
    features: Mapping[str, Feature], row: Mapping[str, Any], steps: pa.Table, doubles: str
) -> dict[str, np.ndarray]:
    """Path -> the values of an episode's columns and flags, in the dtype that the set declares."""
    columns = {feature.name: place for place, feature in features.items() if not feature.is_camera}
    held = episode_arrays(row, steps, [feature for feature in features.values() if not feature.is_camera], "RLDS")
    found = {f"steps/{columns.get(name, name)}": values for name, values in held.items()}
    n = steps.num_rows
    found["steps/is_first"], found["steps/is_last"] = np.arange(n) == 0, np.arange(n) == n - 1
    if doubles == "float32":
        return {path: v.astype(np.float32) if v.dtype == np.float64 else v for path, v in found.items()}
    return found


def _packed(values: np.ndarray) -> Value:
    if values.dtype == object:
        return [text.encode() for text in values]
    if values.dtype in (np.float64, np.uint64):
        little = values.astype(values.dtype.newbyteorder("<"), copy=False)
        return [step.tobytes() for step in little]
    return values


def _same(held: Example, leaf: Leaf, values: Value, array: np.ndarray | None) -> bool:
    if leaf.kind == "image":
        return [bytes(image) for image in coded_images(held, leaf)] == list(values)
    if array is None:
        found = held.get(leaf.path)
        if isinstance(found, np.ndarray):
            return isinstance(values, np.ndarray) and np.array_equal(found, values)
        return [bytes(view) for view in found] == list(values)
    read = step_values(held, leaf)
    return read is not None and equal(array, read if array.dtype == object else np.asarray(read))


def _set_name(name: str) -> str:
    """A name that TensorFlow Datasets takes: lower case, digits and underscores."""
    plain = re.sub(r"\W", "_", name).lower()
    return plain if plain[:1].isalpha() else f"set_{plain}"


def _lists(groups: list[Stratum]) -> dict[str, dict[str, list[list[Any]]]]:
    names = {group.name: _set_name(group.name) for group in groups}
    if len(set(names.values())) < len(names):
        raise RequestError(
            f"datasets are called alike but for letters that RLDS does not take: {', '.join(names)}", code="name_taken"
        )
    found: dict[str, dict[str, list[list[Any]]]] = {}
    for group in groups:
        into = found.setdefault(group.split, {"balanced": [], "unbalanced": []})
        into["balanced"].append([names[group.name], group.rate])
        into["unbalanced"].append([names[group.name], group.share])
    return found


def _info(name: str, dataset: Dataset, splits: list[dict[str, Any]]) -> dict[str, Any]:
    licence = {"redistributionInfo": {"license": dataset.licence}} if dataset.licence else {}
    return {
        "name": name,
        "version": _VERSION,
        "description": f"{dataset.name}: {dataset.embodiment}, {dataset.control_mode}, {dataset.fps:g} steps a second",
        "releaseNotes": {_VERSION: "Exported."},
        "fileFormat": "tfrecord",
        "splits": splits,
        **licence,
    }


def _dict(features: Mapping[str, Any]) -> dict[str, Any]:
    return _kind("features_dict.FeaturesDict", "featuresDict", {"features": dict(sorted(features.items()))})


def _kind(cls: str, key: str, content: Mapping[str, Any]) -> dict[str, Any]:
    return {"pythonClassName": f"{_CORE}.{cls}", key: dict(content)}


def _shape(shape: tuple[int, ...]) -> dict[str, Any]:
    return {"dimensions": [str(side) for side in shape]} if shape else {}
