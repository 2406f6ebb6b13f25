"""Fits: what scorers learned, and from what; and one new demonstration judged by the fit of a base set."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
import polars as pl
from fastapi import APIRouter, Path, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field

from api.service.asking import Held
from api.service.rows import UNCHANGED, unchanged
from data_engine.canonical import digest
from data_engine.errors import RequestError
from storage.fits import describe, list_fits

__all__ = ["router"]

router = APIRouter(prefix="/v1", tags=["fits"])

Matrix = Annotated[list[list[float | None]], Field(min_length=1, max_length=100_000)]


class FitFacts(BaseModel):
    """What a fit was made by and from."""

    producer: str
    fit_id: str
    version: str
    config: dict[str, Any]
    seed: int
    base: str | None
    recordings: int = Field(description="That it saw.")
    flagged: dict[str, Any] | None = Field(description="Where some of what it saw was erased.")


class WholeFit(FitFacts):
    """A fit with the content hashes that it saw."""

    reference: list[str]


class Fits(BaseModel):
    """Stored fits."""

    items: list[FitFacts]


class Demonstration(BaseModel):
    """One demonstration: a row a step, null where nothing was recorded."""

    model_config = ConfigDict(extra="forbid")

    state: Matrix = Field(examples=[[[0.0, 0.1], [0.0, 0.2]]])
    action: Matrix = Field(examples=[[[0.5], [0.5]]])
    fps: float = Field(gt=0, le=1e6)
    task: str = Field(default="", max_length=1000)
    group: str | None = Field(default=None, max_length=200, description="`embodiment/control mode`; may be left out "
                              "where the base set holds one robot of these widths.")  # fmt: skip
    fit: str | None = Field(default=None, max_length=100, description="Of `compatibility`; may be left out where there "
                            "is one.")  # fmt: skip


class Window(BaseModel):
    """Steps that fit the base set worst, and the base demonstration nearest to them."""

    start: int
    stop: int
    error: float
    nearest: str


class Verdict(BaseModel):
    """Whether the base set's own policies take the demonstration; null, with a reason, where nothing can be said."""

    accepted: bool | None
    fit: str
    compatibility: float | None
    bad_fraction: float | None
    longest_run: int | None
    reason: str | None
    note: str | None
    windows: list[Window] = Field(description="The worst, in order of time.")


@router.get("/fits")
def fits(lake: Held) -> Fits:
    """Every stored fit."""
    return Fits(items=[_facts(producer, name, describe(lake, producer, name)) for producer, name in list_fits(lake)])


@router.get("/fits/{producer}/{fit_id}", responses=UNCHANGED)
def fit(
    request: Request, response: Response, lake: Held, producer: Annotated[str, Path(max_length=100)],
    fit_id: Annotated[str, Path(max_length=100)],
) -> WholeFit:  # fmt: skip
    """One fit: its configuration, and the recordings that it saw."""
    if (producer, fit_id) not in list_fits(lake):
        raise RequestError(f"no fit {fit_id!r} of {producer!r}", code="no_fit", fix="see /v1/fits")
    document = describe(lake, producer, fit_id)
    if (same := unchanged(request, response, digest(document, length=32))) is not None:  # an erase flags it
        return same  # type: ignore[return-value]
    return WholeFit(**_facts(producer, fit_id, document).model_dump(), reference=document["reference"])


@router.post("/judgements")
def judge(body: Demonstration, lake: Held) -> Verdict:
    """Take or refuse one new demonstration while whoever made it is there; nothing is stored.

    By a stored fit of `compatibility` (Gandhi et al. 2022): score it once with a base set, and it can be asked here.
    """
    from flows.judge import named
    from scorers.compatibility import judge as judged

    state, action = (_array(rows, name) for rows, name in ((body.state, "state"), (body.action, "action")))
    chosen = body.fit or _only(lake)
    known = lake.remembered(("fit", chosen), lambda: lake.get_fit("compatibility", chosen), ("scores", "removals"))
    found = judged(known, state, action, fps=body.fps, task=body.task, group=body.group)
    near = pl.col("content_hash").is_in({window.nearest for window in found.windows})  # not all: there may be a million
    names = lake.episodes().filter(near).select("content_hash", "episode_id").iter_rows() if found.windows else ()
    return Verdict(fit=chosen, **named(found, dict(names)))


def _only(lake: Held) -> str:
    held = [name for producer, name in list_fits(lake) if producer == "compatibility"]
    live = [name for name in held if not describe(lake, "compatibility", name).get("flagged")]
    if len(live) != 1:
        fix = f"name one: {', '.join(live[:10])}" if live else "score `compatibility` with a base set first"
        raise RequestError(f"there are {len(live)} fits of compatibility", code="no_fit", fix=fix)
    return live[0]


def _array(rows: list[list[float | None]], name: str) -> np.ndarray:
    """float64 [steps, width], NaN where null. Raises ``RequestError`` for rows of unlike width."""
    if len({len(row) for row in rows}) != 1 or not rows[0] or len(rows[0]) > 10_000:
        raise RequestError(f"{name} has rows of unlike width, or of none", code="bad_demonstration", fix="a row a step")
    return np.array([[np.nan if value is None else value for value in row] for row in rows], np.float64)


def _facts(producer: str, name: str, document: dict[str, Any]) -> FitFacts:
    return FitFacts(
        producer=producer, fit_id=name, version=str(document["version"]), config=document["config"],
        seed=document["seed"], base=document.get("base"), recordings=len(document["reference"]),
        flagged=document.get("flagged"),
    )  # fmt: skip
