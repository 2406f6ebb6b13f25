"""``curate`` as a Prefect flow: each stage a task, so that states, retries and the UI show what runs.

Prefect wraps stages, not shards, and caches nothing: our ledger is the truth about what is done. The flow takes plain
values, so that one generic deployment runs any stored recipe.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from data_engine.recipe import Recipe
from flows.curate import curate

__all__ = ["curate_flow"]

T = TypeVar("T")


def _as_task(name: str, work: Callable[[], T]) -> T:
    return task(name=name, cache_policy=NO_CACHE, persist_result=False)(work)()


@flow(name="curate", persist_result=False, validate_parameters=False)
def curate_flow(
    lake: str, recipe: dict[str, Any], executor: str = "local", workers: int | None = None
) -> dict[str, Any]:
    """Run a resolved recipe against a lake."""
    return curate(lake, Recipe.model_validate(recipe), executor=executor, workers=workers, stage=_as_task)
