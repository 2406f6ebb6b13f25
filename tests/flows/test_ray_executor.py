"""A real Ray: who has no token does nothing on it, and runs over REST and of
schedules compute on the cluster that is named."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from flows.executor import executor
from storage.lake import Lake
from tests.api.service.conftest import serving
from tests.api.service.test_runs import until
from tests.recordings import write_robomimic


def healthy(address: str, **environment: str) -> bool:
    """Whether a process with that environment is answered by the cluster."""
    ray = Path(sys.executable).with_name("ray")
    command = [str(ray), "health-check", "--address", address]
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, timeout=120)
    return done.returncode == 0


@pytest.mark.timeout(600)
def test_a_local_cluster_wants_its_token_and_runs_over_rest_and_of_schedules_compute_on_it(tmp_path, monkeypatch):
    for name in ("RAY_ADDRESS", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    with executor("ray", 1):
        pass  # a cluster before it, whose token this process has read and keeps
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN"):
        monkeypatch.delenv(name)
    source = write_robomimic(tmp_path / "reach.hdf5", episodes=4)
    Lake.open(str(tmp_path / "lake"), create=True)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))  # of Prefect
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    with executor("ray", 1):
        import ray

        address = ray.get_runtime_context().gcs_address
        assert healthy(address)
        assert not healthy(address, RAY_AUTH_TOKEN="0" * 64)
        assert not healthy(address, RAY_AUTH_MODE="disabled", RAY_AUTH_TOKEN="", HOME=str(tmp_path))
        jobs = len(ray._private.state.state.job_table())
        monkeypatch.setenv("RAY_ADDRESS", address)
        settings = {"executor": "ray", "keys": False, "allow": (str(source),), "schedules": True}
        with serving(tmp_path / "lake", **settings) as service, service.client() as client:
            asked = {"verb": "ingest", "source": {"uri": str(source), "name": "reach"}}
            run_id = client.post("/v1/runs", json=asked).json()["run_id"]
            facts = until(client, run_id, "completed", "failed")
            assert facts["state"] == "completed", facts
            assert client.get("/v1/datasets/reach").json()["episodes"] == 4
            assert len(ray._private.state.state.job_table()) == jobs + 1
            recipe = {"name": "nightly", "source": {"uri": str(source), "name": "again"}, "spaces": [],
                      "select": [{"name": "all", "method": "filter"}]}  # fmt: skip
            assert client.post("/v1/schedules", json={"recipe": recipe, "cron": "0 3 1 1 *"}).status_code == 201
            assert client.post("/v1/schedules/nightly/run").status_code == 202
            runs: list[dict[str, str]] = []
            for _ in range(1200):
                runs = client.get("/v1/schedules/nightly").json()["runs"]
                if runs and runs[0]["state"] in ("completed", "failed"):
                    break
                threading.Event().wait(0.1)
            assert [each["state"] for each in runs] == ["completed"], runs
            assert client.get("/v1/datasets/again").json()["episodes"] == 4
        assert len(ray._private.state.state.job_table()) == jobs + 2
