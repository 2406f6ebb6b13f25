"""Shards on Ray: a fixed pool of actors with declared resources and a bounded window in flight.

Errors of the infrastructure (a lost worker or node) are retried by Ray; errors of the function come back as they are.
Workers start in an empty working directory and without the driver's folder on their path: a folder of the user's own
called ``storage`` or ``api`` would shadow ours otherwise.
"""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

from data_engine.errors import EngineError
from data_engine.scoring import Resources
from flows.executor import Executor, Shard, execute
from storage.lake import Lake

__all__ = ["Ray"]

_AUTH = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")


@cache
def _token() -> str:
    """One for the whole process: Ray reads it once and keeps it, so a second cluster must want the same."""
    return secrets.token_hex(32)


class Ray(Executor):
    """The cluster that ``RAY_ADDRESS`` names, with the token that Ray's own variables hold; else a local one that ends
    with this process. Ray listens where other machines reach it, so a local one wants a token that nobody else knows.
    """

    def __init__(self, workers: int | None = None) -> None:
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        import ray

        self._ray = ray
        self._workers = workers
        self._actors: list[Any] = []
        self._declared: Resources | None = None
        self._empty = tempfile.TemporaryDirectory(prefix="data-engine-ray-")
        self._owns = not ray.is_initialized()
        if self._owns:
            address = os.environ.get("RAY_ADDRESS")
            if not address and not any(os.environ.get(name) for name in _AUTH):
                os.environ["RAY_AUTH_TOKEN"] = _token()
            local = {} if address else {"include_dashboard": False, "num_cpus": max(workers or 0, os.cpu_count() or 1)}
            try:
                ray.init(
                    address=address,
                    log_to_driver=False,
                    logging_level="ERROR",
                    runtime_env={"working_dir": self._empty.name, "env_vars": {"PYTHONSAFEPATH": "1"}},
                    **local,
                )
            except Exception as error:  # a plain one where a node takes longer than 30 s to start
                ray.shutdown()
                said = " ".join(str(error).split())
                fix = "is the cluster up?" if address else "run it again, or with --executor local"
                raise EngineError(f"Ray did not start: {said}", code="no_ray", fix=fix) from error

    def run(
        self, lake: Lake, function: str, shards: Sequence[Shard], resources: Resources
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        """See :class:`flows.executor.Executor`."""
        if not shards:
            return
        ray = self._ray
        pool = self._pool(resources)
        waiting = iter(enumerate(shards))
        flying: dict[Any, tuple[int, Any]] = {}

        def send(worker: Any) -> None:
            for index, shard in waiting:
                flying[worker.execute.remote(lake.uri, function, shard, resources.cpus)] = (index, worker)
                return

        for worker in pool * 2:  # one shard at work and one waiting in each actor
            send(worker)
        try:
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
            if flying:
                self._dismiss()

    def _pool(self, resources: Resources) -> list[Any]:
        """The actors, kept from stage to stage while the next one declares no more than they have."""
        had = self._declared
        if (
            self._actors
            and had
            and had.cpus == resources.cpus
            and had.gpus == resources.gpus
            and (had.memory_mb >= resources.memory_mb)
        ):
            return self._actors
        self._dismiss()
        have = self._ray.cluster_resources()
        cpus = int(have.get("CPU", 1))
        actor = self._ray.remote(_Worker).options(
            num_cpus=min(resources.cpus, cpus),
            num_gpus=resources.gpus if have.get("GPU") else 0,
            memory=resources.memory_mb * 2**20,
            max_restarts=3,
            max_task_retries=3,
        )
        count = max(1, min(self._workers or cpus, cpus // max(resources.cpus, 1)))
        self._declared, self._actors = resources, [actor.remote() for _ in range(count)]
        return self._actors

    def _dismiss(self) -> None:
        for worker in self._actors:
            self._ray.kill(worker)
        self._actors = []

    def close(self) -> None:
        """Give the actors back and stop the local cluster, if this executor started one."""
        self._dismiss()
        if self._owns:
            self._ray.shutdown()
        self._empty.cleanup()


class _Worker:
    def execute(self, lake_uri: str, function: str, shard: Shard, cpus: int) -> dict[str, Any]:
        return execute(lake_uri, function, shard, cpus)
