"""Annotations as columns of a mixture, through the real loader and exporter."""

from __future__ import annotations

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest

from data_engine import mixture as mixtures
from data_engine.errors import RequestError
from data_engine.loader import MixtureDataset, collate
from data_engine.recipe import ColumnRecipe, EntryRecipe, LabelRecipe, MixtureRecipe, SegmentsRecipe, SelectRecipe
from data_engine.windows import Windows
from flows.export import export
from flows.label import label
from flows.mix import mix
from flows.remove import erase, remove
from flows.select import select
from storage.check import check
from storage.lake import Lake
from tests.flows.test_segments import KEYPOSES, put_clips

UVD = LabelRecipe(labeller="uvd", params={"space": "clip", "least_s": 0.2})
COLUMNS = (ColumnRecipe(name="reward", producer="uvd"), ColumnRecipe(name="near", producer="uvd", kind="progress"))


@pytest.fixture
def rewarded(filled, common) -> Lake:
    """The lake ``filled`` with a reward and progress for all of its arm's episodes but one, which has no frames."""
    arm = filled.episodes(dataset="reach")
    seen = arm.filter(pl.col("source_key") != "demo_3")
    steps = {row["episode_id"]: table["observation.state"].to_pylist() for row, table in filled.steps(seen)}
    put_clips(filled, "clip", seen, lambda row, step: steps[row["episode_id"]][step][:3])
    label(filled, UVD, arm, **common)
    label(filled, KEYPOSES, arm, **common)
    return filled


def mixed(
    lake: Lake, common: dict, columns=COLUMNS, segments: bool = False, where: str | None = None, fits=None, **facts
) -> dict:
    arm = lake.episodes(dataset="reach")
    pins = {"progress": common["progress"], "run_id": "run_test"}
    parts = SegmentsRecipe(producer="keyposes") if segments else None
    select(lake, SelectRecipe(name="all", method="filter", segments=parts, where=where), arm, **pins)
    recipe = MixtureRecipe(name="m", entries=(EntryRecipe(selection="all"),), columns=columns, **facts)
    return mix(lake, recipe, run_id="run_test", fits=fits)


def labelled(lake: Lake, kind: str) -> dict[str, np.ndarray]:
    rows = lake.scan("annotations").filter((pl.col("kind") == kind) & (pl.col("producer") == "uvd")).collect()
    return {row["episode_id"]: np.array(row["step_values"], np.float32) for row in rows.iter_rows(named=True)}


@pytest.mark.parametrize("segments", [False, True])
def test_the_loader_gives_what_the_labeller_said_of_each_step(rewarded, common, segments):
    demos = mixtures.open(mixed(rewarded, common, segments=segments, weight_kind="repeat")["uri"])
    rewards, nears = labelled(rewarded, "reward"), labelled(rewarded, "progress")
    dataset = MixtureDataset(demos, Windows(columns=("action", "reward", "near")))
    batch = collate(dataset.__getitems__(list(range(len(dataset)))))
    arm = rewarded.episodes(dataset="reach")
    assert len(batch["reward"]) == arm["n_steps"].sum()
    unseen = arm.filter(pl.col("source_key") == "demo_3")["episode_id"][0]
    for episode, step, reward, near in zip(
        batch["episode_id"], batch["step"].tolist(), batch["reward"].tolist(), batch["near"].tolist(), strict=True
    ):
        if episode == unseen:
            assert np.isnan(reward) and np.isnan(near)
            continue
        assert reward == pytest.approx(rewards[episode][step], nan_ok=True)
        assert near == pytest.approx(nears[episode][step])
    said = {column.name: column.fit_id for column in demos.document.columns}
    assert said == {"reward": said["near"], "near": said["near"]}
    assert said["near"].startswith("fit_")
    (statistics,) = demos.document.statistics.values()
    known = np.concatenate([values[np.isfinite(values)] for values in rewards.values()])
    assert statistics["reward"]["mean"][0] == pytest.approx(known.mean(), rel=1e-4)
    assert check(rewarded) == []


@pytest.mark.parametrize("segments", [False, True])
def test_the_language_of_a_span_is_that_of_each_of_its_steps(rewarded, common, segments):
    column = ColumnRecipe(name="subtask", producer="keyposes", kind="segment", of="text")
    demos = mixtures.open(mixed(rewarded, common, columns=(column,), segments=segments, weight_kind="repeat")["uri"])
    spans = rewarded.scan("annotations").filter(pl.col("kind") == "segment", pl.col("producer") == "keyposes").collect()
    said = {
        (row["episode_id"], step): row["text"] or row["label"]
        for row in spans.sort("start").iter_rows(named=True)
        for step in range(row["start"], row["stop"])
    }
    assert len(set(said.values())) > 1
    dataset = MixtureDataset(demos, Windows(texts=("subtask",)))
    batch = collate(dataset.__getitems__(list(range(len(dataset)))))
    for episode, step, text in zip(batch["episode_id"], batch["step"].tolist(), batch["subtask"], strict=True):
        assert text == said.get((episode, step))
    for row, episode in enumerate(demos.episodes.to_pylist()):
        steps = range(episode["start"], episode["stop"])
        assert demos.steps(row)["subtask"].to_pylist() == [said.get((episode["episode_id"], step)) for step in steps]
    assert {feature.dtype for feature in demos.datasets["reach"].features if feature.name == "subtask"} == {"string"}
    with pytest.raises(RequestError, match="has texts 'subtsk'"):
        MixtureDataset(demos, Windows(texts=("subtsk",)))


def test_steps_and_an_export_have_the_columns_too_and_the_recorded_ones_stay_in_the_lake(rewarded, common, tmp_path):
    facts = mixed(rewarded, common)
    demos = mixtures.open(facts["uri"])
    rewards = labelled(rewarded, "reward")
    for i, row in enumerate(demos.episodes.to_pylist()):
        found = demos.steps(i, ["reward"])["reward"]
        expected = rewards.get(row["episode_id"])
        if expected is None:
            assert found.null_count == len(found)
        else:
            assert found.null_count == 1  # of the last step nothing is known
            assert found.to_pylist()[:-1] == pytest.approx(expected[:-1].tolist())
    with pytest.raises(RequestError, match="'reward' lacks values"):
        export(facts["uri"], "lerobot_v3", str(tmp_path / "no"), options={}, verify=True)
    whole = mixed(rewarded, common, columns=COLUMNS[1:], where="source_key <> 'demo_3'")
    export(whole["uri"], "lerobot_v3", str(tmp_path / "out"), options={}, verify=True)
    tables = [pq.read_table(path) for path in sorted((tmp_path / "out" / "data").rglob("*.parquet"))]
    near = np.concatenate([np.array(table["near"].to_pylist(), float).ravel() for table in tables])
    known = np.concatenate(list(labelled(rewarded, "progress").values()))
    assert np.sort(near[np.isfinite(near)]) == pytest.approx(np.sort(known), abs=1e-6)
    recorded = [
        np.array(table["reward"].to_pylist()) for _, table in rewarded.steps(rewarded.episodes(dataset="reach"))
    ]
    assert not np.concatenate(recorded).any()  # as they were recorded


def test_other_labels_are_another_mixture_and_the_same_ones_the_same(rewarded, common):
    facts = mixed(rewarded, common)
    first, old = facts["mixture_id"], mixtures.open(facts["uri"])
    assert mixed(rewarded, common)["mixture_id"] == first
    assert mixed(rewarded, common, columns=COLUMNS[:1])["mixture_id"] != first
    assert mixed(rewarded, common, columns=())["mixture_id"] != first
    label(rewarded, UVD.model_copy(update={"params": {"space": "clip", "least_s": 0.5}}),
          rewarded.episodes(dataset="reach"), **common)  # fmt: skip
    with pytest.raises(RequestError, match="uvd labelled these episodes 2 times"):
        mixed(rewarded, common)
    fits = {column.fit_id for column in old.document.columns}
    assert mixed(rewarded, common, fits={"uvd": fits.pop()})["mixture_id"] == first


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (ColumnRecipe(name="action", producer="uvd", kind="reward"), "column 'action' cannot be one of labels"),
        (ColumnRecipe(name="observation.images.x", producer="uvd", kind="reward"), "cannot be one of labels"),
        (ColumnRecipe(name="cut", producer="uvd", kind="subgoal"), "have no numbers to make a column of"),
        (ColumnRecipe(name="reward", producer="nobody"), "no annotations 'reward' of 'nobody'"),
    ],
)
def test_what_is_no_column_is_refused(rewarded, common, column, message):
    with pytest.raises(RequestError, match=message):
        mixed(rewarded, common, columns=(column,))


def test_an_erase_takes_the_labels_of_a_mixture_that_held_the_episode(rewarded, common):
    facts = mixed(rewarded, common)
    path = f"mixtures/{facts['mixture_id']}/labels.parquet"
    assert rewarded.size(path) is not None
    gone = rewarded.episodes(dataset="reach")["episode_id"][0]
    remove(rewarded, episodes=[gone])
    erase(rewarded)
    assert len(pq.read_table(f"{rewarded.root}/{path}")) == 0
    with pytest.raises(RequestError, match="is broken"):
        mixtures.open(facts["uri"])
    assert check(rewarded) == []


def test_a_vacuum_leaves_the_labels_of_a_mixture(rewarded, common):
    facts = mixed(rewarded, common)
    rewarded.vacuum(grace_hours=0)
    assert mixtures.open(facts["uri"]).labels.num_rows == facts["episodes"]
