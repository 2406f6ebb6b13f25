"""Outcomes of policies that were trained elsewhere: entered exactly once, and arms held against each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from itertools import combinations
from typing import Any, Literal

import numpy as np
import polars as pl
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from data_engine.canonical import digest
from data_engine.errors import RequestError
from data_engine.outcomes import mcnemar, paired_difference, strengths, wilson
from flows.row_files import read_rows
from storage.lake import Lake

__all__ = ["By", "Outcome", "bring_outcomes", "compare_all", "compare_arms", "read_outcomes"]

By = Literal["mixture_id", "checkpoint"]

_CHANCE = 0.05  # of such an answer from policies that are as good as each other
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
    rows: dict[str, dict[str, Any]] = {}
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


def read_outcomes(path: str) -> list[Outcome]:
    """The outcomes in a JSON, JSON Lines, CSV or Parquet file. Raises ``RequestError`` naming the row that is none."""
    rows = []
    for number, row in enumerate(read_rows(path), 1):
        try:
            rows.append(Outcome.model_validate({name: value for name, value in row.items() if value not in ("", None)}))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            known = ", ".join(Outcome.model_fields)
            raise RequestError(f"row {number} of {path}: {where}: {first['msg']}", code="bad_outcome",
                               fix=f"a row has {known}") from None  # fmt: skip
    return rows


def compare_arms(lake: Lake, first: str, second: str, *, by: By = "mixture_id") -> dict[str, Any]:
    """How far the policies of arm ``first`` succeed more often than those of ``second``: mixtures, or ``checkpoint``s.

    An arm is the beginning of an id, or the name of a mixture: the newest of that name.
    Returns ``{"first", "second", "tasks": [{"task", "first", "second"}], "difference", "of", "mcnemar", "winner",
    "note"}``: of each arm and task successes, rollouts, rate and Wilson's interval. ``difference``
    (:func:`data_engine.outcomes.paired_difference`) pairs ``of`` trainings over the tasks that both have, by seed or,
    where they share no seed, one by one in the order of seeds; or single rollouts where no task has two trainings: it
    speaks of these very policies then. None with a ``note`` where nothing pairs. ``mcnemar``:
    ``{"only_first", "only_second", "p"}`` over the same rollouts. ``winner`` is an arm only where the interval leaves 0
    out, the difference is no less than the least that would have been detected, and the rollouts tell at least these
    very policies apart: trainings that happen to be equally far apart show no spread. Rollouts whose success is null do
    not count. Raises ``RequestError`` where an arm has no rollout.
    """
    arms = [_arm(lake, _called(lake, name, by), by) for name in (first, second)]
    names = [arm[by][0] for arm in arms]
    tasks = sorted(set(arms[0]["task"]) | set(arms[1]["task"]))
    items = [
        {"task": task, **{which: _rate(arm.filter(pl.col("task") == task)) for which, arm in
                          zip(("first", "second"), arms, strict=True)}}
        for task in tasks
    ]  # fmt: skip
    found = _difference(*arms)
    winner = None
    if (gap := found["difference"]) is not None:
        found["note"] = _doubt(gap, found["mcnemar"]["p"])
        winner = None if found["note"] else names[0 if gap["mean"] > 0 else 1]
    return {"first": names[0], "second": names[1], "tasks": items, **found, "winner": winner}


def compare_all(lake: Lake, names: Sequence[str], *, by: By = "mixture_id", draws: int = 1000) -> dict[str, Any]:
    """Arms beside each other, best first: ``{"by", "items", "pairs", "preferences"}``.

    ``items``: ``{"name", "successes", "rollouts", "rate", "low", "high"}``, the rate over all rollouts of the arm with
    Wilson's interval; ``pairs``: :func:`compare_arms` of each two; ``preferences``: what was preferred where two were
    seen side by side (RoboArena, Atreya et al. 2025), None where nobody said so: of each arm the Bradley-Terry log
    strength ``strength`` among these arms and its interval over ``draws`` bootstraps of the answers, ``low`` to
    ``high``, and ``answers``. Raises ``RequestError`` where an arm has neither rollouts nor preferences.
    """
    names = [_called(lake, name, by) for name in names]
    if len(set(names)) < 2:
        raise RequestError("one arm is no comparison", code="bad_request", fix="give two or more")
    preferences = _preferences(lake, names, by, draws)
    met = {item["name"] for item in preferences or () if item["answers"]}
    rated = [name for name in names if name not in met or len(_rows(lake, name, by))]
    arms = {name: _arm(lake, name, by) for name in rated}
    items = [{"name": arm[by][0], **_rate(arm)} for arm in arms.values()]
    pairs = [compare_arms(lake, one, other, by=by) for one, other in combinations(rated, 2)]
    items.sort(key=lambda item: -item["rate"])
    return {"by": by, "items": items, "pairs": pairs, "preferences": preferences}


def _doubt(gap: Mapping[str, float], p: float) -> str | None:
    """Why a difference names no winner; None where it does."""
    apart = f"no winner: {abs(gap['mean']):.1%} apart, "
    if p > _CHANCE:
        return apart + "as rollouts of equal policies are by chance"
    if gap["low"] <= 0 <= gap["high"] or abs(gap["mean"]) < gap["detectable"]:
        return apart + f"{gap['detectable']:.1%} would have been detected"
    return None


def _called(lake: Lake, name: str, by: By) -> str:
    """``name``, or the id of the newest mixture of that name where no rollout is of an id that begins so."""
    if by != "mixture_id" or len(_rows(lake, name, by)):
        return name
    called = lake.scan("mixtures").filter(pl.col("name") == name).collect().sort("created_at")
    return str(called["mixture_id"][-1]) if len(called) else name


def _rows(lake: Lake, name: str, by: By) -> pl.DataFrame:
    rows = lake.scan("evaluations").filter(pl.col("success").is_not_null() & pl.col(by).str.starts_with(name))
    return rows.collect().unique("evaluation_id", keep="first", maintain_order=True)


def _arm(lake: Lake, name: str, by: By) -> pl.DataFrame:
    """The rollouts of an arm named by the beginning of its id, or wholly."""
    rows = _rows(lake, name, by)
    whole = rows.filter(pl.col(by) == name)
    arm = whole if len(whole) else rows
    ids = arm[by].n_unique()
    if ids != 1:
        kind = "mixture" if by == "mixture_id" else by
        what = f"no rollout of {kind} {name!r} says success or not" if not ids else f"{name!r} begins {ids} ids"
        held = ", ".join(lake.scan("evaluations").select(pl.col(by).unique().sort()).collect()[by].str.head(12).head(8))
        fix = f"give more of it; there are {held or 'none'}, all in `data-engine query --table evaluations`"
        raise RequestError(what, code=f"unknown_{kind}", fix=fix)
    return arm


def _rate(arm: pl.DataFrame) -> dict[str, Any]:
    successes, rollouts = int(arm["success"].sum() or 0), len(arm)
    low, high = wilson(successes, rollouts)
    rate = successes / rollouts if rollouts else None
    return {"successes": successes, "rollouts": rollouts, "rate": rate, "low": low, "high": high}


def _difference(one: pl.DataFrame, other: pl.DataFrame) -> dict[str, Any]:
    pairs = one.join(other, on=_CONDITIONS, suffix="_other")
    if not len(pairs):  # seeds of trainings that have nothing to do with each other: one by one, each but once
        pairs = _numbered(one).join(_numbered(other), on=_CONDITIONS, suffix="_other")
    apart = pairs.select(
        one=(pl.col("success") & ~pl.col("success_other")).sum(),
        other=(pl.col("success_other") & ~pl.col("success")).sum(),
    ).row(0)
    rates = [pl.col(name).cast(pl.Float64) for name in ("success", "success_other")]
    trained = pairs.group_by("task", "seed").agg(rate.mean() for rate in rates)
    of, units = "trainings", trained.sort("seed")
    if trained.group_by("task").len()["len"].max() in (None, 1):
        of, units = "rollouts", pairs.with_columns(rates).sort("initial_condition")
    counted = units.group_by("task").len().filter(pl.col("len") >= 2)["task"].sort()
    if not len(counted):
        note = "the arms share no task with two trainings, or two rollouts, of equal initial conditions"
        return {"difference": None, "of": None, "mcnemar": None, "note": note}
    parts = [units.filter(pl.col("task") == task) for task in counted]
    values = [[part[name].to_numpy() for part in parts] for name in ("success", "success_other")]
    tested = {"only_first": apart[0], "only_second": apart[1], "p": mcnemar(*apart)}
    return {"difference": asdict(paired_difference(*values)), "of": of, "mcnemar": tested, "note": None}


def _numbered(arm: pl.DataFrame) -> pl.DataFrame:
    """The first training of each task as seed 1, the second as 2, ..."""
    return arm.with_columns(pl.col("seed").rank("dense").over("task"))


def _preferences(lake: Lake, names: Sequence[str], by: By, draws: int) -> list[dict[str, Any]] | None:
    rows = lake.scan("evaluations").select("evaluation_id", "checkpoint", "mixture_id", "preferred_over").collect()
    rows = rows.unique("evaluation_id", keep="first", maintain_order=True)
    of = dict(rows.select("checkpoint", by).iter_rows())

    def arm(value: str | None) -> int | None:
        return next((at for at, name in enumerate(names) if value is not None and value.startswith(name)), None)

    said = rows.filter(pl.col("preferred_over").is_not_null())
    answers = [(arm(won), arm(of.get(lost))) for won, lost in said.select(by, "preferred_over").iter_rows()]
    kept = np.array([pair for pair in answers if None not in pair and pair[0] != pair[1]], np.int64).reshape(-1, 2)
    if not len(kept):
        return None
    draw = np.random.default_rng(0)
    samples = [kept, *(kept[draw.integers(len(kept), size=len(kept))] for _ in range(draws))]
    found = strengths(np.array([_wins(sample, len(names)) for sample in samples]))
    low, high = np.quantile(found[1:], [0.025, 0.975], axis=0)
    items = [
        {"name": name, "strength": float(found[0][at]), "low": float(low[at]), "high": float(high[at]),
         "answers": int((kept == at).sum())}
        for at, name in enumerate(names)
    ]  # fmt: skip
    return sorted(items, key=lambda item: -item["strength"])


def _wins(pairs: np.ndarray, arms: int) -> np.ndarray:
    wins = np.zeros((arms, arms))
    np.add.at(wins, (pairs[:, 0], pairs[:, 1]), 1)
    return wins


def _two(name: str) -> RequestError:
    return RequestError(f"rollout {name} is there with another outcome", code="two_outcomes",
                        fix="a rollout is one checkpoint, task and initial condition")  # fmt: skip
