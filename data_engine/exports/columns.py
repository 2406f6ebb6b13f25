"""The columns that the datasets of a mixture share, for a dialect that holds one set of them, or a clear refusal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from data_engine.errors import RequestError
from data_engine.mixture import Mixture
from data_engine.model import IMAGES, TIMESTAMP, Dataset, Feature

__all__ = ["Columns", "camera_name", "chosen", "left_out", "shared", "used_datasets"]


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


def used_datasets(mixture: Mixture) -> list[Dataset]:
    """The datasets that the rows of ``mixture`` are of, by name."""
    return [mixture.datasets[name] for name in sorted(set(mixture.episodes["dataset"].to_pylist()))]


def shared(datasets: Sequence[Dataset], columns: str | Sequence[str], dialect: str) -> Columns:
    """The features that all of ``datasets`` share.

    ``columns``: ``all`` demands that they have the same, ``common`` keeps what all have, a list names the canonical
    columns to keep. Floats of unlike widths become the wider; component names that only some know, or that only number
    the entries, give way to the others'. ``dialect`` names, in an error, what they are not one of.
    Raises ``RequestError`` naming the first difference in embodiment, control mode, fps or a feature.
    """
    first = datasets[0]
    for other in datasets[1:]:
        for what in ("embodiment", "control_mode", "fps"):
            mine, theirs = getattr(first, what), getattr(other, what)
            if mine != theirs:
                raise RequestError(
                    f"{first.name!r} has {what} {mine!r}, {other.name!r} {theirs!r}: not one {dialect}",
                    code="unlike_datasets",
                    fix="export them apart" if what == "fps" else f"export them apart, or state the {what} at ingest",
                )
    names = _chosen(datasets, columns, dialect)
    features = tuple(_merged(name, datasets, dialect) for name in names)
    everything = sorted({feature.name for dataset in datasets for feature in dataset.features} - {TIMESTAMP})
    left_out = tuple(name for name in everything if name not in names)
    return Columns(features, left_out, first.embodiment, first.fps)


def chosen(dataset: Dataset, columns: str | Sequence[str]) -> list[Feature]:
    """The features of one dataset that an export keeps: ``all`` but its clock, or those that ``columns`` names.

    Raises ``RequestError`` for a name that it does not have.
    """
    known = [feature for feature in dataset.features if feature.name != TIMESTAMP]
    if isinstance(columns, str):
        return known
    lacking = [name for name in columns if dataset.feature(name) is None]
    if lacking:
        names = ", ".join(feature.name for feature in known)
        raise RequestError(
            f"dataset {dataset.name!r} has no column {lacking[0]!r}", code="unknown_column", fix=f"known: {names}"
        )
    return [feature for feature in known if feature.name in columns]


def left_out(dataset: Dataset, kept: Sequence[Feature]) -> list[str]:
    """A note on the columns of ``dataset`` that are not among ``kept``, where there are any."""
    names = {feature.name for feature in kept} | {TIMESTAMP}
    lost = [feature.name for feature in dataset.features if feature.name not in names]
    return [f"{dataset.name}: left out: {', '.join(lost)}"] if lost else []


def camera_name(feature: Feature) -> str:
    """The camera's name as ``episodes.videos`` has it."""
    return feature.name.removeprefix(IMAGES)


def _chosen(datasets: Sequence[Dataset], columns: str | Sequence[str], dialect: str) -> list[str]:
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
                f"dataset {dataset.name!r} has no column {lacking[0]!r}: not one {dialect}",
                code="unlike_datasets",
                fix="set the exporter's columns to 'common' or to a list",
            )
    if not names:
        raise RequestError("the datasets have no column in common", code="unlike_datasets")
    return names


def _merged(name: str, datasets: Sequence[Dataset], dialect: str) -> Feature:
    found: Mapping[str, Feature] = {dataset.name: feature for dataset in datasets if (feature := dataset.feature(name))}
    (owner, first), *others = found.items()
    dtype, components = first.dtype, _names(first)
    for other, feature in others:
        if (first.is_camera, first.shape) != (feature.is_camera, feature.shape):
            raise _differs(dialect, name, owner, first.shape, other, feature.shape, "shape")
        names = _names(feature)
        if components and names and components != names:
            raise _differs(dialect, name, owner, components, other, names, "components")
        if first.unit and feature.unit and first.unit != feature.unit:
            raise _differs(dialect, name, owner, first.unit, other, feature.unit, "unit")
        components = components or names
        if first.is_camera or dtype == feature.dtype:
            continue
        if "float" not in dtype or "float" not in feature.dtype:
            raise _differs(dialect, name, owner, dtype, other, feature.dtype, "dtype")
        dtype = np.promote_types(dtype, feature.dtype).name
    if not first.is_camera and dtype != "string" and not _writable(dtype):
        raise RequestError(
            f"no {dialect} has a column of dtype {dtype} ({name!r})", code="bad_dtype", fix="state columns"
        )
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


def _differs(dialect: str, name: str, one: str, mine: Any, other: str, theirs: Any, what: str) -> RequestError:
    return RequestError(
        f"{name!r} has {what} {mine} in {one!r} and {theirs} in {other!r}: not one {dialect}",
        code="unlike_datasets",
        fix="export them apart, or leave the column out with the exporter's columns",
    )
