from __future__ import annotations

import json
import os
import re
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
        logged = [part for part in text.split("\n\n") if part.startswith("event: log")]
        for place in (0, len(logged) - 1):  # a browser whose connection broke asks for what came after
            after = {"Last-Event-ID": re.search(r"^id: (\d+)$", logged[place], re.MULTILINE)[1]}
            rest = client.get(f"/v1/runs/{run_id}/events", headers=after).text.split("\n\n")
            assert [part for part in rest if part.startswith("event: log")] == logged[place + 1 :]
            assert rest[0].startswith("event: state") and '"state": "completed"' in rest[0]
        assert client.get(f"/v1/runs/{run_id}/events", headers={"Last-Event-ID": "x"}).status_code == 422
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


@pytest.mark.parametrize("flow_run", [None, "of a schedule"])
def test_runs_over_rest_and_of_schedules_wait_for_the_same_turn_at_the_gpu(
    curated, tmp_path, monkeypatch, capsys, flow_run
):
    import shutil
    from concurrent.futures import ThreadPoolExecutor

    from api.service.runs.work import Curate, perform
    from flows.turns import turn

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("flows.score.device", lambda: "cuda")  # what a machine with a GPU says
    shutil.copytree(curated, tmp_path / "lake")
    source = write_robomimic(tmp_path / "reach.hdf5", episodes=2)
    recipe = {"source": {"uri": str(source)}, "spaces": [], "select": [{"name": "all", "method": "filter"}]}
    with ThreadPoolExecutor(1) as pool:
        with turn("gpu", 1):
            asked = pool.submit(perform, str(tmp_path / "lake"), Curate(verb="curate", recipe=recipe), flow_run)
            said = ""
            while "waiting for a turn: 1 of 1 (gpu) are taken" not in said:
                assert not asked.done(), asked.exception()
                said += capsys.readouterr().err
        if flow_run is None:
            assert asked.result()["mixture_id"]
        else:  # its turn has come, and Prefect knows no such run
            with pytest.raises(ValueError, match="UUID"):
                asked.result()


def test_the_last_runs_are_kept_and_of_a_long_log_its_end(curated, tmp_path, monkeypatch):
    import shutil

    from tests.api.service.conftest import serving

    shutil.copytree(curated, tmp_path / "lake")
    monkeypatch.setattr("api.service.runs.supervisor._KEPT", 2)
    monkeypatch.setattr("api.service.runs.supervisor._LOG_BYTES", 10)
    for number in range(4):
        folder = tmp_path / "runs" / f"run_2026010{number}T000000_00000000"
        folder.mkdir(parents=True)
        work = {"verb": "mix", "recipe": {"entries": [{"selection": "x"}]}}
        (folder / "request.json").write_text(json.dumps({"run_id": folder.name, "work": work, "by": "anna"}))
        (folder / "state.json").write_text(
            json.dumps({"state": "completed" if number else "running", "asked_at": "now"})
        )
        (folder / "log").write_bytes(b"one line\nthe end\n")
    with serving(tmp_path / "lake") as service, service.client("read") as client:
        found = [client.get(f"/v1/runs/run_2026010{number}T000000_00000000").status_code for number in range(4)]
        assert found == [404, 404, 200, 200]
        said = client.get("/v1/runs/run_20260103T000000_00000000/log").text
        assert said == "[7 bytes before this are left out]\ne\nthe end\n"
        assert 'data_engine_runs{state="completed"} 2.0' in client.get("/v1/metrics").text
        rows = {row["run_id"]: row["state"] for row in client.get("/v1/runs").json()["items"]}
        assert rows["run_20260100T000000_00000000"] == "failed"  # it was on when a service ended, and the lake knows
