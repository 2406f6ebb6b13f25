"""What the lake holds, at a glance."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel, Field

from api.service.asking import Held
from flows.overview import overview as look

__all__ = ["Space", "router"]

router = APIRouter(prefix="/v1", tags=["datasets"])


class Measured(BaseModel):
    """A score that there is of episodes, named as expressions name it."""

    name: str
    unit: str | None
    better: Literal["higher", "lower", "neither"]
    episodes: int


class Group(BaseModel):
    """Episodes whose vectors may be compared."""

    embodiment: str | None
    control_mode: str | None
    episodes: int


class Space(BaseModel):
    """An embedding space."""

    space: str
    groups: list[Group]


class Overview(BaseModel):
    """How much there is, and what may be asked of it."""

    datasets: int
    episodes: int
    steps: int
    hours: float
    columns: list[str] = Field(description="Of episodes, that expressions may name.")
    scores: list[Measured] = Field(description="That expressions may name, a scorer's headline first.")
    spaces: list[Space]


@router.get("/overview")
def overview(lake: Held) -> Overview:
    """How much there is, which scores there are, and which embedding spaces."""
    tables = ("episodes", "removals", "scores", "datasets")
    spaces = tuple((name, lake.version(name)) for name in sorted(lake.tables("embeddings/")))
    return Overview(**lake.remembered(("overview", spaces), lambda: look(lake), tables))
