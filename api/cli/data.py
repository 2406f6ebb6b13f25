"""Verbs of recordings and of the lake that keeps them."""

from __future__ import annotations

import sys
from typing import Any

import click

from api.cli.printing import table
from api.cli.verb import EXECUTOR, OPTION, WORKERS, existing, options, parsed, verb
from data_engine.errors import DefectError, EngineError


@verb()
@click.argument("uri")
@click.option("--dataset", help="The dataset's name; default: from the URI.")
@click.option("--format", "fmt", default="auto", show_default=True)
@click.option("--dry-run", is_flag=True, help="Print what would be ingested, column by column; write nothing.")
@click.option("--options", "path", metavar="FILE.yaml", help="The source's options; -o wins over the file.")
@OPTION
@EXECUTOR
@WORKERS
def ingest(
    lake: str, uri: str, dataset: str | None, fmt: str, dry_run: bool, path: str | None, pairs: tuple[str, ...],
    executor: str, workers: int | None,
) -> dict[str, Any]:  # fmt: skip
    """Bring a source into the lake, verified, with a receipt."""
    from data_engine.recipe import SourceRecipe, read

    given = {**(read(path) if path else {}), **options(pairs)}
    recipe = parsed(SourceRecipe, {"name": dataset, "uri": uri, "format": fmt, "options": given})
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
    if not stored["episodes"] and not receipt["unchanged"]:
        raise EngineError(
            f"no episode of {uri} could be read: {bad} quarantined",
            code="nothing_ingested",
            fix="see `data-engine query --table quarantine`",
        )
    text = (
        f"{receipt['dataset']}: {stored['episodes']} episodes, {stored['steps']} steps stored; "
        f"{receipt['unchanged']} unchanged, {bad} quarantined"
    )
    return {**receipt, "run_id": run.id, "text": text}


def _proposal(recipe: Any) -> dict[str, Any]:
    from data_engine.formats import Source, detect
    from flows.receipt import columns

    fmt, probe = detect(Source(recipe.uri), recipe.format, recipe.options)
    if probe.proposal is not None:
        return _guess(fmt.name, probe)
    items = columns(probe.features)
    facts = {
        "dataset": recipe.dataset,
        "format": fmt.name,
        "episodes": len(probe.episodes),
        "fps": fmt.fps or probe.fps,
        "embodiment": fmt.embodiment or probe.embodiment,
        "notes": list(probe.notes),
    }
    lines = [f"{name:<10}  {value}" for name, value in facts.items() if name != "notes"]
    lines += [f"note        {note}" for note in probe.notes]
    return {**facts, "items": items, "text": "\n".join([*lines, "", table(items)])}


def _guess(fmt: str, probe: Any) -> dict[str, Any]:
    """The guessed options as the YAML file that confirms them; what else is known stands in its comments."""
    import yaml

    options = dict(probe.proposal)
    facts = [
        f"Format {fmt}: {len(probe.episodes)} episodes. These columns are a guess by name: check them, save this file,",
        "then: data-engine ingest URI --options FILE.yaml",
        *probe.notes,
    ]
    text = "".join(f"# {line}\n" for line in facts) + yaml.safe_dump(options, sort_keys=False, allow_unicode=True)
    return {"format": fmt, "episodes": len(probe.episodes), "proposal": options, "notes": list(probe.notes),
            "text": text.rstrip()}  # fmt: skip


@verb()
@click.option("--fingerprint", is_flag=True, help="Print the lake's fingerprint too.")
@click.option("--quick", is_flag=True, help="Sizes and references only, not every byte.")
def check(lake: str, fingerprint: bool, quick: bool) -> dict[str, Any]:
    """Verify the lake: every row's blob, hash and count. Exit 1 where something is wrong."""
    from storage import check as checks

    target = existing(lake)
    problems = checks.check(target, deep=not quick)
    answer: dict[str, Any] = {"sound": not problems, "problems": problems}
    if fingerprint and not problems:
        answer["fingerprint"] = checks.fingerprint(target)
    if problems:
        for problem in problems:
            print(f"{problem['path']}: {problem['what']}", file=sys.stderr)
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise DefectError(f"{problems[0]['path']}: {problems[0]['what']}{more}", code="damaged_lake")
    text = "sound" + (f"\n{answer['fingerprint']}" if fingerprint else "")
    return {**answer, "text": text}


@verb()
@click.option("--grace-hours", default=168.0, show_default=True, type=click.FloatRange(0))
def vacuum(lake: str, grace_hours: float) -> dict[str, Any]:
    """Remove files that no table, mixture or run in progress names."""
    return existing(lake).vacuum(grace_hours)


@verb()
def doctor(lake: str) -> dict[str, Any]:
    """What this machine has: packages, accelerator, codecs, and whether the lake is reachable."""
    from api.doctor import examine

    items = examine(lake)
    return {"items": items, "ok": all(item["ok"] for item in items)}
