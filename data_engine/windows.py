"""What one sample holds: windows over the steps around one, and what that means for each dataset of a mixture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np

from data_engine.document import group_name
from data_engine.errors import RequestError
from data_engine.goals import Goals
from data_engine.mixture import Mixture
from data_engine.model import ACTION, IMAGES, STATE, TIMESTAMP, Feature
from data_engine.pairs import Pairs
from data_engine.transitions import Transitions

__all__ = ["Column", "Layout", "Windows", "span_of"]

Span = Literal["past", "future", "here", "ahead", "segment"]
Normalise = Literal["none", "mean_std", "min_max", "quantile"]


def span_of(column: str) -> Span:
    """Which steps a column gives: ``past`` under ``observation.``, ``future`` for ``action``, else ``here``."""
    if column.startswith("observation."):
        return "past"
    return "future" if column == ACTION or column.startswith(f"{ACTION}.") else "here"


def _is_size(value: object) -> bool:
    """Whether ``value`` is a (height, width)."""
    if not isinstance(value, Sequence) or len(value) != 2:
        return False
    return all(isinstance(n, int | np.integer) and n > 0 for n in value)


@dataclass(frozen=True)
class Windows:
    """What a sample holds. It belongs to one step t of a range [start, stop) and never leaves the range.

    ``history``: columns under ``observation.`` and cameras give the steps t - history + 1 to t. ``action_horizon``:
    ``action`` columns give the steps t to t + action_horizon - 1. Every other column gives step t. Beyond the range the
    edge step is repeated and the pad mask is true. A missing value is NaN. Integers and booleans, which have none, come
    with ``<column>_is_missing``, of the column's own shape: their zeros stand for nothing where it is true.

    ``texts``: text columns, recorded or a labeller's, such as the language of a span: that of step t, None where there
    is none.

    ``columns``: numeric step columns. A dataset without one gives zeros of the shape that the other datasets have,
    and ``<column>_is_absent`` says so (action-free video among demonstrations; its ``action_is_pad`` is true
    throughout); where no other has it either, or their shapes differ, samples come without it. ``cameras``: names, by
    default every camera that a dataset has; ``()`` decodes nothing; ``frame_size`` (height, width) scales them all.
    ``normalise`` float columns by the statistics of their (embodiment, control mode): ``mean_std`` to mean 0 and
    deviation 1, ``min_max`` and ``quantile`` (q01, q99; not clipped) to [-1, 1], constant dimensions to 0.
    ``pad_to``: column -> width, for batches over datasets of unlike widths, or without the column: zeros to the
    right, and ``<column>_dim_is_pad`` says which.

    ``transitions``: what follows a step as well, for offline reinforcement learning. ``goals``: a goal drawn with
    hindsight, shown by ``columns`` and ``cameras`` of these windows. ``pairs``: samples are pairs of pieces of
    behaviour of which one was preferred, as long as the pairs say; history, horizon and texts do not count.
    """

    history: int = 1
    action_horizon: int = 16
    columns: tuple[str, ...] = (STATE, ACTION)
    texts: tuple[str, ...] = ()
    cameras: tuple[str, ...] | None = None
    frame_size: tuple[int, int] | None = None
    normalise: Normalise = "none"
    pad_to: Mapping[str, int] = field(default_factory=dict)
    transitions: Transitions | None = None
    goals: Goals | None = None
    pairs: Pairs | None = None

    def __post_init__(self) -> None:
        if self.history < 1 or self.action_horizon < 1:
            raise RequestError("history and action_horizon are at least 1", code="bad_windows")
        for name, value in (("columns", self.columns), ("texts", self.texts), ("cameras", self.cameras)):
            if isinstance(value, str):  # which is a sequence of letters
                raise RequestError(f"{name} are several names, not {value!r}", code="bad_windows", fix=f'("{value}",)')
        if self.frame_size is not None and not _is_size(self.frame_size):
            raise RequestError(f"frame_size {self.frame_size} is no size", code="bad_windows", fix="(height, width)")
        if not isinstance(self.pad_to, Mapping):
            raise RequestError(f"pad_to {self.pad_to} names no column", code="bad_windows", fix='{"action": 32}')
        if self.normalise not in ("none", "mean_std", "min_max", "quantile"):
            raise RequestError(
                f"unknown normalise {self.normalise!r}", code="bad_windows", fix="none, mean_std, min_max or quantile"
            )
        if self.pairs and (self.transitions or self.goals):
            raise RequestError("pairs have neither transitions nor goals", code="bad_windows")
        lost = set(self.goals.columns) - set(self.columns) if self.goals else set()
        if lost:
            raise RequestError(
                f"goals show {min(lost)!r}, which samples do not", code="bad_windows", fix="add it to columns"
            )

    def deltas(self, span: Span) -> np.ndarray:
        """int64: the steps of a window, relative to t."""
        if span == "past":
            return np.arange(1 - self.history, 1)
        if span == "ahead":
            return np.arange(self.transitions.n_step + 1 if self.transitions else 1)
        return np.arange(self.action_horizon) if span == "future" else np.zeros(1, np.int64)


@dataclass(frozen=True)
class Column:
    """A column as samples of one dataset have it.

    ``size``: numbers a step in the dataset, 0 where it lacks the column and zeros stand for it. ``shape``: of a step
    as delivered. ``shift`` and ``scale`` float32 [size] or None: ``(x - shift) * scale``.
    """

    size: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    shift: np.ndarray | None = None
    scale: np.ndarray | None = None

    @cached_property
    def width(self) -> int:
        """Numbers a step as delivered."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def has_nan(self) -> bool:
        """Whether its missing values are NaN, and need no mask."""
        return self.dtype.kind == "f"


CLOCK = Column(1, (), np.dtype(np.float64))


class Layout:
    """What samples of one dataset hold. Two layouts of equal ``key`` can share a batch."""

    def __init__(self, mixture: Mixture, dataset: str, windows: Windows) -> None:
        described = mixture.datasets[dataset]
        features = {feature.name: feature for feature in described.features}
        self.dataset = dataset
        self.columns: dict[str, Column] = {}
        group = group_name(described.embodiment, described.control_mode)
        for name in windows.columns:
            feature = features.get(name)
            column = (
                _absent(mixture, name, windows) if feature is None else _column(mixture, group, name, feature, windows)
            )
            if column is not None:
                self.columns[name] = column
        named = described.cameras if windows.cameras is None else windows.cameras
        size = windows.frame_size and (*windows.frame_size, 3)
        self.cameras = {
            camera: size or features[IMAGES + camera].shape for camera in named if IMAGES + camera in features
        }
        self.clocks = {
            camera: f"frame_time.{camera}" if f"frame_time.{camera}" in features else TIMESTAMP
            for camera in self.cameras
        }
        self.known = sorted(features)
        self.texts = [name for name in windows.texts if name in features and features[name].dtype == "string"]

    @property
    def key(self) -> dict[str, tuple[int, ...]]:
        """Shape of a step by column and camera."""
        shapes = {name: column.shape for name, column in self.columns.items()}
        return shapes | {IMAGES + camera: shape for camera, shape in self.cameras.items()}


def _absent(mixture: Mixture, name: str, windows: Windows) -> Column | None:
    """What stands for a column that a dataset lacks: as wide as ``pad_to`` says, else as the others have it."""
    if name == TIMESTAMP:
        return CLOCK  # every steps file has it, declared or not
    if name in windows.pad_to:
        return Column(0, (windows.pad_to[name],), _dtype(mixture, name))
    others = [found for dataset in mixture.datasets.values() if (found := dataset.feature(name)) is not None]
    if not all(map(_is_numeric, others)) or len({feature.shape for feature in others}) != 1:
        return None
    return Column(0, others[0].shape, _dtype(mixture, name))


def _dtype(mixture: Mixture, name: str) -> np.dtype[Any]:
    """What samples hold a numeric column as: one dtype for all datasets, float32 where any of them has floats."""
    if name == TIMESTAMP or name.startswith("frame_time."):
        return np.dtype(np.float64)
    kinds = {
        np.dtype("int64" if feature.dtype.startswith("datetime") else feature.dtype).kind
        for dataset in mixture.datasets.values()
        if (feature := dataset.feature(name)) is not None and _is_numeric(feature)
    }
    if "f" in kinds or not kinds:
        return np.dtype(np.float32)
    widest = [feature.dtype for dataset in mixture.datasets.values() if (feature := dataset.feature(name)) is not None]
    whole = np.uint64 if "uint64" in widest and "i" not in kinds else np.int64
    return np.dtype(np.bool_ if kinds == {"b"} else whole)


def _is_numeric(feature: Feature) -> bool:
    return not feature.is_camera and feature.dtype not in ("string", "bytes")


def _column(mixture: Mixture, group: str, name: str, feature: Feature, windows: Windows) -> Column:
    if not _is_numeric(feature):
        raise RequestError(
            f"{name!r} is no numeric column", code="unknown_column", fix="frames come with cameras=(...)"
        )
    shape = (windows.pad_to[name],) if name in windows.pad_to else feature.shape
    if feature.size > int(np.prod(shape)):
        raise RequestError(f"{name} is {feature.size} wide, pad_to says {shape[0]}", code="bad_windows")
    dtype = _dtype(mixture, name)
    if windows.normalise == "none" or dtype != np.float32 or span_of(name) == "here":
        return Column(feature.size, shape, dtype)
    found = mixture.statistics(group).get(name)
    if found is None:
        raise RequestError(
            f"no statistics of {name!r} in group {group!r}", code="no_statistics", fix="normalise='none'"
        )
    return Column(feature.size, shape, dtype, *_affine(found, windows.normalise))


def _affine(statistics: Mapping[str, np.ndarray], normalise: Normalise) -> tuple[np.ndarray, np.ndarray]:
    if normalise == "mean_std":
        shift, spread, reach = statistics["mean"], statistics["std"], 1.0
    else:
        low, high = (statistics[name] for name in (("min", "max") if normalise == "min_max" else ("q01", "q99")))
        shift, spread, reach = (low + high) / 2, high - low, 2.0
    scale = np.divide(reach, spread, out=np.ones_like(spread), where=spread > 0)
    return shift.astype(np.float32), scale.astype(np.float32)
