"""Runs over REST from end to end: a mixture exported and read back, one recipe twice at once, scores that drift."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from pydantic import SecretStr

from api.cli import main
from data_engine import formats
from data_engine import recipe as recipes
from data_engine.mixture import open as open_mixture
from flows.mix import locate
from storage.fingerprint import fingerprint
from storage.lake import Lake
from tests.api.service.conftest import RECIPE, Service, serving
from tests.api.service.test_runs import until
from tests.recordings import write_robomimic


@pytest.fixture(scope="module")
def told() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """The address of a receiver of webhooks, and the events that it was told."""
    events: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            events.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/hook", events
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def service(curated: Path, tmp_path_factory: pytest.TempPathFactory, told: Any) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("whole")
    shutil.copytree(curated, folder / "lake")
    hooks = {"webhooks": (told[0],), "secret": SecretStr("sixteen characters")}
    with serving(folder / "lake", allow=(str(folder / "open"),), runs=2, **hooks) as running:
        yield running


@pytest.fixture(scope="module")
def allowed(service: Service) -> Path:
    """The folder that requests may name."""
    folder = Path(service.lake.uri).parent / "open"
    folder.mkdir()
    return folder


def done(client: Any, body: dict[str, Any]) -> dict[str, Any]:
    started = client.post("/v1/runs", json=body)
    assert started.status_code == 202, started.text
    facts = until(client, started.json()["run_id"], "completed", "failed")
    assert facts["state"] == "completed", facts
    return facts


def test_a_mixture_is_exported_verified_and_read_back(service, allowed):
    with service.client("curate") as client:
        body = {
            "verb": "export",
            "mixture": "reach",
            "export": {"format": "lerobot_v3", "uri": f"{allowed}/{{mixture}}"},
        }
        (made,) = done(client, body)["result"]["exports"]
        frozen = open_mixture(locate(service.lake, "reach"))
        assert (made["verified"], made["episodes"]) == (True, len(frozen.episodes))
        assert made["uri"] == f"{allowed}/{frozen.id[:12]}"
        form, probe = formats.detect(formats.Source(made["uri"]))
        assert (form.name, len(probe.episodes)) == ("lerobot_v3", made["episodes"])
        (again,) = done(client, body)["result"]["exports"]  # there already: left as it is
        assert again["uri"] == made["uri"]


def test_one_recipe_run_twice_at_once_gives_the_lake_of_one_run(tmp_path):
    source = write_robomimic(tmp_path / "reach.hdf5", episodes=12)
    (tmp_path / "recipe.yaml").write_text(RECIPE.format(source=source))
    Lake.open(str(tmp_path / "served"), create=True)
    body = {"verb": "curate", "recipe": recipes.render(str(tmp_path / "recipe.yaml")).model_dump(mode="json")}
    with (
        serving(tmp_path / "served", allow=(str(source),), runs=2, keys=False) as service,
        service.client("curate") as client,
    ):
        runs = [client.post("/v1/runs", json=body).json()["run_id"] for _ in range(2)]
        ended = [until(client, run_id, "completed", "failed") for run_id in runs]
        assert [facts["state"] for facts in ended] == ["completed"] * 2, ended
        assert ended[0]["result"]["mixture_id"] == ended[1]["result"]["mixture_id"]
        assert ended[0]["started_at"] < ended[1]["ended_at"] and ended[1]["started_at"] < ended[0]["ended_at"]
    plain = ["curate", str(tmp_path / "recipe.yaml"), "--lake", str(tmp_path / "plain"), "--engine", "plain"]
    with pytest.raises(SystemExit) as over:
        main(plain)
        raise SystemExit(0)
    assert not over.value.code
    lakes = [Lake.open(str(tmp_path / name)) for name in ("served", "plain")]
    assert fingerprint(lakes[0]) == fingerprint(lakes[1])


def test_scores_that_drift_are_told(service, allowed, told):
    steady = write_robomimic(allowed / "steady.hdf5", episodes=24, seed=5)
    shaky = write_robomimic(allowed / "shaky.hdf5", episodes=24, seed=6)
    with h5py.File(shaky, "a") as file:
        rng = np.random.default_rng(0)
        for name in list(file["data"]):
            states = file["data"][name]["obs/robot0_eef_pos"]
            states[...] = states[...] + rng.normal(0, 0.2, states.shape)
            file["data"].move(name, name.replace("demo_", "demo_9"))  # other demonstrations, not the same once more
        del file["mask"]
    with service.client("curate") as client:
        for source in (steady, shaky):
            done(client, {"verb": "ingest", "source": {"uri": str(source), "name": "drifting"}})
            last = done(client, {"verb": "score", "dataset": "drifting", "scorers": [{"scorer": "smoothness"}]})
    for _ in range(600):
        if found := [event for event in told[1] if event["type"] == "scores.drifted"]:
            break
        threading.Event().wait(0.05)
    (event,) = found
    (row,) = event["data"]["items"]
    assert (event["data"]["run_id"], row["dataset"], row["score"]) == (last["run_id"], "drifting", "smoothness")
    assert (row["new"], row["old"], row["median_new"] < row["median_old"]) == (24, 24, True)
