from __future__ import annotations

import io

import polars as pl
import pyarrow as pa
import pytest

from api.service.rows import ARROW, PARQUET
from flows.query import query


def arrow(client, path, **params):
    answer = client.get(path, params=params, headers={"Accept": ARROW})
    assert answer.status_code == 200, answer.text
    return pl.DataFrame(pa.ipc.open_stream(answer.content).read_all())


def test_episodes_by_expression_order_and_columns_as_the_flow_answers(served):
    with served.client() as client:
        params = {"where": "operator <> 'lost' AND integrity = 0", "order_by": "-action_divergence",
                  "columns": "episode_id,operator,action_divergence"}  # fmt: skip
        answer = client.get("/v1/episodes", params=params).json()
        expected, undecided = query(
            served.lake, params["where"], columns=["episode_id", "operator", "action_divergence"],
            order_by=["-action_divergence"],
        )  # fmt: skip
        assert answer["items"] == expected.to_dicts()
        assert (answer["matched"], answer["undecided"], answer["next"]) == (len(expected), undecided, None)
        assert arrow(client, "/v1/episodes", **params).equals(expected)
        told = client.get("/v1/episodes", params=params, headers={"Accept": PARQUET})
        assert pl.read_parquet(io.BytesIO(told.content)).equals(expected)
        assert told.headers["X-Matched"] == str(len(expected))


@pytest.mark.parametrize("order", ["", "-success,task", "operator,-action_divergence", "-ingested_at", "scene"])
def test_pages_hold_every_row_once_in_order(served, order):
    with served.client() as client:
        whole = arrow(client, "/v1/episodes", order_by=order)["episode_id"].to_list()
        seen, after = [], None
        while True:
            params = {"order_by": order, "limit": 5, "columns": "episode_id", **({"after": after} if after else {})}
            answer = client.get("/v1/episodes", params=params).json()
            seen += [row["episode_id"] for row in answer["items"]]
            after = answer["next"]
            if after is None:
                break
        assert seen == whole
        assert len(set(seen)) == 12


def test_a_page_of_another_question_is_refused(served):
    with served.client() as client:
        after = client.get("/v1/episodes", params={"limit": 2}).json()["next"]
        for params in ({"after": after, "where": "success"}, {"after": "rubbish"}, {"after": after[:-4]}):
            answer = client.get("/v1/episodes", params={"limit": 2, **params})
            assert (answer.status_code, answer.json()["code"]) == (422, "bad_cursor")


def test_one_episode_with_all_that_is_known_of_it(served):
    with served.client() as client:
        name = served.lake.episodes()["episode_id"][0]
        answer = client.get(f"/v1/episodes/{name}").json()
        assert answer["episode"]["episode_id"] == name
        assert {score["scorer"] for score in answer["scores"]} == {"integrity", "action_divergence"}
        assert "steady" in {chosen["name"] for chosen in answer["lineage"]["selections"]}
        assert answer["lineage"]["run_id"]
        receipts = client.get(f"/v1/receipts/{answer['lineage']['run_id']}").json()
        assert receipts[0]["receipt"]["stored"]["episodes"] == 12
        assert client.get("/v1/episodes/ep_none").status_code == 404


def test_steps_are_the_lakes(served):
    with served.client() as client:
        episodes = served.lake.episodes().head(1)
        ((row, steps),) = served.lake.steps(episodes)
        path = f"/v1/episodes/{row['episode_id']}/steps"
        assert arrow(client, path).equals(pl.DataFrame(steps))
        assert arrow(client, path, columns="action").columns == ["action"]
        items = client.get(path, params={"columns": "action"}).json()["items"]
        assert len(items) == row["n_steps"]
        tag = client.get(path).headers["ETag"]
        assert client.get(path, headers={"If-None-Match": tag}).status_code == 304
        assert client.get(path, params={"columns": "nothing"}).json()["code"] == "unknown_column"


def test_video_by_range_and_its_frames(served):
    with served.client() as client:
        row = served.lake.episodes().row(0, named=True)
        (video,) = row["videos"]
        path = f"/v1/episodes/{row['episode_id']}/video/{video['camera']}"
        whole = served.lake.read_bytes(video["blob"])
        assert client.get(path).content == whole
        part = client.get(path, headers={"Range": "bytes=10-99"})
        assert (part.status_code, part.content) == (206, whole[10:100])
        assert client.head(path).headers["Content-Length"] == str(len(whole))
        assert client.get(path, headers={"Range": "bytes=99999999-"}).status_code == 416
        frame = client.get(f"/v1/episodes/{row['episode_id']}/frame/{video['camera']}", params={"at": 0.5, "width": 32})
        from PIL import Image

        assert Image.open(io.BytesIO(frame.content)).size == (32, 32)
        assert client.get(f"/v1/episodes/{row['episode_id']}/frame/nose").json()["code"] == "no_camera"


def test_scores_are_listed_and_distributed(served):
    with served.client() as client:
        rows = arrow(client, "/v1/scores", where="scorer = 'action_divergence'")
        assert rows["unit_id"].n_unique() == 12
        answer = client.get("/v1/scores/action_divergence/distribution", params={"bins": 4}).json()
        values, _ = query(served.lake, columns=["action_divergence"])
        known = values["action_divergence"].drop_nulls()
        assert (sum(answer["counts"]), answer["nulls"]) == (len(known), 12 - len(known))
        assert answer["max"] == known.max()
        assert client.get("/v1/scores/nothing/distribution").status_code == 422
        name = served.lake.episodes()["episode_id"][0]
        assert len(arrow(client, f"/v1/episodes/{name}/step-values")) >= 1


def test_datasets_selections_mixtures(served):
    with served.client() as client:
        (row,) = client.get("/v1/datasets").json()["items"]
        assert (row["dataset"], row["episodes"]) == ("reach", 12)
        assert "action" in {each["name"] for each in client.get("/v1/datasets/reach").json()["dataset"]["features"]}
        names = {row["name"] for row in client.get("/v1/selections").json()["items"]}
        assert names == {"steady", "anyone"}
        chosen = arrow(client, "/v1/selections/steady").filter(pl.col("rank").is_not_null())
        assert len(chosen) == 4
        difference = client.get("/v1/selections/steady/diff/anyone").json()
        assert difference["both"] + len(difference["only_first"]) == 4
        (mixture,) = client.get("/v1/mixtures").json()["items"]
        answer = client.get(f"/v1/mixtures/{mixture['mixture_id'][:12]}")
        assert answer.json()["mixture_id"] == mixture["mixture_id"]
        held = {"If-None-Match": answer.headers["ETag"]}
        assert client.get("/v1/mixtures/reach", headers=held).status_code == 304
        assert len(arrow(client, "/v1/mixtures/reach/episodes")) == 8
        assert client.get("/v1/mixtures/reach/statistics").json() == answer.json()["statistics"]
        same = client.get("/v1/mixtures/reach/diff/reach").json()
        assert (same["only_first"], same["changed"], same["settings"]) == ([], [], {})
        for path in ("../../lake.json", "tables/runs", "/etc/passwd", "%2e%2e/%2e%2e/lake.json"):
            assert client.get(f"/v1/mixtures/reach/files/{path}").status_code == 404


def test_search_finds_the_like(served):
    with served.client() as client:
        name = served.lake.episodes()["episode_id"][0]
        items = client.post("/v1/search", json={"episode": name, "k": 3, "where": "operator = 'steady'"}).json()[
            "items"
        ]
        assert len(items) == 3
        assert name not in {hit["episode_id"] for hit in items}


def test_search_by_vector_and_by_text_where_the_space_takes_it(served):
    with served.client() as client:
        row = served.lake.scan("embeddings/trajectory").select("episode_id", "vector").collect().row(0, named=True)
        items = client.post("/v1/search", json={"vector": row["vector"], "k": 2}).json()["items"]
        assert (len(items), items[0]["episode_id"]) == (2, row["episode_id"])
        assert items[0]["similarity"] == pytest.approx(1.0)
        for wrong, code in (
            ({"vector": row["vector"][1:]}, "bad_vector"), ({"vector": [0.0] * len(row["vector"])}, "bad_vector"),
            ({"text": "a red cup"}, "no_such_query"), ({"text": "a", "episode": "b"}, "bad_request"),
            ({}, "bad_request"),
        ):  # fmt: skip
            answer = client.post("/v1/search", json=wrong)
            assert 400 <= answer.status_code < 500
            assert answer.json()["code"] == code, answer.text


def test_errors_are_problems_with_a_code_and_a_fix(served):
    with served.client() as client:
        answer = client.get("/v1/episodes", params={"where": "sucess"})
        assert answer.headers["Content-Type"] == "application/problem+json"
        problem = answer.json()
        assert (problem["status"], problem["code"], problem["fix"]) == (422, "bad_expression", "did you mean success?")
        assert problem["instance"] == answer.headers["X-Request-ID"]
        named = client.get("/v1/nothing", headers={"X-Request-ID": "mine-1"})
        assert (named.status_code, named.json()["instance"]) == (404, "mine-1")
        assert client.get("/v1/episodes", params={"limit": "x"}).json()["code"] == "bad_request"
        assert client.get("/v1/episodes", headers={"Accept": "text/html"}).status_code == 406
        assert client.post("/v1/search", content=b"{").status_code == 422
        assert client.delete("/v1/episodes").status_code == 403


def test_a_part_is_of_an_episode_and_of_a_space_of_frames(served):
    with served.client() as client:
        name = client.get("/v1/episodes").json()["items"][0]["episode_id"]
        for body in (
            {"episode": name, "start": 3},
            {"text": "x", "start": 1, "stop": 2},
            {"episode": name, "camera": "a"},
        ):
            answer = client.post("/v1/search", json=body)
            assert (answer.status_code, answer.json()["code"]) == (422, "bad_range")
        answer = client.post("/v1/search", json={"episode": name, "start": 0, "stop": 4})
        assert answer.json()["code"] == "no_such_query"


def test_what_never_changes_has_a_tag_and_each_form_of_it_one_of_its_own(served):
    with served.client() as client:
        row = served.lake.episodes().row(0, named=True)
        fit = client.get("/v1/fits").json()["items"][0]
        of = {"{episode_id}": row["episode_id"], "{camera}": row["videos"][0]["camera"], "{mixture_id}": "reach",
              "{path}": "mixture.json", "{run_id}": row["run_id"], "{producer}": fit["producer"],
              "{fit_id}": fit["fit_id"]}  # fmt: skip
        document = client.get("/v1/openapi.json").json()["paths"]
        told = [path for path, methods in document.items() if "304" in methods.get("get", {}).get("responses", ())]
        assert len(told) == 10
        tags = {}
        for path in told:
            filled = path
            for name, value in of.items():
                filled = filled.replace(name, value)
            tag = tags[path] = client.get(filled).headers["ETag"]
            for held in (tag, f'"other", W/{tag}', "*"):
                again = client.get(filled, headers={"If-None-Match": held})
                assert (again.status_code, again.content, again.headers["ETag"]) == (304, b"", tag), path
            assert client.get(filled, headers={"If-None-Match": '"other"'}).status_code == 200, path
            if ARROW in document[path]["get"]["responses"]["200"].get("content", {}):
                other = client.get(filled, headers={"If-None-Match": tag, "Accept": ARROW})
                assert (other.status_code, other.headers["Content-Type"]) == (200, ARROW), path
        assert len(set(tags.values())) == len(tags)
