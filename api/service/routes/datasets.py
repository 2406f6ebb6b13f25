"""Datasets, and the receipts of what was ingested."""

from __future__ import annotations

import json
from typing import Any

import polars as pl
from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import BaseModel, Field

from api.service.asking import Held, InDataset
from api.service.rows import TABULAR, UNCHANGED, tabular, unchanged
from data_engine.canonical import digest
from data_engine.errors import RequestError
from data_engine.model import Dataset

__all__ = ["router"]

router = APIRouter(prefix="/v1", tags=["datasets"])


class DatasetFacts(BaseModel):
    """A dataset as ingested, and how much of it is there."""

    dataset: Dataset
    episodes: int
    steps: int
    hours: float
    tasks: list[str | None] = Field(description="At most 1000, sorted.")


class Receipt(BaseModel):
    """What one ingest read, stored and left out."""

    run_id: str | None
    receipt: dict[str, Any]


@router.get("/datasets", responses=TABULAR, response_class=Response)
def datasets(request: Request, lake: Held) -> Response:
    """The datasets, by name, with counts."""
    counted = lake.episodes().group_by("dataset").agg(
        pl.len().alias("episodes"), pl.col("n_steps").sum().alias("steps"),
        (pl.col("duration_s").sum() / 3600).alias("hours"),
    )  # fmt: skip
    facts = ("embodiment", "control_mode", "fps", "licence", "origin", "format")
    rows = [
        {"dataset": name, **{fact: getattr(each, fact) for fact in facts}} for name, each in lake.datasets().items()
    ]
    schema = {"dataset": pl.String, **dict.fromkeys(facts, pl.String), "fps": pl.Float64}
    frame = pl.DataFrame(rows, schema=schema).join(counted, on="dataset", how="left", maintain_order="left")
    return tabular(request, frame.with_columns(pl.col("episodes", "steps", "hours").fill_null(0)))


@router.get("/datasets/{name}")
def dataset(name: str, lake: Held) -> DatasetFacts:
    """One dataset: its features with units and conventions, and how much of it is there."""
    found = lake.datasets().get(name)
    if found is None:
        known = ", ".join(lake.datasets()) or "none"
        raise RequestError(f"no dataset {name!r}", code="unknown_dataset", fix=f"there are: {known}")
    mine = lake.episodes(dataset=name)
    return DatasetFacts(
        dataset=found, episodes=len(mine), steps=int(mine["n_steps"].sum() or 0),
        hours=float(mine["duration_s"].sum() or 0) / 3600, tasks=mine["task"].unique().sort().head(1000).to_list(),
    )  # fmt: skip


@router.get("/receipts", responses=TABULAR, response_class=Response)
def receipts(request: Request, lake: Held, dataset: InDataset = None) -> Response:
    """The receipts of ingests, newest last, without their text."""
    rows = lake.scan("receipts").drop("receipt").collect().sort("created_at", "run_id")
    return tabular(request, rows.filter(pl.col("dataset") == dataset) if dataset is not None else rows)


@router.get("/receipts/{run_id}", responses=UNCHANGED)
def receipt(request: Request, response: Response, run_id: str, lake: Held) -> list[Receipt]:
    """The whole receipts of a run, one a dataset: counts, files, findings, defects, what was quarantined and why."""
    rows = lake.scan("receipts").filter(pl.col("run_id") == run_id).collect().sort("created_at")
    if not len(rows):
        raise RequestError(f"no receipt of run {run_id!r}", code="no_receipt", fix="see /v1/receipts")
    if (same := unchanged(request, response, digest(*rows["receipt"], length=32))) is not None:
        return same  # type: ignore[return-value]
    return [Receipt(run_id=run_id, receipt=json.loads(text)) for text in rows["receipt"]]
