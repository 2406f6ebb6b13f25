from __future__ import annotations

from storage.schedules import find


def recipe(uri: object) -> dict:
    return {"name": "nightly", "source": {"uri": str(uri)}, "select": [{"name": "all", "method": "filter"}]}


def test_a_schedule_is_kept_over_rest_by_who_may_and_names_only_what_is_allowed(serve, tmp_path):
    (tmp_path / "in").mkdir()
    service = serve(allow=(str(tmp_path / "in"),))
    asked = {"recipe": recipe(tmp_path / "in" / "more.hdf5"), "cron": "0 3 * * *"}
    with service.client("read") as client:
        assert client.post("/v1/schedules", json=asked).status_code == 403
        assert client.get("/v1/schedules").json() == {
            "standing": "off", "why": "served with --no-schedules", "items": []
        }  # fmt: skip
    with service.client("curate") as client:
        made = client.post("/v1/schedules", json=asked)
        assert (made.status_code, made.json()["when"]) == (201, "cron 0 3 * * * UTC")
        assert client.post("/v1/schedules", json=asked).json()["since"] == made.json()["since"]
        other = client.post("/v1/schedules", json=asked | {"cron": "0 4 * * *"})
        assert (other.status_code, other.json()["code"]) == (409, "exists")
        outside = client.post("/v1/schedules", json=asked | {"name": "x", "recipe": recipe("/etc")})
        assert (outside.status_code, outside.json()["code"]) == (403, "not_allowed")
        for wrong in ({"cron": "x"}, {"every_s": 60}, {"timezone": "Mars"}, {"recipe": {}}):
            assert client.post("/v1/schedules", json=asked | {"name": "x"} | wrong).status_code == 422, wrong
        assert client.post("/v1/schedules/nightly/pause").json()["state"] == "paused"
        assert client.get("/v1/schedules/nightly").json()["next_due"] is None
        assert client.post("/v1/schedules/nightly/resume").json()["state"] == "active"
        assert client.post("/v1/schedules/nightly/run").status_code == 202
        kept = find(service.lake, "nightly")
        assert (kept.by, kept.remote, kept.asked_at is not None) == ("curateer", True, True)
        whole = client.get("/v1/schedules/nightly").json()
        assert (whole["recipe"]["name"], whole["recipe"]["schedule"], whole["runs"]) == ("nightly", None, [])
        assert client.delete("/v1/schedules/nightly").json()["state"] == "removed"
        assert client.get("/v1/schedules/nightly").json()["code"] == "unknown_schedule"


def test_the_recipe_may_say_when_itself(writable):
    with writable.client("curate") as client:
        refused = client.post("/v1/schedules", json={"recipe": recipe("/etc") | {"schedule": {"interval_s": 60}}})
        assert refused.json()["code"] == "not_allowed"
