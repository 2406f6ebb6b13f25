"""One set of LeRobot features out of the datasets of a mixture, or a clear refusal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from data_engine.errors import RequestError
from data_engine.formats.lerobot import BOOKKEEPING
from data_engine.model import IMAGES, REWARD, TERMINATED, TIMESTAMP, TRUNCATED, Dataset, Feature

__all__ = ["DEFAULTS", "Columns", "hf_features", "lerobot_name", "merge"]

DEFAULTS = {
    name: {"dtype": dtype, "shape": [1], "names": None}
    for name, dtype in (
        ("timestamp", "float32"),
        ("frame_index", "int64"),
        ("episode_index", "int64"),
        ("index", "int64"),
        ("task_index", "int64"),
    )
}
_NAMES = {REWARD: "next.reward", TERMINATED: "next.done", TRUNCATED: "next.truncated"}
_CLOCK = "frame_time."


@dataclass(frozen=True)
class Columns:
    """What an export holds: the features by canonical name, those left out, and whose they are."""

    features: tuple[Feature, ...]
    left_out: tuple[str, ...]
    embodiment: str
    fps: float

    @property
    def steps(self) -> tuple[Feature, ...]:
        """The features that are columns of the data files."""
        return tuple(feature for feature in self.features if not feature.is_camera)

    @property
    def cameras(self) -> tuple[Feature, ...]:
        """The features that are videos."""
        return tuple(feature for feature in self.features if feature.is_camera)


def lerobot_name(name: str) -> str:
    """LeRobot's name of a canonical column; a slash, which LeRobot forbids, becomes a point."""
    return _NAMES.get(name, name).replace("/", ".")


def merge(datasets: Sequence[Dataset], columns: str | Sequence[str] = "all") -> Columns:
    """The features that all of ``datasets`` share.

    ``columns``: ``all`` demands that they have the same, ``common`` keeps what all have, a list names the canonical
    columns to keep. Floats of unlike widths become the wider; component names that
    only some know, or that only number the entries, give way to the others'.
    Raises ``RequestError`` naming the first difference in embodiment, control mode, fps or a feature.
    """
    first = datasets[0]
    for other in datasets[1:]:
        for what in ("embodiment", "control_mode", "fps"):
            mine, theirs = getattr(first, what), getattr(other, what)
            if mine != theirs:
                raise RequestError(
                    f"{first.name!r} has {what} {mine!r}, {other.name!r} {theirs!r}: not one LeRobot dataset",
                    code="unlike_datasets",
                    fix="export them apart" if what == "fps" else f"export them apart, or state the {what} at ingest",
                )
    names = _chosen(datasets, columns)
    features = tuple(_merged(name, datasets) for name in names)
    written: dict[str, str] = {}
    for feature in features:
        target = lerobot_name(feature.name)
        if target in BOOKKEEPING or target in DEFAULTS or target in written:
            raise RequestError(f"column {feature.name!r} cannot be LeRobot's {target!r}", code="name_taken")
        written[target] = feature.name
        if feature.name.startswith(_CLOCK):
            raise RequestError(
                f"{feature.name!r} is a camera's own clock, LeRobot has one clock",
                code="two_clocks",
                fix="state columns",
            )
    everything = sorted({feature.name for dataset in datasets for feature in dataset.features} - {TIMESTAMP})
    left_out = tuple(name for name in everything if name not in names)
    return Columns(features, left_out, first.embodiment, first.fps)


def hf_features(columns: Sequence[Feature]) -> dict[str, Any]:
    """The ``features`` of the ``huggingface`` metadata that LeRobot's data files carry."""
    found: dict[str, Any] = {}
    for feature in columns:
        value: dict[str, Any] = {"dtype": feature.dtype, "_type": "Value"}
        if len(feature.shape) > 1:
            value = {"shape": list(feature.shape), "dtype": feature.dtype, "_type": f"Array{len(feature.shape)}D"}
        elif feature.size > 1:
            value = {"feature": value, "length": feature.size, "_type": "List"}
        found[lerobot_name(feature.name)] = value
    for name, spec in DEFAULTS.items():
        found[name] = {"dtype": spec["dtype"], "_type": "Value"}
    return found


def _chosen(datasets: Sequence[Dataset], columns: str | Sequence[str]) -> list[str]:
    held = [[feature.name for feature in dataset.features if feature.name != TIMESTAMP] for dataset in datasets]
    if not isinstance(columns, str):
        names = list(dict.fromkeys(columns))
    elif columns == "common":
        names = [name for name in held[0] if all(name in other for other in held)]
    else:
        names = list(dict.fromkeys(name for one in held for name in one))
    for dataset, own in zip(datasets, held, strict=True):
        lacking = [name for name in names if name not in own]
        if lacking:
            raise RequestError(
                f"dataset {dataset.name!r} has no column {lacking[0]!r}: not one LeRobot dataset",
                code="unlike_datasets",
                fix="set the exporter's columns to 'common' or to a list",
            )
    if not names:
        raise RequestError("the datasets have no column in common", code="unlike_datasets")
    return names


def _merged(name: str, datasets: Sequence[Dataset]) -> Feature:
    found: Mapping[str, Feature] = {dataset.name: feature for dataset in datasets if (feature := dataset.feature(name))}
    (owner, first), *others = found.items()
    dtype, components = first.dtype, _names(first)
    for other, feature in others:
        if (first.is_camera, first.shape) != (feature.is_camera, feature.shape):
            raise _differs(name, owner, first.shape, other, feature.shape, "shape")
        names = _names(feature)
        if components and names and components != names:
            raise _differs(name, owner, components, other, names, "components")
        if first.unit and feature.unit and first.unit != feature.unit:
            raise _differs(name, owner, first.unit, other, feature.unit, "unit")
        components = components or names
        if first.is_camera or dtype == feature.dtype:
            continue
        if "float" not in dtype or "float" not in feature.dtype:
            raise _differs(name, owner, dtype, other, feature.dtype, "dtype")
        dtype = np.promote_types(dtype, feature.dtype).name
    if not first.is_camera and dtype != "string" and not _writable(dtype):
        raise RequestError(f"LeRobot has no column of dtype {dtype} ({name!r})", code="bad_dtype", fix="state columns")
    return first.model_copy(update={"dtype": dtype, "components": components})


def _names(feature: Feature) -> tuple[str, ...] | None:
    """The feature's component names, None where they only number its entries (``actions.0``, ``actions.1``, ...)."""
    names = feature.components
    if names and len({name.rpartition(".")[0] for name in names}) == 1:
        numbers = [name.rpartition(".")[2] for name in names]
        return None if numbers == [str(i) for i in range(len(names))] else names
    return names


def _writable(dtype: str) -> bool:
    try:
        return np.dtype(dtype).kind in "biuf" and pa.from_numpy_dtype(np.dtype(dtype)) is not None
    except (TypeError, pa.ArrowException):
        return False


def _differs(name: str, one: str, mine: Any, other: str, theirs: Any, what: str) -> RequestError:
    return RequestError(
        f"{name!r} has {what} {mine} in {one!r} and {theirs} in {other!r}: not one LeRobot dataset",
        code="unlike_datasets",
        fix="export them apart, or leave the column out with the exporter's columns",
    )


def camera_name(feature: Feature) -> str:
    """The camera's name as ``episodes.videos`` has it."""
    return feature.name.removeprefix(IMAGES)
