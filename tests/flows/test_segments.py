from __future__ import annotations

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from data_engine import mixture as mixtures
from data_engine.errors import RequestError
from data_engine.loader import MixtureDataset, MixtureSampler, collate
from data_engine.model import ACTION, EMBEDDINGS
from data_engine.recipe import (
    EntryRecipe,
    LabelRecipe,
    MixtureRecipe,
    SegmentsRecipe,
    SelectRecipe,
    SpaceRecipe,
    Target,
)
from data_engine.windows import Windows
from flows.annotate import Said, annotate
from flows.index import embed
from flows.label import label
from flows.mix import mix
from flows.select import select, stored
from storage.check import check
from storage.lake import Lake

KEYPOSES = LabelRecipe(labeller="keyposes", params={"still_m_s": 0.3, "rest_s": 0.0, "apart": 3})
SEGMENTS = SegmentsRecipe(producer="keyposes")


@pytest.fixture
def cut_up(filled, common) -> Lake:
    """The lake ``filled`` with its arm's episodes cut at keyposes."""
    label(filled, KEYPOSES, arm(filled), **common)
    return filled


def arm(lake: Lake) -> pl.DataFrame:
    return lake.episodes(dataset="reach")


def spans(lake: Lake) -> set[tuple[str, int, int]]:
    said = lake.scan("annotations").filter(pl.col("kind") == "segment").collect()
    return set(said.select("episode_id", "start", "stop").iter_rows())


def chosen(lake: Lake, name: str) -> pl.DataFrame:
    return stored(lake, name).filter(pl.col("rank").is_not_null())


def of_run(common: dict) -> dict:
    return {name: common[name] for name in ("progress", "run_id")}


def test_every_segment_is_a_unit_that_is_chosen_or_not(cut_up, common):
    named = spans(cut_up)
    assert len(named) > 30
    recipe = SelectRecipe(name="parts", method="random", budget=15, segments=SEGMENTS, seed=2)
    answer = select(cut_up, recipe, cut_up.episodes(), **of_run(common))
    assert (answer["candidates"], answer["chosen"]) == (len(named), 15)
    rows = stored(cut_up, "parts")
    assert set(chosen(cut_up, "parts").select("episode_id", "start", "stop").iter_rows()) < named
    assert set(rows["episode_id"]) == set(cut_up.episodes()["episode_id"])
    hand = rows.join(arm(cut_up), on="episode_id", how="anti")
    assert set(hand["reason"]) == {"left out: it has no such segment"}
    again = select(cut_up, recipe, cut_up.episodes(), **of_run(common))
    assert again["selection_id"] == answer["selection_id"]
    assert len(cut_up.scan("selections").collect()) == len(rows)
    assert check(cut_up) == []


def test_an_expression_over_what_was_said_chooses_among_segments(cut_up, common):
    said = cut_up.scan("annotations").filter((pl.col("kind") == "segment") & (pl.col("label") == "stop")).collect()
    said = said.join(arm(cut_up).filter(pl.col("operator") == "steady"), on="episode_id")
    steps = pl.col("stop") - pl.col("start")
    least = said.select(steps.median()).item()
    wanted = said.filter((steps >= least) & (steps / pl.col("fps") < 1.5))
    assert 0 < len(wanted) < len(said)
    where = SegmentsRecipe(producer="keyposes", where=f"label = 'stop' AND seconds < 1.5 AND steps >= {least:g}")
    recipe = SelectRecipe(name="stops", method="filter", segments=where, where="operator = 'steady'")
    select(cut_up, recipe, arm(cut_up), **of_run(common))
    found = chosen(cut_up, "stops")
    assert set(found.select("episode_id", "start", "stop").iter_rows()) == set(
        wanted.select("episode_id", "start", "stop").iter_rows()
    )
    for wrong, message in (
        ({"where": "label = 'nothing'"}, "no segment of these episodes fits"),
        ({"where": "task = 'reach left'"}, "task"),
        ({"kind": "subgoal"}, "no annotations 'subgoal' of 'keyposes'"),
        ({"producer": "uvd"}, "no annotations 'segment' of 'uvd'"),
    ):
        segments = SegmentsRecipe(**{"producer": "keyposes", **wrong})
        with pytest.raises(RequestError, match=message):
            select(cut_up, recipe.model_copy(update={"segments": segments}), arm(cut_up), **of_run(common))


def test_two_fits_that_labelled_as_many_are_refused_until_one_is_named(cut_up, common):
    other = KEYPOSES.model_copy(update={"params": {"still_m_s": 0.2}})
    fit = label(cut_up, other, arm(cut_up), **common)["fit_id"]
    recipe = SelectRecipe(name="parts", method="filter", segments=SEGMENTS)
    with pytest.raises(RequestError, match="keyposes labelled these episodes 2 times") as caught:
        select(cut_up, recipe, arm(cut_up), **of_run(common))
    assert "--fit keyposes=fit_" in caught.value.fix
    answer = select(cut_up, recipe, arm(cut_up), fits={"keyposes": fit}, **of_run(common))
    mine = cut_up.scan("annotations").filter((pl.col("fit_id") == fit) & (pl.col("kind") == "segment")).collect()
    assert answer["chosen"] == len(mine)


def test_an_action_chunk_never_crosses_a_cut(cut_up, common):
    recipe = SelectRecipe(name="parts", method="random", budget=0.5, segments=SEGMENTS)
    select(cut_up, recipe, arm(cut_up), **of_run(common))
    entries = (EntryRecipe(selection="parts"),)
    facts = mix(cut_up, MixtureRecipe(name="m", entries=entries, weight_kind="repeat"), run_id="run_test")
    demos = mixtures.open(facts["uri"])
    members = set(chosen(cut_up, "parts").select("episode_id", "start", "stop").iter_rows())
    held = demos.episodes.select(["episode_id", "start", "stop"]).to_pylist()
    assert {(row["episode_id"], row["start"], row["stop"]) for row in held} == members
    recorded = {row["episode_id"]: np.array(steps[ACTION].to_pylist()) for row, steps in cut_up.steps(arm(cut_up))}
    ends = {}
    for episode, start, stop in members:
        ends |= {(episode, step): (start, stop) for step in range(start, stop)}
    dataset = MixtureDataset(demos, Windows(history=3, action_horizon=12))
    sampler = MixtureSampler(dataset)
    batch = collate(dataset.__getitems__(list(sampler)))
    steps = sum(stop - start for _, start, stop in members)
    assert len(batch["step"]) == steps
    seen = set()
    for i, episode in enumerate(batch["episode_id"]):
        at = int(batch["step"][i])
        start, stop = ends[episode, at]
        seen.add((episode, at))
        inside = np.arange(at, at + 12) < stop
        assert batch["action_is_pad"][i].tolist() == (~inside).tolist()
        expected = recorded[episode][np.minimum(np.arange(at, at + 12), stop - 1)]
        assert np.array_equal(np.asarray(batch["action"][i]), expected.astype(np.float32))
        assert batch["observation_is_pad"][i].tolist() == (np.arange(at - 2, at + 1) < start).tolist()
    assert seen == set(ends)


def test_spans_that_a_person_named_are_chosen_among_too(cut_up, common):
    episodes = arm(cut_up).head(4)
    said = [
        Said(episode_id=name, kind="segment", start=start, stop=start + 9, label="good")
        for name in episodes["episode_id"] for start in (3, 15)
    ]  # fmt: skip
    annotate(cut_up, said, "ann")
    segments = SegmentsRecipe(producer="person:ann", where="start > 9 AND label = 'good'")
    recipe = SelectRecipe(name="ann", method="filter", segments=segments)
    assert select(cut_up, recipe, arm(cut_up), **of_run(common))["chosen"] == 4
    found = set(chosen(cut_up, "ann").select("episode_id", "start", "stop").iter_rows())
    assert found == {(name, 15, 24) for name in episodes["episode_id"]}


def put_clips(lake: Lake, space: str, episodes: pl.DataFrame, vector) -> None:
    """Rows of ``space``: a vector for every step, ``vector(row, step)``."""
    rows = [
        {
            **{name: row[name] for name in ("episode_id", "content_hash", "embodiment", "control_mode")},
            "start": step, "stop": step + 1, "camera": "front", "vector": vector(row, step), "encoder_version": "v1",
        }
        for row in episodes.iter_rows(named=True)
        for step in range(row["n_steps"])
    ]  # fmt: skip
    table = pa.Table.from_pylist(rows, schema=EMBEDDINGS)
    lake.create_table(f"embeddings/{space}", EMBEDDINGS)
    lake.append(f"embeddings/{space}", table, transaction=f"put {space}")


def test_segments_and_episodes_are_chosen_by_what_they_would_teach(cut_up, common):
    episodes = arm(cut_up)
    space = SpaceRecipe(name="gradients", encoder="gradients", params={"steps": 3, "iterations": 40, "side": 4})
    assert embed(cut_up, space, episodes, **common)["embedded"] == len(episodes)
    target = Target(where="operator = 'steady'")
    segments = SegmentsRecipe(producer="keyposes")
    recipe = SelectRecipe(name="taught", space="gradients", target=target, budget=6, params={"min_spread": 0})
    for name, found in (("whole", recipe), ("parts", recipe.model_copy(update={"segments": segments}))):
        answer = select(cut_up, found.model_copy(update={"name": name}), episodes, **of_run(common))
        assert (answer["method"], answer["chosen"]) == ("transport", 6)
        assert answer["report"]["rank"] > 1
    parts = chosen(cut_up, "parts")
    lengths = dict(episodes.select("episode_id", "n_steps").iter_rows())
    assert any(row["stop"] - row["start"] < lengths[row["episode_id"]] for row in parts.iter_rows(named=True))


def test_segments_are_nearest_by_the_clips_in_them(cut_up, common):
    episodes = arm(cut_up)
    middle = (episodes["n_steps"] // 2).min()
    put_clips(cut_up, "clip", episodes, lambda row, step: [1.0, 0.1] if step < middle else [0.1, 1.0])
    target = Target(where="operator = 'steady'")
    late = SegmentsRecipe(producer="keyposes", where="start > 0")
    recipe = SelectRecipe(name="late", method="nearest", space="clip", target=target, budget=5, segments=late)
    answer = select(cut_up, recipe, episodes, **of_run(common))
    found = chosen(cut_up, "late")
    assert answer["targets"] > 0
    assert len(found) == 5
    assert not set(found["episode_id"]) & set(episodes.filter(pl.col("operator") == "steady")["episode_id"])
    whole = recipe.model_copy(update={"space": "trajectory"})
    with pytest.raises(RequestError, match="holds no vector of these segments"):
        select(cut_up, whole, episodes, **of_run(common))
