"""What a resolved recipe names, looked up before anything is read: a typo costs a second, not an ingest."""

from __future__ import annotations

from collections.abc import Iterator

from data_engine.errors import RequestError
from data_engine.model import TABLES
from data_engine.recipe import Recipe
from flows.query import compiled_over, score_reference

__all__ = ["check_names"]


def check_names(recipe: Recipe) -> None:
    """Hold every expression over episodes, and every score to choose by, against the columns and scores there can be.

    Raises ``RequestError``, with the place in the recipe, for the first that is wrong. Whether the lake holds such a
    score is known only when the recipe has run so far.
    """
    episodes = {field.name: field.type for field in TABLES["episodes"]}
    for place, where in _expressions(recipe):
        try:
            compiled_over(where, episodes)
        except RequestError as error:
            raise RequestError(f"recipe: {place}: {error.message}", code=error.code, fix=error.fix) from error
    for item in recipe.select:
        if item.target is not None and item.target.by is not None:
            try:
                score_reference(item.target.by, episodes)
            except RequestError as error:
                place = f"selection {item.name!r}: target.by"
                raise RequestError(f"recipe: {place}: {error.message}", code=error.code, fix=error.fix) from error


def _expressions(recipe: Recipe) -> Iterator[tuple[str, str]]:
    for score in recipe.score:
        if score.base is not None:
            for name, where in (("where", score.base.where), ("against", score.base.against)):
                if where:
                    yield f"scorer {score.scorer!r}: base.{name}", where
    for item in recipe.select:
        if item.where:
            yield f"selection {item.name!r}: where", item.where
        if item.target is not None and item.target.where:
            yield f"selection {item.name!r}: target.where", item.target.where
