"""Verbs of schedules: which recipe runs when. They write to the lake; `data-engine serve` runs what is due."""

from __future__ import annotations

from typing import Any

import click

from api.cli.verb import SET, cli, existing, seconds, verb
from data_engine.errors import RequestError


@cli.group()
def schedule() -> None:
    """Recipes that a running service runs by itself."""


@verb("add", schedule)
@click.argument("recipe")
@click.option("--cron", metavar="LINE", help="Minute, hour, day, month, weekday, as in '0 3 * * *'.")
@click.option("--every", metavar="TIME", help="As in 90s, 15m, 6h, 1d.")
@click.option("--timezone", default="UTC", show_default=True, help="Of the cron line.")
@click.option("--name", help="Default: the recipe's.")
@SET
def schedule_add(
    lake: str, recipe: str, cron: str | None, every: str | None, timezone: str, name: str | None,
    overrides: tuple[str, ...],
) -> dict[str, Any]:  # fmt: skip
    """Keep RECIPE as it stands now, to be run from now on; times default to the recipe's own `schedule`."""
    from data_engine.recipe import render
    from flows.recipe_check import check_names
    from storage.lake import Lake
    from storage.schedules import add

    resolved = render(recipe, overrides)
    check_names(resolved)
    every_s = seconds(every) if every is not None else None
    if cron is None and every_s is None and resolved.schedule is not None:
        cron, every_s = resolved.schedule.cron, resolved.schedule.interval_s
    if cron is None and every_s is None:
        raise RequestError("it is not said when", code="bad_schedule", fix="give --cron LINE or --every TIME")
    plain = resolved.model_copy(update={"schedule": None}).model_dump(mode="json")
    target = Lake.open(lake, create=True)
    made = add(
        target, name or resolved.name, plain, by="command line", cron=cron, every_s=every_s, timezone=timezone
    )  # fmt: skip
    return _told(target, made, f"{made.name}: {made.when}; `data-engine serve` runs it")


@verb("list", schedule)
def schedule_list(lake: str) -> dict[str, Any]:
    """Every schedule: when it is due, how its last run ended, and which times were missed since."""
    from api.service.scheduling.told import told
    from storage.schedules import schedules

    held = existing(lake)
    runs = held.scan("runs").collect()
    items = [told(held, each, runs) for each in schedules(held)]
    return {
        "items": [
            {**item, "last": (item["last"] or {}).get("state"), "last_run": (item["last"] or {}).get("run_id"),
             "passed_over": "; ".join(item["passed_over"]) or None}
            for item in items
        ]
    }  # fmt: skip


@verb("pause", schedule)
@click.argument("name")
def schedule_pause(lake: str, name: str) -> dict[str, Any]:
    """Run it no more until it is resumed."""
    return _changed(lake, name, "paused")


@verb("resume", schedule)
@click.argument("name")
def schedule_resume(lake: str, name: str) -> dict[str, Any]:
    """Run it again, from now on."""
    return _changed(lake, name, "active")


@verb("run", schedule)
@click.argument("name")
def schedule_run(lake: str, name: str) -> dict[str, Any]:
    """Have the service run it now."""
    from storage.schedules import change

    held = existing(lake)
    return _told(held, change(held, name, now=True), f"{name} is asked for: a running service begins it")


@verb("remove", schedule)
@click.argument("name")
def schedule_remove(lake: str, name: str) -> dict[str, Any]:
    """Take it out; its runs, and what they made, stay."""
    return _changed(lake, name, "removed")


def _changed(lake: str, name: str, state: Any) -> dict[str, Any]:
    from storage.schedules import change

    held = existing(lake)
    return _told(held, change(held, name, state), f"{name} is {state}")


def _told(lake: Any, made: Any, text: str) -> dict[str, Any]:
    from api.service.scheduling.told import told

    return {**told(lake, made), "text": text}
