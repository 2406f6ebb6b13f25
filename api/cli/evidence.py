"""Verbs that measure, embed and find episodes."""

from __future__ import annotations

import json
import sys
from typing import Any

import click

from api.cli import printing
from api.cli.verb import EXECUTOR, FITS, OPTION, WHERE, WORKERS, episodes, existing, options, pinned, verb
from data_engine import registry
from data_engine.errors import RequestError


@verb()
@click.argument("scorer", nargs=-1)
@click.option("--dataset", help="Only this dataset.")
@WHERE
@click.option("--base", metavar="EXPR", help="The demonstrations of the lake that episodes are held against.")
@click.option("--against", metavar="EXPR", help="With --base, for influence: rollouts to stay away from.")
@click.option("--fit", metavar="ID", help="A stored fit of the scorer; default: that of the last run asked the same.")
@click.option("--refit", is_flag=True, help="Fit anew on these episodes, and measure all of them by that.")
@OPTION
@EXECUTOR
@WORKERS
def score(
    lake: str, scorer: tuple[str, ...], dataset: str | None, where: str | None, base: str | None,
    against: str | None, fit: str | None, refit: bool, pairs: tuple[str, ...], executor: str, workers: int | None,
) -> dict[str, Any]:  # fmt: skip
    """Measure episodes with one or more scorers.

    Without a name: with all that need no more than is given (--base, for those that want one).
    Asked again, it goes on with the fit that it made: only episodes that are new are measured.
    """
    from data_engine.recipe import Base, ScoreRecipe
    from flows import executor as executors
    from flows.earlier_fit import going_on
    from flows.progress import terminal
    from flows.runs import recorded
    from flows.score import score as run_score

    target = existing(lake)
    wanted = list(scorer) or [name for name in registry.names("scorers") if _asks_for_nothing(name, base)]
    params = options(pairs)
    given = Base(where=base, against=against) if base else None
    if against and not base:
        raise RequestError("--against goes with --base", code="bad_option")
    if (params or fit) and len(wanted) > 1:
        raise RequestError("options and a fit belong to one scorer", code="bad_option", fix="name a single scorer")
    if fit and (base or refit):
        raise RequestError("--fit goes with neither --base nor --refit", code="bad_option", fix="give one of them")
    recipes = [
        ScoreRecipe(scorer=name, params=registry.make("scorers", name, params).config, base=given, fit=fit)
        for name in wanted
    ]
    found = episodes(target, dataset, where)
    request = {"scorers": [recipe.model_dump(mode="json") for recipe in recipes], "dataset": dataset, "where": where}
    with executors.executor(executor, workers) as on, recorded(target, "score", request) as run:
        progress = terminal()
        if not refit:
            recipes = going_on(target, recipes, found, dataset=dataset, where=where, progress=progress)
        items = [run_score(target, recipe, found, on=on, progress=progress, run_id=run.id) for recipe in recipes]
        run.result = {"items": items}
    return {"items": items, "run_id": run.id}


@verb()
@click.argument("source")
@click.option("--fit", required=True, help="A stored fit of compatibility: the base set.")
@click.option("--format", "fmt", default="auto", show_default=True, help="Of the source; see `data-engine formats`.")
@OPTION
def judge(lake: str, source: str, fit: str, fmt: str, pairs: tuple[str, ...]) -> dict[str, Any]:
    """Judge new demonstrations against a base set, without storing them."""
    from data_engine.fs import resolve
    from flows.judge import judge as run_judge

    items = run_judge(existing(lake), resolve(source), fit, fmt=fmt, options=options(pairs))
    lines = []
    for item in items:
        verdict = {True: "compatible", False: "rejected", None: f"undecided: {item['reason']}"}[item["accepted"]]
        lines.append(f"{item['key']}: {verdict}")
        lines += [f"  steps {w['start']}-{w['stop']}: look at {w['nearest']}" for w in item["windows"]]
    return {"items": items, "text": "\n".join(lines)}


@verb()
@click.option("--dataset", help="Only this dataset.")
@WHERE
@FITS
@click.option("--space", default="trajectory", show_default=True, help="Where datasets are held against each other.")
def describe(lake: str, dataset: str | None, where: str | None, fits: tuple[str, ...], space: str) -> dict[str, Any]:
    """What datasets and operators offer a learner: trajectory quality, medians of scores, shortcut risk, disparity, how
    success scales with breadth."""
    from flows.describe import describe as run_describe

    target = existing(lake)
    answer = run_describe(target, episodes(target, dataset, where, fits), space, pinned(fits))
    medians: dict[tuple[str, str], dict[str, Any]] = {}
    for row in answer["levels"]:
        kept = {name: row[name] for name in ("level", "name", "episodes")}
        medians.setdefault((row["level"], row["name"]), kept)[row["scorer"]] = row["median"]
    named = [answer["items"], list(medians.values())]
    named += [answer[name] for name in ("shortcuts", "disparities", "agreements")]
    parts = [printing.table(rows) for rows in named if rows]
    parts += dict.fromkeys(row["reason"] for row in answer["levels"] if row["reason"])
    scaling = [{key: value for key, value in row.items() if key != "points"} for row in answer["scaling"]]
    return {**answer, "text": "\n\n".join([*parts, printing.table(scaling)])}


@verb()
@click.argument("labeller", nargs=-1, required=True)
@click.option("--dataset", help="Only this dataset.")
@WHERE
@click.option("--fit", metavar="ID", help="A stored fit of the labeller; default: it learns from these episodes.")
@click.option("--against", metavar="LABELLER", help="Say how far its segments agree with those of this one.")
@click.option("--tolerance", default=0.5, show_default=True, type=click.FloatRange(0), help="Seconds, for --against.")
@OPTION
@EXECUTOR
@WORKERS
def label(
    lake: str, labeller: tuple[str, ...], dataset: str | None, where: str | None, fit: str | None,
    against: str | None, tolerance: float, pairs: tuple[str, ...], executor: str, workers: int | None,
) -> dict[str, Any]:  # fmt: skip
    """Annotate spans of episodes with one or more labellers (`query --table annotations` reads them)."""
    from data_engine.recipe import LabelRecipe
    from flows import executor as executors
    from flows.agreement import agreement
    from flows.label import label as run_label
    from flows.progress import terminal
    from flows.runs import recorded

    target = existing(lake)
    params = options(pairs)
    if (params or fit) and len(labeller) > 1:
        raise RequestError("options and a fit belong to one labeller", code="bad_option", fix="name a single labeller")
    recipes = [
        LabelRecipe(labeller=name, params=registry.make("labellers", name, params).config, fit=fit) for name in labeller
    ]
    found = episodes(target, dataset, where)
    request = {"labellers": [recipe.model_dump(mode="json") for recipe in recipes], "dataset": dataset, "where": where}
    with executors.executor(executor, workers) as on, recorded(target, "label", request) as run:
        progress = terminal()
        items = [run_label(target, recipe, found, on=on, progress=progress, run_id=run.id) for recipe in recipes]
        for item in items if against else ():
            fits = {item["labeller"]: item["fit_id"]}
            item["agreement"] = agreement(target, found, item["labeller"], against, tolerance_s=tolerance, fits=fits)
        run.result = {"items": items}
    plain = [{name: value for name, value in item.items() if not isinstance(value, dict)} for item in items]
    parts = [plain, *([item["agreement"]] for item in items if "agreement" in item)]
    return {"items": items, "run_id": run.id, "text": "\n\n".join(map(printing.table, parts))}


@verb()
@click.argument("encoder", nargs=-1)
@click.option("--space", help="The space's name; default: the encoder's.")
@click.option("--dataset", help="Only this dataset.")
@WHERE
@FITS
@OPTION
@EXECUTOR
@WORKERS
def embed(
    lake: str, encoder: tuple[str, ...], space: str | None, dataset: str | None, where: str | None,
    fits: tuple[str, ...], pairs: tuple[str, ...], executor: str, workers: int | None,
) -> dict[str, Any]:  # fmt: skip
    """Embed episodes with one or more encoders (without a name: trajectory)."""
    from data_engine.recipe import SpaceRecipe
    from flows import executor as executors
    from flows.index import embed as run_embed
    from flows.progress import terminal
    from flows.runs import recorded

    target = existing(lake)
    wanted, params = list(encoder) or ["trajectory"], options(pairs)
    if (space or params) and len(wanted) > 1:
        raise RequestError("a space and options belong to one encoder", code="bad_option", fix="name a single encoder")
    recipes = [
        SpaceRecipe(name=space or name, encoder=name, params=registry.make("encoders", name, params).config)
        for name in wanted
    ]
    found = episodes(target, dataset, where, fits)
    request = {"spaces": [recipe.model_dump(mode="json") for recipe in recipes], "dataset": dataset, "where": where}
    with executors.executor(executor, workers) as on, recorded(target, "embed", request) as run:
        progress = terminal()
        items = [run_embed(target, recipe, found, on=on, progress=progress, run_id=run.id) for recipe in recipes]
        run.result = {"items": items}
    counts = [{key: len(each) if isinstance(each, list) else each for key, each in item.items()} for item in items]
    return {"items": items, "run_id": run.id, "text": printing.table(counts)}


@verb()
@click.option("--space", default="trajectory", show_default=True, help="A space that `embed` made.")
@EXECUTOR
@WORKERS
def index(lake: str, space: str, executor: str, workers: int | None) -> dict[str, Any]:
    """Build a space's indices, one an (embodiment, control mode); embeds first what is not embedded."""
    from data_engine.recipe import SpaceRecipe
    from flows import executor as executors
    from flows.index import complete
    from flows.index import index as run_index
    from flows.progress import terminal
    from flows.runs import recorded

    target = existing(lake)
    found = episodes(target, None, None)
    with recorded(target, "index", {"space": space}) as run:
        version = None
        if space in registry.names("encoders") and registry.load("encoders", space).spec.learns:
            recipe = SpaceRecipe(name=space, encoder=space, params=registry.make("encoders", space).config)
            with executors.executor(executor, workers) as on:
                version = complete(target, recipe, found, on=on, progress=terminal(), run_id=run.id)
        items = run_index(target, space, found, version)
        run.result = {"items": items}
    return {"items": items, "run_id": run.id}


@verb()
@click.option("--episode", metavar="ID", help="An episode to find the like of.")
@click.option("--steps", metavar="A:B", help="With --episode: find parts like these steps of it, whatever their speed.")
@click.option("--camera", help="With --steps: as this camera shows them; default: the first by name.")
@click.option("--text", help="What is to be seen; needs a space of open_clip.")
@click.option("--image", type=click.Path(), help="A picture; needs a space of frames.")
@click.option("--vector", type=click.Path(), help="A .npy or .json file of one vector of the space.")
@click.option("--space", default="trajectory", show_default=True, help="A space that `embed` made.")
@click.option("-k", default=10, show_default=True, type=click.IntRange(1), help="How many to find.")
@WHERE
def search(
    lake: str, episode: str | None, steps: str | None, camera: str | None, text: str | None, image: str | None,
    vector: str | None, space: str, k: int, where: str | None,
) -> dict[str, Any]:  # fmt: skip
    """Find episodes, or parts of them, like an episode, a part of one, a text, a picture or a vector."""
    given = sum(bool(query) for query in (episode, text, image, vector))
    if given != 1:
        said = "search for one thing at a time" if given else "nothing to search for"
        raise RequestError(said, code="bad_request", fix="give --episode ID, --text, --image or --vector")
    if (steps and not episode) or (camera and not steps):
        raise RequestError("--steps goes with --episode, and --camera with --steps", code="bad_option")
    if steps:
        from flows.retrieve import parts_like

        found = parts_like(existing(lake), space, str(episode), *_range(steps), camera=camera, k=k, where=where)
        return {**found, "text": printing.table(found["items"])}
    if vector:
        from flows.search import like, vector_of

        return {"items": like(existing(lake), space, vector_of(vector), k=k, where=where)}
    if text or image:
        from flows.search import seen

        return {"items": seen(existing(lake), space, text=text, image=image, k=k, where=where)}
    from flows.index import search as run_search

    return {"items": run_search(existing(lake), space, episode, k=k, where=where)}


def _range(steps: str) -> tuple[int, int]:
    """``A:B`` as two numbers. Raises ``RequestError`` for anything else."""
    first, _, last = steps.partition(":")
    if not (first.isdecimal() and last.isdecimal() and int(first) < int(last)):
        raise RequestError(f"{steps!r} is no range of steps", code="bad_range", fix="give A:B with A before B")
    return int(first), int(last)


@verb()
@WHERE
@click.option("--table", default="episodes", show_default=True, help="Or scores, annotations, quarantine, runs, ...")
@click.option("--columns", help="Comma-separated; scores count as columns of episodes.")
@click.option("--order-by", help="Comma-separated; -NAME for the largest first.")
@click.option("--limit", type=click.IntRange(0), help="The most rows; default: all.")
@click.option("--format", "fmt", type=click.Choice(["table", "json", "parquet"]), default="table", show_default=True)
@click.option("--out", type=click.Path(), help="Where --format parquet writes; default: stdout.")
@FITS
def query(
    lake: str, where: str | None, table: str, columns: str | None, order_by: str | None, limit: int | None, fmt: str,
    out: str | None, fits: tuple[str, ...],
) -> dict[str, Any]:  # fmt: skip
    """Rows of episodes (or another table) that an expression admits."""
    from flows.query import query as run_query

    if fmt == "parquet" and not out and click.get_current_context().params["as_json"]:
        raise RequestError("--json and the rows cannot both go to stdout", code="bad_request", fix="give --out FILE")
    frame, undecided = run_query(
        existing(lake), where, table=table, columns=_split(columns), order_by=_split(order_by) or (), limit=limit,
        fits=pinned(fits),
    )  # fmt: skip
    if undecided:
        print(f"{undecided} rows left out: a value was null", file=sys.stderr)
    if fmt == "parquet":
        try:
            frame.write_parquet(out if out else sys.stdout.buffer)
        except OSError as error:
            raise RequestError(f"cannot write {out}: {error.strerror or error}", code="bad_path") from error
        return {"rows": len(frame), "text": f"{len(frame)} rows" if out else ""}
    answer = {"items": frame.to_dicts(), "rows": len(frame), "undecided": undecided}
    if fmt == "json":
        return {**answer, "text": json.dumps(answer, default=str)}
    if columns is None and table == "episodes":
        shown = ("episode_id", "dataset", "task", "operator", "success", "n_steps")
        answer["text"] = printing.table(frame.select(shown).to_dicts())
    return answer


def _asks_for_nothing(scorer: str, base: str | None) -> bool:
    """Whether a scorer can run as it is: with no base set but ``base``, and in no space that must be made first."""
    spec = registry.load("scorers", scorer).spec
    return not spec.needs.spaces and bool(base or spec.base == "optional")


def _split(text: str | None) -> list[str] | None:
    return [part.strip() for part in text.split(",") if part.strip()] if text else None
