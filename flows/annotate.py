"""``annotate``: what a person says of spans of episodes, entered exactly once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import polars as pl
from pydantic import BaseModel, ConfigDict, Field, model_validator

from data_engine.canonical import digest
from data_engine.errors import RequestError
from flows.score import again
from storage.lake import Lake

__all__ = ["Said", "annotate"]

_Name = Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[^\x00-\x1f\x7f]+$")]
_IDENTITY = ("episode_id", "content_hash", "kind", "start", "stop", "label", "text", "value", "confidence", "reason",
             "producer")  # fmt: skip


class Said(BaseModel):
    """One annotation of the steps [start, stop) of an episode; ``stop`` None: to its end."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    episode_id: str = Field(max_length=200)
    kind: _Name = Field(description="segment, keypose, progress, caption, verdict, ...")
    start: int = Field(default=0, ge=0, lt=2**62)
    stop: int | None = Field(default=None, ge=1, lt=2**62)
    label: _Name | None = Field(default=None, description="A short category.")
    text: str | None = Field(default=None, max_length=10_000)
    value: float | None = Field(default=None, allow_inf_nan=False)
    confidence: float | None = Field(default=None, ge=0, le=1, allow_inf_nan=False)
    reason: str | None = Field(default=None, max_length=1000)

    @model_validator(mode="after")
    def _in_order(self) -> Said:
        if self.stop is not None and self.stop <= self.start:
            raise ValueError("stop is not after start")
        return self


def annotate(lake: Lake, said: Sequence[Said], author: str, *, run_id: str = "") -> dict[str, int]:
    """Enter ``said`` by ``author`` and return ``{"added", "already"}``: what the lake holds already is not doubled.

    All of it goes in, in one transaction, or nothing. Raises ``RequestError`` for an episode that is not there and for
    steps that it does not have.
    """
    columns = ["episode_id", "content_hash", "n_steps"]
    held = {row["episode_id"]: row for row in lake.episodes(columns=columns).iter_rows(named=True)}
    rows = {}
    for each in said:
        episode = held.get(each.episode_id)
        if episode is None:
            raise RequestError(f"no episode {each.episode_id!r} in the lake", code="unknown_episode")
        stop = episode["n_steps"] if each.stop is None else each.stop
        if not each.start < stop <= episode["n_steps"]:
            raise RequestError(
                f"steps {each.start} to {stop} are not within the {episode['n_steps']} of {each.episode_id}",
                code="bad_span",
            )
        facts = each.model_dump() | {"stop": stop, "content_hash": episode["content_hash"]}
        row = facts | {"producer": f"person:{author}", "version": "1"}
        rows[digest([row[name] for name in _IDENTITY])] = row
    mine = pl.col("producer") == f"person:{author}"
    there = lake.scan("annotations").filter(mine).select(_IDENTITY).collect()
    known = {digest(list(row)) for row in there.iter_rows()}
    new = sorted(set(rows) - known)
    if new:
        transaction = digest("annotate", new, *again(lake))
        lake.append_rows("annotations", [rows[name] | {"run_id": run_id} for name in new], transaction=transaction,
                         run_id=run_id)  # fmt: skip
    return {"added": len(new), "already": len(said) - len(new)}
