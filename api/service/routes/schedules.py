"""Schedules: recipes that the service runs by itself."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Request
from pydantic import BaseModel, ConfigDict, Field

from api.service import fence
from api.service.asking import Caller, Configured, Held, Writable
from api.service.scheduling.scheduler import Standing
from api.service.scheduling.told import history, told
from data_engine import recipe as recipes
from storage import schedules as kept

__all__ = ["router"]

router = APIRouter(prefix="/v1", tags=["schedules"])

Name = Annotated[str, Path(description="The schedule's name.", examples=["nightly"], max_length=100)]


class Asked(BaseModel):
    """A recipe, and when it is to run: at every match of ``cron`` in ``timezone``, or every ``every_s`` seconds.

    With neither, as the recipe's own ``schedule`` says.
    """

    model_config = ConfigDict(extra="forbid")

    name: str | None = Field(default=None, max_length=100, description="Default: the recipe's.", examples=["nightly"])
    recipe: dict[str, Any] = Field(examples=[{"source": {"uri": "s3://demos/kitchen"}, "select": [{"name": "all"}]}])
    cron: str | None = Field(default=None, max_length=200, examples=["0 3 * * *"])
    every_s: float | None = Field(default=None, ge=kept.SHORTEST_S, le=366 * 86400)
    timezone: str = Field(default="UTC", max_length=100)


class Past(BaseModel):
    """A run of a schedule: one that was begun, or that was ``missed`` or ``skipped``, and why."""

    run_id: str
    state: str
    started_at: datetime
    ended_at: datetime | None
    error: str | None


class Told(BaseModel):
    """A schedule, when it is due next, and what came of it."""

    name: str
    state: Literal["active", "paused", "removed"]
    when: str
    cron: str | None
    every_s: float | None
    timezone: str
    by: str
    since: datetime
    recipe_hash: str
    next_due: datetime | None
    last: Past | None
    passed_over: list[str] = Field(description="Of times since the last run that were missed or skipped.")


class Whole(Told):
    """A schedule with its recipe and its runs, newest first, at most 100."""

    recipe: dict[str, Any]
    runs: list[Past]


class Schedules(BaseModel):
    """Every schedule, and whether they are kept."""

    standing: Standing = Field(description="`up`: runs are begun as they are due; `elsewhere`: by another process.")
    why: str | None
    items: list[Told]


@router.get("/schedules")
def schedules(request: Request, lake: Writable, held: Held) -> Schedules:
    """Every schedule of the lake, by name, and whether this service keeps them."""
    runs = held.scan("runs").collect()
    keeper = request.app.state.scheduler
    return Schedules(
        standing=keeper.standing if keeper else "off", why=keeper.why if keeper else "served with --no-schedules",
        items=[Told(**told(lake, each, runs)) for each in kept.schedules(lake)],
    )  # fmt: skip


@router.get("/schedules/{name}")
def schedule(name: Name, lake: Writable, held: Held) -> Whole:
    """One schedule with its recipe and its runs."""
    found, runs = kept.find(lake, name), held.scan("runs").collect()
    past = history(lake, name, runs).reverse().head(100)
    return Whole(**told(lake, found, runs), recipe=found.recipe, runs=[Past(**row) for row in past.to_dicts()])


@router.post("/schedules", status_code=201)
def add(body: Asked, lake: Writable, caller: Caller, settings: Configured) -> Told:
    """Keep a recipe, to be run from now on. It names only what requests may, when it is kept and when it is run."""
    recipe = recipes.validate(body.recipe)
    fence.check_recipe(recipe, settings)
    cron, every_s = body.cron, body.every_s
    if cron is None and every_s is None and recipe.schedule is not None:
        cron, every_s = recipe.schedule.cron, recipe.schedule.interval_s
    plain = recipe.model_copy(update={"schedule": None}).model_dump(mode="json")
    made = kept.add(lake, body.name or recipe.name, plain, by=caller.name, cron=cron, every_s=every_s,
                    timezone=body.timezone, remote=True)  # fmt: skip
    return Told(**told(lake, made))


@router.post("/schedules/{name}/pause")
def pause(name: Name, lake: Writable) -> Told:
    """Run it no more until it is resumed."""
    return Told(**told(lake, kept.change(lake, name, "paused")))


@router.post("/schedules/{name}/resume")
def resume(name: Name, lake: Writable) -> Told:
    """Run it again, from now on: what passed meanwhile is not made up for."""
    return Told(**told(lake, kept.change(lake, name, "active")))


@router.post("/schedules/{name}/run", status_code=202)
def run(name: Name, lake: Writable) -> Told:
    """Run it now, whatever its times are. Where a run of it is on already, that is it."""
    return Told(**told(lake, kept.change(lake, name, now=True)))


@router.delete("/schedules/{name}")
def remove(name: Name, lake: Writable) -> Told:
    """Take it out. Its runs, and what they made, stay."""
    return Told(**told(lake, kept.change(lake, name, "removed")))
