from __future__ import annotations

import json
import os
import threading

import pytest

from tests.recordings import write_robomimic


def until(client, run_id, *states):
    for _ in range(1200):
        facts = client.get(f"/v1/runs/{run_id}").json()
        if facts["state"] in states:
            return facts
        threading.Event().wait(0.1)
    raise AssertionError(facts)


def test_an_ingest_is_started_watched_and_ends_in_the_lake(serve, tmp_path):
    (tmp_path / "in").mkdir()
    source = write_robomimic(tmp_path / "in" / "more.hdf5", episodes=3)
    service = serve(allow=(str(tmp_path / "in"),))
    with service.client("curate") as client:
        asked = {"verb": "ingest", "source": {"uri": str(source), "name": "more"}}
        once = {"Idempotency-Key": "first"}
        started = client.post("/v1/runs", json=asked, headers=once)
        assert started.status_code == 202, started.text
        run_id = started.json()["run_id"]
        again = client.post("/v1/runs", json=asked, headers=once)
        assert (again.json(), again.headers["Idempotency-Replayed"]) == (started.json(), "true")
        with client.stream("GET", f"/v1/runs/{run_id}/events") as stream:
            text = "".join(stream.iter_text())
        states = [json.loads(part.split("data: ", 1)[1])["state"] for part in text.split("\n\n")
                  if part.startswith("event: state")]  # fmt: skip
        assert states[-1] == "completed", text
        facts = client.get(f"/v1/runs/{run_id}").json()
        assert (facts["state"], facts["by"], facts["result"]["stored"]["episodes"]) == ("completed", "curateer", 3)
        assert client.get("/v1/datasets/more").json()["episodes"] == 3
        rows = {row["run_id"]: row["state"] for row in client.get("/v1/runs").json()["items"]}
        assert rows[run_id] == "completed"
        assert len(rows) == 2
        refused = client.post(f"/v1/runs/{run_id}/cancel")
        assert (refused.status_code, refused.json()["code"]) == (409, "ended")


def test_a_run_that_fails_says_why_and_a_waiting_one_can_be_cancelled(serve):
    service = serve(runs=1)
    with service.client("curate") as client:
        asked = {"verb": "mix", "recipe": {"entries": [{"selection": "nothing"}]}}
        first = client.post("/v1/runs", json=asked).json()["run_id"]
        second = client.post("/v1/runs", json=asked).json()["run_id"]
        assert client.post(f"/v1/runs/{second}/cancel").status_code == 202
        failed, cancelled = until(client, first, "failed"), until(client, second, "cancelled")
        assert failed["error"]["code"] == "unknown_selection"
        assert "error: no selection 'nothing'" in client.get(f"/v1/runs/{first}/log").text
        assert cancelled["error"]["message"] == "cancelled by curateer"
        assert cancelled["started_at"] is None
        rows = {row["run_id"]: row["state"] for row in client.get("/v1/runs").json()["items"]}
        for _ in range(100):
            rows = {row["run_id"]: row["state"] for row in client.get("/v1/runs").json()["items"]}
            if {first, second} <= set(rows):
                break
            threading.Event().wait(0.05)
        assert (rows[first], rows[second]) == ("failed", "cancelled")


def test_a_run_is_cancelled_midway_and_leaves_no_process(serve):
    service = serve()
    with service.client("curate") as client:
        slow = {"scorer": "compatibility", "base": {"where": "operator = 'steady'"}, "params": {"iterations": 100_000}}
        run_id = client.post("/v1/runs", json={"verb": "score", "scorers": [slow]}).json()["run_id"]
        until(client, run_id, "running")
        child = service.app.state.supervisor._children[run_id].pid
        for _ in range(600):
            if any(row["run_id"] == run_id for row in client.get("/v1/runs").json()["items"]):
                break
            threading.Event().wait(0.1)
        client.post(f"/v1/runs/{run_id}/cancel")
        assert until(client, run_id, "cancelled", "completed")["state"] == "cancelled"
        with pytest.raises(ProcessLookupError):
            os.killpg(child, 0)


@pytest.mark.parametrize(
    "asked",
    [
        {"verb": "ingest", "source": {"uri": "/etc"}},
        {"verb": "ingest", "source": {"uri": "{allowed}/../secret"}},
        {"verb": "ingest", "source": {"uri": "{allowed}/link"}},
        {"verb": "ingest", "source": {"uri": "http://169.254.169.254/latest"}},
        {"verb": "ingest", "source": {"uri": "{allowed}/x", "options": {"extra": ["s3://others/x"]}}},
        {"verb": "export", "mixture": "reach", "export": {"format": "lerobot_v3", "uri": "/tmp/out"}},
        {"verb": "embed", "space": {"name": "x", "encoder": "torch_module",
                                    "params": {"factory": "os:system", "checkpoint": "/tmp/x"}}},
        {"verb": "embed", "space": {"name": "x", "encoder": "timm",
                                    "params": {"model": "resnet18", "pretrained": True}}},
        {"verb": "curate", "recipe": {"source": {"uri": "/etc"}, "select": [{"name": "a", "method": "filter"}]}},
        {"verb": "curate", "recipe": {"source": {"uri": "{allowed}/x"}, "select": [{"name": "a", "method": "filter"}],
                                      "export": [{"format": "lerobot_v3", "uri": "s3://elsewhere/x"}]}},
    ],
)  # fmt: skip
def test_a_request_names_only_what_the_server_allows(fenced, asked):
    service, allowed = fenced
    with service.client("curate") as client:
        body = json.loads(json.dumps(asked).replace("{allowed}", allowed))
        answer = client.post("/v1/runs", json=body)
        assert (answer.status_code, answer.json()["code"]) == (403, "not_allowed"), answer.text
        if body["verb"] == "curate":
            answer = client.post("/v1/recipes/validate", json={"recipe": body["recipe"]})
            assert answer.json()["code"] == "not_allowed"


@pytest.fixture(scope="module")
def fenced(curated, tmp_path_factory):
    import shutil

    from tests.api.service.conftest import serving

    folder = tmp_path_factory.mktemp("fenced")
    shutil.copytree(curated, folder / "lake")
    (folder / "in").mkdir()
    (folder / "in" / "link").symlink_to("/etc")
    with serving(folder / "lake", allow=(str(folder / "in"),)) as service:
        yield service, str(folder / "in")


def test_runs_end_with_the_service_and_are_told_as_failed_by_the_next(curated, tmp_path):
    import shutil

    from tests.api.service.conftest import serving

    shutil.copytree(curated, tmp_path / "lake")
    slow = {"scorer": "compatibility", "base": {"where": "operator = 'steady'"}, "params": {"iterations": 100_000}}
    with serving(tmp_path / "lake") as service, service.client("curate") as client:
        run_id = client.post("/v1/runs", json={"verb": "score", "scorers": [slow]}).json()["run_id"]
        until(client, run_id, "running")
        child = service.app.state.supervisor._children[run_id].pid
    with pytest.raises(ProcessLookupError):
        os.killpg(child, 0)
    with serving(tmp_path / "lake") as service, service.client("read") as client:
        assert client.get(f"/v1/runs/{run_id}").json()["state"] in ("cancelled", "failed")


def test_names_of_runs_are_no_paths(served):
    with served.client("read") as client:
        for name in ("run_none", "..", "%2e%2e", "run_..%2f..", "x" * 101):
            assert client.get(f"/v1/runs/{name}").status_code in (404, 422)
