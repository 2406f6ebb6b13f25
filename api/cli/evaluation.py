"""Verbs about trained policies: what a mixture is worth."""

from __future__ import annotations

import os
from typing import Any

import click

from api.cli.verb import EXECUTOR, OPTION, WORKERS, cli, existing, options, parsed, verb
from data_engine.errors import RequestError


@cli.group()
def evaluate() -> None:
    """Outcomes of trained policies."""


@verb("run", evaluate)
@click.argument("mixture")
@click.option(
    "--env",
    "envs",
    required=True,
    multiple=True,
    metavar="NAME[:ID][=TASK]",
    help="A simulator, and the mixture's task that it is: metaworld:drawer-open-v3, gymnasium:ID, pusht.",
)
@click.option("--policy", "policy", multiple=True, metavar="NAME=VALUE", help="An option of the policy, as YAML.")
@click.option("--seeds", type=click.IntRange(1, 64), default=5, show_default=True, help="Trainings.")
@click.option("--rollouts", type=click.IntRange(1, 100_000), default=20, show_default=True, help="Of each, an env.")
@click.option("--seed", type=click.IntRange(0, 1_000_000), default=0, show_default=True)
@OPTION
@EXECUTOR
@WORKERS
def evaluate_run(
    lake: str, mixture: str, envs: tuple[str, ...], policy: tuple[str, ...], seeds: int, rollouts: int, seed: int,
    pairs: tuple[str, ...], executor: str, workers: int | None,
) -> dict[str, Any]:  # fmt: skip
    """Train the engine's small policy on a mixture and roll it out in simulators."""
    from flows.evaluate import evaluate as run_evaluate
    from flows.executor import executor as executor_of
    from flows.mix import locate
    from flows.policy import PolicyConfig
    from flows.progress import terminal
    from flows.runs import recorded

    target = existing(lake)
    config = parsed(PolicyConfig, options(policy))
    uri = locate(target, mixture)
    asked = {"mixture": mixture, "envs": list(envs), "policy": config.config, "seeds": seeds, "rollouts": rollouts,
             "seed": seed, "options": options(pairs)}  # fmt: skip
    many = workers or (os.cpu_count() or 1 if executor == "local" else None)
    with recorded(target, "evaluate", asked) as run, executor_of(executor, many) as on:
        answer = run_evaluate(
            target, uri, envs, config=config, seeds=seeds, rollouts=rollouts, seed=seed, on=on, progress=terminal(),
            run_id=run.id, options=options(pairs),
        )  # fmt: skip
        run.result = answer
    return {**answer, "run_id": run.id, "text": _text(answer, seeds)}


@verb("plan", evaluate)
@click.option(
    "--factor",
    "factors",
    multiple=True,
    type=click.Choice(["scenes", "objects", "demonstrations"]),
    help="What the law is of. [default: scenes and objects, as far as the evaluated mixtures differ in them]",
)
@click.option("--task", help="Count rollouts of this task only.")
@click.option("--success", type=float, default=0.9, show_default=True, help="The success rate to reach.")
@click.option("--cost", "costs", multiple=True, metavar="FACTOR=NUMBER", help="Of one more, 1 by default.")
@click.option("--mixture", help="The mixture to go on from. [default: the evaluated one that holds the most]")
def evaluate_plan(
    lake: str, factors: tuple[Any, ...], task: str | None, success: float, costs: tuple[str, ...], mixture: str | None
) -> dict[str, Any]:
    """What to collect next, by the scaling law of the mixtures that were evaluated."""
    from flows.plan import plan

    given = {name: _number(name, value) for name, value in options(costs).items()}
    answer = plan(existing(lake), factors=factors, task=task, success=success, costs=given, here=mixture)
    return {**answer, "text": _plan_text(answer)}


@verb("import", evaluate)
@click.argument("file")
def evaluate_import(lake: str, file: str) -> dict[str, Any]:
    """Enter outcomes of policies that were trained elsewhere, from a JSON, JSON Lines, CSV or Parquet file.

    A row is a rollout: checkpoint, mixture_id, task, initial_condition, seed (of the training), and success, progress,
    or preferred_over (the checkpoint that did worse beside it). What is there already stays.
    """
    from flows.outcomes import bring_outcomes, read_outcomes
    from flows.runs import recorded

    target = existing(lake)
    with recorded(target, "evaluate import", {"file": file}) as run:
        answer = bring_outcomes(target, read_outcomes(file))
        run.result = answer
    text = f"{answer['added']} rollouts added, {answer['already']} there already"
    return {**answer, "run_id": run.id, "text": text}


@verb("compare", evaluate)
@click.argument("arms", nargs=-1, required=True, metavar="ARM ARM...")
@click.option("--by", type=click.Choice(["mixture", "checkpoint"]), default="mixture", show_default=True)
def evaluate_compare(lake: str, arms: tuple[str, ...], by: str) -> dict[str, Any]:
    """Which of some mixtures, or checkpoints, do better, as far as their rollouts can tell.

    Arms are named by the beginning of their ids, mixtures by their names as well. A winner is named only where the
    interval leaves 0 out and the difference would have been detected.
    """
    from flows.outcomes import compare_all

    answer = compare_all(existing(lake), arms, by="checkpoint" if by == "checkpoint" else "mixture_id")
    return {**answer, "text": _compared(answer)}


def _compared(answer: dict[str, Any]) -> str:
    from api.cli.printing import table

    rates = [
        {"arm": item["name"][:40], "success": f"{item['rate']:.1%}",
         "95 % interval": f"{item['low']:.1%} to {item['high']:.1%}", "rollouts": item["rollouts"]}
        for item in answer["items"]
    ]  # fmt: skip
    lines = [table(rates)] if rates else []
    for pair in answer["pairs"]:
        gap = pair["difference"]
        what = f"{pair['first'][:12]} against {pair['second'][:12]}: "
        if gap is None:
            lines.append(what + pair["note"])
            continue
        verdict = f"{pair['winner'][:12]} is better" if pair["winner"] else pair["note"]
        lines.append(
            f"{what}{gap['mean']:+.1%} ({gap['low']:+.1%} to {gap['high']:+.1%}) over paired {pair['of']}, McNemar "
            f"p {pair['mcnemar']['p']:.2g}; {verdict}"
        )
    lines += [
        f"preferred: {item['name'][:40]} {item['strength']:+.2f} ({item['low']:+.2f} to {item['high']:+.2f}) of "
        f"{item['answers']} answers"
        for item in answer["preferences"] or ()
    ]
    return "\n".join(lines)


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise RequestError(f"--cost {name}={value} is not a number", code="bad_option", fix="give scenes=3")
    return float(value)


def _plan_text(answer: dict[str, Any]) -> str:
    from api.cli.printing import table

    def said(found: dict[str, float | None], form: str) -> str:
        value, low, high = ("none" if x is None else format(x, form) for x in found.values())
        return f"{value} ({low} to {high})"

    rows = [
        {"factor": item["factor"], "have": f"{item['have']:g}", "exponent": said(item["exponent"], ".2f"),
         "one more": said(item["one_more"], "+.1%"), "twice as many": said(item["doubled"], "+.1%"),
         f"for {answer['target']:.0%}": said(item["needed"], ".0f")}
        for item in answer["items"]
    ]  # fmt: skip
    here = answer["here"]
    standing = (
        f"from {len(answer['points'])} evaluated mixtures; mixture {here['mixture_id'][:12]}: success "
        f"{here['success']:.1%} of {here['rollouts']} rollouts, by the law {said(here['predicted'], '.1%')}"
    )
    verdict = (
        f"collect more {answer['collect']}"
        if answer["collect"]
        else f"not told apart: {answer['likeliest']} with {answer['sure']:.0%}; evaluate more mixtures"
    )
    return "\n".join([table(rows), standing, verdict, *(f"note: {note}" for note in answer["notes"])])


def _text(answer: dict[str, Any], seeds: int) -> str:
    from api.cli.printing import table

    rows = [
        {"env": item["env"], "task": item["task"], "success": f"{item['success']:.1%}",
         "95 % interval": f"{item['low']:.1%} to {item['high']:.1%}",
         "seeds": f"{item['least']:.0%} to {item['most']:.0%}", "progress": f"{item['progress']:.2f}",
         "rollouts": item["rollouts"]}
        for item in answer["items"]
    ]  # fmt: skip
    lines = [table(rows), f"mixture {answer['mixture_id'][:12]}, {seeds} trainings, {answer['added']} new evaluations"]
    return "\n".join([*lines, *(f"note: {note}" for note in answer["notes"])])
