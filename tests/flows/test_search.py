"""Text and pictures to episodes and steps, through frames of real encoded video."""

from __future__ import annotations

import json
import shutil

import numpy as np
import polars as pl
import pytest

from data_engine.errors import RequestError
from flows.index import index
from flows.search import encoder_of, seen
from flows.spans import nearest_episodes, nearest_steps
from storage import forms, indices
from storage.lake import Lake
from tests.api.commands import answer, refusal
from tests.scenes import TASKS, caption, instruction, scenes


def test_a_text_finds_the_episodes_that_show_it(looked):
    recalls = []
    for task in TASKS:
        hits = seen(looked, "frames", text=instruction(task), k=4)
        recalls.append(np.mean([hit["task"] == instruction(task) for hit in hits]))
    assert np.mean(recalls) >= 0.9


def test_a_text_finds_the_steps_where_it_is_so(looked):
    early, late = [], []
    for task in TASKS:
        where = f"task = '{instruction(task)}' AND operator = 'progress'"
        (far,) = seen(looked, "frames", text=caption(task, "far from"), where=where)
        (near,) = seen(looked, "frames", text=caption(task, "touching"), where=where)
        assert near["stop"] - near["start"] == 4
        early.append(far["start"])
        late.append(near["start"])
    assert np.mean(late) - np.mean(early) >= 10  # of 24 steps


def test_it_is_exact_and_keeps_to_where(looked, monkeypatch):
    monkeypatch.setattr("flows.spans.ROWS_AT_ONCE", 50)  # in many parts
    version = looked.scan("embeddings/frames").select("encoder_version").unique().collect().item()
    query = np.random.default_rng(0).normal(size=64).astype(np.float32)
    some = looked.episodes().filter(pl.col("operator") == "still")
    rows = looked.scan("embeddings/frames").collect().join(some, on="episode_id", how="semi")
    cosine = np.array(rows["vector"].to_list()) @ query / np.linalg.norm(query)
    best = rows.with_columns(cosine=pl.Series(cosine)).group_by("episode_id").agg(pl.col("cosine").max())
    best = best.sort("cosine", descending=True).head(7)
    hits = nearest_episodes(looked, "frames", version, query, some, 7)
    assert [hit["episode_id"] for hit in hits] == best["episode_id"].to_list()
    np.testing.assert_allclose([hit["similarity"] for hit in hits], best["cosine"], atol=1e-5)
    assert seen(looked, "frames", text="anything", where="n_steps > 1000") == []


def test_a_picture_and_a_text_from_the_command_line(looked, capsys, tmp_path):
    from PIL import Image

    clip = scenes(400)[3]
    Image.fromarray(clip.frames()[10]).save(tmp_path / "seen.png")
    lake = ("--lake", looked.uri, "--space", "frames")
    items = answer(capsys, "search", "--image", tmp_path / "seen.png", "-k", "3", *lake)["items"]
    assert items[0]["task"] == instruction(clip.task)
    assert items[0]["similarity"] > 0.9
    items = answer(capsys, "search", "--text", instruction(clip.task), "-k", "2", *lake)["items"]
    assert [item["task"] for item in items] == [instruction(clip.task)] * 2
    (tmp_path / "no.png").write_bytes(b"GIF8")
    assert "is no picture" in refusal(capsys, "search", "--image", tmp_path / "no.png", *lake)
    gone = refusal(capsys, "search", "--image", tmp_path / "gone.png", *lake)
    assert gone == f"error: {tmp_path / 'gone.png'} is no picture: No such file or directory"
    assert "an empty text shows nothing" in refusal(capsys, "search", "--text", " ", *lake)
    assert "nothing to search for" in refusal(capsys, "search", *lake)
    assert "there is no space 'nothing'" in refusal(capsys, "search", "--text", "x", *lake[:2], "--space", "nothing")
    assert "takes no text and no picture" in refusal(capsys, "search", "--text", "x", *lake[:2])


def test_the_encoder_of_unknown_vectors_is_refused(looked):
    with pytest.raises(RequestError, match="no text and no picture"):
        encoder_of(looked, "0" * 64 + ".00000000")


def test_what_an_index_does_not_hold_is_compared_beside_it(looked, tmp_path, common):
    """An index of a part of the lake, of all of it, and none: the same answers, and k of them under any filter."""
    lake = Lake.open(str(shutil.copytree(looked.root, tmp_path / "lake")))
    version = lake.scan("embeddings/frames").select("encoder_version").unique().collect().item()
    queries = np.random.default_rng(1).normal(size=(3, 64)).astype(np.float32)
    filters = [lake.episodes(), lake.episodes().filter(pl.col("operator") == "still"), lake.episodes().head(3)]

    def answers():
        found = [nearest_episodes(lake, "frames", version, query, some, 5) for query in queries for some in filters]
        steps = [nearest_steps(lake, "frames", version, queries, some, 30) for some in filters]
        return found, [part for parts in steps for part in parts]

    expected = answers()
    assert [len(hits) for hits in expected[0]] == [5, 5, 3] * 3
    for held in (lake.episodes().gather_every(2), lake.episodes()):
        entries = {entry["space"]: entry for entry in index(lake, "frames", held)}
        steps = entries["frames/steps"]
        assert (steps["form"], steps["recall"], steps["episodes"]) == ("Flat", 1.0, len(held))
        found = answers()
        for before, now in zip(expected[0], found[0], strict=True):
            assert [hit["episode_id"] for hit in now] == [hit["episode_id"] for hit in before]
            np.testing.assert_allclose(*[[hit["similarity"] for hit in hits] for hits in (now, before)], atol=1e-5)
        for before, now in zip(expected[1], found[1], strict=True):
            np.testing.assert_allclose(now["similarity"], before["similarity"], atol=1e-5)
            assert set(now.select("episode_id", "start").iter_rows()) == set(
                before.select("episode_id", "start").iter_rows()
            )
    before = set(indices.list_indices(lake))
    index(lake, "frames", lake.episodes())
    assert set(indices.list_indices(lake)) == before


def test_inverted_lists_over_steps_answer_as_comparing_with_all_does(looked, tmp_path, monkeypatch):
    lake = Lake.open(str(shutil.copytree(looked.root, tmp_path / "lake")))
    version = lake.scan("embeddings/frames").select("encoder_version").unique().collect().item()
    query = np.array(lake.scan("embeddings/frames").collect()["vector"][7].to_list(), np.float32)
    exact = nearest_episodes(lake, "frames", version, query, lake.episodes(), 10)
    monkeypatch.setattr(forms, "EXACT_BELOW", 100)
    (steps,) = [entry for entry in index(lake, "frames", lake.episodes()) if entry["space"] == "frames/steps"]
    assert steps["form"].startswith("IVF") and 0.95 <= steps["recall"] <= 1
    hits = nearest_episodes(lake, "frames", version, query, lake.episodes(), 10)
    assert len({hit["episode_id"] for hit in hits} & {hit["episode_id"] for hit in exact}) >= 9
    where = lake.episodes().filter(pl.col("operator") == "still").head(4)
    narrow = nearest_episodes(lake, "frames", version, query, where, 10)
    assert {hit["episode_id"] for hit in narrow} == set(where["episode_id"])


def test_a_vector_in_a_file_finds_where_it_came_from(looked, capsys, tmp_path):
    lake = ("--lake", looked.uri, "--space", "frames")
    row = looked.scan("embeddings/frames").collect().row(40, named=True)
    np.save(tmp_path / "v.npy", np.array([row["vector"]], np.float32))
    (tmp_path / "v.json").write_text(json.dumps(row["vector"]))
    for name in ("v.npy", "v.json"):
        (hit,) = answer(capsys, "search", "--vector", tmp_path / name, "-k", "1", *lake)["items"]
        assert (hit["episode_id"], hit["start"], hit["camera"]) == (row["episode_id"], row["start"], row["camera"])
    np.save(tmp_path / "o.npy", np.array([object()]), allow_pickle=True)
    (tmp_path / "t.json").write_text('["a"]')
    for name in ("o.npy", "t.json", "none.npy"):
        assert "is no vector" in refusal(capsys, "search", "--vector", tmp_path / name, *lake)
    np.save(tmp_path / "short.npy", np.zeros(3))
    assert "have 64 numbers, not 3" in refusal(capsys, "search", "--vector", tmp_path / "short.npy", *lake)


def test_the_client_finds_over_rest_what_is_found_here(looked, tmp_path):
    import io

    from PIL import Image

    from data_engine.client import Client
    from flows.retrieve import parts_like
    from flows.search import like
    from tests.api.service.conftest import serving

    def pairs(items):
        return [(item["episode_id"], item["start"], item["stop"]) for item in items]

    png = io.BytesIO()
    Image.fromarray(scenes(400)[3].frames()[10]).save(png, "PNG")
    (tmp_path / "seen.png").write_bytes(png.getvalue())
    where, name = "operator = 'progress'", looked.episodes()["episode_id"][0]
    vector = looked.scan("embeddings/frames").select("vector").head(1).collect().item().to_numpy()
    with serving(shutil.copytree(looked.root, tmp_path / "lake")) as service:
        client = Client(service.url, service.tokens["read"])
        of = {"space": "frames", "k": 4, "where": where}
        words = instruction(TASKS[0])
        assert pairs(client.search(text=words, **of)) == pairs(seen(looked, "frames", text=words, k=4, where=where))
        wanted = pairs(seen(looked, "frames", image=str(tmp_path / "seen.png"), k=4, where=where))
        assert pairs(client.search(image=tmp_path / "seen.png", **of)) == wanted
        assert pairs(client.search(image=png.getvalue(), **of)) == wanted
        assert pairs(client.search(vector=vector, **of)) == pairs(like(looked, "frames", vector, k=4, where=where))
        parts = parts_like(looked, "frames", name, 4, 16, k=4, where=where)["items"]
        assert client.search(name, steps=(4, 16), **of) == parts
        assert all(item["cost"] >= 0 for item in parts) and len(parts) == 4
        with pytest.raises(RequestError, match="one thing"):
            client.search(name, text=words, **of)
