"""Verbs of preferences: who finds which behaviour better, people and models."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import click

from api.cli.verb import SET, WHERE, cli, episodes, existing, parsed, verb


@cli.group()
def preferences() -> None:
    """Which behaviour is better, as people and models say it; `label preference_reward` learns from it."""


@verb("import", preferences)
@click.argument("file")
@click.option("--collection", default="default", show_default=True, help="What they were gathered for.")
@click.option("--annotator", help="Who says so, where the file does not.")
def preferences_import(lake: str, file: str, collection: str, annotator: str | None) -> dict[str, Any]:
    """Enter preferences from a JSON, JSON Lines, CSV or Parquet file; what is there already stays.

    A row has first, second and verdict (first, second, tie, unsure) or probability; or ranking, as a > b = c; or winner
    and items. An item is EPISODE[:START-STOP][@CAMERA], an episode its id or DATASET/SOURCE_KEY.
    """
    from flows.preferences import bring
    from flows.progress import terminal
    from flows.runs import recorded

    target = existing(lake)
    asked = {"file": file, "collection": collection, "annotator": annotator}
    with recorded(target, "preferences import", asked) as run:
        answer = bring(target, file, collection=collection, annotator=annotator, progress=terminal(), run_id=run.id)
        run.result = {name: answer[name] for name in ("rows", "added", "already")}
    text = f"{collection}: {answer['added']} preferences added, {answer['already']} there already"
    return {**answer, "run_id": run.id, "text": text}


@verb("list", preferences)
def preferences_list(lake: str) -> dict[str, Any]:
    """What each collection holds: counts, annotators, how often a judge chose by the place or was contradicted."""
    from api.cli.printing import table
    from flows.preferences import tallies

    items = [{"name": found.collection, **asdict(found)} for found in tallies(existing(lake))]
    shown = [{**{name: value for name, value in item.items() if name not in ("collection", "annotators")},
              "annotators": ", ".join(item["annotators"])} for item in items]  # fmt: skip
    return {"items": items, "text": table(shown) if shown else "no preferences"}


@verb("judge", preferences)
@click.argument("recipe")
@click.option("--dataset", help="Only this dataset.")
@WHERE
@SET
def preferences_judge(
    lake: str, recipe: str, dataset: str | None, where: str | None, overrides: tuple[str, ...]
) -> dict[str, Any]:
    """Have a model behind an OpenAI-compatible endpoint compare pairs of clips, as a YAML file says.

    Its keys: endpoint {url, model, key_env, concurrency, price_in, price_out, budget, ...}, collection, pairs, steps,
    pictures, camera, both, seed.
    """
    from flows.preferences import judge

    answer = _asked(lake, "judge", judge, recipe, dataset, where, overrides)
    flips = "" if answer["flip_rate"] is None else f"; it chose by the place in {answer['flip_rate']:.0%}"
    text = (
        f"{answer['collection']}: {answer['decided']} of {answer['pairs']} pairs decided, {answer['added']} added"
        f"{flips}\n"
        f"{answer['asked']} questions asked, {answer['stored']} answered before"
    )
    if answer["reasons"]:
        text += "\nundecided: " + ", ".join(f"{count} {reason}" for reason, count in answer["reasons"].items())
    return {**answer, "text": text}


@verb("review", preferences)
@click.argument("recipe")
@click.option("--dataset", help="Only this dataset.")
@WHERE
@SET
def preferences_review(
    lake: str, recipe: str, dataset: str | None, where: str | None, overrides: tuple[str, ...]
) -> dict[str, Any]:
    """Have a second model read again what a first one decided, and flag where it says the opposite."""
    from flows.preferences import review

    answer = _asked(lake, "review", review, recipe, dataset, where, overrides)
    text = (
        f"{answer['collection']}: {answer['reviewed']} pairs read again, {answer['contradictions']} contradicted, "
        f"{answer['undecided']} undecided"
    )
    return {**answer, "text": text}


def _asked(
    lake: str, name: str, flow: Any, recipe: str, dataset: str | None, where: str | None, overrides: tuple[str, ...]
) -> dict[str, Any]:
    from data_engine.recipe import apply_overrides, read
    from flows.preferences import Judging
    from flows.progress import terminal
    from flows.runs import recorded

    target = existing(lake)
    judging = parsed(Judging, apply_overrides(read(recipe), overrides))
    found = episodes(target, dataset, where)
    asked = {"recipe": judging.model_dump(mode="json"), "dataset": dataset, "where": where}
    with recorded(target, f"preferences {name}", asked) as run:
        answer = flow(target, judging, found, progress=terminal(), run_id=run.id)
        run.result = answer
    return {**answer, "run_id": run.id}
