"""The record of runs: one row when a run starts and one when it ends, with the resolved recipe and the result."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

import polars as pl

from data_engine.canonical import canonical_json, digest
from storage.lake import Lake

__all__ = ["Run", "ended", "named", "new_id", "noted", "recorded"]

_name: ContextVar[str | None] = ContextVar("run_id", default=None)


def new_id() -> str:
    """An id that no run has."""
    return f"run_{datetime.now(UTC):%Y%m%dT%H%M%S}_{secrets.token_hex(4)}"


@contextmanager
def named(run_id: str) -> Iterator[None]:
    """The first run that is recorded inside is called ``run_id``: whoever started it knows it before it begins."""
    token = _name.set(run_id)
    try:
        yield
    finally:
        _name.reset(token)


class Run:
    """One execution: its id, and the result that is recorded when it ends."""

    def __init__(self) -> None:
        self.id = _name.get() or new_id()
        _name.set(None)
        self.result: Mapping[str, Any] = {}


@contextmanager
def recorded(lake: Lake, verb: str, recipe: Mapping[str, Any]) -> Iterator[Run]:
    """Record a run of ``verb`` around a block: ``running`` before, ``completed``, ``failed`` or
    ``cancelled`` (interrupted) after.

    A run that was killed stays ``running``: that is what is known of it.
    """
    run = Run()
    text = canonical_json(recipe)
    started = datetime.now(UTC)
    row = {"run_id": run.id, "verb": verb, "recipe_hash": digest(text), "recipe": text, "started_at": started}

    def append(state: str, **more: Any) -> None:
        lake.append_rows("runs", [{**row, "state": state, **more}], transaction=f"{run.id}-{state}", run_id=run.id)

    append("running")
    try:
        yield run
        result = canonical_json(run.result)
    except BaseException as error:
        state = "failed" if isinstance(error, Exception | SystemExit) else "cancelled"  # Prefect has its own signal
        append(state, error=str(error) or type(error).__name__, ended_at=datetime.now(UTC))
        raise
    append("completed", result=result, ended_at=datetime.now(UTC))


def ended(lake: Lake, run_id: str, verb: str, recipe: Mapping[str, Any], state: str, error: str) -> None:
    """Record that a run ended in ``state`` (``failed``, ``cancelled``) which can no longer say so itself.

    Nothing is recorded where it has said how it ended.
    """
    rows = lake.scan("runs").filter(pl.col("run_id") == run_id).collect().sort("started_at")
    if rows["ended_at"].is_not_null().any():
        return
    now, text = datetime.now(UTC), canonical_json(recipe)
    told = rows.row(0, named=True) if len(rows) else {
        "run_id": run_id, "verb": verb, "recipe_hash": digest(text), "recipe": text, "started_at": now
    }  # fmt: skip
    row = {**told, "state": state, "error": error, "ended_at": now}
    lake.append_rows("runs", [row], transaction=f"{run_id}-{state}", run_id=run_id)


def noted(lake: Lake, run_id: str, verb: str, recipe: Mapping[str, Any], state: str, why: str, due: datetime) -> None:
    """Record a run that was due and did not come to be (``missed``, ``skipped``, or refused and so ``failed``)."""
    text = canonical_json(recipe)
    row = {"run_id": run_id, "verb": verb, "recipe_hash": digest(text), "recipe": text, "state": state,
           "started_at": due, "ended_at": datetime.now(UTC), "error": why}  # fmt: skip
    lake.append_rows("runs", [row], transaction=f"{run_id}-{state}", run_id=run_id)
