from __future__ import annotations

import http.client
import time

import httpx
import pytest

from api.service.app import ROUTERS
from api.service.gate import OPEN, scope_of
from storage import keys
from storage.audit import audited


def routes(service):
    """Every (method, path) that the document tells of."""
    with service.client() as client:
        paths = client.get("/v1/openapi.json").json()["paths"]
    return [(method.upper(), path) for path, methods in paths.items() for method in methods]


def test_no_route_answers_anything_without_a_key(served):
    revoked, token = keys.make(served.lake, "gone", "admin")
    keys.revoke(served.lake, revoked.id)
    episode = served.lake.episodes().row(0, named=True)
    filled = {
        "{episode_id}": episode["episode_id"], "{camera}": "front", "{mixture_id}": "reach", "{first}": "reach",
        "{second}": "reach", "{kind}": "scorers", "{path}": "mixture.json", "{run_id}": episode["run_id"],
    }  # fmt: skip
    told = [(method, path) for method, path in routes(served) if path not in OPEN]
    assert len(told) > 30
    secrets = [episode["episode_id"], "reach", "steady", "operator", "mixture_id"]
    for headers in (
        {},
        {"Authorization": f"Bearer {token}"},
        {"Authorization": "Bearer x"},
        {"Authorization": "Basic x"},
    ):
        with httpx.Client(base_url=served.url, headers=headers) as client:
            for method, path in told:
                for name, value in filled.items():
                    path = path.replace(name, value)
                answer = client.request(method, path.replace("{name}", "reach"))
                assert (answer.status_code, answer.json()["code"]) == (401, "no_key"), (method, path)
                assert not any(secret in answer.text for secret in secrets), (method, path)
            for method in ("GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD"):
                for path in ("/v1/episodes/", "/V1/episodes", "//v1/episodes", "/v1/../v1/episodes", "/docs", "/"):
                    assert client.request(method, path).status_code == 401
            for path in OPEN:
                assert not any(secret in client.get(path).text for secret in secrets[:1])


def test_every_route_of_the_app_is_in_the_document_or_a_head(served):
    told = set(routes(served))
    routes_there = [(method, route.path) for router in ROUTERS for route in router.routes for method in route.methods]
    assert len(routes_there) > 40
    for method, path in routes_there:
        assert (method, path.replace(":path", "")) in told or method == "HEAD"


def test_scopes_deny_by_default():
    assert scope_of("GET", "/v1/health") is None
    assert scope_of("GET", "/v1/healthy") == "read"
    assert scope_of("POST", "/v1/search") == "read"
    assert scope_of("POST", "/v1/search/") == "curate"
    assert scope_of("DELETE", "/v1/health/x") == "curate"
    assert scope_of("GET", "/v1/audit") == "admin"


def test_a_key_does_what_its_scope_says(served):
    with served.client("read") as reader, served.client("admin") as admin:
        refused = reader.post("/v1/selections", json={})
        assert (refused.status_code, refused.json()["code"]) == (403, "no_scope")
        assert reader.get("/v1/audit").status_code == 403
        assert admin.get("/v1/audit").status_code == 200


def test_a_revoked_key_is_refused_within_two_seconds(writable):
    with writable.client("read") as client:
        assert client.get("/v1/datasets").status_code == 200
        keys.revoke(writable.lake, "reader")
        for _ in range(200):
            if client.get("/v1/datasets").status_code == 401:
                break
            time.sleep(0.01)
        assert client.get("/v1/datasets").status_code == 401


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"Host": "evil.example"}, "unknown_host"),
        ({"Host": "127.0.0.1.evil.example"}, "unknown_host"),
        ({"Origin": "https://evil.example"}, "foreign_origin"),
        ({"Origin": "null"}, "foreign_origin"),
        ({"Sec-Fetch-Site": "cross-site"}, "foreign_origin"),
    ],
)
def test_pages_of_other_sites_and_other_names_are_refused_even_with_a_key(served, headers, code):
    with served.client("admin") as client:
        request = client.build_request("GET", "/v1/datasets", headers=headers)
        assert client.send(request).json()["code"] == code


def test_our_own_page_and_named_ones_may_ask(serve):
    service = serve(hosts=("robots.lab",), origins=("https://console.lab",))
    with service.client() as client:
        own = {"Origin": service.url, "Sec-Fetch-Site": "same-origin"}
        for headers in (own, {"Host": "robots.lab"}, {"Origin": "https://console.lab"}):
            assert client.get("/v1/datasets", headers=headers).status_code == 200


def test_bodies_are_bounded_whatever_they_say_of_their_length(serve):
    service = serve(body_bytes=1000)
    with service.client("curate") as client:
        for path in ("/v1/annotations", "/v1/search"):
            answer = client.post(path, content=(b"x" * 100 for _ in range(100)))
            assert (answer.status_code, answer.json()["code"]) == (413, "too_large")
            assert client.post(path, content=b"x" * 1001).status_code == 413


def test_a_body_that_says_it_is_too_large_is_not_waited_for(served):
    connection = http.client.HTTPConnection(served.url.removeprefix("http://"), timeout=20)
    connection.putrequest("POST", "/v1/search")
    connection.putheader("Authorization", f"Bearer {served.tokens['read']}")
    connection.putheader("Content-Length", str(1 << 40))
    connection.endheaders()
    assert connection.getresponse().status == 413
    connection.close()


def test_a_key_is_paced_and_others_are_not(serve):
    service = serve(rate=0.001, burst=5)
    with service.client("curate") as client, service.client("admin") as other:
        said = [client.get("/v1/datasets") for _ in range(7)]
        assert [answer.status_code for answer in said] == [200] * 5 + [429] * 2
        assert said[-1].headers["Retry-After"] == "1"
        assert other.get("/v1/datasets").status_code == 200


def test_without_keys_whoever_reaches_it_may_but_no_foreign_page(serve):
    service = serve(keys=False)
    with service.client(None) as client:
        assert client.get("/v1/datasets").status_code == 200
        assert client.get("/v1/datasets", headers={"Origin": "https://evil.example"}).status_code == 403
        assert client.get("/v1/datasets", headers={"Host": "rebound.example"}).status_code == 421


def test_metrics_tell_of_requests_and_of_the_snapshot(served):
    with served.client() as client:
        client.get("/v1/datasets")
        text = client.get("/v1/metrics").text
        assert 'data_engine_requests_total{method="GET",route="/v1/datasets",status="200"}' in text
        assert 'data_engine_rows{table="episodes"} 12.0' in text
        age = next(line for line in text.splitlines() if line.startswith("data_engine_snapshot_age_seconds"))
        assert 0 <= float(age.split()[1]) < 30


def test_writes_are_written_down_and_reads_are_not(writable):
    with writable.client("curate") as client:
        client.get("/v1/datasets")
        client.post("/v1/search", json={})
        said = {"kind": "verdict", "episode_id": writable.lake.episodes()["episode_id"][0]}
        assert client.post("/v1/annotations", json={"items": [said]}).status_code == 201
        assert client.post("/v1/annotations", json={"items": []}).status_code == 422
    rows = audited(writable.lake)
    assert rows.select("name", "method", "route", "status").rows() == [
        ("curateer", "POST", "/v1/annotations", 201), ("curateer", "POST", "/v1/annotations", 422),
    ]  # fmt: skip
    assert said["episode_id"] not in str(rows.to_dicts())


def test_every_route_that_writes_leaves_a_row_in_the_audit_whatever_comes_of_it(writable):
    episode = writable.lake.episodes()["episode_id"][0]
    writing = {}
    with writable.client("admin") as client:
        for path, methods in client.get("/v1/openapi.json").json()["paths"].items():
            for method, operation in methods.items():
                if scope_of(method.upper(), path) not in (None, "read") and method != "get":
                    body = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
                    writing[method.upper(), path] = body.get("example")
        assert len(writing) > 12
        for (method, path), body in writing.items():
            said = client.request(method, path.replace("{name}", "none").replace("{run_id}", "run_none"), json=body)
            assert said.status_code < 500, (path, said.text)
    rows = audited(writable.lake)
    assert sorted(rows.select("method", "route").rows()) == sorted(writing)
    assert set(rows["name"]) == {"adminer"} and episode not in str(rows.to_dicts())
