"""Verbs that list what is in the lake and what is installed."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any

import click

from api.cli.printing import table
from api.cli.verb import existing, verb
from data_engine import registry
from data_engine.errors import RequestError
from data_engine.registry import Plugin


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
@click.argument("which", required=False, metavar="[RUN | DATASET]")
@click.option("--dataset", help="List this dataset's only.")
def receipts(lake: str, which: str | None, dataset: str | None) -> dict[str, Any]:
    """The receipts of ingests, newest last; with RUN or DATASET that one, whole.

    Of a dataset it is the newest. A whole receipt is JSON.
    """
    import polars as pl

    target = existing(lake)
    rows = target.scan("receipts").collect().sort("created_at", nulls_last=False)
    for name in filter(None, (which, dataset)):
        rows = rows.filter((pl.col("dataset") == name) | ((pl.col("run_id") == name) if name == which else False))
        if not len(rows):
            known = ", ".join(target.datasets()) or "none"
            raise RequestError(f"no receipt of {name!r}", code="no_receipt", fix=f"datasets: {known}")
    found = [(row, json.loads(row["receipt"])) for row in rows.iter_rows(named=True)]
    if which:
        row, receipt = found[-1]
        return {**receipt, "run_id": row["run_id"], "created_at": row["created_at"]}
    lost = target.uncommitted("episodes", [receipt["transaction"] for _, receipt in found])
    return {"items": [{**_summary(row, receipt), "published": receipt["transaction"] not in lost,
                       "source": receipt["source"]["uri"]} for row, receipt in found]}  # fmt: skip


def _summary(row: Mapping[str, Any], receipt: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "name": row["dataset"],
        "run_id": row["run_id"],
        "created_at": row["created_at"],
        "format": receipt["source"]["format"],
        "episodes": receipt["stored"]["episodes"],
        "steps": receipt["stored"]["steps"],
        "unchanged": receipt["unchanged"],
        "quarantined": len(receipt["quarantined"]),
        "defects": len(receipt["defects"]),
        "removed": receipt.get("removed", 0),
        "bytes": receipt["source"]["bytes"],
    }


@verb()
def mixtures(lake: str) -> dict[str, Any]:
    """The frozen mixtures, newest last."""
    rows = existing(lake).scan("mixtures").collect().sort("created_at")
    rows = rows.unique("mixture_id", keep="last", maintain_order=True)  # one that was made again is the same
    rows = rows.select("name", "episodes", "steps", "mixture_id", "status", "path", "created_at")
    return {"items": rows.to_dicts(), "text": table(rows.drop("path").to_dicts())}  # the id says the path


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
def labellers(lake: str) -> dict[str, Any]:
    """The installed labellers, the annotations each makes, the numbers that sum an episode up, and its options."""
    items = []
    for name in registry.names("labellers"):
        kind = registry.load("labellers", name)
        spec = kind.spec
        items.append(
            {"name": name, "kinds": ", ".join(spec.kinds), "metrics": ", ".join(each.name for each in spec.metrics),
             "version": spec.version, "options": _options(kind)}
        )  # fmt: skip
    return {"items": items}


@verb()
def encoders(lake: str) -> dict[str, Any]:
    """The installed encoders, what each embeds, and its options."""
    kinds = {name: registry.load("encoders", name) for name in registry.names("encoders")}
    return {
        "items": [
            {"name": name, "what": _sentence(kind), "version": kind.spec.version, "options": _options(kind)}
            for name, kind in kinds.items()
        ]
    }


@verb()
def formats(lake: str) -> dict[str, Any]:
    """The formats that are read and written, and what each is."""
    readers, writers = registry.names("formats"), registry.names("exporters")
    return {
        "items": [
            {
                "name": name,
                "read": name in readers,
                "written": name in writers,
                "what": _what(registry.load("formats" if name in readers else "exporters", name)),
            }
            for name in sorted({*readers, *writers})
        ]
    }


def _options(kind: type[Plugin]) -> str:
    """What ``-o`` takes for a plug-in: the names that must be given first, then each with its default, as YAML."""
    fields = kind.model_fields
    asked = [name for name, field in fields.items() if field.is_required()]
    given = {
        name: field.get_default(call_default_factory=True) for name, field in fields.items() if not field.is_required()
    }
    return ", ".join([*asked, *(f"{name}={json.dumps(value, default=str)}" for name, value in given.items())])


def _sentence(kind: type) -> str:
    """The first sentence that ``kind`` says of itself."""
    return " ".join((kind.__doc__ or "").split()).partition(". ")[0].rstrip(".").replace("``", "")


def _what(kind: type) -> str:
    """The first line that the module of ``kind`` says of itself."""
    said = (sys.modules[kind.__module__].__doc__ or "").strip()
    return said.split("\n", 1)[0].replace("``", "")
