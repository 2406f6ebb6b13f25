"""The record of runs: one row when a run starts and one when it ends, with the resolved recipe and the result."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from data_engine.canonical import canonical_json, digest
from storage.lake import Lake

__all__ = ["Run", "recorded"]


class Run:
    """One execution: its id, and the result that is recorded when it ends."""

    def __init__(self) -> None:
        self.id = f"run_{datetime.now(UTC):%Y%m%dT%H%M%S}_{secrets.token_hex(4)}"
        self.result: Mapping[str, Any] = {}


@contextmanager
def recorded(lake: Lake, verb: str, recipe: Mapping[str, Any]) -> Iterator[Run]:
    """Record a run of ``verb`` around a block: ``running`` before, ``completed`` or ``failed`` after.

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
        append("failed", error=str(error) or type(error).__name__, ended_at=datetime.now(UTC))
        raise
    append("completed", result=result, ended_at=datetime.now(UTC))
