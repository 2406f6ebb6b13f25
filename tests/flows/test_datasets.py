import h5py
import numpy as np
import polars as pl
import pytest
from pydantic import ValidationError

from data_engine.errors import RequestError
from data_engine.recipe import SelectRecipe, SourceRecipe, SpaceRecipe
from flows.datasets import gathered
from flows.index import embed, vectors
from flows.ingest import ingest
from flows.segments import whole
from flows.select import select, stored
from tests.recordings import write_robomimic

MASK = {"where": "contains(labels, 'target') AND dataset = 'reach'"}


@pytest.fixture
def several(filled, common, tmp_path):
    """``filled`` with three more datasets of its arm: one like ``reach``, two that move the other way."""
    for number, name in enumerate(("alike", "mirrored", "mirrored_too"), start=1):
        source = write_robomimic(tmp_path / f"{name}.hdf5", episodes=9, seed=number)
        if name != "alike":
            with h5py.File(source, "r+") as file:
                for demo in file["data"].values():
                    demo["actions"][...] = -demo["actions"][...]
                    demo["obs/robot0_eef_pos"][...] = -demo["obs/robot0_eef_pos"][...]
        ingest(filled, SourceRecipe(name=name, uri=str(source)), **common)
    arms = filled.episodes().filter(pl.col("dataset") != "hand")
    embed(filled, SpaceRecipe(name="again"), arms, **common)
    return filled


def chosen(lake):
    return stored(lake, "sets").filter(pl.col("rank").is_not_null()).sort("rank")


@pytest.mark.parametrize(("method", "params"), [("transport", {"min_spread": 0, "rank_share": 0.5}), ("nearest", {})])
def test_whole_datasets_are_chosen_by_the_mean_of_their_episodes(several, common, method, params):
    episodes = several.episodes().filter(pl.col("dataset") != "hand")
    recipe = SelectRecipe(
        name="sets", method=method, params=params, space="again", target=MASK, unit="dataset", budget=2,
        where="dataset <> 'reach' OR operator = 'steady'",
    )  # fmt: skip
    told = {"progress": common["progress"], "run_id": "run_test"}
    answer = select(several, recipe, episodes, **told)
    found = chosen(several).join(episodes.select("episode_id", "dataset"), on="episode_id", maintain_order="left")
    names = found["dataset"].unique(maintain_order=True).to_list()
    assert set(names) == {"reach", "alike"}
    assert found["dataset"].rle().struct.field("value").to_list() == names  # one after the other
    assert found.filter(pl.col("dataset") == "alike").height == 9
    assert answer["chosen"] == len(found)
    assert found.group_by("dataset").agg(pl.col("weight").n_unique())["weight"].to_list() == [1, 1]
    reasons = dict(stored(several, "sets").select("episode_id", "reason").iter_rows())
    for name, dataset in episodes.select("episode_id", "dataset").iter_rows():
        if dataset != "reach":
            assert reasons[name].endswith(f"(dataset {dataset})")
            assert reasons[name].startswith("left out") == (dataset != "alike")
    again = select(several, recipe, episodes.reverse(), **told)
    assert again["selection_id"] == answer["selection_id"]
    other = select(several, recipe.model_copy(update={"unit": "episode"}), episodes, **told)
    assert other["selection_id"] != answer["selection_id"]
    assert other["chosen"] == 2


def test_a_dataset_is_the_mean_of_its_episodes(several):
    episodes = several.episodes().filter(pl.col("dataset") != "hand")
    units, _ = vectors(several, "again", whole(episodes))
    grouped = gathered(units.with_columns(score=pl.Series(np.arange(len(units), dtype=float))))
    assert grouped["unit"].sort().to_list() == ["alike", "mirrored", "mirrored_too", "reach"]
    mine = units.filter(pl.col("dataset") == "mirrored")
    row = grouped.row(by_predicate=pl.col("unit") == "mirrored", named=True)
    np.testing.assert_allclose(row["vector"], np.mean(mine["vector"].to_list(), axis=0), rtol=1e-4, atol=1e-6)
    assert sorted(row["members"]) == sorted(mine["episode_id"])
    assert row["n_steps"] == mine["n_steps"].sum()
    assert grouped["score"].is_finite().all()


def test_what_has_no_whole_datasets_is_refused(several, common):
    with pytest.raises(ValidationError, match="goes without segments and within"):
        SelectRecipe(name="sets", unit="dataset", within=("task",))
    recipe = SelectRecipe(name="sets", method="union", params={"selections": ["a", "b"]}, unit="dataset")
    with pytest.raises(RequestError):
        select(several, recipe, several.episodes(), progress=common["progress"], run_id="run_test")
