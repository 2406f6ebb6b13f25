"""The recipe: the YAML a person writes, and the one canonical JSON that is run, hashed and stored.

``template`` shows every key, ``validate`` says what is wrong in one line, ``render`` resolves shorthands, defaults and
overrides, ``schema`` is the JSON Schema. Only the resolved form is ever executed. Its parts are in
``data_engine.recipe_parts``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from data_engine import registry
from data_engine.errors import RequestError
from data_engine.fs import resolve as resolve_uri
from data_engine.recipe_parts import (
    Base,
    ClusteringRecipe,
    ColumnRecipe,
    EntryRecipe,
    ExportRecipe,
    LabelRecipe,
    MixRecipe,
    MixtureRecipe,
    Recipe,
    ScheduleRecipe,
    ScoreRecipe,
    SegmentsRecipe,
    SelectRecipe,
    SourceRecipe,
    SpaceRecipe,
    Target,
)

__all__ = [
    "Base", "ClusteringRecipe", "ColumnRecipe", "EntryRecipe", "ExportRecipe", "LabelRecipe", "MixRecipe",
    "MixtureRecipe", "Recipe", "ScheduleRecipe", "ScoreRecipe", "SegmentsRecipe", "SelectRecipe", "SourceRecipe",
    "SpaceRecipe", "Target", "apply_overrides", "parse", "read", "render", "render_mix", "schema", "template",
    "validate", "validate_mix",
]  # fmt: skip

_MOST_VALUES = 100_000  # of a YAML file


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
            "mixture": _resolved_mixture(recipe.mixture, recipe.name, entries),
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


def validate_mix(value: Mapping[str, Any]) -> Recipe | MixRecipe:
    """The resolved recipe of ``value`` for freezing alone: without sources and selections, a mixture of stored ones."""
    if {"source", "sources", "select"} & set(value):
        return validate(value)
    try:
        recipe = MixRecipe.model_validate(value)
    except ValidationError as error:
        raise RequestError(f"recipe: {registry.explain(error, MixRecipe)}", code="bad_recipe") from error
    mixture = _resolved_mixture(recipe.mixture, recipe.name, recipe.mixture.entries)
    return recipe.model_copy(update={"mixture": mixture})


def render_mix(path: str, overrides: Sequence[str] = ()) -> Recipe | MixRecipe:
    """The resolved recipe of the YAML file at ``path`` for freezing alone (:func:`validate_mix`)."""
    return validate_mix(apply_overrides(read(path), overrides))


def schema() -> dict[str, Any]:
    """The JSON Schema of a recipe."""
    return Recipe.model_json_schema()


def template() -> str:
    """A commented recipe with every key, ready to edit."""
    return _TEMPLATE


def _resolved_mixture(mixture: MixtureRecipe, name: str, entries: Sequence[EntryRecipe]) -> MixtureRecipe:
    whole = tuple(
        entry.model_copy(update={"params": registry.make("weighers", entry.weigher, entry.params).config})
        for entry in entries
    )
    return mixture.model_copy(update={"name": mixture.name or name, "entries": whole})


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


_TEMPLATE = """\
# A recipe: from recordings to a frozen mixture. Run it with `data-engine curate FILE`.
name: my_mixture

source:                        # or `sources:`, a list of such, for several
  uri: path/to/demos.hdf5      # or s3://bucket/dataset
  name: my_dataset             # default: from the URI
  format: auto                 # or one of `data-engine formats`
  options: {}                  # embodiment, control_mode, units, conventions, fps, task, ..., and the format's own
  by_reference: false          # true: encoded videos stay where they are; `data-engine check` reports drift

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
  quotas: {}                   # e.g. {real: 0.6, sim: 0.4}: each provenance's share of an epoch, whatever the weights
  conversions: []              # e.g. {dataset: x, column: action, from: deg, to: rad}; nothing else is rescaled
  columns: []                  # e.g. {name: reward, producer: uvd}: what a labeller gave each step, as a column
  clusters: []                 # e.g. {space: trajectory, count: 16}: groups that a loader draws goals from

export:
  - {format: lerobot_v3, uri: "out/my_mixture-{mixture}"}   # {mixture}: the first digits of its id
"""
