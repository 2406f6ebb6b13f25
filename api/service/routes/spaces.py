"""Embedding spaces, drawn flat."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query
from pydantic import BaseModel, Field

from api.service.asking import Held, Where
from api.service.routes.overview import Space
from data_engine.errors import RequestError
from flows.overview import spaces as all_spaces
from flows.projection import coloured, project
from storage.snapshot import Snapshot

__all__ = ["router"]

router = APIRouter(prefix="/v1/spaces", tags=["search"])

_MOST = 20_000  # points of a map


class Spaces(BaseModel):
    """The embedding spaces of the lake."""

    items: list[Space]


class Map(BaseModel):
    """Episodes on the two principal directions of their vectors; a place of each list is an episode."""

    space: str
    embodiment: str | None
    control_mode: str | None
    seen: float = Field(description="The share of the vectors' variance that lies in the picture.")
    episodes: int = Field(description="That belong in the picture; of very many an even part is shown.")
    colour: str
    episode_id: list[str]
    x: list[float]
    y: list[float]
    value: list[Any] = Field(description="Of the colour's column or score; null where it is not known.")


def _held(lake: Snapshot) -> list[dict[str, Any]]:
    versions = tuple((name, lake.version(name)) for name in sorted(lake.tables("embeddings/")))
    return lake.remembered(("spaces", versions), lambda: all_spaces(lake), ("episodes", "removals"))


@router.get("")
def spaces(lake: Held) -> Spaces:
    """The embedding spaces, each with the groups of episodes whose vectors may be compared."""
    return Spaces(items=[Space(**each) for each in _held(lake)])


@router.get("/{space}/map")
def flat(
    space: Annotated[str, Path(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$", examples=["trajectory"])],
    lake: Held,
    where: Where = None,
    colour: Annotated[str, Query(description="A column of episodes, or a score as in expressions.", max_length=200)] = (
        "dataset"
    ),
    group: Annotated[
        int, Query(description="Which of the space's groups, as /v1/spaces lists them.", ge=0, le=9999)
    ] = 0,
) -> Map:
    """The episodes of one comparable group, flat, with something to colour them by."""
    named = {each["space"]: each["groups"] for each in _held(lake)}
    if space not in named or group >= len(named[space]):
        known = ", ".join(named) or "none"
        what = f"space {space!r} has no group {group}" if space in named else f"no space {space!r}"
        raise RequestError(what, code="unknown_space", fix=f"there are: {known}")
    kind = (named[space][group]["embodiment"], named[space][group]["control_mode"])
    points, seen = lake.remembered(
        ("map", space, kind, lake.version(f"embeddings/{space}")),
        lambda: project(lake, space, *kind),
        ("episodes", "removals"),
    )
    shown, count = coloured(lake, points, colour, where, _MOST)
    columns = shown.to_dict(as_series=False)
    return Map(
        space=space, embodiment=kind[0], control_mode=kind[1], seen=seen, episodes=count, colour=colour, **columns
    )
