"""Text and pictures to episodes and steps, through frames of real encoded video."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from data_engine.errors import RequestError
from data_engine.recipe import SourceRecipe, SpaceRecipe
from flows.executor import Local
from flows.index import embed
from flows.ingest import ingest
from flows.progress import silent
from flows.search import encoder_of, nearest, seen
from storage.lake import Lake
from tests.api.commands import answer, refusal
from tests.scenes import TASKS, caption, instruction, scenes, write_scenes


@pytest.fixture(scope="module")
def looked(tmp_path_factory, eyes) -> Lake:
    """64 clips of 16 tasks, every fourth step embedded; their trajectories too."""
    folder = tmp_path_factory.mktemp("looked")
    common = {"on": Local(), "progress": silent(), "run_id": "run_test"}
    lake = Lake.open(str(folder / "lake"), create=True)
    ingest(lake, SourceRecipe(name="scenes", uri=str(write_scenes(folder / "s.hdf5", scenes(400)))), **common)
    frames = SpaceRecipe(name="frames", encoder="open_clip", params={"checkpoint": str(eyes), "every_s": 0.4})
    embed(lake, frames, lake.episodes(), **common)
    embed(lake, SpaceRecipe(), lake.episodes(), **common)
    return lake


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
    monkeypatch.setattr("flows.search._ROWS_AT_ONCE", 50)  # in many parts
    version = looked.scan("embeddings/frames").select("encoder_version").unique().collect().item()
    query = np.random.default_rng(0).normal(size=64).astype(np.float32)
    some = looked.episodes().filter(pl.col("operator") == "still")
    rows = looked.scan("embeddings/frames").collect().join(some, on="episode_id", how="semi")
    cosine = np.array(rows["vector"].to_list()) @ query / np.linalg.norm(query)
    best = rows.with_columns(cosine=pl.Series(cosine)).group_by("episode_id").agg(pl.col("cosine").max())
    best = best.sort("cosine", descending=True).head(7)
    hits = nearest(looked, "frames", version, query, some, 7)
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
    assert "nothing to search for" in refusal(capsys, "search", *lake)
    assert "there is no space 'nothing'" in refusal(capsys, "search", "--text", "x", *lake[:2], "--space", "nothing")
    assert "takes no text and no picture" in refusal(capsys, "search", "--text", "x", *lake[:2])


def test_the_encoder_of_unknown_vectors_is_refused(looked):
    with pytest.raises(RequestError, match="no text and no picture"):
        encoder_of(looked, "0" * 64 + ".00000000")
