"""Verbs about trained policies: what a mixture is worth."""

from __future__ import annotations

import os
from typing import Any

import click

from api.cli.verb import EXECUTOR, OPTION, WORKERS, cli, existing, options, parsed, verb


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
