"""A mixture as Minari datasets (Farama Foundation), which ``minari.load_dataset`` opens."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import pyarrow as pa

from data_engine.errors import RequestError
from data_engine.exports.columns import camera_name, chosen, left_out
from data_engine.exports.folder import FolderExporter, Written, write_json
from data_engine.exports.lerobot_data import task_text
from data_engine.exports.pictures import Pictures
from data_engine.exports.rates import rates, splits_of
from data_engine.exports.rows import rows_and_steps
from data_engine.exports.values import episode_arrays, equal
from data_engine.mixture import Mixture
from data_engine.model import ACTION, REWARD, TERMINATED, TRUNCATED, Dataset, Feature

if TYPE_CHECKING:
    import h5py

__all__ = ["MinariExporter"]

_FLAGS = {TERMINATED: "terminations", TRUNCATED: "truncations"}
_TRACE = ("dataset", "source_key", "episode_id", "start", "stop")
_WEIGHTS = (
    "Minari has no weights: each episode's attribute rate is that rate; draw steps of an episode in proportion to it"
)


class MinariExporter(FolderExporter):
    """``<dataset>/<split>-v0/data/{main_data.hdf5, metadata.json}``: with ``MINARI_DATASETS_PATH`` set to the export,
    ``minari.load_dataset("<dataset>/<split>-v0")`` opens it. Several embodiments stay apart; a row is an episode.

    Observations are a dictionary of ``observation.<key>`` and the cameras (raw frames); ``action`` are the actions;
    ``reward``, ``terminated`` and ``truncated`` Minari's own arrays; other columns, flags and text of observations, and
    ``timestamp`` (float64 seconds, also of an uneven clock) are ``infos``, one row a step. Original dtypes are kept.

    Minari wants one observation more than actions, and a mixture does not know what came after the last action: the
    last observation is there twice. It wants rewards: a dataset without is refused, or has NaN (``rewards: nan``). An
    episode ends, so one that is not terminated at its last step is truncated there. ``columns``: ``all``, or the
    canonical names to keep.
    """

    name: ClassVar[str] = "minari"

    columns: Literal["all"] | tuple[str, ...] = "all"
    rewards: Literal["refuse", "nan"] = "refuse"

    def write(self, mixture: Mixture, order: list[int], folder: Path) -> Written:
        """See :meth:`FolderExporter.write`. Memory: one episode's columns and a few frames."""
        import h5py

        pictures, rate = Pictures(mixture), rates(mixture)
        frames: dict[str, int] = {}
        notes = ["the last observation of each episode is there twice: what came after the last action is not known"]
        cut = 0
        for place, dataset, rows in self._sets(mixture, order):
            features = self._features(dataset)
            data = folder / place / "data"
            data.mkdir(parents=True)
            sizes: dict[str, tuple[int, int]] = {}
            steps_held = 0
            with h5py.File(data / "main_data.hdf5", "w") as file:
                for number, (row, steps) in enumerate(rows_and_steps(mixture, rows)):
                    episode = file.create_group(f"episode_{number}")
                    episode.attrs["id"] = number
                    for name, value in self._attributes(row, rate[rows[number]], steps.num_rows).items():
                        episode.attrs[name] = value
                    arrays, ended = self._arrays(features, row, steps)
                    cut += ended
                    for name, values in arrays.items():
                        kind = h5py.string_dtype() if values.dtype == object else None
                        episode.create_dataset(name, data=values, dtype=kind)
                    for feature in features:
                        if feature.is_camera:
                            size = pictures.size(row, feature)
                            camera = camera_name(feature)
                            if sizes.setdefault(camera, size) != size:
                                raise RequestError(
                                    f"the images of {dataset.name!r} have several sizes", code="unlike_cameras"
                                )
                            shape = (steps.num_rows + 1, *size, 3)
                            held = episode.create_dataset(f"observations/{camera}", shape, np.uint8)
                            for step, frame in enumerate(pictures.frames(row, steps, feature)):
                                held[step] = frame
                            held[-1] = frame
                            frames[camera] = frames.get(camera, 0) + steps.num_rows
                    steps_held += steps.num_rows
            described = self._metadata(dataset, features, sizes, place, len(rows), steps_held)
            described["dataset_size"] = round((data / "main_data.hdf5").stat().st_size / 1e6, 1)
            write_json(data / "metadata.json", described)
            notes += [note for note in self._remarks(dataset, features) if note not in notes]
        if cut:
            notes.append(
                f"{cut} episodes end where their source says neither terminated nor truncated: truncated there"
            )
        return Written(_WEIGHTS, tuple(notes), frames)

    def differences(self, mixture: Mixture, order: list[int], folder: Path) -> Iterator[str]:
        """See :meth:`FolderExporter.differences`. Every array is compared, frames too."""
        import h5py

        pictures, rate = Pictures(mixture), rates(mixture)
        for place, dataset, rows in self._sets(mixture, order):
            features = self._features(dataset)
            told = json.loads((folder / place / "data" / "metadata.json").read_bytes())
            steps_held = int(mixture.rows["row_count"][rows].sum())
            first = next(rows_and_steps(mixture, rows[:1]))[0]
            sizes = {camera_name(f): pictures.size(first, f) for f in features if f.is_camera}
            described = self._metadata(dataset, features, sizes, place, len(rows), steps_held)
            for key, value in described.items():
                if told.get(key) != value:
                    yield f"{place}: {key} is {str(told.get(key))[:80]}"
            with h5py.File(folder / place / "data" / "main_data.hdf5", "r") as file:
                if len(file) != len(rows):
                    yield f"{place}: {len(file)} episodes, {len(rows)} in the mixture"
                for number, (row, steps) in enumerate(rows_and_steps(mixture, rows)):
                    episode = file[f"episode_{number}"]
                    where = f"{place} episode_{number} ({row['source_key']} {row['start']}:{row['stop']})"
                    for name, value in self._attributes(row, rate[rows[number]], steps.num_rows).items():
                        if episode.attrs.get(name) != value:
                            yield f"{where}: {name} is {episode.attrs.get(name)}, not {value}"
                    arrays, _ = self._arrays(features, row, steps)
                    cameras = {f"observations/{camera_name(f)}": f for f in features if f.is_camera}
                    differing = set(_datasets(episode)) ^ {*arrays, *cameras}
                    if differing:
                        yield f"{where}: {min(differing)} is on one side only"
                        continue
                    for name, values in arrays.items():
                        held = episode[name]
                        read = np.asarray(held.asstr()[()] if held.dtype == object else held[()])
                        if not equal(values, read):
                            yield f"{where}: {name} differs"
                    for name, feature in cameras.items():
                        shown = enumerate(pictures.frames(row, steps, feature))
                        held, n = episode[name], steps.num_rows
                        whole = len(held) == n + 1 and np.array_equal(held[n], held[n - 1])  # the last is there twice
                        if not whole or not all(np.array_equal(held[step], frame) for step, frame in shown):
                            yield f"{where}: frames of {feature.name} differ"

    def _sets(self, mixture: Mixture, order: list[int]) -> Iterator[tuple[str, Dataset, list[int]]]:
        """Each Minari dataset: its id, the dataset it is of, and the mixture's rows."""
        names, splits = mixture.episodes["dataset"].to_pylist(), splits_of(mixture)
        places: dict[str, tuple[str, list[int]]] = {}
        for i in order:
            place = f"{_plain(names[i])}/{_plain(splits[i])}-v0"
            if places.setdefault(place, (names[i], []))[0] != names[i]:
                raise RequestError(f"two datasets would be Minari's {place!r}", code="name_taken")
            places[place][1].append(i)
        for place in sorted(places):
            yield place, mixture.datasets[places[place][0]], places[place][1]

    def _features(self, dataset: Dataset) -> list[Feature]:
        features = chosen(dataset, self.columns)
        names = {feature.name for feature in features}
        if ACTION not in names or not any(_observed(feature) for feature in features):
            raise RequestError(
                f"dataset {dataset.name!r} has no {'action' if ACTION not in names else 'observation'}, and Minari"
                " wants both",
                code="missing_column",
            )
        if REWARD not in names and self.rewards == "refuse" and self.columns == "all":
            raise RequestError(
                f"dataset {dataset.name!r} has no reward, and Minari wants one a step",
                code="missing_column",
                fix="give the option rewards: nan",
            )
        if next(feature for feature in features if feature.name == ACTION).dtype in ("bool", "string"):
            raise RequestError("Minari has no space of such actions", code="bad_dtype")
        places = [_place(feature) for feature in features]
        taken = [place for place in places if places.count(place) > 1 or place == "infos/timestamp"]
        if taken:
            raise RequestError(f"two columns of {dataset.name!r} would be {taken[0]!r}", code="name_taken")
        return features

    def _arrays(
        self, features: Sequence[Feature], row: Mapping[str, Any], steps: pa.Table
    ) -> tuple[dict[str, np.ndarray], bool]:
        """An episode's arrays by their place, and whether its end had to be called a truncation."""
        n = steps.num_rows
        columns = {feature.name: feature for feature in features if not feature.is_camera}
        found: dict[str, np.ndarray] = {}
        for name, values in episode_arrays(row, steps, list(columns.values()), "Minari").items():
            place = _place(columns[name]) if name in columns else f"infos/{name}"
            found[place] = np.concatenate([values, values[-1:]]) if place.startswith("observations/") else values
        found.setdefault("rewards", np.full(n, np.nan))
        for flag in _FLAGS.values():
            found[flag] = found.get(flag, np.zeros(n)).astype(bool)
        ended = not (found["terminations"][-1] or found["truncations"][-1])
        found["truncations"][-1] |= ended
        return found, ended

    def _attributes(self, row: Mapping[str, Any], rate: float, steps: int) -> dict[str, Any]:
        traced = {name: row[name] for name in _TRACE}
        told = {"total_steps": steps, "rate": rate, "task": task_text(row), **traced}
        return told if row["success"] is None else {**told, "success": row["success"]}

    def _metadata(
        self,
        dataset: Dataset,
        features: Sequence[Feature],
        sizes: Mapping[str, tuple[int, int]],
        place: str,
        episodes: int,
        steps: int,
    ) -> dict[str, Any]:
        spaces: dict[str, Any] = {}
        for feature in features:
            if feature.is_camera:
                name = camera_name(feature)
                spaces[name] = _box("uint8", (*sizes[name], 3))
            elif _observed(feature):
                spaces[_place(feature).removeprefix("observations/")] = _box(feature.dtype, feature.shape)
        action = next(feature for feature in features if feature.name == ACTION)
        licence = {"license": dataset.licence} if dataset.licence else {}
        return {
            "dataset_id": place,
            "data_format": "hdf5",
            "jpeg_encoding": False,
            "minari_version": "0.5.0",  # the layout's: later ones read it
            "total_episodes": episodes,
            "total_steps": steps,
            "observation_space": json.dumps({"type": "Dict", "subspaces": spaces}),
            "action_space": json.dumps(_box(action.dtype, action.shape)),
            "description": f"{dataset.name}: {dataset.embodiment}, {dataset.control_mode}, {dataset.fps:g} steps/s",
            **licence,
        }

    def _remarks(self, dataset: Dataset, features: Sequence[Feature]) -> list[str]:
        names = {feature.name for feature in features}
        notes = [f"{dataset.name} has no reward: NaN"] if REWARD not in names else []
        if TERMINATED not in names:
            notes.append(f"{dataset.name} has no column terminated: no step is said to be terminal")
        return notes + left_out(dataset, list(features))


def _observed(feature: Feature) -> bool:
    """Whether a column is an observation that a Box holds."""
    return feature.is_camera or (feature.name.startswith("observation.") and feature.dtype not in ("bool", "string"))


def _place(feature: Feature) -> str:
    """Where a column lies in an episode."""
    if feature.is_camera:
        return f"observations/{camera_name(feature)}"
    if _observed(feature):
        return f"observations/{feature.name.removeprefix('observation.').replace('/', '.')}"
    own = {ACTION: "actions", REWARD: "rewards"} | {
        name: place for name, place in _FLAGS.items() if (feature.dtype, feature.shape) == ("bool", ())
    }
    return own.get(feature.name, f"infos/{feature.name.replace('/', '.')}")


def _box(dtype: str, shape: Sequence[int]) -> dict[str, Any]:
    """A gymnasium Box of all that ``dtype`` holds, as Minari spells it; a camera's is 0 to 255."""
    if np.dtype(dtype).kind == "f":
        low, high = -np.inf, np.inf
    else:
        low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
    bounds = (np.full(shape, value, dtype).tolist() for value in (low, high))
    return {"type": "Box", "dtype": dtype, "shape": list(shape), **dict(zip(("low", "high"), bounds, strict=True))}


def _plain(name: str) -> str:
    return re.sub(r"[^-\w]", "_", name)


def _datasets(episode: h5py.Group) -> list[str]:
    found: list[str] = []
    episode.visititems(lambda name, item: found.append(name) if hasattr(item, "shape") else None)
    return found
