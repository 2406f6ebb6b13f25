"""What a recipe says: the YAML that a person writes, as typed parts. ``data_engine.recipe`` reads and resolves it."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from data_engine import registry
from data_engine.canonical import digest
from data_engine.conventions.convert import Conversion
from data_engine.fs import resolve as resolve_uri

__all__ = [
    "Base", "ClusteringRecipe", "ColumnRecipe", "EntryRecipe", "ExportRecipe", "LabelRecipe", "MixRecipe",
    "MixtureRecipe", "Recipe", "ScheduleRecipe", "ScoreRecipe", "SegmentsRecipe", "SelectRecipe", "SourceRecipe",
    "SpaceRecipe", "Target", "dataset_name",
]  # fmt: skip

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_CONTAINERS = r"(\.(zarr|zip|hdf5|hdf|h5|tar|gz|tgz|npz|parquet|arrow|feather|bag|mcap|db3|mp4|m4v|mov|mkv|webm|avi))+$"


def _name(value: Any) -> Any:
    if isinstance(value, str) and not _NAME.fullmatch(value):
        raise ValueError(f"{value!r} is no name: letters, digits, '.', '_' and '-', at most 100")
    return value


Name = Annotated[str, BeforeValidator(_name)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


def _unique(what: str, names: Sequence[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{what} {name!r} is named twice")


class SourceRecipe(_Part):
    """Where episodes come from. ``name`` is the dataset's; without one it is made from the URI's last part.

    ``by_reference``: encoded videos stay where they are, and the lake keeps where that is and their hash.
    """

    name: Name | None = None
    uri: str = Field(min_length=1)
    format: str = "auto"
    options: dict[str, Any] = Field(default_factory=dict)
    by_reference: bool = False

    @property
    def dataset(self) -> str:
        """The dataset's name."""
        return self.name or dataset_name(self.uri)


class SpaceRecipe(_Part):
    """An embedding space: the encoder that makes its vectors and the encoder's parameters."""

    name: Name = "trajectory"
    encoder: str = "trajectory"
    params: dict[str, Any] = Field(default_factory=dict)
    fit: str | None = None


class Base(_Part):
    """The demonstrations that others are held against: an expression, ids, or a stored selection, of the whole lake.

    ``against`` (an expression): what a scorer of targets is to hold them against in turn, as failures are to successes.
    """

    where: str | None = None
    ids: tuple[str, ...] | None = None
    selection: str | None = None
    against: str | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> Base:
        if sum(value is not None for value in (self.where, self.ids, self.selection)) != 1:
            raise ValueError("give exactly one of where, ids or selection")
        return self


class ScoreRecipe(_Part):
    """A scorer to run. ``fit`` names a stored fit; without one it is fitted on ``base``, or on the recipe's episodes.

    What ``base`` is to a scorer, its ``Spec`` says: for ``influence`` the targets, and it trains on the rest.
    """

    scorer: str
    params: dict[str, Any] = Field(default_factory=dict)
    base: Base | None = None
    fit: str | None = None

    @model_validator(mode="after")
    def _one_reference(self) -> ScoreRecipe:
        if self.base is not None and self.fit is not None:
            raise ValueError("give base or fit, not both: a fit was made on its own base set")
        return self


class LabelRecipe(_Part):
    """A labeller to run. ``fit`` names a stored fit; without one it is fitted on the recipe's episodes."""

    labeller: str
    params: dict[str, Any] = Field(default_factory=dict)
    fit: str | None = None


class Target(_Part):
    """What to select towards: an expression, ids, or the best ``top`` by a metric. Targets are never candidates."""

    where: str | None = None
    ids: tuple[str, ...] | None = None
    top: int | None = Field(default=None, ge=1)
    by: str | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> Target:
        if sum(value is not None for value in (self.where, self.ids, self.top)) != 1:
            raise ValueError("give exactly one of where, ids, or top with by")
        if (self.top is None) != (self.by is None):
            raise ValueError("top and by go together, as in {top: 8, by: mutual_information}")
        return self


def _budget(value: Any) -> Any:
    try:
        if isinstance(value, bool):
            raise TypeError
        if value not in (None, "auto"):
            float(value)  # which of the two it is, pydantic says
        return value
    except (TypeError, ValueError) as error:
        raise ValueError(f"{value!r} is neither a count, nor a share in (0, 1], nor auto") from error


def _some(value: int | float | Literal["auto"] | None) -> int | float | Literal["auto"] | None:
    if isinstance(value, int | float) and value <= 0:
        raise ValueError(f"{value:g} chooses nothing; give a count of at least 1, or a share in (0, 1]")
    if isinstance(value, float) and not value <= 1:
        raise ValueError(f"{value:g} is not a share in (0, 1]; give 0.5, or 50 for a count")
    return value


class SegmentsRecipe(_Part):
    """Step ranges that a labeller named, to choose among in the place of whole episodes.

    ``where``: an expression over label, text, value, confidence, start, stop, steps and seconds of each.
    """

    producer: str
    kind: str = "segment"
    where: str | None = None


class SelectRecipe(_Part):
    """A selection to make among the episodes that ``where`` admits.

    ``within`` chooses in each stratum (scene, objects, task, operator, dataset) apart, towards its own targets: over
    several at once an automatic budget asks how near the targets of all of them lie to each other.
    Strata share the budget by their ``size``, or by ``equal`` shares (what a small one cannot fill goes to the others).
    ``segments`` chooses among spans of those episodes, and of the targets, and the budget counts them; ``retrieval``
    cuts its targets only, and finds the spans itself. ``unit`` ``dataset`` chooses among whole datasets by the mean of
    their episodes, and the budget counts those; targets stay episodes.
    """

    name: Name
    method: str = "transport"
    space: str = "trajectory"
    target: Target | None = None
    budget: Annotated[int | float | Literal["auto"] | None, BeforeValidator(_budget), AfterValidator(_some)] = None
    where: str | None = None
    within: tuple[Literal["task", "operator", "scene", "objects", "dataset"], ...] = ()
    shares: Literal["size", "equal"] = "size"
    segments: SegmentsRecipe | None = None
    unit: Literal["episode", "dataset"] = "episode"
    params: dict[str, Any] = Field(default_factory=dict)
    seed: int = 0

    @model_validator(mode="after")
    def _one_unit(self) -> SelectRecipe:
        if self.unit == "dataset" and (self.segments is not None or self.within):
            raise ValueError("unit: dataset goes without segments and within")
        return self


class EntryRecipe(_Part):
    """One part of a mixture: a selection, its weight among the parts, and how its episodes are weighed inside it.

    ``params`` are the weigher's.
    """

    selection: Name
    weight: float = Field(default=1.0, gt=0)
    weigher: str = "selection"
    params: dict[str, Any] = Field(default_factory=dict)


class ColumnRecipe(_Part):
    """A column that a labeller's annotations give the steps, one number each: ``{name: reward, producer: uvd}``.

    ``kind`` of the annotations is ``name`` where it is not given. ``of: text``: their words instead (a span's ``text``,
    else its ``label``), at each step of the span.
    """

    name: str = Field(min_length=1, max_length=200)
    producer: str
    kind: str | None = None
    of: Literal["number", "text"] = "number"


class ClusteringRecipe(_Part):
    """Groups of the mixture's episodes by a space, at most ``count``, that random goals keep to.

    ``Goals(clusters=NAME)`` names them, by the space where they have no ``name``.
    """

    name: Name | None = None
    space: Name = "trajectory"
    count: int = Field(default=16, ge=1, le=100_000)
    seed: int = 0

    @property
    def called(self) -> str:
        """What goals name them by."""
        return self.name or self.space


class MixtureRecipe(_Part):
    """What is frozen. Exactly one weight kind and an explicit unit, because every trainer means something else."""

    name: Name | None = None
    entries: tuple[EntryRecipe, ...] = ()
    weight_kind: Literal["probability", "repeat", "choose"] = "probability"
    unit: Literal["episode", "step", "dataset"] = "step"
    epoch_size: int | None = Field(default=None, ge=1)
    seed: int = 0
    splits: dict[Name, Annotated[float, Field(gt=0, le=1)]] = Field(default_factory=lambda: {"train": 1.0})
    quotas: dict[str, Annotated[float, Field(gt=0, le=1)]] = Field(default_factory=dict)
    conversions: tuple[Conversion, ...] = ()
    columns: tuple[ColumnRecipe, ...] = ()
    clusters: tuple[ClusteringRecipe, ...] = ()

    @model_validator(mode="after")
    def _whole(self) -> MixtureRecipe:
        _unique("clusters", [each.called for each in self.clusters])
        if abs(sum(self.splits.values()) - 1.0) > 1e-9:
            raise ValueError(f"splits sum to {sum(self.splits.values()):g}, not 1")
        return self


class ExportRecipe(_Part):
    """A dialect to hand the mixture over in. ``{mixture}`` in ``uri`` becomes the mixture's first 12 digits."""

    format: str
    uri: str = Field(min_length=1)
    options: dict[str, Any] = Field(default_factory=dict)


class ScheduleRecipe(_Part):
    """When a server runs the recipe: a cron line or an interval in seconds."""

    cron: str | None = None
    interval_s: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _one_kind(self) -> ScheduleRecipe:
        if (self.cron is None) == (self.interval_s is None):
            raise ValueError("give either cron or interval_s")
        return self


class MixRecipe(_Part):
    """A mixture of selections that are there already: what ``mix`` needs of a recipe and no more.

    ``label``: which fits of labellers the mixture's columns are of; the newest otherwise.
    """

    name: Name = "mixture"
    mixture: MixtureRecipe
    label: tuple[LabelRecipe, ...] = ()

    @model_validator(mode="after")
    def _has_entries(self) -> MixRecipe:
        if not self.mixture.entries:
            raise ValueError("the mixture has no entries; name a selection: entries: [{selection: NAME}]")
        return self

    @property
    def hash(self) -> str:
        """sha256 of the canonical JSON, 64 hex digits."""
        return digest(self.model_dump(mode="json"))


class Recipe(_Part):
    """The whole of a curation, as written or as resolved."""

    name: Name = "recipe"
    sources: tuple[SourceRecipe, ...] = Field(min_length=1)
    spaces: tuple[SpaceRecipe, ...] = (SpaceRecipe(),)
    score: tuple[ScoreRecipe, ...] = ()
    label: tuple[LabelRecipe, ...] = ()
    select: tuple[SelectRecipe, ...] = Field(min_length=1)
    mixture: MixtureRecipe = MixtureRecipe()
    export: tuple[ExportRecipe, ...] = ()
    schedule: ScheduleRecipe | None = None

    @model_validator(mode="before")
    @classmethod
    def _shorthand(cls, value: Any) -> Any:
        if isinstance(value, Mapping) and "source" in value:
            if "sources" in value:
                raise ValueError("give source or sources, not both (--set reaches one of several as sources.0.uri)")
            value = {**{key: part for key, part in value.items() if key != "source"}, "sources": [value["source"]]}
        return value

    @model_validator(mode="after")
    def _names_agree(self) -> Recipe:
        _unique("dataset", [source.dataset for source in self.sources])
        _unique("selection", [selection.name for selection in self.select])
        _unique("space", [space.name for space in self.spaces])
        known = {selection.name for selection in self.select}
        for entry in self.mixture.entries:
            if entry.selection not in known:
                raise ValueError(
                    f"mixture names selection {entry.selection!r}; the recipe makes {', '.join(sorted(known))}"
                )
        spaces = {space.name for space in self.spaces}
        for clusters in self.mixture.clusters:
            if clusters.space not in spaces:
                made = ", ".join(sorted(spaces)) or "none"
                raise ValueError(f"clusters {clusters.called!r} name space {clusters.space!r}; the recipe makes {made}")
        for selection in self.select:
            method = registry.load("selectors", selection.method)
            if (method.needs_vectors or method.needs_clips) and selection.space not in spaces:
                made = ", ".join(sorted(spaces)) or "none"
                raise ValueError(
                    f"selection {selection.name!r} names space {selection.space!r}; the recipe makes {made}"
                )
        return self

    @property
    def hash(self) -> str:
        """sha256 of the canonical JSON, 64 hex digits."""
        return digest(self.model_dump(mode="json"))


def dataset_name(uri: str) -> str:
    """A dataset name made from a URI's last part, without the endings of containers; of a folder named by a version
    alone (``bridge/1.0.0``), from the part before."""
    path = resolve_uri(uri)
    while re.fullmatch(r"v?\d+(\.\d+)+", os.path.basename(path)):
        path = os.path.dirname(path)
    stem = re.sub(_CONTAINERS, "", os.path.basename(path), flags=re.IGNORECASE)
    return re.sub(r"[^A-Za-z0-9._-]+", "_", stem).strip("._-")[:100] or "dataset"
