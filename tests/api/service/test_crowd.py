"""Ten people at once, while recordings come in and are scored."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from storage.audit import audited
from tests.api.service.test_runs import until
from tests.recordings import write_robomimic

PEOPLE, EACH = 10, 3


def test_nothing_that_ten_people_write_while_runs_are_on_is_lost_or_doubled(serve, tmp_path):
    (tmp_path / "in").mkdir()
    source = write_robomimic(tmp_path / "in" / "more.hdf5", episodes=20)
    service = serve(allow=(str(tmp_path / "in"),), runs=2)
    held = service.lake.episodes()
    left = held.filter(held["task"] == "reach left")["episode_id"].to_list()

    def person(number: int) -> list[tuple[str, str]]:
        made = []
        with service.client("curate") as client:
            for turn in range(EACH):
                name, once = f"person{number}_{turn}", {"Idempotency-Key": f"{number}-{turn}"}
                choice = {"recipe": {"name": name, "method": "random", "budget": 3, "seed": number}, "dataset": "reach"}
                said = {"collection": "crowd", "items": [
                    {"first": f"{left[0]}:0-{number + 2}", "second": f"{left[1]}:0-{turn + 2}", "verdict": "first"}
                ]}  # fmt: skip
                for _ in range(2):  # as one who was not answered
                    chosen = client.post("/v1/selections", json=choice, headers=once)
                    assert chosen.status_code == 201, chosen.text
                for expected in ({"added": 1, "already": 0}, {"added": 0, "already": 1}):
                    answer = client.post("/v1/preferences", json=said)
                    assert (answer.status_code, answer.json()) == (201, expected)
                made.append((name, chosen.json()["selection_id"]))
        return made

    with service.client("curate") as client, ThreadPoolExecutor(PEOPLE) as crowd:
        asked = [{"verb": "ingest", "source": {"uri": str(source), "name": "more"}},
                 {"verb": "score", "scorers": [{"scorer": "smoothness"}], "dataset": "reach"}]  # fmt: skip
        runs = [client.post("/v1/runs", json=each).json()["run_id"] for each in asked]
        made = [each for person_ in crowd.map(person, range(PEOPLE)) for each in person_]
        for run_id in runs:
            until(client, run_id, "completed")
        listed = client.get("/v1/selections", params={"limit": 1000}).json()["items"]
        mine = [(row["name"], row["selection_id"]) for row in listed if row["name"].startswith("person")]
        assert sorted(mine) == sorted(made)
        rows = client.get("/v1/preferences", params={"where": "collection = 'crowd'", "limit": 1000}).json()
        assert rows["matched"] == PEOPLE * EACH
        assert client.get("/v1/datasets/more").json()["episodes"] == 20
        known = client.get("/v1/scores", params={"where": "scorer = 'smoothness'", "limit": 1000}).json()["items"]
    units = [(row["unit_id"], row["metric"], row["start"], row["stop"]) for row in known]
    assert len(units) == len(set(units)) >= 12
    assert len(audited(service.lake).filter(route="/v1/selections")) == PEOPLE * EACH
