"""Verbs that choose, freeze and hand over, and the recipe that does it all."""

from __future__ import annotations

import os
from typing import Any

import click

from api.cli.verb import (
    EXECUTOR,
    FITS,
    OPTION,
    SET,
    WHERE,
    WORKERS,
    cli,
    episodes,
    existing,
    options,
    parsed,
    pinned,
    verb,
)
from data_engine import registry
from data_engine.errors import RequestError


@verb()
@click.argument("recipe")
@SET
@click.option("--engine", type=click.Choice(["prefect", "plain"]), default="prefect", show_default=True,
              help="Each stage as a Prefect task, or as it is.")  # fmt: skip
@EXECUTOR
@WORKERS
def curate(
    lake: str, recipe: str, overrides: tuple[str, ...], engine: str, executor: str, workers: int | None
) -> dict[str, Any]:
    """Run a recipe from its sources to a frozen mixture, its exports and a report."""
    from data_engine.fs import is_local
    from data_engine.fs import resolve as resolve_uri
    from data_engine.recipe import render
    from flows.recipe_check import check_names

    resolved = render(recipe, overrides)
    check_names(resolved)
    for number, source in enumerate(resolved.sources):
        if is_local(source.uri) and not os.path.exists(source.uri):
            key = "source.uri" if len(resolved.sources) == 1 else f"sources.{number}.uri"
            raise RequestError(f"no such source: {source.uri}", code="no_source", fix=f"give --set {key}=PATH")
    uri = resolve_uri(lake)
    if engine == "plain":
        from flows.curate import curate as run_curate

        answer = run_curate(uri, resolved, executor=executor, workers=workers)
    else:
        from flows.prefect_server import prefect_api

        with prefect_api(uri):
            from flows.prefect_flow import curate_flow

            answer = curate_flow(uri, resolved.model_dump(mode="json"), executor, workers)
    table = answer.pop("table")
    text = table + "".join(f"\nexport   {item['uri']}" for item in answer["exports"])
    return {**answer, "text": text}


@verb()
@click.option("--method", required=True, help=f"One of {', '.join(registry.names('selectors'))}.")
@click.option("--name", required=True, help="What to store the selection as; an equal name is the newest.")
@click.option("--target", metavar="EXPR", help="Which episodes to select towards.")
@click.option("--budget", help="A count, a share in (0, 1], or auto; default: all.")
@click.option("--space", default="trajectory", show_default=True, help="Where distances are measured (`embed`).")
@click.option("--segments", metavar="LABELLER", help="Choose spans that this labeller named, not whole episodes.")
@click.option("--segments-where", metavar="EXPR", help="Over label, value, confidence, steps, seconds of the spans.")
@click.option("--within", metavar="COLUMN", multiple=True, help="Choose in each scene, objects, task, ... apart.")
@click.option("--shares", type=click.Choice(["size", "equal"]), default="size", show_default=True, help="Of --within.")
@click.option(
    "--unit",
    type=click.Choice(["episode", "dataset"]),
    default="episode",
    show_default=True,
    help="What is taken whole, and --budget counts.",
)
@click.option("--seed", default=0, show_default=True, help="Of what is drawn at random.")
@click.option("--dataset", help="Only this dataset.")
@WHERE
@OPTION
@FITS
def select(
    lake: str, method: str, name: str, target: str | None, budget: str | None, space: str, segments: str | None,
    segments_where: str | None, within: tuple[str, ...], shares: str, unit: str, seed: int,
    dataset: str | None,
    where: str | None, pairs: tuple[str, ...], fits: tuple[str, ...],
) -> dict[str, Any]:  # fmt: skip
    """Choose episodes and store the choice as a selection."""
    from data_engine.recipe import SelectRecipe
    from flows.progress import terminal
    from flows.runs import recorded
    from flows.select import select as run_select

    lake_ = existing(lake)
    facts = {
        "name": name,
        "method": method,
        "space": space,
        "target": {"where": target} if target else None,
        "budget": options([f"budget={budget}"])["budget"] if budget else None,
        "where": where,
        "within": within,
        "shares": shares,
        "unit": unit,
        "params": registry.make("selectors", method, options(pairs)).config,
        "segments": {"producer": segments, "where": segments_where} if segments else None,
        "seed": seed,
    }
    if segments_where and not segments:
        raise RequestError("--segments-where goes with --segments", code="bad_option")
    recipe = parsed(SelectRecipe, facts)
    selector = registry.load("selectors", method)
    if selector.needs_targets and not target:
        raise RequestError(f"method {method!r} needs a target", code="no_targets", fix="give --target EXPR")
    found = episodes(lake_, dataset, None)
    with recorded(lake_, "select", recipe.model_dump(mode="json")) as run:
        answer = run_select(lake_, recipe, found, progress=terminal(), run_id=run.id, fits=pinned(fits))
        run.result = answer
    text = f"{name}: {answer['chosen']} of {answer['candidates']} candidates chosen, {answer['targets']} targets"
    return {**answer, "run_id": run.id, "text": text}


@cli.group()
def selections() -> None:
    """Stored selections."""


@verb("list", selections)
def selections_list(lake: str) -> dict[str, Any]:
    """Every selection, newest last."""
    from flows.selections import listing

    return {"items": listing(existing(lake))}


@verb("show", selections)
@click.argument("name")
@click.option("--episode", metavar="ID", help="Only why this episode is in or out.")
@click.option("--limit", type=click.IntRange(min=0), default=20, show_default=True, help="Rows of the printed table.")
def selections_show(lake: str, name: str, episode: str | None, limit: int) -> dict[str, Any]:
    """What a selection holds, from which inputs it came, and why each episode is in or out."""
    from api.cli.printing import table
    from flows.selections import show

    answer = show(existing(lake), name, episode)
    lines = [
        f"{answer['name']}  {answer['selection_id']}  {answer['method']}, {answer['created_at']:%Y-%m-%d %H:%M}",
        f"{answer['chosen']} chosen, {answer['left_out']} left out, {answer['targets']} targets",
        table(answer["items"][:limit]),
    ]
    if len(answer["items"]) > limit:
        lines.append(f"... {len(answer['items']) - limit} more; see --limit or --json")
    return {**answer, "text": "\n".join(lines)}


@verb("diff", selections)
@click.argument("first")
@click.argument("second")
def selections_diff(lake: str, first: str, second: str) -> dict[str, Any]:
    """What two selections have in common and apart, with the reasons of each."""
    import json

    from api.cli.printing import table
    from flows.selections import compare

    answer = compare(existing(lake), first, second)
    lines = [f"{answer['both']} in both, {answer['reweighed']} of them weighed otherwise"]
    lines += [f"{key}: {json.dumps(one)} | {json.dumps(two)}" for key, (one, two) in answer["inputs"].items()]
    if answer["items"]:
        lines.append(table(answer["items"]))
    return {**answer, "text": "\n".join(lines)}


@verb()
@click.argument("recipe")
@SET
@FITS
def mix(lake: str, recipe: str, overrides: tuple[str, ...], fits: tuple[str, ...]) -> dict[str, Any]:
    """Freeze the mixture of a recipe from selections that are in the lake. It needs no other part of a recipe."""
    from data_engine.recipe import render_mix
    from flows.mix import mix as run_mix
    from flows.runs import recorded

    resolved = render_mix(recipe, overrides)
    target = existing(lake)
    pins = {item.labeller: item.fit for item in resolved.label if item.fit}
    pins |= pinned(fits)
    with recorded(target, "mix", resolved.model_dump(mode="json")) as run:
        answer = run_mix(target, resolved.mixture, run_id=run.id, recipe_hash=resolved.hash, fits=pins)
        run.result = answer
    text = f"{answer['name']}: {answer['episodes']} episodes, {answer['steps']} steps\nmixture {answer['mixture_id']}"
    return {**answer, "run_id": run.id, "text": text}


@verb()
@click.argument("mixture")
@click.option("--format", "fmt", required=True, help=f"One of {', '.join(registry.names('exporters'))}.")
@click.option("--out", required=True, metavar="URI", help="A folder or s3:// URI.")
@click.option("--verify", is_flag=True, help="Read it back and hold it against the mixture.")
@OPTION
def export(lake: str, mixture: str, fmt: str, out: str, verify: bool, pairs: tuple[str, ...]) -> dict[str, Any]:
    """Write a mixture (its id, name, or URI) in a trainer's own format."""
    from data_engine.fs import resolve
    from flows.export import export as run_export
    from flows.mix import locate
    from flows.runs import recorded

    if "/mixtures/" in mixture:
        answer = run_export(mixture, fmt, resolve(out), options=options(pairs), verify=verify)
    else:
        target = existing(lake)
        uri = locate(target, mixture)
        with recorded(target, "export", {"mixture": mixture, "format": fmt, "uri": resolve(out)}) as run:
            answer = run_export(uri, fmt, resolve(out), options=options(pairs), verify=verify)
            run.result = {"mixture_id": uri.rpartition("/")[2], "exports": [answer]}
    text = f"{answer['uri']}: {answer['episodes']} episodes, {answer['steps']} steps as {fmt}"
    return {
        **answer,
        "text": text + (", verified" if verify else "") + (f"\n{answer['weights']}" if answer["weights"] else ""),
    }


@cli.group()
def recipe() -> None:
    """Recipes: what may be written, what is wrong, what will run."""


@verb("template", recipe)
def recipe_template(lake: str) -> dict[str, Any]:
    """A commented recipe to start from."""
    from data_engine.recipe import template

    return {"template": template(), "text": template().rstrip()}


@verb("validate", recipe)
@click.argument("path")
@SET
def recipe_validate(lake: str, path: str, overrides: tuple[str, ...]) -> dict[str, Any]:
    """Say whether a recipe is right, and if not what would be."""
    from data_engine.recipe import render
    from flows.recipe_check import check_names

    resolved = render(path, overrides)
    check_names(resolved)
    return {"valid": True, "hash": resolved.hash, "text": f"valid, {resolved.hash[:16]}"}


@verb("render", recipe)
@click.argument("path")
@SET
def recipe_render(lake: str, path: str, overrides: tuple[str, ...]) -> dict[str, Any]:
    """The resolved canonical form: what is run, hashed and stored."""
    from data_engine.recipe import render

    return render(path, overrides).model_dump(mode="json")


@verb("schema", recipe)
def recipe_schema(lake: str) -> dict[str, Any]:
    """The JSON Schema of a recipe."""
    from data_engine.recipe import schema

    return schema()
