"""Arrays with one row a step, as HDF5 and zarr files hold them, turned into canonical step columns and frames.

A :class:`Layout` says which of a source's arrays become which column. Nothing is cast unseen: a state joined from
several arrays takes the smallest type that holds them all, flags become booleans only out of 0 and 1, and float frames
become uint8 only where that is exact.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import pyarrow as pa

from data_engine.errors import SourceError
from data_engine.model import ACTION, IMAGES, STATE, TIMESTAMP, Feature
from data_engine.steps import EPISODE_ID, STEP

__all__ = ["BLOCK_BYTES", "EPISODE_BYTES", "Layout", "Spec", "free_name", "natural", "to_rgb"]

BLOCK_BYTES = 8 << 20  # arrays are read in whole chunks, in blocks of about this size
EPISODE_BYTES = 4 << 30  # more than this in one episode's columns is refused: a header can declare any shape
_SMALLEST_IMAGE = 8
_TEXT = {"string": pa.string(), "bytes": pa.binary()}


@dataclass(frozen=True)
class Spec:
    """What one array holds a step: numpy's name of the type (``string``, ``bytes``) and the step's shape."""

    dtype: str
    shape: tuple[int, ...]

    @classmethod
    def of(cls, dtype: np.dtype, shape: tuple[int, ...]) -> Spec:
        """The spec of an array of ``dtype`` and whole ``shape`` (n, ...); ``SourceError`` for what has no column."""
        return cls(_name(dtype), tuple(shape[1:]))

    @property
    def size(self) -> int:
        """Numbers a step."""
        return math.prod(self.shape)

    @property
    def is_vector(self) -> bool:
        """A number or a vector of numbers a step."""
        return self.dtype not in ("string", "bytes") and len(self.shape) <= 1

    @property
    def is_rgb(self) -> bool:
        """Whether a step looks like an RGB image: uint8 or float, (h, w, 3) or (3, h, w)."""
        if len(self.shape) != 3 or not (self.dtype == "uint8" or self.dtype.startswith("float")):
            return False
        return any(c == 3 and min(h, w) >= _SMALLEST_IMAGE for h, w, c in (self.shape, self.shape[1:] + self.shape[:1]))

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(h, w, 3) of an RGB step, whichever axis its channels are on."""
        h, w, c = self.shape if self.shape[2] == 3 else (*self.shape[1:], self.shape[0])
        return h, w, c


@dataclass(frozen=True)
class Layout:
    """Which of a source's arrays become which column.

    ``specs``: every array by the source's name. ``columns``: a column's name -> the arrays joined into it, in order.
    ``cameras``: a camera's name -> its array. ``flags``: the columns that are turned into booleans. ``names``: an
    array's entries by name, where the layout knows them.
    """

    specs: Mapping[str, Spec]
    columns: Mapping[str, tuple[str, ...]]
    cameras: Mapping[str, str] = field(default_factory=dict)
    flags: frozenset[str] = frozenset()
    names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @cached_property
    def features(self) -> tuple[Feature, ...]:
        """The features of the columns, then of the cameras. Joined vectors name their components ``<array>.<i>``."""
        found = [self._feature(name, keys) for name, keys in self.columns.items()]
        for camera, key in self.cameras.items():
            shape = self.specs[key].image_shape
            found.append(Feature(name=IMAGES + camera, dtype="image", shape=shape, source=key))
        return tuple(found)

    def _feature(self, name: str, keys: tuple[str, ...]) -> Feature:
        parts = [self.specs[key] for key in keys]
        one = len(keys) == 1
        names = [name for key, part in zip(keys, parts, strict=True) for name in self._entries(key, part)]
        return Feature(
            name=name,
            dtype="bool" if name in self.flags else parts[0].dtype if one else _joined(parts),
            shape=parts[0].shape if one else (len(names),),
            components=tuple(names) if name in (STATE, ACTION) else None,
            source=" + ".join(keys),
        )

    def _entries(self, key: str, part: Spec) -> Sequence[str]:
        names = self.names.get(key, ())
        return names if len(names) == part.size else [f"{key.rsplit('/', 1)[-1]}.{i}" for i in range(part.size)]

    def check(self, key: str, found: Spec) -> None:
        """Raises ``SourceError`` where an episode's array ``key`` is not what the dataset holds under that name."""
        if found != self.specs[key]:
            ours, theirs = (f"{spec.dtype} of shape {spec.shape}" for spec in (found, self.specs[key]))
            raise SourceError(f"{key} holds {ours} a step, the rest of the dataset {theirs}", code="layout_differs")

    def table(self, arrays: Mapping[str, np.ndarray], timestamp: np.ndarray) -> tuple[pa.Table, list[str]]:
        """One episode's steps out of ``arrays`` (n, ...), and a note for each column that it lacks, which is null.

        Raises ``SourceError`` where ``observation.state`` or ``action`` cannot be made, and for a flag beyond 0 and 1.
        """
        n = len(timestamp)
        columns = [pa.array(timestamp)]
        notes = []
        for feature, keys in self._parts:
            absent = [key for key in keys if key not in arrays]
            if absent and feature.name in (STATE, ACTION):
                raise SourceError(f"no {absent[0]}, which {feature.name} is made of", code="missing_column")
            if absent:
                notes.append(f"no {absent[0]}: {feature.name} is null")
                columns.append(pa.nulls(n, _arrow_type(feature)))
            elif len(keys) == 1:
                columns.append(_column(arrays[keys[0]], feature))
            else:
                parts = [arrays[key].reshape(n, -1) for key in keys]
                columns.append(_column(np.concatenate(parts, axis=1, dtype=feature.dtype), feature))
        return pa.Table.from_arrays(columns, names=[TIMESTAMP, *(feature.name for feature, _ in self._parts)]), notes

    @cached_property
    def _parts(self) -> list[tuple[Feature, tuple[str, ...]]]:
        """The features of the columns, each with the arrays that it is joined of."""
        return [(feature, self.columns[feature.name]) for feature in self.features if not feature.is_camera]


@lru_cache(maxsize=256)  # numpy makes the name up anew, for each array of each episode
def _name(dtype: np.dtype) -> str:
    if dtype.kind in "SUT":
        return "string"
    if dtype.kind not in "biuf" or dtype.itemsize > 8:
        raise SourceError(f"type {dtype} has no column form", code="bad_dtype")
    return dtype.newbyteorder("=").name


def _joined(parts: list[Spec]) -> str:
    return np.result_type(*(np.dtype(part.dtype) for part in parts)).name


def _arrow_type(feature: Feature) -> pa.DataType:
    item = _TEXT.get(feature.dtype) or pa.from_numpy_dtype(np.dtype(feature.dtype))
    return pa.list_(item, feature.size) if feature.shape else item


def _column(values: np.ndarray, feature: Feature) -> pa.Array:
    flat = values.reshape(-1)
    if feature.dtype == "string":
        items = pa.array([_text(value) for value in flat.tolist()], pa.string())
    elif feature.dtype == "bytes":
        items = pa.array([bytes(value) for value in flat.tolist()], pa.binary())
    else:
        if feature.dtype == "bool" and flat.dtype != bool and not ((flat == 0) | (flat == 1)).all():
            raise SourceError(f"{feature.source} holds values other than 0 and 1", code="bad_flag")
        items = pa.array(flat.astype(feature.dtype, copy=False))  # bytes in the machine's order; flags to booleans
    return pa.FixedSizeListArray.from_arrays(items, feature.size) if feature.shape else items


def _text(value: Any) -> str:
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)


def free_name(name: str, taken: Collection[str]) -> str:
    """``name``, or ``source.<name>`` where a canonical column or one in ``taken`` has it already, but for its case."""
    held = {STATE, ACTION, TIMESTAMP, EPISODE_ID, STEP, *map(str.lower, taken)}
    while name.lower() in held:
        name = f"source.{name}"
    return name


def natural(name: str) -> list[Any]:
    """Sort key that puts ``demo_2`` before ``demo_10``."""
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", name)]


def to_rgb(
    blocks: Iterator[np.ndarray], key: str, *, top: float = 255.0, rounding: bool = False
) -> Iterator[np.ndarray]:
    """Frames uint8 (h, w, 3) out of ``blocks`` of shape (k, h, w, 3) or (k, 3, h, w), uint8 or float in [0, ``top``].

    A float frame must be whole numbers out of 255, to its type's own precision; ``rounding`` takes the nearest instead.
    Raises ``SourceError`` for a float frame that is not, and for one out of range.
    """
    for block in blocks:
        frames = block if block.shape[-1] == 3 else block.transpose(0, 2, 3, 1)
        if frames.dtype != np.uint8:
            scaled = frames if top == 255 else frames * frames.dtype.type(255 / top)
            whole = np.rint(scaled)
            if not (whole.min() >= 0 and whole.max() <= 255):  # NaN fails both
                raise SourceError(
                    f"frames of {key} leave the range 0 to {top:g}",
                    code="image_range",
                    fix="state image_range, 1 or 255",
                )
            slack = 0 if top == 255 else 255 * float(np.finfo(frames.dtype).eps)
            if not rounding and float(np.abs(scaled - whole).max()) > slack:
                raise SourceError(
                    f"frames of {key} are not whole numbers out of 255",
                    code="image_rounding",
                    fix="image_rounding: true stores the nearest",
                )
            frames = whole.astype(np.uint8)
        yield from np.ascontiguousarray(frames)
