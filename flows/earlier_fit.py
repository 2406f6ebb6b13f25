"""The fits to go on with: those of the last run that was asked the same, so that new episodes rescore no old ones."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import polars as pl

from data_engine import registry
from data_engine.errors import EngineError
from data_engine.recipe import ScoreRecipe
from data_engine.scoring import Scorer
from flows.clips import pinned
from flows.progress import Progress
from storage.fits import describe
from storage.lake import Lake

__all__ = ["going_on"]


def going_on(
    lake: Lake,
    recipes: Sequence[ScoreRecipe],
    episodes: pl.DataFrame,
    *,
    dataset: str | None,
    where: str | None,
    progress: Progress,
) -> list[ScoreRecipe]:
    """``recipes`` with the fits that the last completed ``score`` runs of the same scorer, parameters, base set,
    ``dataset`` and ``where`` made or used. One that names a fit, or has none to go on with, stays as it is.

    A fit does no more once its scorer, or one that it combines, has another version, once a space that it reads was
    embedded anew, or once a recording that it saw was erased. Warns of ``episodes`` that none of the fits has seen.
    O(runs), and reads the facts of each fit, not its arrays.
    """
    found, unseen = [], {}
    for recipe in recipes:
        fit, document = _earlier(lake, recipe, episodes, dataset, where)
        if fit is None:
            found.append(recipe)
            continue
        found.append(recipe.model_copy(update={"base": None, "fit": fit}))
        if recipe.base is None and document["reference"]:
            new = len(episodes) - int(episodes["content_hash"].is_in(document["reference"]).sum())
            unseen |= {recipe.scorer: new} if new else {}
    if unseen:
        progress.warn(
            f"{max(unseen.values())} episodes are held against earlier reference sets, which do not hold them "
            f"({', '.join(unseen)}); refit to measure everybody against all of them"
        )
    return found


def _earlier(
    lake: Lake, recipe: ScoreRecipe, episodes: pl.DataFrame, dataset: str | None, where: str | None
) -> tuple[str | None, dict[str, Any]]:
    """The fit that ``recipe`` can go on with, and what is stored of it; (None, {}) where there is none."""
    if recipe.fit is None:
        scorer: Scorer = registry.make("scorers", recipe.scorer, recipe.params)
        base = recipe.base.model_dump(mode="json") if recipe.base else None
        for fit in dict.fromkeys(_fits(lake, recipe.scorer, base, dataset, where)):
            document = _usable(lake, scorer, fit, episodes)
            if document is not None:
                return fit, document
    return None, {}


def _fits(lake: Lake, scorer: str, base: Any, dataset: str | None, where: str | None) -> Iterator[str]:
    """The fits of such runs, the last first."""
    mine = (pl.col("verb") == "score") & (pl.col("state") == "completed")
    runs = lake.scan("runs").filter(mine).select("recipe", "result", "ended_at").collect().sort("ended_at")
    for text, result in runs.select("recipe", "result").reverse().iter_rows():
        asked, items = json.loads(text), json.loads(result).get("items", ())
        if (asked.get("dataset"), asked.get("where")) == (dataset, where):
            for part, item in zip(asked.get("scorers", ()), items, strict=False):
                if (part["scorer"], part["base"]) == (scorer, base):
                    yield item["fit_id"]


def _usable(lake: Lake, scorer: Scorer, fit: str, episodes: pl.DataFrame) -> dict[str, Any] | None:
    """What is stored of ``fit``, None where ``scorer`` can no longer go on with it."""
    try:
        document = describe(lake, scorer.spec.name, fit)
        made_by = document["version"], document["config"]
        if document.get("flagged") or made_by != (scorer.spec.version, scorer.identity):
            return None
        parts = document["meta"].get("parts", {})
        spaces = pinned(lake, scorer.needs.spaces, episodes, None)
        others = {name: part for name, part in parts.items() if name not in spaces}
        alike = all(parts.get(space) == version for space, version in spaces.items()) and all(
            _usable(lake, registry.make("scorers", name, {}), part, episodes) for name, part in others.items()
        )
    except (EngineError, OSError):  # what is wrong with it, a new fit mends, or says
        return None
    return document if alike else None
