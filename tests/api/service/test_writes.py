from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import polars as pl
import pytest

from storage.audit import audited


def test_annotations_go_in_once_under_the_keys_name_and_are_read_back(writable):
    name, other = writable.lake.episodes()["episode_id"][:2]
    said = [{"episode_id": name, "kind": "segment", "start": 2, "stop": 9, "label": "reach"},
            {"episode_id": other, "kind": "verdict", "label": "keep", "confidence": 0.5}]  # fmt: skip
    with writable.client("curate") as client:
        assert client.post("/v1/annotations", json={"items": said}).json() == {"added": 2, "already": 0}
        assert client.post("/v1/annotations", json={"items": said[:1]}).json() == {"added": 0, "already": 1}
        (row,) = client.get("/v1/annotations", params={"where": "label = 'reach'"}).json()["items"]
        assert (row["producer"], row["start"], row["stop"]) == ("person:curateer", 2, 9)
        assert client.get(f"/v1/episodes/{name}").json()["annotations"][0]["label"] == "reach"
        for bad, status in (({"stop": 10_000}, 422), ({"episode_id": "ep_none"}, 404), ({"producer": "x"}, 422)):
            answer = client.post("/v1/annotations", json={"items": [said[1] | {"label": "new"}, said[0] | bad]})
            assert answer.status_code == status
        assert client.get("/v1/annotations").json()["matched"] == 2


def test_preferences_go_in_once_and_are_tallied(writable):
    first, second, third = writable.lake.episodes().filter(pl.col("task") == "reach left")["episode_id"][:3]
    said = [{"first": first, "second": f"{second}:0-5", "verdict": "tie"}, {"ranking": [first, [second, third]]}]
    with writable.client("curate") as client:
        for expected in ({"added": 2, "already": 0}, {"added": 0, "already": 2}):
            answer = client.post("/v1/preferences", json={"collection": "smooth", "items": said})
            assert answer.json() == expected
        (tally,) = client.get("/v1/preferences/tallies").json()["items"]
        assert (tally["collection"], tally["ties"], tally["annotators"]) == ("smooth", 1, ["curateer"])
        bad = client.post("/v1/preferences", json={"items": [said[0], {"first": first, "second": "ep_none",
                                                                       "verdict": "first"}]})  # fmt: skip
        assert (bad.status_code, bad.json()["code"]) == (404, "unknown_episode")
        assert client.get("/v1/preferences").json()["matched"] == 2


def test_a_selection_becomes_a_mixture(writable):
    ids = writable.lake.episodes()["episode_id"][:5].to_list()
    with writable.client("curate") as client:
        made = client.post("/v1/selections", json={"recipe": {"name": "mine", "method": "filter"}, "episodes": ids})
        assert (made.status_code, made.json()["chosen"]) == (201, 5)
        frozen = client.post("/v1/mixtures", json={"name": "lab", "entries": [{"selection": "mine"}]}).json()
        assert frozen["episodes"] == 5
        assert client.get("/v1/mixtures/lab").json()["mixture_id"] == frozen["mixture_id"]
        difference = client.get("/v1/mixtures/lab/diff/reach").json()
        assert {row["selection"] for row in difference["only_first"]} == {"mine"}
        assert "entries" in difference["settings"]
        long = client.post("/v1/selections", json={"recipe": {"name": "far", "method": "transport"}})
        assert (long.status_code, long.json()["code"]) == (422, "long_work")
        missing = client.post("/v1/mixtures", json={"entries": [{"selection": "nothing"}]})
        assert (missing.status_code, missing.json()["code"]) == (404, "unknown_selection")


def test_outcomes_go_in_once_and_arms_are_compared(writable):
    def rollout(mixture, seed, start, success):
        return {"checkpoint": f"{mixture}-{seed}", "mixture_id": mixture, "task": "reach",
                "initial_condition": str(start), "seed": seed, "success": success}  # fmt: skip

    items = [rollout("good", seed, start, start != 0) for seed in range(3) for start in range(4)]
    items += [rollout("bad", seed, start, start == 3) for seed in range(3) for start in range(4)]
    with writable.client("curate") as client:
        assert client.post("/v1/evaluations", json={"items": items}).json() == {"added": 24, "already": 0}
        assert client.post("/v1/evaluations", json={"items": items[:5]}).json() == {"added": 0, "already": 5}
        lie = items[0] | {"success": True}
        assert client.post("/v1/evaluations", json={"items": [lie]}).json()["code"] == "two_outcomes"
        answer = client.get("/v1/evaluations/compare", params={"first": "good", "second": "bad"}).json()
        (task,) = answer["tasks"]
        assert (task["first"]["rate"], task["second"]["rate"]) == (0.75, 0.25)
        assert answer["difference"]["mean"] == pytest.approx(0.5)
        alone = client.get("/v1/evaluations/compare", params={"first": "good", "second": "none"})
        assert alone.status_code == 404


def test_an_idempotency_key_is_answered_as_the_first_time_also_after_a_restart(curated, tmp_path):
    import shutil

    from tests.api.service.conftest import serving

    shutil.copytree(curated, tmp_path / "lake")
    body = {"recipe": {"name": "mine", "method": "random", "budget": 3}}
    with serving(tmp_path / "lake") as service, service.client("curate") as client:
        once = {"Idempotency-Key": "a"}
        with ThreadPoolExecutor(6) as pool:
            said = list(pool.map(lambda _: client.post("/v1/selections", json=body, headers=once).json(), range(6)))
        assert len({answer["run_id"] for answer in said}) == 1
        other = client.post("/v1/selections", json={"recipe": {"name": "x", "method": "filter"}}, headers=once)
        assert (other.status_code, other.json()["code"]) == (409, "key_reused")
        token = service.tokens["curate"]
        assert len(audited(service.lake).filter(pl.col("status") == 201)) == 1
    with serving(tmp_path / "lake") as service, service.client(None) as client:
        headers = {"Authorization": f"Bearer {token}", **once}
        assert client.post("/v1/selections", json=body, headers=headers).json() == said[0]


def test_ten_writers_at_once_lose_and_double_nothing(writable):
    ids = writable.lake.episodes()["episode_id"].to_list()

    def write(who):
        with writable.client("curate") as client:
            for at in range(3):
                mine = {"episode_id": ids[who], "kind": "verdict", "text": f"{who}.{at}"}
                both = {"episode_id": ids[-1], "kind": "verdict", "text": f"everyone.{at}"}
                assert client.post("/v1/annotations", json={"items": [mine, both]}).status_code == 201
            made = client.post("/v1/selections", json={"recipe": {"name": f"s{who}", "method": "filter"}})
            assert made.status_code == 201

    with ThreadPoolExecutor(10) as pool:
        list(pool.map(write, range(10)))
    rows = writable.lake.scan("annotations").collect()
    assert sorted(rows["text"]) == sorted([f"{who}.{at}" for who in range(10) for at in range(3)]
                                          + [f"everyone.{at}" for at in range(3)])  # fmt: skip
    names = writable.lake.scan("selections").filter(pl.col("name").str.starts_with("s")).collect()["name"]
    assert {name for name in names if name != "steady"} == {f"s{who}" for who in range(10)}
    assert len(audited(writable.lake)) == 40
