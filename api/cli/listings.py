"""Verbs that list what is in the lake and what is installed."""

from __future__ import annotations

from typing import Any

from api.cli.verb import existing, verb
from data_engine import registry


@verb()
def datasets(lake: str) -> dict[str, Any]:
    """The datasets in the lake."""
    import polars as pl

    target = existing(lake)
    counts = (
        target.episodes().group_by("dataset").agg(pl.len().alias("episodes"), pl.col("n_steps").sum().alias("steps"))
    )
    rows = {row["dataset"]: row for row in counts.iter_rows(named=True)}
    return {
        "items": [
            {
                "name": name,
                "episodes": rows.get(name, {}).get("episodes", 0),
                "steps": rows.get(name, {}).get("steps", 0),
                "embodiment": dataset.embodiment,
                "control_mode": dataset.control_mode,
                "fps": dataset.fps,
                "cameras": ", ".join(dataset.cameras),
                "format": dataset.format,
            }
            for name, dataset in target.datasets().items()
        ]
    }


@verb()
def mixtures(lake: str) -> dict[str, Any]:
    """The frozen mixtures, newest last."""
    rows = existing(lake).scan("mixtures").collect().sort("created_at")
    rows = rows.unique("mixture_id", keep="last", maintain_order=True)  # one that was made again is the same
    return {"items": rows.select("name", "episodes", "steps", "mixture_id", "status", "path", "created_at").to_dicts()}


@verb()
def fits(lake: str) -> dict[str, Any]:
    """The stored fits, how many recordings each saw, and which are flagged because one of those was erased."""
    from storage.fits import describe, list_fits

    target = existing(lake)
    items = []
    for producer, fit in list_fits(target):
        facts = describe(target, producer, fit)
        flagged = facts.get("flagged")
        items.append(
            {"name": producer, "fit_id": fit, "version": facts["version"], "episodes": len(facts["reference"]),
             "flagged": f"{flagged['erased']} erased on {flagged['at'][:10]}" if flagged else None}
        )  # fmt: skip
    return {"items": items}


@verb()
def runs(lake: str) -> dict[str, Any]:
    """What was run, newest last, and how it ended."""
    import polars as pl

    rows = existing(lake).scan("runs").collect().sort("started_at", pl.col("ended_at").fill_null(pl.col("started_at")))
    rows = rows.unique("run_id", keep="last", maintain_order=True)
    return {"items": rows.select("run_id", "verb", "state", "started_at", "ended_at", "error").to_dicts()}


@verb()
def scorers(lake: str) -> dict[str, Any]:
    """The installed scorers, what each measures and which direction is better."""
    items = []
    for name in registry.names("scorers"):
        spec = registry.load("scorers", name).spec
        items += [
            {"name": name, "metric": metric.name, "unit": metric.unit, "better": metric.better, "version": spec.version,
             "level": spec.level}
            for metric in spec.metrics
        ]  # fmt: skip
    return {"items": items}


@verb()
def formats(lake: str) -> dict[str, Any]:
    """The formats that are read and written."""
    readers, writers = registry.names("formats"), registry.names("exporters")
    return {
        "items": [
            {"name": name, "read": name in readers, "written": name in writers} for name in sorted({*readers, *writers})
        ]
    }
