"""What a scorer is: the protocol that every measure stands on, and the batch of episodes it is handed.

A score is evidence: what was measured, on which unit and step range, by which version and fit. A scorer sees state,
action, time, task and images, nothing else: row order, ids, names, masks, rewards and success never reach it.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa

from data_engine.canonical import digest
from data_engine.model import ACTION, STATE, Dataset
from data_engine.registry import Plugin

__all__ = [
    "Clips", "Encoded", "Encoder", "EpisodeBatch", "Fit", "Metric", "Needs", "Producer", "Resources", "ScoreRow",
    "Scorer", "Span", "Spec",
]  # fmt: skip

Better = Literal["higher", "lower", "neither"]


@dataclass(frozen=True)
class Metric:
    """One number that a scorer reports, its unit and its better direction."""

    name: str
    unit: str
    better: Better


@dataclass(frozen=True)
class Needs:
    """What a scorer must be given: step columns, embedding spaces, decoded frames.

    ``scores``: metrics of other scorers (``name.metric``) that it combines. These run first, with their defaults and
    on the same reference set. ``preferences``: the collection that it learns from.
    """

    columns: tuple[str, ...] = (STATE, ACTION)
    spaces: tuple[str, ...] = ()
    frames: bool = False
    scores: tuple[str, ...] = ()
    preferences: str | None = None


@dataclass(frozen=True)
class Resources:
    """What one worker of a scorer needs. ``cpus`` is also its thread count, so that sums round alike everywhere."""

    cpus: int = 1
    gpus: float = 0.0
    memory_mb: int = 2048


@dataclass(frozen=True)
class Spec:
    """A scorer's statement of itself. ``metrics[0]`` is the headline that its bare name stands for in expressions.

    ``base`` says what the base set that a recipe names is to it: ``optional``, its reference set in the place of the
    scored episodes; ``reference``, the same, and it must be named; ``targets``, demonstrations beside the reference
    that it must be given: ``fit`` is called with them alone first, and the outcome is the ``base`` of the second call.
    ``set_metrics``: what it says of a set of episodes as a whole (``score_set``), a dataset's or an operator's.
    ``learns``: without it ``fit`` is handed no episodes: new ones never make a new fit, and what is done stays done (a
    pretrained encoder, a judge of a fixed prompt). Such scores have no reference set, so no percentiles.
    """

    name: str
    version: str
    level: Literal["episode", "step", "dataset"]
    metrics: tuple[Metric, ...]
    needs: Needs = Needs()
    resources: Resources = Resources()
    base: Literal["optional", "reference", "targets"] = "optional"
    set_metrics: tuple[Metric, ...] = ()
    learns: bool = True


@dataclass(frozen=True)
class Clips:
    """The vectors of one episode in an embedding space, by camera and then by time.

    ``starts``, ``stops``: int64 [m], the steps that each vector stands for; ``cameras``: [m], None where a vector is of
    no camera; ``vectors``: float32 [m, d], d 0 where there is none.
    """

    starts: np.ndarray
    stops: np.ndarray
    cameras: tuple[str | None, ...]
    vectors: np.ndarray

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def hash(self) -> str:
        """Hash of the vectors and their places: what draws and folds of frames go by, whatever else was recorded."""
        return digest(self.starts.tobytes(), list(self.cameras), np.ascontiguousarray(self.vectors).tobytes())

    def of(self, camera: str | None) -> Clips:
        """Those of one camera."""
        mine = np.array([name == camera for name in self.cameras], bool)
        kept = tuple(name for name in self.cameras if name == camera)
        return Clips(self.starts[mine], self.stops[mine], kept, self.vectors[mine])

    def within(self, start: int, stop: int) -> Clips:
        """Those that begin in steps [start, stop)."""
        mine = (self.starts >= start) & (self.starts < stop)
        kept = tuple(name for name, inside in zip(self.cameras, mine, strict=True) if inside)
        return Clips(self.starts[mine], self.stops[mine], kept, self.vectors[mine])

    @classmethod
    def none(cls) -> Clips:
        """No vectors at all."""
        return cls(np.zeros(0, np.int64), np.zeros(0, np.int64), (), np.zeros((0, 0), np.float32))

    @classmethod
    def whole(cls, n_steps: int, vector: np.ndarray, camera: str | None = None) -> Clips:
        """One vector [d] of all the steps of an episode."""
        matrix = np.asarray(vector, np.float32)[None]
        return cls(np.array([0]), np.array([n_steps]), (camera,), matrix)


@dataclass(frozen=True)
class Encoded:
    """What an encoder makes of one episode: its clips, and by camera why there are none of it."""

    clips: Clips
    failed: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class EpisodeBatch:
    """Some episodes of ONE dataset and their steps, back to back.

    ``episodes``: rows of the episodes table (E of them). ``steps``: their step rows (N), columns as stored.
    ``offsets``: int64 [E + 1]; episode i's steps are rows ``offsets[i]:offsets[i + 1]``. ``dataset``: features and fps.
    ``spaces``: by the name of an embedding space, the clips of each episode (E of them). ``frames(episode, camera,
    times)``: uint8 [len(times), h, w, 3], decoded on demand; None where there are none. ``scores``: float64 [E] by
    ``name.metric``, null as NaN.
    ``preferences``: while fitting, the rows of the collection that was asked for. ``answers``: the stored answer of a
    model (:class:`data_engine.asking.Answer`) by the key of its question, None where there is none.
    """

    dataset: Dataset
    episodes: pa.Table
    steps: pa.Table
    offsets: np.ndarray
    spaces: Mapping[str, Sequence[Clips]] = field(default_factory=dict)
    frames: Callable[[int, str, Sequence[float]], np.ndarray] | None = None
    scores: Mapping[str, np.ndarray] = field(default_factory=dict)
    preferences: pa.Table | None = None
    answers: Callable[[str], Any] | None = None

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __iter__(self) -> Iterator[slice]:
        """The row range of each episode, in order."""
        return (slice(int(a), int(b)) for a, b in zip(self.offsets[:-1], self.offsets[1:], strict=True))

    def one(self, index: int) -> EpisodeBatch:
        """Episode ``index`` as a batch of its own."""
        start, stop = (int(edge) for edge in self.offsets[index : index + 2])
        frames = self.frames
        return EpisodeBatch(
            self.dataset,
            self.episodes.slice(index, 1),
            self.steps.slice(start, stop - start),
            np.array([0, stop - start]),
            {name: clips[index : index + 1] for name, clips in self.spaces.items()},
            None if frames is None else lambda _, camera, times: frames(index, camera, times),
            {name: values[index : index + 1] for name, values in self.scores.items()},
            self.preferences,
            self.answers,
        )

    @cached_property
    def _arrays(self) -> dict[str, np.ndarray]:
        return {}

    def array(self, column: str) -> np.ndarray | None:
        """A numeric step column as float64 [N, width] (width 1 for a scalar), null as NaN; None where it is absent."""
        if column not in self.steps.column_names:
            return None
        if column not in self._arrays:
            self._arrays[column] = _matrix(self.steps.column(column))
        return self._arrays[column]

    @property
    def tasks(self) -> list[str | None]:
        """The task of each episode."""
        return self.episodes.column("task").to_pylist()

    @property
    def content_hashes(self) -> list[str]:
        """The content hash of each episode: what randomness is keyed by."""
        return self.episodes.column("content_hash").to_pylist()


@dataclass(frozen=True)
class Fit:
    """What a scorer or encoder learned from a reference set: arrays and plain values, never code.

    ``reference`` holds the content hashes it saw, sorted. The identity follows from what went in (scorer, version,
    configuration, seed, reference, base), not from the bytes that came out.
    """

    producer: str
    version: str
    config: Mapping[str, Any]
    seed: int
    reference: tuple[str, ...]
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)
    meta: Mapping[str, Any] = field(default_factory=dict)
    base: str | None = None

    @property
    def id(self) -> str:
        """16 hex digits, prefixed ``fit_``."""
        parts = [self.producer, self.version, self.config, self.seed, self.reference_hash, self.base or ""]
        return "fit_" + digest(parts, length=16)

    @cached_property
    def reference_hash(self) -> str:
        """Hash of the reference set: what a score is relative to."""
        return digest(sorted(set(self.reference)), length=16)


@dataclass(frozen=True)
class Span:
    """Steps [start, stop) of an episode and what was found there, as a reason code."""

    start: int
    stop: int
    reason: str


@dataclass(frozen=True)
class ScoreRow:
    """One metric of one episode. ``value`` is None, never NaN, where ``status`` is not ok, and ``reason`` says why."""

    metric: str
    value: float | None
    status: Literal["ok", "undefined", "error"] = "ok"
    reason: str | None = None
    step_values: np.ndarray | None = None
    spans: tuple[Span, ...] = ()


class Producer(Plugin):
    """Whatever learns from a reference set and then says something of episodes: scorer, labeller, encoder."""

    spec: ClassVar[Spec]

    @property
    def needs(self) -> Needs:
        """What it must be given; a parameter may name a space or column."""
        return self.spec.needs

    def check(self, parts: Mapping[str, str]) -> None:
        """Raise ``RequestError`` where what it is to stand on, as encoder versions by ``space NAME``, is not for it."""

    @abstractmethod
    def fit(
        self, batches: Iterable[EpisodeBatch], *, base: Fit | None = None, seed: int = 0, device: str = "cpu"
    ) -> Fit:
        """Learn from a reference set, streamed. The result does not depend on the order of batches or episodes."""

    def learned(
        self,
        seen: Iterable[str],
        *,
        seed: int,
        base: Fit | None = None,
        arrays: Mapping[str, np.ndarray] | None = None,
        meta: Mapping[str, Any] | None = None,
    ) -> Fit:
        """What :meth:`fit` returns: learned from the content hashes ``seen``, beside ``base``."""
        return Fit(
            self.spec.name, self.spec.version, self.config, seed, tuple(seen), arrays or {}, meta or {},
            base.id if base else None,
        )  # fmt: skip


class Scorer(Producer):
    """A measure. Its fields are its parameters; ``spec`` is what it says of itself."""

    @abstractmethod
    def score(self, batch: EpisodeBatch, fit: Fit, *, device: str = "cpu") -> list[list[ScoreRow]]:
        """Every metric of every episode of ``batch``, in its order. One bad episode never changes another's rows."""

    def less(self, wanted: Fit, unwanted: Fit) -> Fit:
        """Of two fits on targets alone, the one that stands for the first less the second. For scorers of targets.

        Its ``reference`` is that of both, its ``base`` the id of ``unwanted``.
        """
        raise NotImplementedError(f"{self.spec.name} takes no targets to stay away from")

    def score_set(self, batches: Iterable[EpisodeBatch], fit: Fit, *, device: str = "cpu") -> list[ScoreRow]:
        """Every set metric of the streamed episodes as a whole; none where the scorer measures no sets."""
        return []


class Encoder(Producer):
    """Makes the vectors of an embedding space. Vectors of unlike (embodiment, control mode) never share a space."""

    def version(self) -> str | None:
        """What names the vectors of a model that others trained: sha256 over its weights, preprocessing and tokenizer,
        a dot, and what of an episode it is shown. None where vectors come of what is learned here.
        """
        return None

    @abstractmethod
    def encode(self, batch: EpisodeBatch, fit: Fit, *, device: str = "cpu") -> list[Encoded]:
        """The vectors of each episode, in its order: of the whole of it or of many ranges. One bad harms no other."""


def _matrix(column: pa.ChunkedArray) -> np.ndarray:
    kind = column.type
    array = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        rows = len(array)
        if array.null_count:
            lists = [np.nan if value is None else value for value in array.to_pylist()]
            width = max((len(value) for value in lists if isinstance(value, list)), default=1)
            filled = [value if isinstance(value, list) else [np.nan] * width for value in lists]
            return np.asarray([[np.nan if x is None else x for x in row] for row in filled], dtype=np.float64)
        flat = array.flatten()
        width = len(flat) // rows if rows else 1
        values = flat.cast(pa.float64()).to_numpy(zero_copy_only=False)
        return values.reshape(rows, width)
    return array.cast(pa.float64()).to_numpy(zero_copy_only=False).reshape(-1, 1)
