"""The client against the service that it is for."""

from __future__ import annotations

import polars as pl
import pytest

from data_engine.client import Client
from data_engine.errors import RequestError, SourceError
from data_engine.loader import MixtureDataset
from data_engine.mixture import open as open_mixture
from data_engine.windows import Windows
from flows.mix import locate
from flows.query import query


@pytest.fixture
def client(served, tmp_path):
    return Client(served.url, served.tokens["read"], cache_dir=tmp_path / "cache")


def test_rows_are_those_of_the_flow(served, client, tmp_path):
    where, columns = "operator = 'steady'", ["episode_id", "integrity"]
    found = client.episodes(where, columns=columns, order_by=["-episode_id"])
    expected, _ = query(served.lake, where, columns=columns, order_by=["-episode_id"])
    assert pl.DataFrame(found).equals(expected)
    name = found["episode_id"][0].as_py()
    row, steps = next(served.lake.steps(served.lake.episodes().filter(pl.col("episode_id") == name)))
    assert client.steps(name).equals(steps)
    assert client.episode(name)["episode"]["n_steps"] == row["n_steps"]
    (video,) = row["videos"]
    assert client.video(name, "front_image", tmp_path / "v.mp4") == (video["start_s"], video["end_s"])
    assert (tmp_path / "v.mp4").read_bytes() == served.lake.read_bytes(video["blob"])
    assert client.frame(name, "front_image")[:2] == b"\xff\xd8"
    assert len(client.search(name, k=2)) == 2
    assert client.distribution("integrity")["episodes"] == 12
    assert client.table("mixtures").num_rows == 1
    assert client.selection("steady").num_rows == 12


def test_a_mixture_is_trained_from_over_the_wire_alone(served, client):
    demos = client.mixture("reach")
    here = open_mixture(locate(served.lake, "reach"))
    windows = Windows(history=2, action_horizon=4, normalise="mean_std")
    mine, theirs = MixtureDataset(demos, windows), MixtureDataset(here, windows)
    for at in (0, 7, 100):
        assert all((mine[at][name] == theirs[at][name]).all() for name in ("observation.state", "action"))
    assert not demos.root.startswith(served.lake.uri)
    demos.local(next(path for path in demos.files if path.startswith("videos/")))


def test_a_file_that_is_not_what_was_frozen_is_refused(writable, tmp_path):
    client = Client(writable.url, writable.tokens["read"], cache_dir=tmp_path / "cache")
    path = next(each for each in open_mixture(locate(writable.lake, "reach")).files if each.startswith("videos/"))
    data = bytearray(writable.lake.read_bytes(path))
    data[len(data) // 2] ^= 1
    writable.lake.write_bytes(path, bytes(data))
    with pytest.raises(SourceError, match="not what was frozen"):
        client.mixture("reach")


def test_what_is_wrong_is_told_as_the_service_tells_it(served, client):
    with pytest.raises(RequestError) as caught:
        client.episodes("sucess")
    assert (caught.value.code, caught.value.fix) == ("bad_expression", "did you mean success?")
    with pytest.raises(RequestError, match="no key"):
        Client(served.url).episodes()
    with pytest.raises(RequestError, match="may read, this needs curate"):
        client.select("x")


def test_a_researcher_selects_freezes_and_says_what_it_was_worth(writable, tmp_path):
    client = Client(writable.url, writable.tokens["curate"], cache_dir=tmp_path / "cache")
    made = client.select("good", where="operator <> 'lost'")
    frozen = client.freeze("training", {"good": 2.0}, epoch_size=100, splits={"train": 1.0})
    assert (made["chosen"], frozen["episodes"]) == (8, 8)
    name = client.episodes(limit=1)["episode_id"][0].as_py()
    assert client.annotate([{"episode_id": name, "kind": "verdict", "label": "keep"}])["added"] == 1
    rollout = {"checkpoint": "c", "mixture_id": frozen["mixture_id"], "task": "reach", "initial_condition": "0",
               "seed": 0, "success": True}  # fmt: skip
    assert client.evaluated([rollout])["added"] == 1
    assert client.table("evaluations", "success").num_rows == 1
