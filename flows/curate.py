"""``curate``: a resolved recipe from sources to a frozen mixture, stage by stage.

Every stage finds what is done and does the rest, so a run that was killed at any point and is started again ends in the
same lake. Stages run plainly here; ``flows.prefect_flow`` makes each one a Prefect task.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, TypeVar

import numpy as np
import polars as pl

from data_engine import mixture as mixtures
from data_engine import registry
from data_engine.errors import EngineError, RequestError
from data_engine.recipe import Recipe
from flows import report as reports
from flows.executor import Executor
from flows.executor import executor as make_executor
from flows.export import export
from flows.index import embed, index, vectors
from flows.ingest import ingest
from flows.label import label
from flows.label_summary import summed_up
from flows.mix import mix
from flows.progress import Progress, terminal
from flows.query import score_column
from flows.recipe_check import check_names
from flows.runs import Run, recorded
from flows.score import score
from flows.select import select, stored
from storage.lake import Lake

__all__ = ["curate"]

T = TypeVar("T")
Stage = Callable[[str, Callable[[], T]], T]


def plainly(name: str, work: Callable[[], T]) -> T:
    """Run a stage as it is."""
    return work()


def curate(
    lake_uri: str,
    recipe: Recipe,
    *,
    executor: str | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
    stage: Stage = plainly,
) -> dict[str, Any]:
    """Run ``recipe`` and return ``{"run_id", "mixture_id", "mixture", "report", "exports", "table", ...}``.

    Raises ``RequestError`` where the recipe asks for what cannot be, ``EngineError`` where a stage fails.
    """
    check_names(recipe)
    lake = Lake.open(lake_uri, create=True)
    with make_executor(executor, workers) as on, recorded(lake, "curate", recipe.model_dump(mode="json")) as run:
        run.result = _Curation(lake, recipe, on, progress or terminal(), run, stage).run()
        return dict(run.result)


class _Curation:
    """The stages of one run and what they hand each other."""

    def __init__(self, lake: Lake, recipe: Recipe, on: Executor, progress: Progress, run: Run, stage: Stage) -> None:
        self.lake, self.recipe, self.on, self.progress, self.run_, self.stage = lake, recipe, on, progress, run, stage
        self.timings: dict[str, float] = {}
        self.common: dict[str, Any] = {"on": on, "progress": progress, "run_id": run.id}

    def run(self) -> dict[str, Any]:
        recipe, lake = self.recipe, self.lake
        receipts = [
            self._timed(f"ingest {source.dataset}", lambda source=source: ingest(lake, source, **self.common))
            for source in recipe.sources
        ]
        names = [source.dataset for source in recipe.sources]
        episodes = lake.episodes().filter(pl.col("dataset").is_in(names))
        if not len(episodes):
            raise EngineError(
                "no episode of any source could be read", code="nothing_ingested", fix="see the quarantine"
            )
        spaces = [
            self._timed(f"index {item.name}", lambda item=item: self._space(item, episodes)) for item in recipe.spaces
        ]
        versions = {item["space"]: item["encoder_version"] for item in spaces}
        scores = [
            self._timed(
                f"score {item.scorer}",
                lambda item=item: score(lake, item, episodes, versions=versions, **self.common),
            )
            for item in recipe.score
        ]
        fits = {item["scorer"]: item["fit_id"] for item in scores}
        labels = [
            self._timed(
                f"label {item.labeller}",
                lambda item=item: label(lake, item, episodes, versions=versions, **self.common),
            )
            for item in recipe.label
        ]
        fits |= {item["labeller"]: item["fit_id"] for item in labels}
        selections: list[dict[str, Any]] = []
        pinned: dict[str, str] = {}
        for item in recipe.select:
            made = self._timed(
                f"select {item.name}",
                lambda item=item: select(
                    lake, item, episodes, progress=self.progress, run_id=self.run_.id, fits=fits,
                    encoder_version=versions.get(item.space), selections=pinned,
                ),
            )  # fmt: skip
            selections.append(made)
            pinned[item.name] = made["selection_id"]
        lineage = [{key: item[key] for key in ("scorer", "version", "config_hash", "fit_id")} for item in scores]
        lineage += [
            {"scorer": item["labeller"], **{key: item[key] for key in ("version", "config_hash", "fit_id")}}
            for item in labels
        ]
        lineage += [item["lineage"] for item in spaces]
        mixture = self._timed(
            "mix",
            lambda: mix(
                lake,
                recipe.mixture,
                run_id=self.run_.id,
                recipe_hash=recipe.hash,
                selections=pinned,
                scorers=lineage,
                fits=fits,
                encoders=versions,
            ),
        )
        exports = [
            self._timed(
                f"export {item.format}",
                lambda item=item: export(mixture["uri"], item.format, item.uri, options=item.options, verify=True),
            )
            for item in recipe.export
        ]
        batch = self._timed("load", lambda: _first_batch(mixture["uri"]))
        document = self._report(receipts, episodes, scores, labels, selections, mixture, exports, fits, versions)
        document["batch"] = batch
        path = f"reports/{self.run_.id}.html"
        document["report"] = lake.uri_of(path)
        lake.write_bytes(path, reports.render(document).encode())
        return {
            "run_id": self.run_.id,
            "mixture_id": mixture["mixture_id"],
            "mixture": mixture["uri"],
            "report": lake.uri_of(path),
            "exports": exports,
            "selections": selections,
            "scores": scores,
            "labels": labels,
            "datasets": [{key: receipt[key] for key in ("dataset", "in", "stored", "unchanged")}
                         | {"quarantined": len(receipt["quarantined"])} for receipt in receipts],
            "batch": batch,
            "timings": self.timings,
            "warnings": self.progress.warned,
            "table": reports.table(document),
        }  # fmt: skip

    def _timed(self, name: str, work: Callable[[], T]) -> T:
        started = time.monotonic()
        result = self.stage(name, work)
        self.timings[name] = round(time.monotonic() - started, 3)
        return result

    def _space(self, item: Any, episodes: pl.DataFrame) -> dict[str, Any]:
        embedded = embed(self.lake, item, episodes, **self.common)
        encoder = registry.make("encoders", item.encoder, item.params)
        if len(embedded["empty"]) < len(episodes):
            embedded["indices"] = index(self.lake, item.name, episodes, embedded["encoder_version"])
        embedded["lineage"] = {
            "scorer": encoder.spec.name, "version": encoder.spec.version, "config_hash": encoder.config_hash,
            "fit_id": embedded["fit_id"],
        }  # fmt: skip
        return embedded

    def _report(
        self,
        receipts: list[dict[str, Any]],
        episodes: pl.DataFrame,
        scores: list[dict[str, Any]],
        labels: list[dict[str, Any]],
        selections: list[dict[str, Any]],
        mixture: dict[str, Any],
        exports: list[dict[str, Any]],
        fits: dict[str, str],
        versions: dict[str, str],
    ) -> dict[str, Any]:
        recipe = self.recipe
        chosen: dict[str, float] = {}
        targets: set[str] = set()
        mixed = {entry.selection for entry in recipe.mixture.entries}
        for item in selections:
            rows = stored(self.lake, item["selection_id"])
            if item["name"] in mixed:
                taken = rows.filter(pl.col("rank").is_not_null())
                chosen |= dict(zip(taken["episode_id"], taken["weight"], strict=True))
            targets |= set(rows.filter(pl.col("reason") == "target")["episode_id"])
        places = self._places(episodes, versions)
        datasets = self.lake.datasets()
        return {
            "run_id": self.run_.id,
            "recipe_hash": recipe.hash,
            "mixture_id": mixture["mixture_id"],
            "name": recipe.name,
            "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "datasets": [
                {
                    "name": receipt["dataset"],
                    "format": receipt["source"]["format"],
                    "embodiment": datasets[receipt["dataset"]].embodiment,
                    "control_mode": datasets[receipt["dataset"]].control_mode,
                    "episodes": len(mine := episodes.filter(pl.col("dataset") == receipt["dataset"])),
                    "steps": int(mine["n_steps"].sum()),
                    "hours": float(mine["duration_s"].sum()) / 3600,
                    "quarantined": len(receipt["quarantined"]),
                    "notes": receipt["notes"],
                }
                for receipt in receipts
            ],
            "scores": [self._scored(item, episodes, fits) for item in scores],
            "labels": [summed_up(self.lake, item, episodes) for item in labels],
            "selections": selections,
            "episodes": [
                {key: row[key] for key in ("episode_id", "dataset", "task", "operator", "success", "n_steps")}
                | {
                    "chosen": row["episode_id"] in chosen,
                    "weight": chosen.get(row["episode_id"]),
                    "is_target": row["episode_id"] in targets,
                    "xy": places.get(row["episode_id"]),
                }
                for row in episodes.iter_rows(named=True)
            ],
            "mixture": {
                **recipe.mixture.model_dump(mode="json", include={"weight_kind", "unit", "epoch_size", "splits"}),
                "episodes": mixture["episodes"],
                "steps": mixture["steps"],
            },
            "exports": exports,
            "receipts": receipts,
            "timings": self.timings,
            "warnings": self.progress.warned,
        }

    def _scored(self, item: dict[str, Any], episodes: pl.DataFrame, fits: dict[str, str]) -> dict[str, Any]:
        metric = registry.load("scorers", item["scorer"]).spec.metrics[0]
        values = score_column(self.lake, episodes, item["scorer"], fits)
        ranks = score_column(self.lake, episodes, f"percentile({item['scorer']})", fits)
        return {
            "scorer": item["scorer"], "metric": metric.name, "unit": metric.unit, "better": metric.better,
            "version": item["version"], "fit_id": item["fit_id"], "nulls": values.null_count(),
            "values": [
                {"episode_id": name, "value": value, "percentile": rank}
                for name, value, rank in zip(episodes["episode_id"], values, ranks, strict=True)
            ],
        }  # fmt: skip

    def _places(self, episodes: pl.DataFrame, versions: dict[str, str]) -> dict[str, list[float]]:
        """The two leading principal components of the first space, [x, y] by episode."""
        space = next(iter(versions), None)
        if space is None:
            return {}
        try:
            found, _ = vectors(self.lake, space, episodes, versions[space])
        except RequestError:
            return {}
        places: dict[str, list[float]] = {}
        for group in found.partition_by("embodiment", "control_mode"):
            matrix = np.asarray(group["vector"].to_list(), np.float64)
            matrix -= matrix.mean(0)
            _, _, axes = np.linalg.svd(matrix, full_matrices=False)
            plane = matrix @ axes[:2].T
            plane = np.pad(plane, ((0, 0), (0, 2 - plane.shape[1])))
            places |= {name: [float(x), float(y)] for name, (x, y) in zip(group["episode_id"], plane, strict=True)}
        return places


def _first_batch(uri: str, size: int = 16) -> dict[str, Any]:
    """Read one batch through the loader: the shapes that a trainer will see."""
    from data_engine.loader import MixtureDataset, collate

    mixture = mixtures.open(uri)
    held = set(mixture.episodes["split"].to_pylist())  # a tiny mixture may have nothing in train
    dataset = MixtureDataset(mixture, split="train" if "train" in held else min(held))
    try:
        batch = collate(dataset.__getitems__(list(range(min(size, len(dataset))))))
    except RequestError as error:
        if error.code != "unlike_samples":
            raise
        batch = dataset[0]  # embodiments of unlike widths share no batch unless the trainer pads them
    return {name: list(value.shape) for name, value in batch.items() if hasattr(value, "shape")}
