"""Recipes: what may be written, what is wrong; and what is installed to write it with."""

from __future__ import annotations

from typing import Any, Literal

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from api.service import fence
from api.service.asking import Configured
from data_engine import recipe as recipes
from data_engine import registry
from flows.recipe_check import check_names

__all__ = ["router"]

router = APIRouter(prefix="/v1", tags=["recipes"])

Kind = Literal["formats", "exporters", "selectors", "weighers", "scorers", "labellers", "encoders", "simulators"]


class Written(BaseModel):
    """A recipe as it is written, and settings to override in it."""

    model_config = ConfigDict(extra="forbid")

    recipe: dict[str, Any] = Field(examples=[{"source": {"uri": "s3://demos/kitchen"}, "select": [{"name": "all"}]}])


class Resolved(BaseModel):
    """What would run, with every default filled in, and its hash."""

    hash: str
    recipe: dict[str, Any]


class Template(BaseModel):
    """A commented recipe to start from, as YAML."""

    template: str


class Installed(BaseModel):
    """Plug-ins of one kind."""

    items: list[str]


@router.get("/recipes/template")
def template() -> Template:
    """A commented recipe to start from."""
    return Template(template=recipes.template())


@router.get("/recipes/schema")
def schema() -> dict[str, Any]:
    """The JSON Schema of a recipe."""
    return recipes.schema()


@router.post("/recipes/validate")
def validate(body: Written, settings: Configured) -> Resolved:
    """Say what would run, or what is wrong, and what this server does not let a recipe name."""
    resolved = recipes.validate(body.recipe)
    check_names(resolved)
    fence.check_recipe(resolved, settings)
    return Resolved(hash=resolved.hash, recipe=resolved.model_dump(mode="json"))


@router.get("/plugins/{kind}")
def plugins(kind: Kind) -> Installed:
    """The names of what is installed of a kind."""
    return Installed(items=registry.names(kind))
