"""What a run may be: a verb with its recipe, checked against what requests may name, and done in the child."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from api.service import fence
from api.service.settings import Settings
from data_engine import recipe as recipes
from data_engine import registry
from data_engine.errors import RequestError
from data_engine.recipe import (
    ExportRecipe,
    LabelRecipe,
    MixtureRecipe,
    ScoreRecipe,
    SelectRecipe,
    SourceRecipe,
    SpaceRecipe,
)

__all__ = ["Work", "check", "perform"]


class _Work(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class _OfEpisodes(_Work):
    dataset: str | None = Field(default=None, max_length=200)
    where: str | None = Field(default=None, max_length=8192)


class Curate(_Work):
    """A recipe from its sources to a frozen mixture."""

    verb: Literal["curate"]
    recipe: dict[str, Any] = Field(examples=[{"source": {"uri": "s3://demos/kitchen"}, "select": [{"name": "all"}]}])


class Ingest(_Work):
    """A source into the lake."""

    verb: Literal["ingest"]
    source: SourceRecipe


class Score(_OfEpisodes):
    """Episodes measured. Asked again, it goes on with the fits that it made, unless it is to ``refit``."""

    verb: Literal["score"]
    scorers: tuple[ScoreRecipe, ...] = Field(min_length=1, max_length=100)
    refit: bool = False


class Label(_OfEpisodes):
    """Spans of episodes annotated."""

    verb: Literal["label"]
    labellers: tuple[LabelRecipe, ...] = Field(min_length=1, max_length=100)


class Embed(_OfEpisodes):
    """Episodes embedded, and the space indexed."""

    verb: Literal["embed"]
    space: SpaceRecipe


class Select(_OfEpisodes):
    """Episodes chosen."""

    verb: Literal["select"]
    recipe: SelectRecipe


class Mix(_Work):
    """A mixture frozen."""

    verb: Literal["mix"]
    recipe: MixtureRecipe


class Export(_Work):
    """A mixture written in a trainer's own format, and read back."""

    verb: Literal["export"]
    mixture: str = Field(max_length=200)
    export: ExportRecipe


Work = Annotated[Curate | Ingest | Score | Label | Embed | Select | Mix | Export, Field(discriminator="verb")]


def check(work: Work, settings: Settings) -> None:
    """Raise ``RequestError`` where the work names what is not there, or what requests may not."""
    if isinstance(work, Curate):
        fence.check_recipe(recipes.validate(work.recipe), settings)
    elif isinstance(work, Ingest):
        fence.check_source(work.source, settings)
    elif isinstance(work, Export):
        fence.check_export(work.export, settings)
        registry.make("exporters", work.export.format, work.export.options)
    else:
        for kind, name, part in _plugins(work):
            registry.make(kind, name, part.params)
            fence.check_plugin(part, settings)


def _plugins(work: Work) -> list[tuple[str, str, Any]]:
    if isinstance(work, Score):
        return [("scorers", part.scorer, part) for part in work.scorers]
    if isinstance(work, Label):
        return [("labellers", part.labeller, part) for part in work.labellers]
    if isinstance(work, Embed):
        return [("encoders", work.space.encoder, work.space)]
    if isinstance(work, Mix):
        return [("weighers", part.weigher, part) for part in work.recipe.entries]
    return [("selectors", work.recipe.method, work.recipe)] if isinstance(work, Select) else []


def perform(lake_uri: str, work: Work, flow_run: str | None = None, gpu_runs: int = 1) -> dict[str, Any]:
    """Do the work in this process and return what it came to; as ``flow_run`` of Prefect's, where it is one.

    ``gpu_runs``: of the runs that compute, how many at a time do so where there is a GPU.
    """
    if isinstance(work, Curate | Score | Label | Embed):
        from flows.turns import gpu_turn

        with gpu_turn(gpu_runs):
            return _perform(lake_uri, work, flow_run)
    return _perform(lake_uri, work, flow_run)


def _perform(lake_uri: str, work: Work, flow_run: str | None) -> dict[str, Any]:
    from flows.curate import curate
    from flows.earlier_fit import going_on
    from flows.executor import executor
    from flows.export import export
    from flows.index import embed, index
    from flows.ingest import ingest
    from flows.label import label
    from flows.mix import locate, mix
    from flows.progress import logged
    from flows.runs import recorded
    from flows.score import score
    from flows.select import select
    from storage.lake import Lake

    if isinstance(work, Curate):
        if flow_run is not None:
            from flows.prefect_flow import perform as as_flow

            answer = as_flow(flow_run)
        else:
            answer = curate(lake_uri, recipes.validate(work.recipe), progress=logged())
        return {name: answer[name] for name in ("mixture_id", "exports", "datasets", "timings", "warnings")}
    lake = Lake.open(lake_uri)
    progress = logged()
    asked = work.model_dump(mode="json")
    with recorded(lake, work.verb, asked) as run, executor() as on:
        common = {"progress": progress, "run_id": run.id}
        if isinstance(work, Ingest):
            receipt = ingest(lake, work.source, on=on, **common)
            result = {key: receipt[key] for key in ("dataset", "in", "stored", "unchanged")}
        elif isinstance(work, Score):
            found = _episodes(lake, work)
            parts = list(work.scorers)
            if not work.refit:
                parts = going_on(lake, parts, found, dataset=work.dataset, where=work.where, progress=progress)
            result = {"items": [score(lake, part, found, on=on, **common) for part in parts]}
        elif isinstance(work, Label):
            found = _episodes(lake, work)
            result = {"items": [label(lake, part, found, on=on, **common) for part in work.labellers]}
        elif isinstance(work, Embed):
            found = _episodes(lake, work)
            result = embed(lake, work.space, found, on=on, **common)
            if len(result["empty"]) < len(found):
                result["indices"] = index(lake, work.space.name, found, result["encoder_version"])
        elif isinstance(work, Select):
            result = select(lake, work.recipe, _episodes(lake, work), **common)
        elif isinstance(work, Mix):
            result = mix(lake, work.recipe, run_id=run.id)
        else:
            out = work.export
            uri = locate(lake, work.mixture)
            made = export(uri, out.format, out.uri, options=out.options, verify=True)
            result = {"mixture_id": uri.rpartition("/")[2], "exports": [made]}
        run.result = result
    return {**result, "warnings": progress.warned}


def _episodes(lake: Any, work: _OfEpisodes) -> Any:
    from flows.query import matching

    found, _ = matching(lake, lake.episodes(dataset=work.dataset), work.where)
    if not len(found):
        raise RequestError("no episode is meant by dataset and where", code="no_episodes")
    return found
