"""Selections, mixtures and evaluations: what was chosen, frozen, and what it was worth."""

from __future__ import annotations

from typing import Annotated, Any

import polars as pl
from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import FileResponse, Response
from pydantic import BaseModel, ConfigDict, Field

from api.service import fence
from api.service.asking import Held, LiveLake
from api.service.routes.evidence import Entered
from api.service.rows import TABULAR, UNCHANGED, immutable, tabular, unchanged
from data_engine import mixture as mixtures
from data_engine import registry
from data_engine.document import MixtureDocument
from data_engine.errors import RequestError
from data_engine.recipe import MixtureRecipe, SelectRecipe
from flows.differences import mixture_difference
from flows.mix import locate, mix
from flows.outcomes import Outcome, bring_outcomes, compare_arms
from flows.progress import silent
from flows.runs import recorded
from flows.select import select, stored
from flows.selections import compare as compare_selections
from flows.selections import listing

__all__ = ["router"]

router = APIRouter(prefix="/v1")

Name = Annotated[str, Path(description="Its name, the newest of it, or its id.", max_length=200)]
MixtureId = Annotated[str, Path(description="Its id, a prefix of it, or its name.", max_length=200)]
_FILE = {
    200: {
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
        "description": "The file's bytes.",
    },
    206: {
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
        "description": "A part of them.",
    },
    304: {"description": "It is what you hold."},
    416: {"description": "It has no such range."},
}


class SelectionDifference(BaseModel):
    """What two selections have in common and apart, unit by unit, with the reason in each."""

    both: int
    only_first: list[str]
    only_second: list[str]
    reweighed: int
    inputs: dict[str, Any] = Field(description="Those that differ, each as [first's, second's].")
    items: list[dict[str, Any]]


class Choice(BaseModel):
    """A selection to make. Methods that compare vectors are long work: start a run of them."""

    model_config = ConfigDict(extra="forbid")

    recipe: SelectRecipe
    dataset: str | None = Field(default=None, max_length=200, description="Among this dataset's episodes.")
    episodes: list[str] | None = Field(default=None, min_length=1, max_length=1_000_000, description="Among these.")


class Chosen(BaseModel):
    """What was chosen."""

    selection_id: str
    name: str
    run_id: str
    candidates: int
    targets: int
    chosen: int
    undecided: int


class Frozen(BaseModel):
    """A mixture that is frozen now."""

    mixture_id: str
    name: str
    run_id: str
    episodes: int
    steps: int


class MixtureDifference(BaseModel):
    """What two mixtures have in common and apart."""

    first: str
    second: str
    same: int
    settings: dict[str, Any]
    only_first: list[dict[str, Any]]
    only_second: list[dict[str, Any]]
    changed: list[dict[str, Any]]


class Outcomes(BaseModel):
    """Rollouts to enter: all of them or none."""

    model_config = ConfigDict(extra="forbid")

    items: list[Outcome] = Field(min_length=1, max_length=100_000)


class Comparison(BaseModel):
    """How far policies trained on one mixture succeed more often than those on another."""

    first: str
    second: str
    tasks: list[dict[str, Any]]
    difference: dict[str, float] | None
    of: str | None
    mcnemar: dict[str, float] | None
    winner: str | None
    note: str | None


@router.get("/selections", tags=["selections"], responses=TABULAR, response_class=Response)
def selections(request: Request, lake: Held) -> Response:
    """Every selection, newest last."""
    schema = dict.fromkeys(("name", "method"), pl.String) | dict.fromkeys(("episodes", "steps"), pl.Int64)
    return tabular(request, pl.DataFrame(listing(lake), schema=schema | {"selection_id": pl.String}))


@router.get("/selections/{name}", tags=["selections"], responses=TABULAR, response_class=Response)
def selection(request: Request, name: Name, lake: Held) -> Response:
    """The rows of a selection: the chosen first, in order, then the rest, each with its reason."""
    rows = stored(lake, name)
    gone = rows.join(lake.episodes().select("episode_id"), on="episode_id", how="anti")
    kept = rows.join(gone.select("episode_id"), on="episode_id", how="anti", maintain_order="left")
    return tabular(request, kept, {"undecided": 0})


@router.get("/selections/{first}/diff/{second}", tags=["selections"])
def selections_diff(first: Name, second: Name, lake: Held) -> SelectionDifference:
    """What two selections have in common and apart."""
    return SelectionDifference(**compare_selections(lake, first, second))


@router.post("/selections", tags=["selections"], status_code=201)
def choose(body: Choice, live: LiveLake, lake: Held) -> Chosen:
    """Choose episodes and store the choice, which becomes the newest of its name."""
    fence.check_plugin(body.recipe, live.settings)
    method = registry.load("selectors", body.recipe.method)
    if method.needs_vectors or method.needs_clips or body.recipe.segments is not None:
        raise RequestError(f"method {body.recipe.method!r} is long work", code="long_work", fix="POST /v1/runs")
    recipe = body.recipe.model_copy(
        update={"params": registry.make("selectors", body.recipe.method, body.recipe.params).config}
    )
    found = lake.episodes(dataset=body.dataset)
    if body.episodes is not None:
        wanted = set(body.episodes)
        found = found.filter(pl.col("episode_id").is_in(list(wanted)))
        if len(found) < len(wanted):
            missing = min(wanted - set(found["episode_id"]))
            raise RequestError(f"no episode {missing!r} in the lake", code="unknown_episode", fix="see /v1/episodes")
    if not len(found):
        raise RequestError("there is no episode to choose from", code="no_candidates")
    with live.writing, recorded(live.lake, "select", recipe.model_dump(mode="json")) as run:
        answer = select(live.lake, recipe, found, progress=silent(), run_id=run.id)
        run.result = answer
    return Chosen(run_id=run.id, **{name: answer[name] for name in Chosen.model_fields if name != "run_id"})


@router.get("/mixtures", tags=["mixtures"], responses=TABULAR, response_class=Response)
def mixtures_list(request: Request, lake: Held) -> Response:
    """The frozen mixtures, newest last."""
    rows = lake.scan("mixtures").collect().sort("created_at")
    return tabular(request, rows.unique("mixture_id", keep="last", maintain_order=True))


@router.post("/mixtures", tags=["mixtures"], status_code=201)
def freeze(body: MixtureRecipe, live: LiveLake) -> Frozen:
    """Freeze a mixture of selections that are in the lake. Of very much it is long work: start a run of it."""
    for entry in body.entries:
        fence.check_plugin(entry, live.settings)
    recipe = body.model_copy(update={"name": body.name or "mixture"})
    with live.writing, recorded(live.lake, "mix", recipe.model_dump(mode="json")) as run:
        answer = mix(live.lake, recipe, run_id=run.id)
        run.result = answer
    return Frozen(run_id=run.id, **{name: answer[name] for name in Frozen.model_fields if name != "run_id"})


@router.get("/mixtures/{mixture_id}", tags=["mixtures"], responses=UNCHANGED)
def mixture(request: Request, response: Response, mixture_id: MixtureId, lake: Held) -> MixtureDocument:
    """The document of a mixture: its entries, datasets, statistics, lineage and what it was made from."""
    found = mixtures.open(locate(lake, mixture_id))
    if (same := unchanged(request, response, found.id)) is not None:
        return same  # type: ignore[return-value]
    return found.document


@router.get("/mixtures/{mixture_id}/statistics", tags=["mixtures"], responses=UNCHANGED)
def statistics(request: Request, response: Response, mixture_id: MixtureId, lake: Held) -> dict[str, Any]:
    """Normalisation statistics by (embodiment, control mode) and feature."""
    found = mixtures.open(locate(lake, mixture_id))
    if (same := unchanged(request, response, f"{found.id}-statistics")) is not None:
        return same  # type: ignore[return-value]
    return found.document.model_dump(mode="json")["statistics"]


@router.get(
    "/mixtures/{mixture_id}/episodes", tags=["mixtures"], responses=TABULAR | UNCHANGED, response_class=Response
)
def mixture_episodes(request: Request, mixture_id: MixtureId, lake: Held) -> Response:
    """The ranges of steps of a mixture with their weights and splits."""
    found = mixtures.open(locate(lake, mixture_id))
    headers, held = immutable(request, found.id, formed=True)
    return Response(status_code=304, headers=headers) if held else tabular(request, found.episodes, headers=headers)


@router.head("/mixtures/{mixture_id}/files/{path:path}", include_in_schema=False)
@router.get("/mixtures/{mixture_id}/files/{path:path}", tags=["mixtures"], response_class=Response, responses=_FILE)
def mixture_file(
    request: Request, mixture_id: MixtureId, lake: Held,
    path: Annotated[str, Path(description="`mixture.json`, `episodes.parquet`, `files.parquet`, or a path in the last.",
                              examples=["mixture.json"])],
) -> Response:  # fmt: skip
    """A file that a mixture is made of, by range: what a trainer needs to open the mixture elsewhere."""
    uri = locate(lake, mixture_id)
    found = mixtures.open(uri)
    inside = f"mixtures/{found.id}/{path}"
    own = path in ("mixture.json", "episodes.parquet", "files.parquet")
    if not own and path not in found.files:
        raise RequestError(f"{path[:200]!r} is no file of the mixture", code="unknown_file", fix="see files.parquet")
    headers, held = immutable(request, f"{found.id}-{path}" if own else path.rpartition("/")[2])
    if held:
        return Response(status_code=304, headers=headers)
    kind = "application/octet-stream"
    if own:
        return Response(lake.read_bytes(inside), headers=headers, media_type=kind)
    return FileResponse(found.local(path), headers=headers, media_type=kind)


@router.get("/mixtures/{first}/diff/{second}", tags=["mixtures"])
def mixtures_diff(first: MixtureId, second: MixtureId, lake: Held) -> MixtureDifference:
    """What two mixtures have in common and apart."""
    return MixtureDifference(**mixture_difference(lake, first, second))


@router.post("/evaluations", tags=["evaluations"], status_code=201)
def enter_outcomes(body: Outcomes, live: LiveLake) -> Entered:
    """Enter rollouts of policies that were trained elsewhere."""
    with live.writing:
        return Entered(**bring_outcomes(live.lake, body.items))


@router.get("/evaluations/compare", tags=["evaluations"])
def compare(
    lake: Held,
    first: Annotated[str, Query(description="A mixture's id.", min_length=1, max_length=200)],
    second: Annotated[str, Query(description="A mixture's id.", min_length=1, max_length=200)],
) -> Comparison:
    """How far policies trained on one mixture succeed more often than those trained on another."""
    return Comparison(**compare_arms(lake, first, second))
