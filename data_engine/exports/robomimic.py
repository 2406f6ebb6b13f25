"""A mixture as robomimic HDF5, one demonstration a row, with mask keys and robomimic's own list of weighted data."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from data_engine.errors import RequestError
from data_engine.exports.columns import Columns, camera_name, shared, used_datasets
from data_engine.exports.folder import FolderExporter, Written, write_json
from data_engine.exports.lerobot_data import task_text
from data_engine.exports.pictures import Pictures
from data_engine.exports.rates import rates, splits_of, strata
from data_engine.exports.rows import rows_and_steps
from data_engine.exports.values import episode_arrays, equal
from data_engine.mixture import Mixture
from data_engine.model import ACTION, REWARD, TERMINATED, TIMESTAMP, Feature

if TYPE_CHECKING:
    import h5py

__all__ = ["RobomimicExporter"]

_FILE, _CONFIG = "demos.hdf5", "train.json"
_NAMES = {ACTION: "actions", REWARD: "rewards", TERMINATED: "dones"}
_SPLITS = {"val": "valid", "validation": "valid"}  # robomimic's own name of it
_ATTRIBUTES = ("dataset", "source_key", "start", "stop", "episode_id", "selection")
_GYM = 2  # EnvType.GYM_TYPE: robomimic asks for a type even where nothing is rolled out
_WEIGHTS = (
    "train.json has robomimic's train.data with normalize_weights_by_ds_size false: a mask key for each rate, whose"
    " weight is the rate itself; robomimic draws sequences with replacement, so whole passes hold in expectation"
)


class RobomimicExporter(FolderExporter):
    """``demos.hdf5`` as robomimic's SequenceDataset reads it, and ``train.json``, the part of its configuration that
    holds the weights.

    ``observation.<key>`` is ``obs/<key>``, a camera ``obs/<camera>`` (raw frames, as robomimic holds them); ``action``,
    ``reward`` and ``terminated`` are ``actions``, ``rewards`` and ``dones``; every other column lies beside them under
    its own name, ``timestamp`` (float64 seconds, also of an uneven clock) among them. ``next_obs`` is not written: it
    is ``obs`` one step on, and the one after the last action is not known; train with ``hdf5_load_next_obs: false``.

    ``mask/train``, ``mask/valid`` and so on name the demonstrations of each split, ``mask/<split>__<dataset>`` those of
    one rate. ``columns``: ``all`` (every dataset must have the same), ``common``, or a list of canonical names.
    ``env_args``: the environment, which a mixture does not know and robomimic needs for rollouts.
    """

    name: ClassVar[str] = "robomimic"

    columns: Literal["all", "common"] | tuple[str, ...] = "all"
    env_args: dict[str, Any] | None = None

    def write(self, mixture: Mixture, order: list[int], folder: Path) -> Written:
        """See :meth:`FolderExporter.write`. Memory: one episode's columns and a few frames."""
        import h5py

        columns = self._columns(mixture)
        pictures, rate = Pictures(mixture), rates(mixture)
        total = 0
        with h5py.File(folder / _FILE, "w") as file:
            data = file.create_group("data")
            for number, (row, steps) in enumerate(rows_and_steps(mixture, order)):
                demo = data.create_group(f"demo_{number}")
                for name, values in self._arrays(columns, row, steps).items():
                    kind = h5py.string_dtype() if values.dtype == object else None
                    demo.create_dataset(name, data=values, dtype=kind)
                for camera in columns.cameras:
                    shape = (steps.num_rows, *pictures.size(row, camera), 3)
                    held = demo.create_dataset(_place(camera), shape, np.uint8)
                    for step, frame in enumerate(pictures.frames(row, steps, camera)):
                        held[step] = frame
                for name, value in _attributes(row, steps.num_rows, rate[order[number]]).items():
                    demo.attrs[name] = value
                total += steps.num_rows
            data.attrs["total"] = total
            data.attrs["env_args"] = json.dumps(self.env_args or _environment(mixture, columns), indent=4)
            for key, members in self._masks(mixture, order).items():
                names = np.array([name.encode() for name in members])
                file.create_dataset(f"mask/{key}", data=names)
        write_json(folder / _CONFIG, self._config(mixture, order))
        notes = ["next_obs is not written: set train.hdf5_load_next_obs to false"]
        if self.env_args is None:
            notes.append("the environment is not known: state env_args, or train without rollouts")
        if columns.left_out:
            notes.append(f"left out: {', '.join(columns.left_out)}")
        return Written(_WEIGHTS, tuple(notes), {camera_name(camera): total for camera in columns.cameras})

    def differences(self, mixture: Mixture, order: list[int], folder: Path) -> Iterator[str]:
        """See :meth:`FolderExporter.differences`. Every array is compared, frames too."""
        import h5py

        columns = self._columns(mixture)
        pictures, rate = Pictures(mixture), rates(mixture)
        if json.loads((folder / _CONFIG).read_bytes()) != self._config(mixture, order):
            yield f"{_CONFIG} is not the mixture's"
        with h5py.File(folder / _FILE, "r") as file:
            data = file["data"]
            if len(data) != len(order):
                yield f"{len(data)} demonstrations, {len(order)} in the mixture"
            total = int(mixture.rows["row_count"].sum())
            if data.attrs["total"] != total:
                yield f"total is {data.attrs['total']!r}, not {total}"
            extra = set(file["mask"]) - set(self._masks(mixture, order))
            if extra:
                yield f"mask/{min(extra)} is not the mixture's"
            for key, members in self._masks(mixture, order).items():
                if key not in file["mask"] or [name.decode() for name in file["mask"][key][()]] != members:
                    yield f"mask/{key} is not the mixture's"
            for number, (row, steps) in enumerate(rows_and_steps(mixture, order)):
                demo = data[f"demo_{number}"]
                where = f"demo_{number} ({row['dataset']}/{row['source_key']} {row['start']}:{row['stop']})"
                for name, value in _attributes(row, steps.num_rows, rate[order[number]]).items():
                    if demo.attrs.get(name) != value:
                        yield f"{where}: {name} is {demo.attrs.get(name)}, not {value}"
                arrays = self._arrays(columns, row, steps)
                extra = set(_datasets(demo)) - set(arrays) - {_place(camera) for camera in columns.cameras}
                if extra:
                    yield f"{where}: {sorted(extra)[0]} is not the mixture's"
                for name, values in arrays.items():
                    if name not in demo:
                        yield f"{where}: no {name}"
                    elif not equal(values, _read(demo[name])):
                        yield f"{where}: {name} differs"
                for camera in columns.cameras:
                    held = demo.get(_place(camera))
                    if held is None or len(held) != steps.num_rows:
                        yield f"{where}: not a frame of {camera.name} a step"
                    elif not all(
                        np.array_equal(held[step], frame)
                        for step, frame in enumerate(pictures.frames(row, steps, camera))
                    ):
                        yield f"{where}: frames of {camera.name} differ"

    def _columns(self, mixture: Mixture) -> Columns:
        columns = shared(used_datasets(mixture), self.columns, "robomimic dataset")
        places: dict[str, str] = {}
        for feature in columns.features:
            place = _place(feature)
            taken = next((other for other in places if f"{other}/".startswith(f"{place}/")
                          or f"{place}/".startswith(f"{other}/")), None)  # fmt: skip
            if taken is not None or place in (TIMESTAMP, "obs", "next_obs"):
                raise RequestError(f"column {feature.name!r} cannot be robomimic's {place!r}", code="name_taken")
            places[place] = feature.name
        return columns

    def _arrays(self, columns: Columns, row: Mapping[str, Any], steps: Any) -> dict[str, np.ndarray]:
        arrays = episode_arrays(row, steps, columns.steps, "robomimic")
        features = {feature.name: feature for feature in columns.steps}
        return {_place(features[name]) if name in features else name: values for name, values in arrays.items()}

    def _masks(self, mixture: Mixture, order: list[int]) -> dict[str, list[str]]:
        """Mask key -> names of demonstrations: one for each split, and one for each rate."""
        number = {row: f"demo_{i}" for i, row in enumerate(order)}
        splits = splits_of(mixture)
        found: dict[str, list[str]] = {}
        for row in order:
            found.setdefault(_split(splits[row]), []).append(number[row])
        for stratum in strata(mixture, order):
            found[f"{_split(stratum.split)}__{stratum.name}"] = [number[row] for row in stratum.rows]
        return found

    def _config(self, mixture: Mixture, order: list[int]) -> dict[str, Any]:
        keys = [(f"{_split(stratum.split)}__{stratum.name}", stratum) for stratum in strata(mixture, order)]
        masks = self._masks(mixture, order)
        return {
            "train": {
                "data": [
                    {"path": _FILE, "filter_key": key, "weight": stratum.rate}
                    for key, stratum in keys
                    if stratum.split == "train"
                ],
                "normalize_weights_by_ds_size": False,
                "hdf5_filter_key": "train",
                "hdf5_validation_filter_key": "valid" if "valid" in masks else None,
                "hdf5_load_next_obs": False,
            }
        }


def _place(feature: Feature) -> str:
    """Where a column lies in a demonstration."""
    if feature.is_camera:
        return f"obs/{camera_name(feature)}"
    name = _NAMES.get(feature.name, feature.name)
    return name.replace("observation.", "obs/", 1) if name.startswith("observation.") else name


def _attributes(row: Mapping[str, Any], steps: int, rate: float) -> dict[str, Any]:
    """What a demonstration says of itself."""
    told = {"num_samples": steps, "weight": rate, "task": task_text(row)} | {name: row[name] for name in _ATTRIBUTES}
    return told if row["success"] is None else {**told, "success": row["success"]}


def _split(name: str) -> str:
    return _SPLITS.get(name, name)


def _environment(mixture: Mixture, columns: Columns) -> dict[str, Any]:
    return {
        "env_name": mixture.name,
        "type": _GYM,
        "env_kwargs": {"robots": [columns.embodiment], "control_freq": columns.fps},
    }


def _datasets(demo: h5py.Group) -> list[str]:
    found: list[str] = []
    demo.visititems(lambda name, item: found.append(name) if hasattr(item, "shape") else None)
    return found


def _read(held: h5py.Dataset) -> np.ndarray:
    return np.asarray(held.asstr()[()] if held.dtype == object else held[()])
