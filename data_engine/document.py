"""What a mixture is on disk: its document, the schemas of its two tables, and the names in them."""

from __future__ import annotations

from typing import Literal

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, JsonValue

from data_engine.conventions.convert import Conversion
from data_engine.model import VIDEO, Dataset
from data_engine.sampling import Unit, WeightKind
from data_engine.statistics import FeatureStatistics

__all__ = [
    "EPISODES", "FILES", "FORMAT_VERSION", "Clustering", "Entry", "LabelColumn", "MixtureDocument", "ScorerLineage",
    "group_name",
]  # fmt: skip

FORMAT_VERSION = 1

EPISODES = pa.schema(
    [
        ("episode_id", pa.string()),
        ("content_hash", pa.string()),
        ("dataset", pa.string()),
        ("source_key", pa.string()),
        ("embodiment", pa.string()),
        ("control_mode", pa.string()),
        ("fps", pa.float64()),
        ("task", pa.string()),
        ("language", pa.list_(pa.string())),
        ("success", pa.bool_()),
        ("operator", pa.string()),
        ("provenance", pa.string()),
        ("parent", pa.string()),
        ("selection", pa.string()),  # the entry that the row belongs to
        ("split", pa.string()),
        ("start", pa.int64()),  # steps [start, stop) of the episode
        ("stop", pa.int64()),
        ("weight", pa.float64()),  # of the unit inside its entry
        ("steps_file", pa.string()),  # path inside the lake
        ("row_start", pa.int64()),  # the file row of step `start`
        ("row_count", pa.int64()),  # stop - start
        ("videos", pa.list_(VIDEO)),
    ]
)

FILES = pa.schema([("path", pa.string()), ("bytes", pa.int64()), ("sha256", pa.string())])


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Entry(_Part):
    """A selection and its weight among the others, in the mixture's weight kind."""

    selection: str
    weight: float = Field(gt=0, allow_inf_nan=False)


class ScorerLineage(_Part):
    """A scorer, encoder or weigher whose numbers the selections rest on."""

    scorer: str
    version: str
    config_hash: str
    fit_id: str | None = None


class LabelColumn(_Part):
    """A column that annotations give (:mod:`data_engine.relabelled`), numbers or texts, and who made them."""

    name: str
    producer: str
    kind: str
    of: Literal["number", "text"] = "number"
    version: str | None = None
    config_hash: str | None = None
    fit_id: str | None = None


class Clustering(_Part):
    """Groups of the episodes by an embedding space (:mod:`data_engine.groups`)."""

    name: str
    space: str
    encoder_version: str
    count: int = Field(ge=1)


class MixtureDocument(_Part):
    """``mixture.json``. What ``recorded`` and ``contents`` hold, and the name, are outside the identity.

    ``statistics``: ``"embodiment/control_mode" -> feature -> statistics`` over the steps of the train split.
    ``quotas``: provenance -> its share in what a split draws; empty where weights alone say
    (:mod:`data_engine.quotas`).
    ``conversions`` are applied to the steps by whoever reads them; ``datasets`` describe them as they then are.
    ``columns``: those of annotations, whose values lie beside, as do the groups of ``clusters``. ``contents``: sha256
    of the tables beside; ``seal`` that of the document itself. ``status`` is ``broken`` once a takedown removed
    something it needs, and ``reason`` then says what.
    """

    format_version: Literal[1] = 1
    mixture_id: str
    name: str
    weight_kind: WeightKind
    unit: Unit
    epoch_size: int | None = Field(default=None, ge=1)
    seed: int = 0
    entries: tuple[Entry, ...]
    splits: dict[str, float]
    quotas: dict[str, float] = Field(default_factory=dict)
    datasets: dict[str, Dataset]
    statistics: dict[str, dict[str, FeatureStatistics]]
    scorers: tuple[ScorerLineage, ...] = ()
    conversions: tuple[Conversion, ...] = ()
    columns: tuple[LabelColumn, ...] = ()
    clusters: tuple[Clustering, ...] = ()
    recorded: dict[str, JsonValue] = Field(default_factory=dict)
    contents: dict[str, str] = Field(default_factory=dict)
    status: Literal["frozen", "broken"] = "frozen"
    reason: str | None = None
    seal: str | None = None


def group_name(embodiment: str, control_mode: str) -> str:
    """The key of one group of statistics."""
    return f"{embodiment}/{control_mode}"
