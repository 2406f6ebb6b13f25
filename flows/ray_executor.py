"""Shards on Ray: a fixed pool of actors with declared resources and a bounded window in flight.

Errors of the infrastructure (a lost worker or node) are retried by Ray; errors of the function come back as they are.
Workers start in an empty working directory and without the driver's folder on their path: a folder of the user's own
called ``storage`` or ``api`` would shadow ours otherwise.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

from data_engine.scoring import Resources
from flows.executor import Executor, Shard, execute
from storage.lake import Lake

__all__ = ["Ray"]


class Ray(Executor):
    """The cluster that ``RAY_ADDRESS`` names, else a local one that ends with this process."""

    def __init__(self, workers: int | None = None) -> None:
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        import ray

        self._ray = ray
        self._workers = workers
        self._empty = tempfile.TemporaryDirectory(prefix="data-engine-ray-")
        self._owns = not ray.is_initialized()
        if self._owns:
            address = os.environ.get("RAY_ADDRESS")
            local = {} if address else {"include_dashboard": False, "num_cpus": max(workers or 0, os.cpu_count() or 1)}
            ray.init(
                address=address,
                log_to_driver=False,
                logging_level="ERROR",
                runtime_env={"working_dir": self._empty.name, "env_vars": {"PYTHONSAFEPATH": "1"}},
                **local,
            )

    def run(
        self, lake: Lake, function: str, shards: Sequence[Shard], resources: Resources
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        """See :class:`flows.executor.Executor`."""
        if not shards:
            return
        ray = self._ray
        cluster = int(ray.cluster_resources().get("CPU", 1))
        size = max(1, min(self._workers or cluster, cluster // max(resources.cpus, 1), len(shards)))
        actor = ray.remote(_Worker).options(
            num_cpus=min(resources.cpus, cluster),
            num_gpus=resources.gpus if ray.cluster_resources().get("GPU") else 0,
            memory=resources.memory_mb * 2**20,
            max_restarts=3,
            max_task_retries=3,
        )
        pool = [actor.remote() for _ in range(size)]
        try:
            waiting = iter(enumerate(shards))
            flying: dict[Any, tuple[int, Any]] = {}

            def send(worker: Any) -> None:
                for index, shard in waiting:
                    flying[worker.execute.remote(lake.uri, function, shard, resources.cpus)] = (index, worker)
                    return

            for worker in pool * 2:  # one shard at work and one waiting in each actor
                send(worker)
            while flying:
                (ready,), _ = ray.wait(list(flying), num_returns=1)
                index, worker = flying.pop(ready)
                try:
                    result = ray.get(ready)
                except ray.exceptions.RayTaskError as error:
                    raise error.cause if isinstance(error.cause, Exception) else error from None
                yield index, result
                send(worker)
        finally:
            for worker in pool:
                ray.kill(worker)

    def close(self) -> None:
        """Stop the local cluster, if this executor started one."""
        if self._owns:
            self._ray.shutdown()
        self._empty.cleanup()


class _Worker:
    def execute(self, lake_uri: str, function: str, shard: Shard, cpus: int) -> dict[str, Any]:
        return execute(lake_uri, function, shard, cpus)
