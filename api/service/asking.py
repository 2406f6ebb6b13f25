"""What routes ask for: the snapshot, the lake, the caller, and the parameters that several of them take."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Query, Request

from api.service.live import Live
from api.service.rows import columnar
from api.service.settings import Settings
from data_engine.errors import RequestError
from storage.keys import Key
from storage.lake import Lake
from storage.snapshot import Snapshot

__all__ = [
    "After", "Caller", "Columns", "Configured", "Held", "InDataset", "Limit", "LiveLake", "OrderBy", "Where",
    "Writable", "limit_of", "split",
]  # fmt: skip


def _live(request: Request) -> Live:
    return request.app.state.live


async def _held(request: Request) -> Snapshot:
    return _live(request).snapshot


async def _writable(request: Request) -> Lake:
    return _live(request).lake


async def _caller(request: Request) -> Key:
    return request.state.key


async def _configured(request: Request) -> Settings:
    return _live(request).settings


async def _living(request: Request) -> Live:  # async, as all of these: a plain function is handed to a thread
    return _live(request)


LiveLake = Annotated[Live, Depends(_living)]
Held = Annotated[Snapshot, Depends(_held)]
Writable = Annotated[Lake, Depends(_writable)]
Caller = Annotated[Key, Depends(_caller)]
Configured = Annotated[Settings, Depends(_configured)]

Where = Annotated[
    str | None,
    Query(description="A SQL boolean expression over columns and, of episodes, scores.", max_length=8192,
          examples=["success AND percentile(action_divergence) < 30"]),
]  # fmt: skip
OrderBy = Annotated[
    str | None,
    Query(description="Comma-separated columns; -NAME for the largest first. Nulls last.", max_length=1000,
          examples=["-n_steps,task"]),
]  # fmt: skip
Columns = Annotated[
    str | None,
    Query(description="Comma-separated columns; of episodes, scores count.", max_length=4000,
          examples=["episode_id,task,composite"]),
]  # fmt: skip
Limit = Annotated[
    int | None,
    Query(description="Rows at most. As JSON 100 where it is not told; as Arrow and Parquet all of them.", ge=1,
          le=1_000_000_000),
]  # fmt: skip
After = Annotated[str | None, Query(description="`next` of the page before.", max_length=20_000)]
InDataset = Annotated[str | None, Query(description="Of this dataset only.", max_length=200)]


def split(text: str | None) -> list[str]:
    """The parts of a comma-separated parameter."""
    return [part.strip() for part in text.split(",") if part.strip()] if text else []


def limit_of(request: Request, limit: int | None) -> int | None:
    """The rows that the answer may have. Raises ``RequestError`` for more than one answer of JSON holds."""
    most = request.app.state.live.settings.rows
    if columnar(request):
        return limit
    if limit is not None and limit > most:
        raise RequestError(
            f"limit is above {most}", code="bad_limit", fix="follow `next`, or take all as Arrow or Parquet"
        )
    return limit or min(100, most)
