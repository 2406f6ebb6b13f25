"""Verbs of recordings and of the lake that keeps them."""

from __future__ import annotations

import sys
from typing import Any

import click

from api.cli.printing import table
from api.cli.verb import EXECUTOR, OPTION, WHERE, WORKERS, episodes, existing, options, parsed, verb
from data_engine.errors import DefectError, EngineError, RequestError


@verb()
@click.argument("uris", nargs=-1, required=True, metavar="URI...")
@click.option("--sample", default=3, show_default=True, type=click.IntRange(0), help="Episodes to read of each source.")
@click.option("--html", metavar="FILE", help="Write the survey as one self-contained page too.")
def survey(lake: str, uris: tuple[str, ...], sample: int, html: str | None) -> dict[str, Any]:
    """Look at sources, or folders of them, copying nothing: counts, units, defects, what an ingest would take."""
    from flows import survey_page
    from flows.progress import terminal
    from flows.survey import survey as look
    from storage.lake import Lake

    try:
        held = Lake.open(lake)
    except RequestError as error:  # a survey needs none
        if error.code != "no_lake":
            raise
        held = None
    found = look(uris, sample=sample, lake=held, progress=terminal())
    if html:
        try:
            with open(html, "w", encoding="utf-8") as file:
                file.write(survey_page.render(found))
        except OSError as error:
            raise RequestError(f"cannot write {html}: {error.strerror or error}", code="bad_path") from error
    if all("error" in item for item in found["items"]):
        first = found["items"][0]["error"]
        raise RequestError(first["message"], code=first["code"], fix=first["fix"])
    lines = [
        f"same recordings: {pair['first']} and {pair['second']}, {len(pair['episodes'])} of the episodes compared"
        for pair in found["duplicates"]
    ]
    return {**found, "html": html, "text": "\n".join([table(survey_page.rows(found)), *lines])}


@verb()
@click.argument("uri")
@click.option("--dataset", help="The dataset's name; default: from the URI.")
@click.option("--format", "fmt", default="auto", show_default=True, help="Of the source; see `data-engine formats`.")
@click.option("--by-reference", is_flag=True, help="Leave encoded videos where they are; `check` reports drift.")
@click.option("--dry-run", is_flag=True, help="Print what would be ingested, with findings; write nothing.")
@click.option("--options", "path", metavar="FILE.yaml", help="The source's options; -o wins over the file.")
@click.option("--take-back", is_flag=True, help="Take episodes back in that were removed.")
@OPTION
@EXECUTOR
@WORKERS
def ingest(
    lake: str, uri: str, dataset: str | None, fmt: str, by_reference: bool, dry_run: bool, path: str | None,
    take_back: bool, pairs: tuple[str, ...], executor: str, workers: int | None,
) -> dict[str, Any]:  # fmt: skip
    """Bring a source into the lake, verified, with a receipt."""
    from data_engine.recipe import SourceRecipe, read

    given = {**(read(path) if path else {}), **options(pairs)}
    facts = {"name": dataset, "uri": uri, "format": fmt, "options": given, "by_reference": by_reference}
    recipe = parsed(SourceRecipe, facts)
    if dry_run:
        return _preview(recipe)
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
        receipt = run_ingest(target, recipe, on=on, progress=terminal(), run_id=run.id, take_back=take_back)
        run.result = {key: receipt[key] for key in ("dataset", "in", "stored", "unchanged")}
    stored, bad = receipt["stored"], len(receipt["quarantined"])
    if not stored["episodes"] and not receipt["unchanged"] and not receipt["removed"]:
        raise EngineError(
            f"no episode of {uri} could be read: {bad} quarantined",
            code="nothing_ingested",
            fix="see `data-engine query --table quarantine`",
        )
    text = (
        f"{receipt['dataset']}: {stored['episodes']} episodes, {stored['steps']} steps stored; "
        f"{receipt['unchanged']} unchanged, {bad} quarantined"
    ) + (f", {receipt['removed']} removed stay out (--take-back takes them in)" if receipt["removed"] else "")
    return {**receipt, "run_id": run.id, "text": text}


def _preview(recipe: Any) -> dict[str, Any]:
    from flows.ingest_probe import preview

    found = preview(recipe)
    if "proposal" in found:
        from flows.survey import held

        return {**found, "text": _guess(found, held(recipe.uri))}
    mode = found["control_mode"]
    facts = {name: found[name] for name in ("dataset", "format", "episodes", "fps", "embodiment")}
    lines = [f"{name:<12}  {value}" for name, value in facts.items()]
    lines.append(f"control mode  {mode['mode']} ({mode['evidence']})")
    lines += [f"note          {note}" for note in found["notes"]]
    lines += [f"defect        {seen['code']}: {seen['what']}{_of(seen['keys'])}" for seen in found["defects"]]
    lines += [f"quarantined   {bad['key']}: {bad['reason']}" for bad in found["quarantined"]]
    looked = f"read for this: {len(found['sampled'])} of {found['episodes']} episodes, no frames"
    parts = ["\n".join(lines), table(found["columns"]), table(found["inferred"]), looked]
    return {**found, "items": found["columns"], "text": "\n\n".join(parts)}


def _of(keys: list[str]) -> str:
    return f" ({', '.join(keys)})" if keys else ""


def _few(held: list[tuple[str, str]], most: int = 5) -> str:
    more = f", and {len(held) - most} more: see `data-engine survey`" if len(held) > most else ""
    return ", ".join(f"{uri} ({fmt})" for uri, fmt in held[:most]) + more


def _guess(found: dict[str, Any], held: list[tuple[str, str]]) -> str:
    """The guessed options as the YAML file that confirms them; what else is known stands in its comments.

    ``held``: sources of known layouts below, and their formats.
    """
    import yaml

    columns = found["proposal"].get("map", {})
    if any(columns.values()):
        ask = "These columns are a guess by name: check them, save this file,"
    else:
        ask = "No column can be proposed: name some, save this file,"
    facts = [
        f"Format {found['format']}: {found['episodes']} episodes. {ask}",
        "then: data-engine ingest URI --options FILE.yaml",
        *([f"It holds sources of known layouts, each to be ingested by itself: {_few(held)}"] if held else []),
        *found["notes"],
    ]
    options = yaml.safe_dump(found["proposal"], sort_keys=False, allow_unicode=True)
    return "".join(f"# {line}\n" for line in facts) + options.rstrip()


@verb()
@click.option("--dataset", help="Of this dataset only; default: within and across all.")
@WHERE
@click.option("--space", help="Instead: what is alike in this embedding space.")
@click.option("--threshold", type=click.FloatRange(0, 1, min_open=True), help="With --space: the least cosine.  [0.99]")
def duplicates(
    lake: str, dataset: str | None, where: str | None, space: str | None, threshold: float | None
) -> dict[str, Any]:
    """Recordings that are there more than once, to the byte or nearly.

    The same content, the same steps, the same actions, or near courses; with --space, those that look alike there.
    """
    from flows.duplicates import alike
    from flows.duplicates import duplicates as find

    if threshold is not None and space is None:
        raise RequestError("--threshold goes with --space", code="bad_option")
    target = existing(lake)
    of = episodes(target, dataset, where)
    groups = find(target, of) if space is None else alike(target, space, of, 0.99 if threshold is None else threshold)
    items = [
        {**{name: group[name] for name in ("how", "distance", "cosine") if name in group},
         "episodes": [f"{row['dataset']}/{row['source_key']}" for row in group["episodes"]]}
        for group in groups
    ]  # fmt: skip
    return {"items": groups, "text": table(items)}


@verb()
@click.option("--fingerprint", is_flag=True, help="Print the lake's fingerprint too.")
@click.option("--quick", is_flag=True, help="Sizes and references only, not every byte.")
@click.option("--deep", is_flag=True, help="Decode each stream's first and last frame against its receipt, too.")
def check(lake: str, fingerprint: bool, quick: bool, deep: bool) -> dict[str, Any]:
    """Verify the lake: every byte, row, count and receipt. Exit 1 where something is wrong."""
    from flows.progress import printable
    from storage import check as checks

    if quick and deep:
        raise RequestError("--quick and --deep are opposites", fix="give one of them")
    target = existing(lake)
    problems = checks.check(target, deep=not quick, decode=deep)
    answer: dict[str, Any] = {"sound": not problems, "problems": problems}
    if fingerprint and not problems:
        answer["fingerprint"] = checks.fingerprint(target)
    if problems:
        for problem in problems:
            print(printable(f"{problem['path']}: {problem['what']}"), file=sys.stderr)
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise DefectError(f"{problems[0]['path']}: {problems[0]['what']}{more}", code="damaged_lake")
    text = "sound" + (f"\n{answer['fingerprint']}" if fingerprint else "")
    return {**answer, "text": text}


@verb()
@click.option("--episode", "ids", multiple=True, metavar="ID", help="This episode; may be given again.")
@click.option("--dataset", help="Of this dataset.")
@click.option("--operator", help="Recorded by this operator.")
@WHERE
@click.option("--reason", help="Kept with the removal.")
@click.option("--dry-run", is_flag=True, help="Say what would be removed and what holds it; remove nothing.")
def remove(
    lake: str, ids: tuple[str, ...], dataset: str | None, operator: str | None, where: str | None, reason: str | None,
    dry_run: bool,
) -> dict[str, Any]:  # fmt: skip
    """Take episodes out of the live lake; `vacuum --erase` then erases them for good."""
    from flows.remove import remove as run_remove
    from flows.runs import recorded

    target = existing(lake)
    request = {"episodes": list(ids), "dataset": dataset, "operator": operator, "where": where}
    if dry_run:
        answer = run_remove(target, **request, dry_run=True)
    else:
        with recorded(target, "remove", {**request, "reason": reason}) as run:
            answer = run_remove(target, **request, reason=reason, run_id=run.id)
            run.result = {name: answer[name] for name in ("removed", "already", "undecided")}
    count = answer["would_remove"] if dry_run else answer["removed"]
    lines = [f"{count} episodes {'would be ' if dry_run else ''}removed" + _more(answer)]
    lines += [
        f"mixture    {row['name']} {row['mixture_id'][:12]} holds {row['episodes']}" for row in answer["mixtures"]
    ]
    lines += [f"selection  {row['name']} {row['selection_id']} holds {row['episodes']}" for row in answer["selections"]]
    lines += [f"export     {row['uri']} holds them" for row in answer["exports"]]
    return {**answer, "text": "\n".join(lines)}


def _more(answer: dict[str, Any]) -> str:
    said = {
        "already": "were out already",
        "undecided": "stay: --where is null for them",
        "copies": "of the same content stay",
        "derived": "derived from them stay",
    }
    counts = {name: value if isinstance(value, int) else len(value) for name, value in answer.items() if name in said}
    return "".join(f"; {counts[name]} {text}" for name, text in said.items() if counts[name])


@verb()
@click.option("--grace-hours", default=168.0, show_default=True, type=click.FloatRange(0),
              help="Leave what is younger.")  # fmt: skip
@click.option("--erase", is_flag=True, help="Erase removed episodes for good, also from mixtures that hold them.")
def vacuum(lake: str, grace_hours: float, erase: bool) -> dict[str, Any]:
    """Remove files that no table, mixture or run in progress names."""
    target = existing(lake)
    if not erase:
        report = target.vacuum(grace_hours)
        count = len(report["removed"])
        return {**report, "text": f"{count} files removed, {report['bytes']} bytes; {report['kept']} kept"}
    from flows.remove import erase as run_erase
    from flows.runs import recorded

    with recorded(target, "vacuum", {"erase": True}) as run:
        report = run_erase(target)
        run.result = {"erased": report["erased"]}
    answer = {**report, **target.vacuum(grace_hours)}
    if answer["left"]:
        raise DefectError(
            f"{report['erased']} episodes erased, but {answer['left'][0]} still names one"
            + (f" (and {len(answer['left']) - 1} more files)" if len(answer["left"]) > 1 else ""),
            code="not_erased",
        )
    lines = [f"{report['erased']} episodes erased"]
    lines += [f"mixture    {name[:12]} is broken" for name in report.get("mixtures", ())]
    lines += [f"fit        {name} is flagged" for name in report.get("fits", ())]
    lines += [f"checkpoint {name[:12]} is gone" for name in report.get("checkpoints", ())]
    lines += [f"export     {row['uri']} is not reachable from here" for row in report["exports"]]
    return {**answer, "text": "\n".join(lines)}


@verb()
def doctor(lake: str) -> dict[str, Any]:
    """What this machine has: packages, accelerator, codecs, and whether the lake is reachable."""
    from api.doctor import examine

    items = examine(lake)
    return {"items": items, "ok": all(item["ok"] for item in items)}
