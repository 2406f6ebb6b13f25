"""The review queue: what a person should look at next, what was said, and how often each reason is right."""

from __future__ import annotations

from typing import Annotated, Any

import polars as pl
from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from api.service.asking import Caller, Held, LiveLake, Where
from api.service.routes.evidence import Entered
from flows import review as reviews
from flows.review import Verdict
from storage.snapshot import Snapshot

__all__ = ["router"]

router = APIRouter(prefix="/v1/review", tags=["annotations"])


class Item(BaseModel):
    """A flag to judge: an episode, the reason, and where."""

    episode_id: str
    dataset: str
    task: str | None
    n_steps: int
    reason: str = Field(description="`unflagged` where no scorer gave one.")
    scorer: str | None
    start: int = Field(description="Of the longest span.")
    stop: int
    steps: int = Field(description="In all spans of that reason.")
    spans: int
    disagreement: float | None = Field(description="Of the scorers about the episode, 0 to 1.")
    verdicts: int
    reviewers: list[str] | None
    mine: str | None = Field(description="The caller's own verdict.")
    priority: float = Field(description="How much a verdict would teach.")


class Queue(BaseModel):
    """What to look at next, the most telling first."""

    items: list[Item]
    matched: int


class ReviewTally(BaseModel):
    """What was said so far."""

    verdicts: int
    reviewers: list[dict[str, Any]]
    shared: int = Field(description="Flags that several judged.")
    alpha: float | None = Field(description="Krippendorff's, of the verdicts on them; null where it says nothing.")
    pairs: list[dict[str, Any]]
    reasons: list[dict[str, Any]] = Field(description="How often each is right, in all and by dataset.")


class Verdicts(BaseModel):
    """Verdicts to enter: all of them or none."""

    model_config = ConfigDict(extra="forbid")

    items: list[Verdict] = Field(min_length=1, max_length=1000)


def _candidates(lake: Snapshot) -> pl.DataFrame:
    return lake.remembered("review", lambda: reviews.candidates(lake), ("episodes", "removals", "scores"))


@router.get("/queue")
def queue(
    lake: Held, caller: Caller, where: Where = None,
    reason: Annotated[str | None, Query(description="Flagged for this reason only.", max_length=1000)] = None,
    again: Annotated[bool, Query(description="Also what the caller has judged.")] = False,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
) -> Queue:  # fmt: skip
    """What the caller should look at next: by stratum and by how far the scorers disagree."""
    items, matched = reviews.queue(
        lake, _candidates(lake), caller.name, where=where, reason=reason, again=again, limit=limit
    )
    return Queue(items=[Item(**each) for each in items], matched=matched)


@router.get("/tally")
def tally(lake: Held) -> ReviewTally:
    """Verdicts by reviewer, how far reviewers agree, and how often each reason was right."""
    return ReviewTally(**reviews.tally(lake, _candidates(lake)))


@router.post("/verdicts", status_code=201)
def enter(body: Verdicts, live: LiveLake, caller: Caller) -> Entered:
    """Enter what a person says of flagged spans, under the key's name. The newest of a person counts."""
    with live.writing:
        return Entered(**reviews.judge(live.lake, body.items, caller.name))
