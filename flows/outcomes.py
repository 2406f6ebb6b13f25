"""Outcomes of policies that were trained elsewhere: entered exactly once, and two arms held against each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import numpy as np
import polars as pl
from pydantic import BaseModel, ConfigDict, Field

from data_engine.canonical import digest
from data_engine.errors import RequestError
from data_engine.outcomes import paired_difference, wilson
from storage.lake import Lake

__all__ = ["Outcome", "bring_outcomes", "compare_arms"]

_CONDITIONS = ["task", "seed", "initial_condition"]


class Outcome(BaseModel):
    """One rollout of a trained policy. ``seed``: the training's. ``initial_condition``: what the rollout began from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    checkpoint: str = Field(min_length=1, max_length=500)
    mixture_id: str = Field(min_length=1, max_length=200)
    task: str = Field(min_length=1, max_length=1000)
    initial_condition: str = Field(min_length=1, max_length=10_000)
    seed: int = Field(ge=-(2**62), le=2**62)
    success: bool | None = None
    progress: float | None = Field(default=None, allow_inf_nan=False)
    preferred_over: str | None = Field(default=None, max_length=500)

    @property
    def id(self) -> str:
        """Names the rollout: the same checkpoint on the same task from the same condition is one."""
        return "ev_" + digest(self.checkpoint, self.task, self.initial_condition, length=20)


def bring_outcomes(lake: Lake, outcomes: Sequence[Outcome]) -> dict[str, int]:
    """Enter ``outcomes`` and return ``{"added", "already"}``.

    Raises ``RequestError`` where a rollout is there with another outcome, or is given twice with two: nothing goes in.
    """
    rows = {}
    for outcome in outcomes:
        row = {"evaluation_id": outcome.id, **outcome.model_dump()}
        if rows.setdefault(outcome.id, row) != row:
            raise _two(outcome.id)
    told = ["mixture_id", "seed", "success", "progress", "preferred_over"]
    held = lake.scan("evaluations").filter(pl.col("evaluation_id").is_in(sorted(rows))).collect()
    for there in held.iter_rows(named=True):
        if any(there[name] != rows[there["evaluation_id"]][name] for name in told):
            raise _two(there["evaluation_id"])
    new = sorted(set(rows) - set(held["evaluation_id"]))
    if new:
        now = datetime.now(UTC)
        lake.append_rows("evaluations", [rows[name] | {"created_at": now} for name in new],
                         transaction=digest("evaluations", new))  # fmt: skip
    return {"added": len(new), "already": len(outcomes) - len(new)}


def compare_arms(lake: Lake, first: str, second: str) -> dict[str, Any]:
    """How far the policies trained on mixture ``first`` succeed more often than those on ``second``.

    Returns ``{"first", "second", "tasks": [{"task", "first", "second"}], "difference", "note"}``: of each arm and task
    successes, rollouts, rate and Wilson's interval; ``difference`` pairs trainings by seed over the tasks that both
    have (:func:`data_engine.outcomes.paired_difference`), None with a ``note`` where they do not pair. Rollouts whose
    success is null do not count. Raises ``RequestError`` where an arm has no rollout.
    """
    rows = lake.scan("evaluations").filter(pl.col("success").is_not_null()).collect()
    rows = rows.unique("evaluation_id", keep="first")
    arms = [rows.filter(pl.col("mixture_id").str.starts_with(name)) for name in (first, second)]
    for name, arm in zip((first, second), arms, strict=True):
        ids = arm["mixture_id"].n_unique()
        if ids != 1:
            what = f"no rollout of mixture {name!r} says success or not" if not ids else f"{name!r} begins {ids} ids"
            raise RequestError(what, code="unknown_mixture", fix="give whole ids: see `query --table evaluations`")
    tasks = sorted(set(arms[0]["task"]) | set(arms[1]["task"]))
    items = [
        {"task": task, **{which: _rate(arm.filter(pl.col("task") == task)) for which, arm in
                          zip(("first", "second"), arms, strict=True)}}
        for task in tasks
    ]  # fmt: skip
    difference, note = _difference(*arms)
    return {"first": arms[0]["mixture_id"][0], "second": arms[1]["mixture_id"][0], "tasks": items,
            "difference": difference, "note": note}  # fmt: skip


def _rate(arm: pl.DataFrame) -> dict[str, Any]:
    successes, rollouts = int(arm["success"].sum() or 0), len(arm)
    low, high = wilson(successes, rollouts)
    rate = successes / rollouts if rollouts else None
    return {"successes": successes, "rollouts": rollouts, "rate": rate, "low": low, "high": high}


def _difference(one: pl.DataFrame, other: pl.DataFrame) -> tuple[dict[str, float] | None, str | None]:
    both = one.join(other, on=_CONDITIONS, suffix="_other").group_by("task", "seed").agg(
        pl.col("success").cast(pl.Float64).mean(), pl.col("success_other").cast(pl.Float64).mean()
    )  # fmt: skip
    counted = both.group_by("task").len().filter(pl.col("len") >= 2)["task"].sort()
    if not len(counted):
        return None, "the arms share no task with two trainings of equal seeds and initial conditions"
    parts = [both.filter(pl.col("task") == task).sort("seed") for task in counted]
    pairs = [[np.asarray(part[name]) for part in parts] for name in ("success", "success_other")]
    return asdict(paired_difference(*pairs)), None


def _two(name: str) -> RequestError:
    return RequestError(f"rollout {name} is there with another outcome", code="two_outcomes",
                        fix="a rollout is one checkpoint, task and initial condition")  # fmt: skip
