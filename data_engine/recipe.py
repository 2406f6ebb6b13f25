"""The recipe: the YAML a person writes, and the one canonical JSON that is run, hashed and stored.

``template`` shows every key, ``validate`` says what is wrong in one line, ``render`` resolves shorthands, defaults and
overrides, ``schema`` is the JSON Schema. Only the resolved form is ever executed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from data_engine import registry
from data_engine.canonical import digest
from data_engine.conventions.convert import Conversion
from data_engine.errors import RequestError
from data_engine.fs import resolve as resolve_uri

__all__ = [
    "Base", "ColumnRecipe", "EntryRecipe", "ExportRecipe", "LabelRecipe", "MixtureRecipe", "Recipe", "ScheduleRecipe",
    "ScoreRecipe", "SegmentsRecipe", "SelectRecipe", "SourceRecipe", "SpaceRecipe", "Target", "apply_overrides",
    "parse", "read", "render", "schema", "template", "validate",
]  # fmt: skip

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_CONTAINERS = r"(\.(zarr|zip|hdf5|hdf|h5|tar|gz|tgz|npz|parquet|arrow|feather|bag|mcap|db3|mp4|m4v|mov|mkv|webm|avi))+$"
_MOST_VALUES = 100_000  # of a YAML file


def _name(value: Any) -> Any:
    if isinstance(value, str) and not _NAME.fullmatch(value):
        raise ValueError(f"{value!r} is no name: letters, digits, '.', '_' and '-', at most 100")
    return value


Name = Annotated[str, BeforeValidator(_name)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


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


class SegmentsRecipe(_Part):
    """Step ranges that a labeller named, to choose among in the place of whole episodes.

    ``where``: an expression over label, text, value, confidence, start, stop, steps and seconds of each.
    """

    producer: str
    kind: str = "segment"
    where: str | None = None


class SelectRecipe(_Part):
    """A selection to make among the episodes that ``where`` admits.

    ``within`` chooses in each stratum (scene, objects, task, operator, dataset) apart, towards its own targets: an
    automatic budget over several tasks at once grows too far, because one task's targets judge another's candidates.
    Strata share the budget by their ``size``, or by ``equal`` shares (what a small one cannot fill goes to the others).
    ``segments`` chooses among spans of those episodes, and of the targets, and the budget counts them.
    """

    name: Name
    method: str = "transport"
    space: str = "trajectory"
    target: Target | None = None
    budget: int | float | Literal["auto"] | None = None
    where: str | None = None
    within: tuple[Literal["task", "operator", "scene", "objects", "dataset"], ...] = ()
    shares: Literal["size", "equal"] = "size"
    segments: SegmentsRecipe | None = None
    params: dict[str, Any] = Field(default_factory=dict)
    seed: int = 0


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

    ``kind`` of the annotations is ``name`` where it is not given.
    """

    name: str = Field(min_length=1, max_length=200)
    producer: str
    kind: str | None = None


class MixtureRecipe(_Part):
    """What is frozen. Exactly one weight kind and an explicit unit, because every trainer means something else."""

    name: Name | None = None
    entries: tuple[EntryRecipe, ...] = ()
    weight_kind: Literal["probability", "repeat", "choose"] = "probability"
    unit: Literal["episode", "step", "dataset"] = "step"
    epoch_size: int | None = Field(default=None, ge=1)
    seed: int = 0
    splits: dict[Name, Annotated[float, Field(gt=0, le=1)]] = Field(default_factory=lambda: {"train": 1.0})
    conversions: tuple[Conversion, ...] = ()
    columns: tuple[ColumnRecipe, ...] = ()

    @model_validator(mode="after")
    def _whole(self) -> MixtureRecipe:
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
                raise ValueError("give source or sources, not both")
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
        for selection in self.select:
            if registry.load("selectors", selection.method).needs_vectors and selection.space not in spaces:
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


def read(path: str) -> dict[str, Any]:
    """The mapping in a YAML file. Raises ``RequestError`` where it is missing, no YAML or no mapping."""
    try:
        with open(path, encoding="utf-8") as file:
            value = parse(file.read())
    except OSError as error:
        raise RequestError(f"cannot read {path}: {error.strerror}", code="no_recipe") from error
    except ValueError as error:
        raise RequestError(f"{path} is not YAML: {error}", code="bad_recipe") from error
    if not isinstance(value, dict):
        raise RequestError(f"{path} holds no mapping", code="bad_recipe", fix="see `data-engine recipe template`")
    return value


def parse(text: str) -> Any:
    """The value of YAML ``text``: plain ones only, no tag makes an object.

    Raises ``ValueError`` for what is no YAML, is nested too deep, or comes to more than 100,000 values, which a few
    lines do whose aliases name one another.
    """
    import yaml

    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(str(error)) from error
    left, stack = _MOST_VALUES, [value]
    while stack:
        inner = stack.pop()
        left -= 1
        if left < 0:
            raise ValueError(f"it comes to more than {_MOST_VALUES:,} values")
        if isinstance(inner, list | dict):
            stack.extend(inner.values() if isinstance(inner, dict) else inner)
    return value


def apply_overrides(value: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """``value`` with each ``a.b=c`` set; c is read as YAML. A list is entered by index: ``sources.0.uri=...``.

    Raises ``RequestError`` for what is not of that form or walks into something that is no mapping.
    """
    import copy

    result: dict[str, Any] = copy.deepcopy(dict(value))
    for override in overrides:
        path, sign, text = override.partition("=")
        keys = path.strip().split(".")
        if not sign or not all(keys):
            raise RequestError(f"--set {override!r} is not of the form a.b=value", code="bad_override")
        try:
            new = parse(text)
        except ValueError as error:
            raise RequestError(f"--set {path}: {text!r} is not YAML", code="bad_override") from error
        node: Any = result
        try:
            for key in keys[:-1]:
                node = node[int(key)] if isinstance(node, list) else node.setdefault(key, {})
            if isinstance(node, list):
                node[int(keys[-1])] = new
            else:
                node[keys[-1]] = new
        except (TypeError, ValueError, IndexError, AttributeError) as error:
            raise RequestError(f"--set {path}: the recipe has no such place", code="bad_override") from error
    return result


def validate(value: Mapping[str, Any]) -> Recipe:
    """The resolved recipe of ``value``: shorthands, defaults and every plug-in's own options filled in.

    Raises ``RequestError`` with one line that names the place and, for an unknown key, the nearest known one.
    """
    try:
        recipe = Recipe.model_validate(value)
    except ValidationError as error:
        lacks_source = any(
            problem["loc"][-1:] == ("uri",) for problem in error.errors() if problem["type"] == "missing"
        )
        fix = "give it in the recipe, or as --set source.uri=PATH" if lacks_source and "source" in value else None
        raise RequestError(f"recipe: {registry.explain(error, Recipe)}", code="bad_recipe", fix=fix) from error
    spaces = [space.name for space in recipe.spaces]
    entries = recipe.mixture.entries or tuple(EntryRecipe(selection=selection.name) for selection in recipe.select)
    entries = tuple(
        entry.model_copy(update={"params": registry.make("weighers", entry.weigher, entry.params).config})
        for entry in entries
    )
    return recipe.model_copy(
        update={
            "sources": tuple(
                source.model_copy(update={"name": source.dataset, "uri": resolve_uri(source.uri)})
                for source in recipe.sources
            ),
            "spaces": tuple(
                space.model_copy(update={"params": registry.make("encoders", space.encoder, space.params).config})
                for space in recipe.spaces
            ),
            "score": tuple(_resolved_score(score) for score in recipe.score),
            "label": tuple(_resolved_label(item, spaces) for item in recipe.label),
            "select": _resolved_selections(recipe.select),
            "mixture": recipe.mixture.model_copy(
                update={"name": recipe.mixture.name or recipe.name, "entries": entries}
            ),
            "export": tuple(
                export.model_copy(
                    update={
                        "uri": resolve_uri(export.uri),
                        "options": registry.make("exporters", export.format, export.options).config,
                    }
                )
                for export in recipe.export
            ),
        }
    )


def render(path: str, overrides: Sequence[str] = ()) -> Recipe:
    """The resolved recipe of the YAML file at ``path`` with ``overrides`` applied."""
    return validate(apply_overrides(read(path), overrides))


def schema() -> dict[str, Any]:
    """The JSON Schema of a recipe."""
    return Recipe.model_json_schema()


def template() -> str:
    """A commented recipe with every key, ready to edit."""
    return _TEMPLATE


def _resolved_score(score: ScoreRecipe) -> ScoreRecipe:
    scorer = registry.make("scorers", score.scorer, score.params)
    if scorer.spec.base != "optional" and score.base is None and score.fit is None:
        raise RequestError(
            f"scorer {score.scorer!r} needs a base set",
            code="no_base",
            fix="add base: {where: ...}, {ids: [...]} or {selection: ...}",
        )
    return score.model_copy(update={"params": scorer.config})


def _resolved_label(item: LabelRecipe, spaces: Sequence[str]) -> LabelRecipe:
    labeller = registry.make("labellers", item.labeller, item.params)
    for name in labeller.needs.spaces:
        if name not in spaces:
            raise RequestError(
                f"labeller {item.labeller!r} reads space {name!r}; the recipe makes {', '.join(spaces) or 'none'}",
                code="bad_recipe",
                fix="add it to spaces, or name another in params",
            )
    return item.model_copy(update={"params": labeller.config})


def _resolved_selections(selections: Sequence[SelectRecipe]) -> tuple[SelectRecipe, ...]:
    resolved = tuple(_resolved_selection(selection) for selection in selections)
    for number, selection in enumerate(resolved):
        later = {item.name for item in resolved[number:]}
        for name in registry.make("selectors", selection.method, selection.params).needs_selections:
            if name in later:
                raise RequestError(
                    f"selection {selection.name!r} is made of {name!r}, which the recipe does not make before it",
                    code="bad_recipe",
                    fix=f"put {name!r} first",
                )
    return resolved


def _resolved_selection(selection: SelectRecipe) -> SelectRecipe:
    selector = registry.make("selectors", selection.method, selection.params)
    if selector.needs_targets and selection.target is None:
        raise RequestError(
            f"selection {selection.name!r}: method {selection.method!r} needs a target",
            code="bad_recipe",
            fix="add target: {where: ...}, {ids: [...]} or {top: 8, by: METRIC}",
        )
    if selection.budget == "auto" and not selector.has_auto_budget:
        raise RequestError(
            f"selection {selection.name!r}: method {selection.method!r} has no automatic budget",
            code="bad_recipe",
            fix="give a count or a share",
        )
    return selection.model_copy(update={"params": selector.config})


def _unique(what: str, names: Sequence[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{what} {name!r} is named twice")


_TEMPLATE = """\
# A recipe: from recordings to a frozen mixture. Run it with `data-engine curate FILE`.
name: my_mixture

sources:                       # or `source:` for a single one
  - uri: path/or/s3://bucket/dataset
    name: my_dataset           # default: from the URI
    format: auto               # or one of `data-engine formats`
    options: {}                # embodiment, control_mode, units, conventions, fps, task, ..., and the format's own
    by_reference: false        # true: encoded videos stay where they are; `data-engine check` reports drift

spaces:                        # where distances are measured
  - {name: trajectory, encoder: trajectory, params: {}}

score:                         # evidence; nothing is dropped by a score
  - {scorer: integrity, params: {}}
  - {scorer: action_divergence, params: {}}
  - {scorer: mutual_information, params: {}}
  # - {scorer: compatibility, base: {where: "operator = 'anna'"}}    # or {ids: [ep_...]} or {selection: NAME}

# label:                       # what is said of spans: segments, progress, rewards; their sums are scores, too
#   - {labeller: keyposes, params: {}}

select:
  - name: chosen
    method: transport          # or nearest, coverage, quality_coverage, semantic_dedup, top_fraction, random, filter;
                               # union, intersection, difference of selections: params: {of: [a, b]}
    space: trajectory
    target: {top: 8, by: mutual_information}     # or {where: "operator = 'anna'"} or {ids: [ep_...]}
    budget: 0.5                # a count, a share, or auto
    where: "integrity = 0"     # who may be chosen at all
    within: [task]             # choose in each stratum apart: scene, objects, task, operator, dataset
    shares: size               # of the budget, or equal
    seed: 0
    # segments: {producer: keyposes, where: "label = 'gripper_closes'"}   # choose spans, not whole episodes

mixture:
  entries:
    - {selection: chosen, weight: 1.0, weigher: selection}    # or uniform, size, temperature, score, remix,
                               # return_weighting, advantage_weighting; params: {...} are the weigher's
  weight_kind: probability     # probability, repeat or choose
  unit: step                   # episode, step or dataset
  epoch_size: null             # samples an epoch; default: the number of steps
  seed: 0
  splits: {train: 0.9, val: 0.1}
  conversions: []              # e.g. {dataset: x, column: action, from: deg, to: rad}; nothing else is rescaled
  columns: []                  # e.g. {name: reward, producer: uvd}: what a labeller gave each step, as a column

export:
  - {format: lerobot_v3, uri: "out/my_mixture-{mixture}"}   # {mixture}: the first digits of its id
"""
