"""``curate`` as a Prefect flow: each stage a task, so that states, retries and the UI show what runs.

Prefect wraps stages, not shards, and caches nothing: our ledger is the truth about what is done. The flows take plain
values, so that one generic deployment runs any stored recipe.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar
from uuid import UUID

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from data_engine.errors import EngineError
from data_engine.recipe import Recipe, validate
from flows.curate import curate

__all__ = ["curate_flow", "perform", "scheduled"]

T = TypeVar("T")


def _as_task(name: str, work: Callable[[], T]) -> T:
    return task(name=name, cache_policy=NO_CACHE, persist_result=False)(work)()


@flow(name="curate", persist_result=False, validate_parameters=False)
def curate_flow(
    lake: str, recipe: dict[str, Any], executor: str = "local", workers: int | None = None
) -> dict[str, Any]:
    """Run a resolved recipe against a lake."""
    return curate(lake, Recipe.model_validate(recipe), executor=executor, workers=workers, stage=_as_task)


@flow(name="scheduled", persist_result=False, validate_parameters=False)
def scheduled(lake: str, schedule: str) -> dict[str, Any]:
    """Run the recipe that the lake keeps under the name of a schedule."""
    from storage.lake import Lake
    from storage.schedules import find

    return curate(lake, validate(find(Lake.open(lake), schedule).recipe), stage=_as_task)


def perform(flow_run: str) -> dict[str, Any]:
    """Do a flow run of :func:`scheduled` that Prefect's API has made, in this process; its states are told there.

    Raises whatever the flow raises, ``KeyboardInterrupt`` where the process was told to end, ``EngineError``
    (``prefect_down``) where Prefect's server is gone.
    """
    import httpx
    from prefect.exceptions import TerminationSignal
    from prefect.flow_engine import load_flow_run, run_flow

    try:
        return dict(run_flow(scheduled, flow_run=load_flow_run(UUID(flow_run))))  # type: ignore[arg-type,call-overload]
    except TerminationSignal:
        raise KeyboardInterrupt from None
    except httpx.TransportError as error:
        raise EngineError(
            "Prefect: its server went away", code="prefect_down", fix="`data-engine schedule run`: it goes on"
        ) from error
