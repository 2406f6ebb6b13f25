"""The service as it is started, with a real Prefect server: schedules run, survive, are missed, cancelled and rerun."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from api.cli import main
from flows.prefect_server import start_server, stop_server
from storage.fingerprint import fingerprint
from storage.lake import Lake
from tests.recordings import write_robomimic

RECIPE = """
name: nightly
source: {{uri: {source}, name: reach}}
score: {score}
select: [{{name: all, method: filter}}]
"""
SLOW = "[{scorer: compatibility, base: {where: operator = 'steady'}, params: {iterations: 100_000}}]"


def run(*arguments: object) -> None:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
        raise SystemExit(0)
    assert not ended.value.code


class Served:
    """`data-engine serve` as a process of its own, in a cache folder of its own."""

    def __init__(self, lake: Path, cache: Path, *options: str, **environment: str) -> None:
        self.environment = {**os.environ, "XDG_CACHE_HOME": str(cache)}
        self.environment.pop("PREFECT_API_URL", None)
        self.environment |= environment
        command = [sys.executable, "-m", "api.cli", "serve", "--port", "0", "--lake", str(lake), *options]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=self.environment)
        url = re.search(r"http://127\.0\.0\.1:\d+", self.process.stderr.readline())
        assert url
        threading.Thread(target=self.process.stderr.read, daemon=True).start()
        self.client = httpx.Client(base_url=url[0], timeout=60)

    def until(self, path: str, met) -> dict:
        for _ in range(1800):
            answer = self.client.get(path)
            if answer.status_code == 200 and met(answer.json()):
                return answer.json()
            killed = sum(map(answer.text.count, ("the service ended before the run did", "its server went away")))
            assert answer.text.count('"state":"failed"') <= killed, answer.text
            time.sleep(0.1)
        raise AssertionError(answer.text)

    def up(self) -> None:
        self.until("/v1/schedules", lambda said: said["standing"] == "up")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(timeout=60)


def children(cache: Path) -> list[int]:
    """Processes that hold the cache folder in their environment: servers and runs that a service has left."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            if f"XDG_CACHE_HOME={cache}\0".encode() in Path(f"/proc/{name}/environ").read_bytes():
                found.append(int(name))
        except OSError:
            continue
    return found


def prefect_servers(cache: Path) -> list[int]:
    """Those of :func:`children` that are Prefect's."""
    return [pid for pid in children(cache) if b"prefect.server.api" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def gone(cache: Path) -> bool:
    for _ in range(200):
        if not children(cache):
            return True
        time.sleep(0.1)
    return False


def of(told: dict, *states: str) -> list[dict]:
    return [each for each in told["runs"] if each["state"] in states]


@pytest.fixture
def lake(tmp_path: Path) -> Path:
    write_robomimic(tmp_path / "reach.hdf5", episodes=12)
    return tmp_path / "lake"


def write(lake: Path, score: str) -> Path:
    recipe = lake.parent / "recipe.yaml"
    recipe.write_text(RECIPE.format(source=lake.parent / "reach.hdf5", score=score))
    return recipe


def same_as_by_hand(lake: Path, recipe: Path) -> bool:
    plain = lake.parent / "plain"
    run("curate", recipe, "--lake", plain, "--engine", "plain")
    return fingerprint(Lake.open(str(lake))) == fingerprint(Lake.open(str(plain)))


@pytest.mark.timeout(900)
def test_a_schedule_runs_and_survives_a_kill_and_what_was_missed_is_seen(lake, tmp_path):
    recipe = write(lake, "[{scorer: integrity}]")
    run("schedule", "add", recipe, "--every", "4s", "--lake", lake)
    first = Served(lake, tmp_path / "cache")
    try:
        first.up()
        done = first.until("/v1/schedules/nightly", lambda told: of(told, "completed"))
        completed = of(done, "completed")[-1]["run_id"]
        assert first.until(f"/v1/runs/{completed}", lambda facts: facts["result"])["result"]["mixture_id"]
        assert first.client.get("/v1/datasets/reach").json()["episodes"] == 12

        first.client.post("/v1/schedules/nightly/pause")
        first.until("/v1/schedules/nightly", lambda told: not of(told, "running", "waiting"))
        (server,) = prefect_servers(tmp_path / "cache")
        os.kill(server, signal.SIGKILL)  # Prefect's server dies by itself: another one takes its place
        first.until("/v1/schedules", lambda said: said["standing"] != "up")
        first.up()
        newest = of(first.client.get("/v1/schedules/nightly").json(), "completed")[0]["run_id"]
        first.client.post("/v1/schedules/nightly/resume")
        first.until("/v1/schedules/nightly", lambda told: of(told, "completed")[0]["run_id"] > newest)
        assert prefect_servers(tmp_path / "cache") not in ([], [server])
    finally:
        first.kill()
    assert gone(tmp_path / "cache")  # neither Prefect's server nor a run outlives the service

    second = Served(lake, tmp_path / "cache")
    try:
        second.up()
        newest = of(second.client.get("/v1/schedules/nightly").json(), "completed")[0]["run_id"]
        again = second.until("/v1/schedules/nightly", lambda told: of(told, "completed")[0]["run_id"] > newest)
        assert all("passed while nothing served" in each["error"] for each in of(again, "missed"))
        assert of(again, "missed")
        assert len({each["run_id"] for each in again["runs"]}) == len(again["runs"])
        assert second.client.delete("/v1/schedules/nightly").json()["state"] == "removed"
    finally:
        second.stop()
    assert second.process.returncode in (0, -signal.SIGTERM)
    assert gone(tmp_path / "cache")
    assert same_as_by_hand(lake, recipe)


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, str]]:
    """The address of a Prefect server that somebody else runs, and the key that it asks for."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "elsewhere"))
    server, url, key = start_server(str(tmp_path / "another"), schedules=True)
    monkeypatch.undo()
    yield url, key
    stop_server(server)


@pytest.mark.timeout(900)
def test_a_run_is_cancelled_midway_and_run_again_to_the_same_lake_by_a_prefect_elsewhere(lake, tmp_path, elsewhere):
    url, key = elsewhere
    run("schedule", "add", write(lake, SLOW), "--cron", "0 3 1 1 *", "--lake", lake)
    run("schedule", "run", "nightly", "--lake", lake)  # before anything serves: it is begun once something does
    named = {"PREFECT_API_URL": url, "PREFECT_API_AUTH_STRING": key}
    served = Served(lake, tmp_path / "cache", **named)
    try:
        on = served.until("/v1/schedules/nightly", lambda told: of(told, "running"))
        slow = of(on, "running")[0]["run_id"]
        served.until("/v1/datasets", lambda said: said["items"] and said["items"][0]["episodes"] == 12)
        assert served.client.post(f"/v1/runs/{slow}/cancel").status_code == 202
        assert served.until(f"/v1/runs/{slow}", lambda facts: facts["state"] != "running")["state"] == "cancelled"
        served.until("/v1/schedules/nightly", lambda told: of(told, "cancelled"))
        assert prefect_servers(tmp_path / "cache") == []  # it started none of its own
        who = httpx.BasicAuth(*key.split(":", 1))
        known = httpx.post(f"{url}/deployments/filter", json={}, auth=who).json()
        assert any("nightly" in str(each) for each in known), known
        assert served.client.delete("/v1/schedules/nightly").status_code == 200
        recipe = write(lake, SLOW.replace("100_000", "20"))
        run("schedule", "add", recipe, "--cron", "0 3 1 1 *", "--lake", lake)
        run("schedule", "run", "nightly", "--lake", lake)
        served.until("/v1/schedules/nightly", lambda told: of(told, "completed"))
    finally:
        served.stop()
    assert gone(tmp_path / "cache")
    assert same_as_by_hand(lake, recipe)
