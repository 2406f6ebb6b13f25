from __future__ import annotations

import shutil

import pytest

from tests.api.service.conftest import serving

BASE = {"scorer": "compatibility", "base": {"where": "operator = 'steady'"}, "params": {"iterations": 200}}


@pytest.fixture(scope="module")
def judged(curated, tmp_path_factory):
    """The service over a lake with a fit of ``compatibility`` on the steady operator's demonstrations."""
    from data_engine.recipe import ScoreRecipe
    from flows.executor import executor
    from flows.progress import silent
    from flows.score import score
    from storage.lake import Lake

    path = tmp_path_factory.mktemp("judged") / "lake"
    shutil.copytree(curated, path)
    lake = Lake.open(str(path))
    score(lake, ScoreRecipe(**BASE), lake.episodes(), on=executor("local"), progress=silent(), run_id="run_fit")
    with serving(path) as service:
        yield service


def demonstration(client, episode_id):
    steps = client.get(f"/v1/episodes/{episode_id}/steps").json()["items"]
    return {"state": [row["observation.state"] for row in steps], "action": [row["action"] for row in steps],
            "fps": client.get(f"/v1/episodes/{episode_id}").json()["episode"]["fps"]}  # fmt: skip


def test_a_demonstration_is_taken_or_refused_with_its_worst_windows(judged):
    with judged.client("read") as client:
        where = {"where": "operator = 'steady'"}
        steady = [row["episode_id"] for row in client.get("/v1/episodes", params=where).json()["items"]]
        bodies = [demonstration(client, name) for name in steady]
        taken = [client.post("/v1/judgements", json=body).json() for body in bodies]
        assert sum(each["accepted"] for each in taken) >= len(steady) - 1
        body = bodies[0]
        body["action"] = [[-2 * value for value in row] for row in body["action"]]
        refused = client.post("/v1/judgements", json=body).json()
        assert refused["accepted"] is False
        assert refused["bad_fraction"] > max(each["bad_fraction"] for each in taken)
        assert all(window["start"] < window["stop"] <= len(body["state"]) for window in refused["windows"])
        assert {window["nearest"] for window in refused["windows"]} <= set(steady)
        assert refused["windows"]
        holes = {**bodies[1], "state": [[None] * len(row) for row in bodies[1]["state"]]}
        assert client.post("/v1/judgements", json=holes).json()["accepted"] is None


def test_what_is_no_demonstration_is_refused_in_a_line(judged):
    with judged.client("read") as client:
        for wrong, code in (
            ({"state": [[0.0], [0.0, 1.0]], "action": [[0.0], [0.0]], "fps": 10}, "bad_demonstration"),
            ({"state": [[]], "action": [[]], "fps": 10}, "bad_demonstration"),
            ({"state": [[0.0]], "action": [[0.0]], "fps": 0}, "bad_request"),
            ({"state": [[0.0]], "action": [[0.0]], "fps": 10, "fit": "none"}, "no_fit"),
            ({"state": [[0.0]], "action": [[0.0]], "fps": 10, "fit": "../../x"}, "no_fit"),
        ):
            assert client.post("/v1/judgements", json=wrong).json()["code"] == code, wrong


def test_fits_say_what_they_saw(judged):
    with judged.client("read") as client:
        held = client.get("/v1/fits").json()["items"]
        (mine,) = [each for each in held if each["producer"] == "compatibility"]
        whole = client.get(f"/v1/fits/compatibility/{mine['fit_id']}").json()
        assert len(whole["reference"]) == mine["recordings"] > 0
        assert mine["config"]["iterations"] == 200
        assert client.get("/v1/fits/compatibility/none").status_code == 404


def test_without_a_fit_that_is_said(served):
    with served.client("read") as client:
        answer = client.post("/v1/judgements", json={"state": [[0.0]], "action": [[0.0]], "fps": 10})
        assert (answer.status_code, answer.json()["code"]) == (404, "no_fit")
