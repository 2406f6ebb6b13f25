"""The nouns: dataset, feature, episode, step, and the Arrow schemas of every table that holds them.

Canonical step columns follow LeRobot's vocabulary: ``observation.state``, ``action``, ``observation.images.<camera>``,
``reward``, ``terminated``, ``truncated``, ``timestamp``; whatever else a source has keeps its name. ``timestamp`` is
float64 seconds from the episode's start. ``reward`` at t follows the action at t. Missing is null, never zero.
"""

from __future__ import annotations

from typing import Any, Literal

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field

from data_engine.canonical import digest

__all__ = [
    "ACTION", "ANNOTATIONS", "DATASETS", "EMBEDDINGS", "EPISODES", "IMAGES", "PROVENANCE", "RECEIPTS", "REMOVALS",
    "REWARD", "RUNS", "SCORES", "SELECTIONS", "STATE", "TABLES", "TERMINATED", "TIMESTAMP", "TRUNCATED", "VIDEO",
    "Dataset", "Feature", "Finding", "episode_id",
]  # fmt: skip

STATE = "observation.state"
ACTION = "action"
IMAGES = "observation.images."
REWARD = "reward"
TERMINATED = "terminated"
TRUNCATED = "truncated"
TIMESTAMP = "timestamp"

PROVENANCE = ("real", "sim", "synthetic", "human_video")


class Finding(BaseModel):
    """A convention of a column as it was inferred or stated: ``components`` of ``column`` are of ``value`` in ``kind``.

    ``value`` is ``unknown`` where the data does not tell. ``confidence`` 0 to 1, 1 where it was stated; ``evidence`` is
    one line that says what it rests on. :mod:`data_engine.conventions` lists kinds and values.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    column: str
    components: tuple[int, ...]
    kind: str
    value: str
    confidence: float = Field(ge=0, le=1, allow_inf_nan=False)
    evidence: str


class Feature(BaseModel):
    """One column of a dataset's steps, as the source had it.

    ``dtype`` is numpy's name of the source's type (``float16``, ``uint8``, ``bool``, ...), ``string``, or for a camera
    ``image`` (raw frames) or ``video`` (encoded frames). ``shape`` is one step's: ``()`` for a scalar,
    (h, w, c) for a camera. ``components`` names the flattened entries. ``source`` is the column's name in the source.
    ``unit`` is the one unit of all its measured entries, where known; ``findings`` are its conventions.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    dtype: str
    shape: tuple[int, ...] = ()
    components: tuple[str, ...] | None = None
    unit: str | None = None
    source: str | None = None
    findings: tuple[Finding, ...] = ()

    @property
    def is_camera(self) -> bool:
        """Whether the column's values are frames, which lie in videos and not in the steps table."""
        return self.dtype in ("image", "video")

    @property
    def size(self) -> int:
        """Numbers a step: the product of ``shape``, 1 for a scalar."""
        size = 1
        for side in self.shape:
            size *= side
        return size


class Dataset(BaseModel):
    """A named source as ingested."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    embodiment: str = "unknown"
    control_mode: str = "unspecified"
    fps: float
    features: tuple[Feature, ...]
    licence: str | None = None
    origin: str
    format: str

    def feature(self, name: str) -> Feature | None:
        """The feature called ``name``, or None."""
        return next((feature for feature in self.features if feature.name == name), None)

    @property
    def cameras(self) -> tuple[str, ...]:
        """Names of the cameras, without the ``observation.images.`` prefix, sorted."""
        return tuple(sorted(feature.name.removeprefix(IMAGES) for feature in self.features if feature.is_camera))


def episode_id(dataset: str, source_key: str) -> str:
    """The identity of an episode, stable over re-ingest: derived from the dataset's name and the source's key."""
    return "ep_" + digest(dataset, source_key, length=20)


VIDEO = pa.struct(
    [
        ("camera", pa.string()),
        ("blob", pa.string()),  # path inside the lake, videos/<content hash>.mp4
        ("start_s", pa.float64()),
        ("end_s", pa.float64()),
        ("codec", pa.string()),
        ("width", pa.int64()),
        ("height", pa.int64()),
        ("fps", pa.float64()),
        ("frames", pa.int64()),
    ]
)


def _schema(*fields: tuple[str, Any]) -> pa.Schema:
    return pa.schema([pa.field(name, kind) for name, kind in fields])


_TIME = pa.timestamp("us", tz="UTC")
_STRINGS = pa.list_(pa.string())

DATASETS = _schema(
    ("dataset", pa.string()),
    ("embodiment", pa.string()),
    ("control_mode", pa.string()),
    ("fps", pa.float64()),
    ("features", pa.string()),  # canonical JSON of list[Feature]
    ("licence", pa.string()),
    ("origin", pa.string()),
    ("format", pa.string()),
    ("revision", pa.int64()),
    ("run_id", pa.string()),
    ("ingested_at", _TIME),
)

EPISODES = _schema(
    ("episode_id", pa.string()),
    ("dataset", pa.string()),
    ("source_key", pa.string()),
    ("content_hash", pa.string()),  # steps and coded frames
    ("steps_hash", pa.string()),  # steps alone: equal where only the video was encoded again
    ("embodiment", pa.string()),
    ("control_mode", pa.string()),
    ("fps", pa.float64()),
    ("n_steps", pa.int64()),
    ("duration_s", pa.float64()),
    ("task", pa.string()),
    ("language", _STRINGS),
    ("success", pa.bool_()),
    ("operator", pa.string()),
    ("scene", pa.string()),
    ("objects", _STRINGS),
    ("provenance", pa.string()),  # real, sim, synthetic, human_video
    ("labels", _STRINGS),  # the source's own subsets, e.g. robomimic's filter keys
    ("parent", pa.string()),
    ("attributes", pa.string()),  # canonical JSON of the source's other per-episode values
    ("steps_file", pa.string()),  # path inside the lake
    ("row_start", pa.int64()),
    ("row_count", pa.int64()),
    ("videos", pa.list_(VIDEO)),
    ("revision", pa.int64()),  # newest wins: a changed source appends a row, it never edits one
    ("run_id", pa.string()),
    ("ingested_at", _TIME),
)

SCORES = _schema(
    ("unit_kind", pa.string()),  # episode, step, dataset, operator
    ("unit_id", pa.string()),
    ("content_hash", pa.string()),  # of what was measured: a changed episode's old scores are not its own
    ("start", pa.int64()),
    ("stop", pa.int64()),
    ("scorer", pa.string()),
    ("metric", pa.string()),
    ("version", pa.string()),
    ("config_hash", pa.string()),
    ("fit_id", pa.string()),
    ("value", pa.float64()),  # null, never NaN
    ("percentile", pa.float64()),  # within (task, embodiment) of the fit's reference set, 0 to 100
    ("better", pa.string()),  # higher, lower, neither
    ("unit", pa.string()),
    ("status", pa.string()),  # ok, undefined, error
    ("reason", pa.string()),
    ("n_steps", pa.int64()),
    ("step_values", pa.list_(pa.float32())),
    ("spans", pa.list_(pa.struct([("start", pa.int64()), ("stop", pa.int64()), ("reason", pa.string())]))),
    ("run_id", pa.string()),
)

EMBEDDINGS = _schema(
    ("episode_id", pa.string()),
    ("content_hash", pa.string()),
    ("start", pa.int64()),
    ("stop", pa.int64()),
    ("camera", pa.string()),
    ("embodiment", pa.string()),
    ("control_mode", pa.string()),
    ("vector", pa.list_(pa.float32())),
    ("encoder_version", pa.string()),
    ("run_id", pa.string()),
)

SELECTIONS = _schema(
    ("selection_id", pa.string()),
    ("name", pa.string()),
    ("method", pa.string()),
    ("rank", pa.int64()),  # order inside the selection; null for what was left out
    ("episode_id", pa.string()),
    ("content_hash", pa.string()),
    ("start", pa.int64()),
    ("stop", pa.int64()),
    ("weight", pa.float64()),  # positive, mean 1 over the selection; null for what was left out
    ("reason", pa.string()),
    ("inputs", pa.string()),  # canonical JSON: table versions, targets, space, fit, parameters, seed
    ("run_id", pa.string()),
    ("created_at", _TIME),
)

MIXTURES = _schema(
    ("mixture_id", pa.string()),
    ("name", pa.string()),
    ("path", pa.string()),
    ("episodes", pa.int64()),
    ("steps", pa.int64()),
    ("status", pa.string()),  # frozen, broken
    ("run_id", pa.string()),
    ("created_at", _TIME),
)

RUNS = _schema(
    ("run_id", pa.string()),
    ("verb", pa.string()),
    ("recipe_hash", pa.string()),
    ("recipe", pa.string()),  # the resolved canonical JSON
    ("state", pa.string()),  # running, completed, failed, cancelled
    ("error", pa.string()),
    ("result", pa.string()),  # canonical JSON
    ("started_at", _TIME),
    ("ended_at", _TIME),
)

RECEIPTS = _schema(
    ("dataset", pa.string()),
    ("source_fingerprint", pa.string()),
    ("receipt", pa.string()),  # canonical JSON
    ("run_id", pa.string()),
    ("created_at", _TIME),
)

QUARANTINE = _schema(
    ("dataset", pa.string()),
    ("source_key", pa.string()),
    ("code", pa.string()),
    ("reason", pa.string()),
    ("source_fingerprint", pa.string()),
    ("run_id", pa.string()),
    ("created_at", _TIME),
)

ANNOTATIONS = _schema(
    ("episode_id", pa.string()),
    ("content_hash", pa.string()),
    ("kind", pa.string()),  # segment, keypose, progress, reward, caption, ...
    ("start", pa.int64()),
    ("stop", pa.int64()),
    ("label", pa.string()),  # a short category
    ("text", pa.string()),  # words, or the raw answer of a judge
    ("value", pa.float64()),  # null, never NaN
    ("step_values", pa.list_(pa.float32())),  # a number a step of [start, stop)
    ("confidence", pa.float64()),  # 0 to 1
    ("reason", pa.string()),
    ("producer", pa.string()),
    ("version", pa.string()),
    ("config_hash", pa.string()),
    ("fit_id", pa.string()),
    ("run_id", pa.string()),
)

ITEM = pa.struct(
    [
        ("episode_id", pa.string()),
        ("start", pa.int64()),
        ("stop", pa.int64()),
        ("camera", pa.string()),  # that it was seen through; null where nothing was
        ("content_hash", pa.string()),
    ]
)

PREFERENCES = _schema(
    ("preference_id", pa.string()),
    ("collection", pa.string()),  # what it was gathered for: a reward is learned from one
    ("kind", pa.string()),  # pair, ranking, winner
    ("task", pa.string()),
    ("items", pa.list_(ITEM)),
    ("ranks", pa.list_(pa.int64())),  # of the items, 0 the best; equal ones tie, a winner's rivals all have 1
    ("probability", pa.float64()),  # of a pair, that the second is better; 0.5 a tie; null undecided
    ("reason", pa.string()),  # why it is undecided
    ("annotator", pa.string()),
    ("annotator_kind", pa.string()),  # human, model
    ("model", pa.string()),
    ("version", pa.string()),  # of the prompt and of how its answer is read
    ("prompt", pa.string()),
    ("answer", pa.string()),  # as it was given
    ("flipped", pa.bool_()),  # asked in both orders, it chose by the place; null where it was not
    ("reviews", pa.string()),  # the preference that this one read again
    ("contradicts", pa.bool_()),  # and says the opposite of
    ("run_id", pa.string()),
    ("created_at", _TIME),
)

EVALUATIONS = _schema(
    ("evaluation_id", pa.string()),
    ("checkpoint", pa.string()),
    ("mixture_id", pa.string()),
    ("task", pa.string()),
    ("initial_condition", pa.string()),  # the simulator, its options and the seed of its reset
    ("seed", pa.int64()),  # of the training
    ("success", pa.bool_()),
    ("progress", pa.float64()),
    ("rollout_episode_id", pa.string()),
    ("preferred_over", pa.string()),
    ("created_at", _TIME),
)

REMOVALS = _schema(
    ("mark", pa.string()),  # one-way: what is remembered of an episode after it was erased; null for an erase itself
    ("episode_id", pa.string()),  # null once erased
    ("dataset", pa.string()),
    ("state", pa.string()),  # removed, taken_back, erased
    ("rows", pa.int64()),  # of the episodes table, that an erase took from the dataset
    ("reason", pa.string()),
    ("revision", pa.int64()),  # newest wins
    ("run_id", pa.string()),
    ("created_at", _TIME),
)

Table = Literal[
    "datasets", "episodes", "scores", "annotations", "preferences", "evaluations", "selections", "mixtures", "runs",
    "receipts", "quarantine", "removals",
]  # fmt: skip

TABLES: dict[str, pa.Schema] = {
    "datasets": DATASETS,
    "episodes": EPISODES,
    "scores": SCORES,
    "annotations": ANNOTATIONS,
    "preferences": PREFERENCES,
    "evaluations": EVALUATIONS,
    "selections": SELECTIONS,
    "mixtures": MIXTURES,
    "runs": RUNS,
    "receipts": RECEIPTS,
    "quarantine": QUARANTINE,
    "removals": REMOVALS,
}
