"""Scores, annotations, preferences and search."""

from __future__ import annotations

import base64
from tempfile import NamedTemporaryFile
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field

from api.service.asking import (
    After,
    Caller,
    Columns,
    Held,
    Limit,
    LiveLake,
    OrderBy,
    Where,
    limit_of,
    split,
)
from api.service.rows import TABULAR, paged
from data_engine.errors import RequestError
from data_engine.preferences import Tally
from flows.annotate import Said, annotate
from flows.distribution import distribution
from flows.paging import page
from flows.preferences import enter, tallies
from flows.progress import silent

__all__ = ["router"]

router = APIRouter(prefix="/v1")


class Share(BaseModel):
    """The value that a share of episodes is at or below."""

    share: float
    value: float


class Distribution(BaseModel):
    """How a score is distributed over episodes."""

    name: str
    unit: str | None
    better: Literal["higher", "lower", "neither"]
    episodes: int = Field(description="Admitted by the expression.")
    undecided: int = Field(description="Left out: the expression is null for them.")
    nulls: int = Field(description="Of the admitted, without a finite value.")
    min: float | None
    max: float | None
    mean: float | None
    edges: list[float] = Field(description="Of the histogram's bins; one more than there are counts.")
    counts: list[int]
    quantiles: list[Share]


class Entered(BaseModel):
    """What a write came to. What is there already is not entered again."""

    added: int
    already: int


class Annotations(BaseModel):
    """Annotations to enter: all of them or none."""

    model_config = ConfigDict(extra="forbid")

    items: list[Said] = Field(min_length=1, max_length=10_000)


class Preferred(BaseModel):
    """One preference: ``first``, ``second`` and a ``verdict`` or ``probability``; or a ``ranking``; or a ``winner`` of
    ``items``. An item is ``EPISODE[:START-STOP][@CAMERA]``.
    """

    model_config = ConfigDict(extra="forbid")

    first: str | None = Field(default=None, max_length=500)
    second: str | None = Field(default=None, max_length=500)
    verdict: Literal["first", "second", "tie", "unsure"] | None = None
    probability: float | None = Field(default=None, ge=0, le=1, description="That the second is better.")
    ranking: list[str | list[str]] | None = Field(
        default=None, max_length=1000, description="Best first; ties in lists."
    )
    winner: str | None = Field(default=None, max_length=500)
    items: list[str] | None = Field(default=None, max_length=1000)
    task: str | None = Field(default=None, max_length=1000)
    reason: str | None = Field(default=None, max_length=1000)


class Preferences(BaseModel):
    """Preferences to enter: all of them or none."""

    model_config = ConfigDict(extra="forbid")

    collection: str = Field(default="default", min_length=1, max_length=200)
    items: list[Preferred] = Field(min_length=1, max_length=10_000)


class Tallies(BaseModel):
    """What each collection holds."""

    items: list[Tally]


class Search(BaseModel):
    """What to find the like of: exactly one of an episode, a text, a picture and a vector; with ``start`` and ``stop``
    a part of the episode, among parts of others."""

    model_config = ConfigDict(extra="forbid")

    episode: str | None = Field(default=None, max_length=200)
    start: int | None = Field(default=None, ge=0, le=2**53, description="First step of the part.")
    stop: int | None = Field(default=None, ge=1, le=2**53, description="The step after its last.")
    camera: str | None = Field(default=None, max_length=200, description="That shows the part; default: the first.")
    text: str | None = Field(default=None, min_length=1, max_length=2000, description="Of what a frame shows.")
    image: str | None = Field(default=None, max_length=12 << 20, description="A picture file, in base64.",
                              json_schema_extra={"contentEncoding": "base64"})  # fmt: skip
    vector: list[float] | None = Field(default=None, min_length=1, max_length=65_536, description="In the space.")
    space: str = Field(default="trajectory", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
    k: int = Field(default=10, ge=1, le=1000)
    where: str | None = Field(default=None, max_length=8192)


class Hits(BaseModel):
    """Episodes, nearest first."""

    items: list[dict[str, Any]]


def _table(name: str, tag: str, what: str) -> None:
    """A route that pages through a table."""

    def read(
        request: Request, lake: Held, where: Where = None, order_by: OrderBy = None, columns: Columns = None,
        limit: Limit = None, after: After = None,
    ) -> Response:  # fmt: skip
        found = page(
            lake, where, table=name, columns=split(columns) or None, order_by=split(order_by),
            limit=limit_of(request, limit), after=after,
        )  # fmt: skip
        return paged(request, found)

    router.add_api_route(
        f"/{name}", read, methods=["GET"], tags=[tag], responses=TABULAR, response_class=Response, name=name,
        summary=what, operation_id=name,
    )  # fmt: skip


_table("scores", "scores", "Scores, whatever they measure; step values are at /v1/episodes/{id}/step-values.")
_table("annotations", "annotations", "What people and models said of spans of steps.")
_table("preferences", "preferences", "Which behaviour is better, as people and models said.")
_table("evaluations", "evaluations", "Rollouts of trained policies.")
_table("quarantine", "datasets", "What could not be read, and why.")


@router.get("/scores/{name}/distribution", tags=["scores"])
def score_distribution(
    name: Annotated[str, Path(description="As in expressions.", examples=["action_divergence"], max_length=200)],
    lake: Held,
    where: Where = None,
    bins: Annotated[int, Query(ge=1, le=1000)] = 50,
    quantiles: Annotated[
        str | None, Query(description="Comma-separated shares from 0 to 1.", max_length=1000, examples=["0.1,0.5,0.9"])
    ] = None,
) -> Distribution:
    """A histogram and quantiles of a score over the episodes that an expression admits."""
    asked = {"quantiles": _shares(quantiles)} if quantiles is not None else {}
    return Distribution(**distribution(lake, name, where=where, bins=bins, **asked))


def _shares(text: str) -> list[float]:
    try:
        shares = [float(part) for part in split(text)]
    except ValueError:
        shares = []
    if not shares or not all(0 <= share <= 1 for share in shares):
        raise RequestError(f"{text[:100]!r} are no shares", code="bad_quantiles", fix="as in 0.1,0.5,0.9")
    return shares


@router.post("/annotations", tags=["annotations"], status_code=201)
def enter_annotations(body: Annotations, live: LiveLake, caller: Caller) -> Entered:
    """Enter what a person says of spans of episodes, under the key's name."""
    with live.writing:
        return Entered(**annotate(live.lake, body.items, caller.name))


@router.get("/preferences/tallies", tags=["preferences"])
def preference_tallies(lake: Held) -> Tallies:
    """What each collection holds: counts, annotators, how often a judge chose by the place or was contradicted."""
    return Tallies(items=tallies(lake))


@router.post("/preferences", tags=["preferences"], status_code=201)
def enter_preferences(body: Preferences, live: LiveLake, caller: Caller) -> Entered:
    """Enter what a person prefers, under the key's name."""
    rows = [item.model_dump(exclude_none=True) for item in body.items]
    with live.writing:
        answer = enter(live.lake, rows, "the request", collection=body.collection, annotator=caller.name,
                       progress=silent(), whole=True)  # fmt: skip
    return Entered(added=answer["added"], already=answer["already"])


@router.post("/search", tags=["search"])
def search(body: Search, lake: Held) -> Hits:
    """The episodes nearest to one in an embedding space, of its own kind of robot; or the parts of episodes nearest to
    a part of one, whatever their speed; or those that hold the nearest to a text or a vector, and where they do.
    """
    if sum(given is not None for given in (body.episode, body.text, body.image, body.vector)) != 1:
        raise RequestError("a search is for one thing", code="bad_request", fix="give episode, text, image or vector")
    if (body.start, body.stop, body.camera) != (None, None, None):
        if body.episode is None or body.start is None or body.stop is None or body.start >= body.stop:
            raise RequestError(
                "a part is of an episode, from start to stop", code="bad_range", fix="give episode, start < stop"
            )
        from flows.retrieve import parts_like

        found = parts_like(
            lake, body.space, body.episode, body.start, body.stop, camera=body.camera, k=body.k, where=body.where
        )
        return Hits(items=found["items"])
    if body.episode is not None:
        from flows.index import search as find

        return Hits(items=find(lake, body.space, body.episode, k=body.k, where=body.where))
    from flows.search import like, seen

    if body.vector is not None:
        return Hits(items=like(lake, body.space, body.vector, k=body.k, where=body.where))
    if body.image is not None:
        try:
            data = base64.b64decode(body.image, validate=True)
        except ValueError as error:
            raise RequestError("image is no base64", code="bad_image", fix="encode the file's bytes") from error
        with NamedTemporaryFile(suffix=".picture") as file:
            file.write(data)
            file.flush()
            return Hits(items=seen(lake, body.space, image=file.name, k=body.k, where=body.where))
    return Hits(items=seen(lake, body.space, text=body.text, k=body.k, where=body.where))
