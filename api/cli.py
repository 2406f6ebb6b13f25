"""The command line: ``data-engine VERB``. Reads a request, calls a flow, prints the answer.

Exit 0 done, 1 the run failed or found defects it was asked to gate on, 2 the request was wrong. With ``--json`` one object
on stdout and everything else on stderr; an error is ``{"error": {"code", "message", "fix"}}``. Heavy packages (torch,
Prefect, Ray) are imported by the verbs that need them only.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any

import click

from data_engine import __version__, registry
from data_engine.errors import EngineError, RequestError

__all__ = ["main"]


class _Group(click.Group):
    """Verbs in the order they were written, not by the alphabet."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="data-engine")
def cli() -> None:
    """Turn heterogeneous robot demonstrations into curated, weighted, reproducible training mixtures."""


def main(argv: Sequence[str] | None = None) -> None:
    """The console script. Ends the process with 0, 1 or 2."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    as_json = "--json" in arguments
    try:
        cli.main(args=arguments, prog_name="data-engine", standalone_mode=False)
    except click.ClickException as error:
        if not as_json:
            error.show()
        sys.exit(_fail({"code": "bad_request", "message": error.format_message(), "fix": None}, 2, as_json, shown=True))
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(
            _fail({"code": "interrupted", "message": "interrupted", "fix": "run it again: it goes on"}, 1, as_json)
        )
    except EngineError as error:
        sys.exit(_fail(error.as_dict(), error.exit_code, as_json))
    except Exception as error:
        if os.environ.get("DATA_ENGINE_DEBUG"):
            raise
        message = f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"
        fix = "this is a defect of data-engine: DATA_ENGINE_DEBUG=1 shows where"
        sys.exit(_fail({"code": "internal", "message": message, "fix": fix}, 1, as_json))


def _fail(error: Mapping[str, Any], code: int, as_json: bool, shown: bool = False) -> int:
    if as_json:
        print(json.dumps({"error": dict(error)}))
    elif not shown:
        fix = f" ({error['fix']})" if error.get("fix") else ""
        print(f"error: {error['message']}{fix}", file=sys.stderr)
    return code


def verb(name: str | None = None, group: click.Group = cli) -> Callable[[Callable[..., Any]], click.Command]:
    """A command with ``--lake`` and ``--json``; what it returns is printed."""

    def decorate(function: Callable[..., Any]) -> click.Command:
        @wraps(function)
        def run(lake: str, as_json: bool, **options: Any) -> None:
            answer = function(lake, **options)
            shown = answer.pop("text", None) if isinstance(answer, dict) else None
            if as_json:
                print(json.dumps(answer, default=str))
            elif shown is not None:
                print(shown)
            else:
                _print(answer)

        run = click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")(run)
        default = os.environ.get("DATA_ENGINE_LAKE", "./lake")
        run = click.option("--lake", default=default, help="The lake's folder or s3:// URI.", show_default=True)(run)
        return group.command(name or function.__name__.strip("_").replace("_", "-"))(run)

    return decorate


def _print(answer: Any) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    if isinstance(answer, dict) and isinstance(answer.get("items"), list):
        rows = answer["items"]
        if not rows:
            console.print("none")
            return
        table = Table(box=None, header_style="bold", pad_edge=False)
        for column in rows[0]:
            table.add_column(str(column), overflow="fold")
        for row in rows:
            table.add_row(*("" if value is None else str(value) for value in row.values()))
        console.print(table)
        return
    print(json.dumps(answer, indent=2, default=str))


def _existing(lake: str) -> Any:
    from storage.lake import Lake

    return Lake.open(lake)


def _options(pairs: Sequence[str]) -> dict[str, Any]:
    import yaml

    found = {}
    for pair in pairs:
        key, sign, value = pair.partition("=")
        if not sign or not key:
            raise RequestError(f"{pair!r} is not of the form name=value", code="bad_option")
        found[key] = yaml.safe_load(value)
    return found


_OPTION = click.option("-o", "--option", "pairs", multiple=True, metavar="NAME=VALUE", help="An option, as YAML.")
_EXECUTOR = click.option("--executor", type=click.Choice(["local", "ray"]), default="local", show_default=True)
_WORKERS = click.option("--workers", type=click.IntRange(1), help="Processes or Ray workers.")
_WHERE = click.option("--where", metavar="EXPR", help="A SQL boolean expression over episodes and scores.")
_FITS = click.option("--fit", "fits", multiple=True, metavar="SCORER=FIT", help="Which fit's scores count.")


@verb()
@click.argument("uri")
@click.option("--dataset", help="The dataset's name; default: from the URI.")
@click.option("--format", "fmt", default="auto", show_default=True)
@click.option("--dry-run", is_flag=True, help="Print what would be ingested, column by column; write nothing.")
@_OPTION
@_EXECUTOR
@_WORKERS
def ingest(
    lake: str, uri: str, dataset: str | None, fmt: str, dry_run: bool, pairs: tuple[str, ...], executor: str,
    workers: int | None,
) -> dict[str, Any]:  # fmt: skip
    """Bring a source into the lake, verified, with a receipt."""
    from data_engine.recipe import SourceRecipe

    recipe = SourceRecipe.model_validate({"name": dataset, "uri": uri, "format": fmt, "options": _options(pairs)})
    if dry_run:
        return _proposal(recipe)
    from flows import executor as executors
    from flows.ingest import ingest as run_ingest
    from flows.progress import terminal
    from flows.runs import recorded
    from storage.lake import Lake

    target = Lake.open(lake, create=True)
    with (
        executors.executor(executor, workers) as on,
        recorded(target, "ingest", recipe.model_dump(mode="json")) as run,
    ):
        receipt = run_ingest(target, recipe, on=on, progress=terminal(), run_id=run.id)
        run.result = {key: receipt[key] for key in ("dataset", "in", "stored", "unchanged")}
    stored, bad = receipt["stored"], len(receipt["quarantined"])
    text = (
        f"{receipt['dataset']}: {stored['episodes']} episodes, {stored['steps']} steps stored; "
        f"{receipt['unchanged']} unchanged, {bad} quarantined"
    )
    return {**receipt, "run_id": run.id, "text": text}


def _proposal(recipe: Any) -> dict[str, Any]:
    from data_engine.formats import Source, detect
    from data_engine.steps import storage_type

    fmt, probe = detect(Source(recipe.uri), recipe.format, recipe.options)
    items = [
        {
            "source": feature.source or feature.name,
            "column": feature.name,
            "dtype": feature.dtype,
            "shape": list(feature.shape),
            "stored_as": "video" if feature.is_camera else str(storage_type(feature)),
        }
        for feature in probe.features
    ]
    return {"dataset": recipe.dataset, "format": fmt.name, "episodes": len(probe.episodes), "fps": probe.fps,
            "embodiment": fmt.embodiment or probe.embodiment, "notes": list(probe.notes), "items": items}  # fmt: skip


def _episodes(lake: Any, dataset: str | None, where: str | None, fits: Mapping[str, str] | None = None) -> Any:
    from flows.query import matching

    episodes = lake.episodes(dataset=dataset)
    if not len(episodes):
        known = ", ".join(lake.datasets()) or "none"
        raise RequestError(f"no episodes of dataset {dataset!r}" if dataset else "the lake holds no episodes",
                           code="no_episodes", fix=f"datasets: {known}")  # fmt: skip
    found, _ = matching(lake, episodes, where, fits)
    if not len(found):
        raise RequestError(f"no episode matches {where}", code="no_episodes")
    return found


@verb()
@click.argument("scorer", nargs=-1)
@click.option("--dataset", help="Only this dataset.")
@_WHERE
@_OPTION
@_EXECUTOR
@_WORKERS
def score(
    lake: str, scorer: tuple[str, ...], dataset: str | None, where: str | None, pairs: tuple[str, ...], executor: str,
    workers: int | None,
) -> dict[str, Any]:  # fmt: skip
    """Measure episodes with one or more scorers (all of them without a name)."""
    from data_engine.recipe import ScoreRecipe
    from flows import executor as executors
    from flows.progress import terminal
    from flows.runs import recorded
    from flows.score import score as run_score

    target = _existing(lake)
    wanted = list(scorer) or registry.names("scorers")
    params = _options(pairs)
    if params and len(wanted) > 1:
        raise RequestError("options belong to one scorer", code="bad_option", fix="name a single scorer")
    recipes = [ScoreRecipe(scorer=name, params=registry.make("scorers", name, params).config) for name in wanted]
    episodes = _episodes(target, dataset, where)
    request = {"scorers": [recipe.model_dump(mode="json") for recipe in recipes], "dataset": dataset, "where": where}
    with executors.executor(executor, workers) as on, recorded(target, "score", request) as run:
        progress = terminal()
        items = [run_score(target, recipe, episodes, on=on, progress=progress, run_id=run.id) for recipe in recipes]
        run.result = {"items": items}
    return {"items": items, "run_id": run.id}


@verb()
@click.argument("encoder", nargs=-1)
@click.option("--space", help="The space's name; default: the encoder's.")
@click.option("--dataset", help="Only this dataset.")
@_WHERE
@_EXECUTOR
@_WORKERS
def embed(
    lake: str, encoder: tuple[str, ...], space: str | None, dataset: str | None, where: str | None, executor: str,
    workers: int | None,
) -> dict[str, Any]:  # fmt: skip
    """Embed episodes with one or more encoders."""
    from data_engine.recipe import SpaceRecipe
    from flows import executor as executors
    from flows.index import embed as run_embed
    from flows.progress import terminal
    from flows.runs import recorded

    target = _existing(lake)
    wanted = list(encoder) or registry.names("encoders")
    if space and len(wanted) > 1:
        raise RequestError("a space has one encoder", code="bad_option", fix="name a single encoder")
    recipes = [
        SpaceRecipe(name=space or name, encoder=name, params=registry.make("encoders", name).config) for name in wanted
    ]
    episodes = _episodes(target, dataset, where)
    request = {"spaces": [recipe.model_dump(mode="json") for recipe in recipes], "dataset": dataset, "where": where}
    with executors.executor(executor, workers) as on, recorded(target, "embed", request) as run:
        progress = terminal()
        items = [run_embed(target, recipe, episodes, on=on, progress=progress, run_id=run.id) for recipe in recipes]
        run.result = {"items": items}
    return {"items": items, "run_id": run.id}


@verb()
@click.option("--space", default="trajectory", show_default=True)
@_EXECUTOR
@_WORKERS
def index(lake: str, space: str, executor: str, workers: int | None) -> dict[str, Any]:
    """Build the FAISS indices of a space, one for each (embodiment, control mode); embeds first what is not embedded."""
    from data_engine.recipe import SpaceRecipe
    from flows import executor as executors
    from flows.index import embed as run_embed
    from flows.index import index as run_index
    from flows.progress import terminal
    from flows.runs import recorded

    target = _existing(lake)
    episodes = _episodes(target, None, None)
    with recorded(target, "index", {"space": space}) as run:
        version = None
        if not target.exists_table(f"embeddings/{space}") and space in registry.names("encoders"):
            recipe = SpaceRecipe(name=space, encoder=space, params=registry.make("encoders", space).config)
            with executors.executor(executor, workers) as on:
                made = run_embed(target, recipe, episodes, on=on, progress=terminal(), run_id=run.id)
            version = made["encoder_version"]
        items = run_index(target, space, episodes, version)
        run.result = {"items": items}
    return {"items": items, "run_id": run.id}


@verb()
@click.option("--episode", metavar="ID", help="An episode to find the like of.")
@click.option("--text", help="Needs an image-text space.")
@click.option("--image", type=click.Path(), help="Needs an image space.")
@click.option("--space", default="trajectory", show_default=True)
@click.option("-k", default=10, show_default=True, type=click.IntRange(1))
@_WHERE
def search(
    lake: str, episode: str | None, text: str | None, image: str | None, space: str, k: int, where: str | None
) -> dict[str, Any]:
    """Find the episodes nearest to one."""
    if text or image:
        kind = "text" if text else "image"
        raise RequestError(
            f"space {space!r} is of trajectories and takes no {kind}",
            code="no_such_query",
            fix="search with --episode ID",
        )
    if not episode:
        raise RequestError("nothing to search for", code="bad_request", fix="give --episode ID")
    from flows.index import search as run_search

    return {"items": run_search(_existing(lake), space, episode, k=k, where=where)}


@verb()
@click.option("--method", required=True, help="filter, nearest, random, transport, ...")
@click.option("--name", required=True)
@click.option("--target", metavar="EXPR", help="Which episodes to select towards.")
@click.option("--budget", help="A count, a share in (0, 1), or auto.")
@click.option("--space", default="trajectory", show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--dataset", help="Only this dataset.")
@_WHERE
@_OPTION
@_FITS
def select(
    lake: str, method: str, name: str, target: str | None, budget: str | None, space: str, seed: int,
    dataset: str | None, where: str | None, pairs: tuple[str, ...], fits: tuple[str, ...],
) -> dict[str, Any]:  # fmt: skip
    """Choose episodes and store the choice as a selection."""
    from pydantic import ValidationError

    from data_engine.recipe import SelectRecipe
    from flows.progress import terminal
    from flows.runs import recorded
    from flows.select import select as run_select

    lake_ = _existing(lake)
    try:
        recipe = SelectRecipe(
            name=name, method=method, space=space, target={"where": target} if target else None,
            budget=_options([f"b={budget}"])["b"] if budget else None, where=where,
            params=registry.make("selectors", method, _options(pairs)).config, seed=seed,
        )  # fmt: skip
    except ValidationError as error:
        raise RequestError(registry.explain(error, SelectRecipe), code="bad_request") from error
    selector = registry.load("selectors", method)
    if selector.needs_targets and not target:
        raise RequestError(f"method {method!r} needs a target", code="no_targets", fix="give --target EXPR")
    episodes = _episodes(lake_, dataset, None)
    with recorded(lake_, "select", recipe.model_dump(mode="json")) as run:
        pins = {key: str(value) for key, value in _options(fits).items()}
        answer = run_select(lake_, recipe, episodes, progress=terminal(), run_id=run.id, fits=pins)
        run.result = answer
    text = f"{name}: {answer['chosen']} of {answer['candidates']} candidates chosen, {answer['targets']} targets"
    return {**answer, "run_id": run.id, "text": text}


@cli.group()
def selections() -> None:
    """Stored selections."""


@verb("list", selections)
def selections_list(lake: str) -> dict[str, Any]:
    """Every selection, newest last."""
    import polars as pl

    rows = _existing(lake).scan("selections").group_by("selection_id", "name", "method").agg(
        pl.col("rank").count().alias("episodes"),
        pl.col("stop").filter(pl.col("rank").is_not_null()).sum().alias("steps"),
        pl.col("created_at").max(),
    )  # fmt: skip
    return {
        "items": rows.collect()
        .sort("created_at")
        .select("name", "method", "episodes", "steps", "selection_id")
        .to_dicts()
    }


@verb("diff", selections)
@click.argument("first")
@click.argument("second")
def selections_diff(lake: str, first: str, second: str) -> dict[str, Any]:
    """What two selections have in common and apart."""
    import polars as pl

    from flows.select import stored

    target = _existing(lake)
    one, two = (
        set(stored(target, name).filter(pl.col("rank").is_not_null())["episode_id"]) for name in (first, second)
    )
    return {"both": len(one & two), f"only {first}": sorted(one - two), f"only {second}": sorted(two - one)}


@verb()
@click.argument("recipe")
@click.option("--set", "overrides", multiple=True, metavar="A.B=C")
def mix(lake: str, recipe: str, overrides: tuple[str, ...]) -> dict[str, Any]:
    """Freeze the mixture of a recipe from selections that are in the lake."""
    from data_engine.recipe import render
    from flows.mix import mix as run_mix
    from flows.runs import recorded

    resolved = render(recipe, overrides)
    target = _existing(lake)
    with recorded(target, "mix", resolved.model_dump(mode="json")) as run:
        answer = run_mix(target, resolved.mixture, run_id=run.id, recipe_hash=resolved.hash)
        run.result = answer
    text = f"{answer['name']}: {answer['episodes']} episodes, {answer['steps']} steps\nmixture {answer['mixture_id']}"
    return {**answer, "run_id": run.id, "text": text}


@verb()
@click.argument("mixture")
@click.option("--format", "fmt", required=True)
@click.option("--out", required=True, metavar="URI")
@click.option("--verify", is_flag=True, help="Read it back and hold it against the mixture.")
@_OPTION
def export(lake: str, mixture: str, fmt: str, out: str, verify: bool, pairs: tuple[str, ...]) -> dict[str, Any]:
    """Write a mixture (its id, name, or URI) in a trainer's own format."""
    from data_engine.fs import resolve
    from flows.export import export as run_export
    from flows.mix import locate

    uri = mixture if "/mixtures/" in mixture else locate(_existing(lake), mixture)
    answer = run_export(uri, fmt, resolve(out), options=_options(pairs), verify=verify)
    text = f"{answer['uri']}: {answer['episodes']} episodes, {answer['steps']} steps as {fmt}"
    return {
        **answer,
        "text": text + (", verified" if verify else "") + (f"\n{answer['weights']}" if answer["weights"] else ""),
    }


@verb()
@click.argument("recipe")
@click.option("--set", "overrides", multiple=True, metavar="A.B=C", help="Override a key of the recipe.")
@click.option("--engine", type=click.Choice(["prefect", "plain"]), default="prefect", show_default=True)
@_EXECUTOR
@_WORKERS
def curate(
    lake: str, recipe: str, overrides: tuple[str, ...], engine: str, executor: str, workers: int | None
) -> dict[str, Any]:
    """Run a recipe from its sources to a frozen mixture, its exports and a report."""
    from data_engine.fs import is_local
    from data_engine.fs import resolve as resolve_uri
    from data_engine.recipe import render

    resolved = render(recipe, overrides)
    for source in resolved.sources:
        if is_local(source.uri) and not os.path.exists(source.uri):
            raise RequestError(f"no such source: {source.uri}", code="no_source", fix="give --set source.uri=PATH")
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
@_WHERE
@click.option("--table", default="episodes", show_default=True)
@click.option("--columns", help="Comma-separated; scores count as columns of episodes.")
@click.option("--order-by", help="Comma-separated; -NAME for the largest first.")
@click.option("--limit", type=click.IntRange(0))
@click.option("--format", "fmt", type=click.Choice(["table", "json", "parquet"]), default="table", show_default=True)
@click.option("--out", type=click.Path(), help="Where --format parquet writes; default: stdout.")
def query(
    lake: str, where: str | None, table: str, columns: str | None, order_by: str | None, limit: int | None, fmt: str,
    out: str | None,
) -> dict[str, Any]:  # fmt: skip
    """Rows of episodes (or another table) that an expression admits."""
    from flows.query import query as run_query

    frame, undecided = run_query(
        _existing(lake), where, table=table, columns=_split(columns), order_by=_split(order_by) or (), limit=limit
    )
    if undecided:
        print(f"{undecided} rows left out: a value was null", file=sys.stderr)
    if fmt == "parquet":
        frame.write_parquet(out if out else sys.stdout.buffer)
        return {"rows": len(frame), "text": f"{len(frame)} rows" if out else ""}
    answer = {"items": frame.to_dicts(), "rows": len(frame), "undecided": undecided}
    if fmt == "json":
        return {**answer, "text": json.dumps(answer, default=str)}
    if columns is None and table == "episodes":
        shown = ("episode_id", "dataset", "task", "operator", "success", "n_steps")
        answer["text"] = _as_table(frame.select(shown).to_dicts())
    return answer


def _as_table(rows: list[dict[str, Any]]) -> str:
    import io

    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in rows[0] if rows else ("none",):
        table.add_column(str(column), no_wrap=True)
    for row in rows:
        table.add_row(*("" if value is None else str(value) for value in row.values()))
    buffer = io.StringIO()
    Console(file=buffer, width=160).print(table)
    return buffer.getvalue().rstrip()


def _split(text: str | None) -> list[str] | None:
    return [part.strip() for part in text.split(",") if part.strip()] if text else None


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
@click.option("--set", "overrides", multiple=True, metavar="A.B=C")
def recipe_validate(lake: str, path: str, overrides: tuple[str, ...]) -> dict[str, Any]:
    """Say whether a recipe is right, and if not what would be."""
    from data_engine.recipe import render

    resolved = render(path, overrides)
    return {"valid": True, "hash": resolved.hash, "text": f"valid, {resolved.hash[:16]}"}


@verb("render", recipe)
@click.argument("path")
@click.option("--set", "overrides", multiple=True, metavar="A.B=C")
def recipe_render(lake: str, path: str, overrides: tuple[str, ...]) -> dict[str, Any]:
    """The resolved canonical form: what is run, hashed and stored."""
    from data_engine.recipe import render

    return render(path, overrides).model_dump(mode="json")


@verb("schema", recipe)
def recipe_schema(lake: str) -> dict[str, Any]:
    """The JSON Schema of a recipe."""
    from data_engine.recipe import schema

    return schema()


@verb()
def datasets(lake: str) -> dict[str, Any]:
    """The datasets in the lake."""
    import polars as pl

    target = _existing(lake)
    counts = (
        target.episodes().group_by("dataset").agg(pl.len().alias("episodes"), pl.col("n_steps").sum().alias("steps"))
    )
    rows = {row["dataset"]: row for row in counts.iter_rows(named=True)}
    return {
        "items": [
            {
                "name": name,
                "episodes": rows.get(name, {}).get("episodes", 0),
                "steps": rows.get(name, {}).get("steps", 0),
                "embodiment": dataset.embodiment,
                "control_mode": dataset.control_mode,
                "fps": dataset.fps,
                "cameras": ", ".join(dataset.cameras),
                "format": dataset.format,
            }
            for name, dataset in target.datasets().items()
        ]
    }


@verb()
def scorers(lake: str) -> dict[str, Any]:
    """The installed scorers, what each measures and which direction is better."""
    items = []
    for name in registry.names("scorers"):
        spec = registry.load("scorers", name).spec
        items += [
            {"name": name, "metric": metric.name, "unit": metric.unit, "better": metric.better, "version": spec.version,
             "level": spec.level}
            for metric in spec.metrics
        ]  # fmt: skip
    return {"items": items}


@verb()
def formats(lake: str) -> dict[str, Any]:
    """The formats that are read and written."""
    readers, writers = registry.names("formats"), registry.names("exporters")
    return {
        "items": [
            {"name": name, "read": name in readers, "written": name in writers} for name in sorted({*readers, *writers})
        ]
    }


@verb()
def mixtures(lake: str) -> dict[str, Any]:
    """The frozen mixtures, newest last."""
    rows = _existing(lake).scan("mixtures").collect().sort("created_at")
    return {"items": rows.select("name", "episodes", "steps", "mixture_id", "status", "path", "created_at").to_dicts()}


@verb()
def runs(lake: str) -> dict[str, Any]:
    """What was run, newest last, and how it ended."""
    import polars as pl

    rows = _existing(lake).scan("runs").collect().sort("started_at", pl.col("ended_at").fill_null(pl.col("started_at")))
    rows = rows.unique("run_id", keep="last", maintain_order=True)
    return {"items": rows.select("run_id", "verb", "state", "started_at", "ended_at", "error").to_dicts()}


@verb()
@click.option("--grace-hours", default=168.0, show_default=True, type=click.FloatRange(0))
def vacuum(lake: str, grace_hours: float) -> dict[str, Any]:
    """Remove files that no table, mixture or run in progress names."""
    return _existing(lake).vacuum(grace_hours)


@verb()
@click.option("--fingerprint", is_flag=True, help="Print the lake's fingerprint too.")
@click.option("--quick", is_flag=True, help="Sizes and references only, not every byte.")
def check(lake: str, fingerprint: bool, quick: bool) -> dict[str, Any]:
    """Verify the lake: every row's blob, hash and count. Exit 1 where something is wrong."""
    from storage import check as checks

    target = _existing(lake)
    problems = checks.check(target, deep=not quick)
    answer: dict[str, Any] = {"sound": not problems, "problems": problems}
    if fingerprint and not problems:
        answer["fingerprint"] = checks.fingerprint(target)
    if problems:
        from data_engine.errors import DefectError

        for problem in problems:
            print(f"{problem['path']}: {problem['what']}", file=sys.stderr)
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise DefectError(f"{problems[0]['path']}: {problems[0]['what']}{more}", code="damaged_lake")
    text = "sound" + (f"\n{answer['fingerprint']}" if fingerprint else "")
    return {**answer, "text": text}


@verb()
def doctor(lake: str) -> dict[str, Any]:
    """What this machine has: packages, accelerator, codecs, and whether the lake is reachable."""
    from api.doctor import examine

    items = examine(lake)
    return {"items": items, "ok": all(item["ok"] for item in items)}


if __name__ == "__main__":
    main()
