"""Parts of episodes like a part of one, through frames of real encoded video."""

from __future__ import annotations

import shutil

import numpy as np
import polars as pl
import pytest

from data_engine import mixture as mixtures
from data_engine.errors import RequestError
from data_engine.recipe import EntryRecipe, MixtureRecipe, SegmentsRecipe, SelectRecipe, Target
from flows import retrieve
from flows.annotate import Said, annotate
from flows.clips import clips
from flows.index import index
from flows.mix import mix
from flows.retrieve import parts_like
from flows.select import select, stored
from scorers.kernels.subsequence import matches
from storage.check import check
from storage.lake import Lake
from tests.api.commands import answer, refusal


def of(lake: Lake, number: int) -> dict:
    return lake.episodes().row(by_predicate=pl.col("source_key") == f"demo_{number}", named=True)


def everything(lake: Lake, episode: dict, start: int, stop: int) -> pl.DataFrame:
    """Every other episode aligned with a part of one, by cost."""
    version = lake.scan("embeddings/frames").select("encoder_version").unique().collect().item()
    others = lake.episodes().filter(pl.col("episode_id") != episode["episode_id"])
    (mine,) = clips(lake, "frames", version, [episode["episode_id"]], [episode["content_hash"]])
    query = mine.vectors[(mine.starts >= start) & (mine.starts < stop)]
    held = clips(lake, "frames", version, others["episode_id"].to_list(), others["content_hash"].to_list())
    cost, first, last = matches(query, np.concatenate([x.vectors for x in held]), np.cumsum([0, *map(len, held)]))
    starts = [int(each.starts[a]) for each, a in zip(held, first, strict=True)]
    stops = [int(each.stops[b - 1]) for each, b in zip(held, last, strict=True)]
    found = others.select("episode_id", "operator").with_columns(
        cost=pl.Series(cost), start=pl.Series(starts), stop=pl.Series(stops)
    )
    return found.sort("cost", "episode_id")


@pytest.mark.parametrize("indexed", [False, True])
@pytest.mark.parametrize(("at_once", "neighbours"), [(64, 256), (2, 3)])
def test_it_finds_what_aligning_everything_finds(looked, tmp_path, monkeypatch, indexed, at_once, neighbours):
    lake = Lake.open(str(shutil.copytree(looked.root, tmp_path / "lake")))
    monkeypatch.setattr(retrieve, "_AT_ONCE", at_once)
    monkeypatch.setattr(retrieve, "_NEIGHBOURS", neighbours)
    if indexed:
        index(lake, "frames", lake.episodes())
    aligned = []
    for number, start, stop in ((3, 0, 24), (20, 8, 20), (40, 4, 8)):
        episode = of(lake, number)
        for where in (None, "operator = 'progress'"):
            expected = everything(lake, episode, start, stop)
            if where:
                expected = expected.filter(pl.col("operator") == "progress")
            found = parts_like(lake, "frames", episode["episode_id"], start, stop, k=3, where=where)
            assert found["exact"]
            np.testing.assert_allclose([hit["cost"] for hit in found["items"]], expected["cost"][:3], atol=1e-5)
            places = [(hit["episode_id"], hit["start"], hit["stop"]) for hit in found["items"]]
            assert places == list(expected.select("episode_id", "start", "stop").head(3).iter_rows())
            aligned.append(found["aligned"])
    if at_once == 2:
        assert min(aligned) < 16  # of 63: the bound spares the others


def test_the_same_motion_of_the_same_things_comes_first(looked):
    episode = of(looked, 5)
    found = parts_like(looked, "frames", episode["episode_id"], 0, 24, k=3)["items"]
    assert {hit["task"] for hit in found} == {episode["task"]}


def test_from_the_command_line_and_wrong_requests_in_one_line(looked, capsys):
    lake = ("--lake", looked.uri)
    name = of(looked, 3)["episode_id"]
    arguments = ("search", "--episode", name, "--steps", "4:20", "--space", "frames", "-k", "2", *lake)
    found = answer(capsys, *arguments)
    assert len(found["items"]) == 2 and found["exact"]
    assert all(0 <= hit["start"] < hit["stop"] <= hit["n_steps"] for hit in found["items"])
    assert name not in {hit["episode_id"] for hit in found["items"]}
    assert answer(capsys, *arguments, "--camera", "front_image")["items"] == found["items"]
    assert "no camera 'side'" in refusal(capsys, *arguments, "--camera", "side")
    assert "is no range of steps" in refusal(capsys, *arguments, "--steps", "9:4")
    assert "no vector begins" in refusal(capsys, *arguments, "--steps", "5:7")
    assert "steps 20 to 25 are not within the 24 of" in refusal(capsys, *arguments, "--steps", "20:25")
    assert "--steps goes with --episode" in refusal(capsys, "search", "--text", "x", "--steps", "1:2", *lake)
    assert "one vector of an episode" in refusal(capsys, "search", "--episode", name, "--steps", "1:2", *lake)
    with pytest.raises(RequestError, match="no episode 'ep_0'"):
        parts_like(looked, "frames", "ep_0", 0, 4)


def test_a_selection_of_parts_is_frozen_as_step_ranges(looked, tmp_path, common):
    lake = Lake.open(str(shutil.copytree(looked.root, tmp_path / "lake")))
    of_run = {name: common[name] for name in ("progress", "run_id")}
    episode = of(lake, 5)
    said = [
        Said(episode_id=episode["episode_id"], start=a, stop=b, kind="segment", label="part")
        for a, b in ((0, 12), (12, 24))
    ]
    annotate(lake, said, "ann")
    recipe = SelectRecipe(
        name="parts", method="retrieval", space="frames", target=Target(ids=(episode["episode_id"],)), budget=6,
        segments=SegmentsRecipe(producer="person:ann"), params={"shortest": 10},
    )  # fmt: skip
    answered = select(lake, recipe, lake.episodes(), **of_run)
    assert (answered["chosen"], answered["report"]["pieces"]) == (6, 2)
    rows = stored(lake, "parts")
    chosen = rows.filter(pl.col("rank").is_not_null())
    assert set(rows["episode_id"]) == set(lake.episodes()["episode_id"])
    assert set(rows.filter(pl.col("reason") == "target")["episode_id"]) == {episode["episode_id"]}
    cut = parts_like(lake, "frames", episode["episode_id"], 0, 12, k=1)["items"][0]
    assert (cut["episode_id"], cut["start"], cut["stop"]) in set(
        chosen.select("episode_id", "start", "stop").head(2).iter_rows()
    )
    assert select(lake, recipe, lake.episodes(), **of_run)["selection_id"] == answered["selection_id"]
    made = mix(lake, MixtureRecipe(entries=(EntryRecipe(selection="parts"),)), run_id="run_test")
    held = mixtures.open(made["uri"]).episodes
    assert set(zip(*(held[name].to_pylist() for name in ("episode_id", "start", "stop")), strict=True)) == set(
        chosen.select("episode_id", "start", "stop").iter_rows()
    )
    assert check(lake) == []
    with pytest.raises(RequestError, match="there is no space 'nothing'"):
        select(lake, recipe.model_copy(update={"space": "nothing"}), lake.episodes(), **of_run)
