"""What the console asks for beside the rest: signing in, the overview, the map, the review queue; and its own files."""

from __future__ import annotations

import re
import time
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest

from api.console import pages
from api.service.sessions import COOKIE, Sessions
from storage import keys


@contextmanager
def signed_in(service, scope="curate"):
    """A browser's client: a cookie instead of a key, and the origin of our own page. With the answer it got."""
    with httpx.Client(base_url=service.url, timeout=60, headers={"Origin": service.url}) as client:
        answer = client.post("/v1/session", json={"key": service.tokens[scope]})
        assert answer.status_code == 200
        yield client, answer


def test_a_key_is_traded_for_a_cookie_that_no_script_and_no_other_site_has(served):
    with signed_in(served) as (client, answer):
        said = answer.headers["set-cookie"]
        assert {"HttpOnly", "SameSite=strict", "Path=/"} <= set(said.split("; "))
        assert "Secure" not in said and "Max-Age=" in said
        assert served.tokens["curate"] not in said
        assert answer.json() == {"keys": True, "name": "curateer", "scope": "curate"}
        assert client.get("/v1/datasets").status_code == 200
        assert client.get("/v1/session").json()["name"] == "curateer"
        assert client.get("/v1/audit").json()["code"] == "no_scope"
        cookie = client.cookies[COOKIE]
        assert client.delete("/v1/session").status_code == 204
        again = client.get("/v1/datasets", headers={"Cookie": f"{COOKIE}={cookie}"})
        assert (again.status_code, again.json()["code"]) == (401, "no_key")
    over = httpx.post(f"{served.url}/v1/session", json={"key": served.tokens["read"]},
                      headers={"Origin": served.url.replace("http:", "https:")})  # fmt: skip
    assert "Secure" in over.headers["set-cookie"]


@pytest.mark.parametrize("key", ["x", "de_0123456789ab_" + "A" * 43, "é"])
def test_what_is_no_key_gets_no_cookie(served, key):
    answer = httpx.post(f"{served.url}/v1/session", json={"key": key})
    assert (answer.status_code, answer.json()["code"]) == (401, "no_key")
    assert "set-cookie" not in answer.headers
    assert httpx.get(f"{served.url}/v1/session").json() == {"keys": True, "name": None, "scope": None}


def test_a_cookie_counts_only_for_our_own_page(served):
    body = {"items": []}
    with signed_in(served) as (client, _):
        for headers in ({"Origin": "https://evil.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}):
            request = client.build_request("POST", "/v1/annotations", json=body, headers=headers)
            if "Origin" not in headers:
                del request.headers["Origin"]
            assert client.send(request).json()["code"] == "foreign_origin"
        request = client.build_request("POST", "/v1/annotations", json=body)
        del request.headers["Origin"]
        assert client.send(request).json()["code"] == "foreign_origin"  # a browser would say where it asks from
        assert client.post("/v1/annotations", json=body).json()["code"] == "bad_request"  # let in, and found wrong


def test_a_revoked_key_ends_its_sessions(writable):
    with signed_in(writable, "read") as (client, _):
        assert client.get("/v1/datasets").status_code == 200
        keys.revoke(writable.lake, "reader")
        for _ in range(200):
            if client.get("/v1/datasets").status_code == 401:
                break
            time.sleep(0.01)
        assert client.get("/v1/datasets").status_code == 401


def test_sessions_end_and_are_bounded(monkeypatch):
    monkeypatch.setattr("api.service.sessions._MOST", 3)
    sessions = Sessions()
    first, *others = [f"{COOKIE}={sessions.begin(str(each))}" for each in range(4)]
    assert sessions.token(first) is None
    assert [sessions.token(each) for each in others] == ["1", "2", "3"]
    monkeypatch.setattr("api.service.sessions.time.monotonic", lambda: float("inf"))
    assert sessions.token(others[-1]) is None
    assert sessions.token("") is None and sessions.token(f"{COOKIE}=\udcff") is None


def test_the_consoles_files_are_there_under_a_strict_policy_and_nothing_else_is(served):
    with httpx.Client(base_url=served.url) as client:
        assert client.get("/console").headers["location"] == "/console/"
        page = client.get("/console/")
        assert page.status_code == 200 and page.headers["content-type"].startswith("text/html")
        assert page.headers["content-security-policy"] == pages.POLICY
        assert client.get("/console/", headers={"If-None-Match": page.headers["etag"]}).status_code == 304
        assert client.head("/console/main.js").headers["content-type"].startswith("text/javascript")
        for path in ("/console/none.js", "/console/../pages.py", "/console/%2e%2e/pages.py", "/console/lib"):
            assert client.get(path).status_code in (401, 404)
        assert client.post("/console/", json={}).status_code == 401
        followed = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
        assert client.get("/console/", headers=followed).status_code == 200
        assert client.get("/v1/session", headers=followed).json()["code"] == "foreign_origin"
    assert "unsafe" not in pages.POLICY and "http" not in pages.POLICY


def test_the_console_asks_nobody_else_and_makes_no_markup_of_text():
    root = Path(pages.__file__).parent / "static"
    ours = [each for each in root.rglob("*") if each.suffix in (".js", ".html", ".css") and "vendor" not in each.parts]
    assert len(ours) > 12
    for path in ours:
        text = path.read_text()
        assert not re.search(r"\b(innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function)", text), (
            path
        )
        assert "//cdn" not in text and not re.search(r"""(src|href|import|from)\s*[=(]?\s*["']https?:""", text), path
        for module in re.findall(r"""from "(\.[^"]+)";""", text):
            assert (path.parent / module).resolve().is_file(), (path, module)
    assert not re.search(r"<script>|\son\w+=|<style|style=", (root / "index.html").read_text())
    for vendored in (root / "vendor").iterdir():
        assert (vendored / "LICENSE").read_text()


def test_the_overview_says_what_may_be_asked(served):
    with served.client() as client:
        said = client.get("/v1/overview").json()
        assert (said["datasets"], said["episodes"]) == (1, 12)
        names = [each["name"] for each in said["scores"]]
        assert names[0] == "action_divergence" and "integrity" in names and "integrity.defects" in names
        for each in said["scores"]:
            told = client.get(f"/v1/scores/{each['name']}/distribution").json()
            assert (told["unit"], told["better"]) == (each["unit"], each["better"])
        assert client.get("/v1/episodes", params={"columns": ",".join(said["columns"])}).status_code == 200


def test_the_map_is_the_principal_plane_of_the_space(served):
    from flows.index import vectors

    with served.client() as client:
        (space,) = client.get("/v1/spaces").json()["items"]
        assert (space["space"], space["groups"][0]["episodes"]) == ("trajectory", 12)
        told = client.get("/v1/spaces/trajectory/map", params={"colour": "operator"}).json()
        assert sorted(told["episode_id"]) == sorted(served.lake.episodes()["episode_id"])
        assert set(told["value"]) == {"steady", "shaky", "lost"}
        held, _ = vectors(served.lake, "trajectory", served.lake.episodes())
        matrix = np.stack(held["vector"].to_numpy()).astype(float)
        matrix /= np.linalg.norm(matrix, axis=1, keepdims=True)
        _, singular, right = np.linalg.svd(matrix - matrix.mean(axis=0))
        flat = (matrix - matrix.mean(axis=0)) @ right[:2].T
        order = [told["episode_id"].index(each) for each in held["episode_id"]]
        got = np.stack([told["x"], told["y"]], axis=1)[order]
        assert np.allclose(np.abs(got), np.abs(flat), atol=1e-6)
        assert told["seen"] == pytest.approx((singular[:2] ** 2).sum() / (singular**2).sum())
        few = client.get("/v1/spaces/trajectory/map", params={"colour": "action_divergence", "where": "success"}).json()
        assert 0 < few["episodes"] < 12 and all(isinstance(each, float) for each in few["value"])
        for path, params in (("nothing", {}), ("trajectory", {"group": 7}), ("trajectory", {"colour": "origin"})):
            assert client.get(f"/v1/spaces/{path}/map", params=params).status_code in (404, 422)
