from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import polars as pl
import pytest

from data_engine import mixture as mixtures
from data_engine.errors import RequestError
from data_engine.recipe import MixtureRecipe, SelectRecipe, SourceRecipe, SpaceRecipe
from flows.differences import mixture_difference
from flows.index import embed
from flows.ingest import ingest
from flows.mix import locate, mix
from flows.progress import silent
from flows.query import score_column
from flows.select import select, stored
from storage.lake import Lake
from tests.recordings import write_robomimic

MASK = {"where": "contains(labels, 'target')"}


def choose(lake: Lake, name: str, dataset: str = "reach", **recipe) -> str:
    recipe = SelectRecipe(name=name, **{"method": "random", **recipe})
    episodes = lake.episodes(dataset=dataset)
    return select(lake, recipe, episodes, progress=silent(), run_id="run_test")["selection_id"]


def frozen(lake: Lake, *entries, pins=None, **recipe) -> mixtures.Mixture:
    parts = [entry if isinstance(entry, dict) else {"selection": entry} for entry in entries]
    answer = mix(lake, MixtureRecipe(entries=parts, **recipe), run_id="run_test", selections=pins)
    mixture = mixtures.open(answer["uri"])
    assert (mixture.id, len(mixture)) == (answer["mixture_id"], answer["episodes"])
    assert answer["steps"] == sum(mixture.episodes["row_count"].to_pylist())
    return mixture


def column(mixture: mixtures.Mixture, name: str, *where: pl.Expr) -> list:
    return pl.DataFrame(mixture.episodes).filter(*where)[name].to_list()


def test_it_holds_what_was_chosen_and_where_it_lies(filled):
    choose(filled, "some", budget=9)
    mixture = frozen(filled, "some", name="mine")
    picked = stored(filled, "some").filter(pl.col("rank").is_not_null())
    assert set(column(mixture, "episode_id")) == set(picked["episode_id"])
    current = {row["episode_id"]: row for row in filled.episodes().iter_rows(named=True)}
    for at, row in enumerate(mixture.episodes.to_pylist()):
        episode = current[row["episode_id"]]
        shared = ("content_hash", "dataset", "source_key", "task", "operator", "steps_file", "row_start", "row_count")
        assert {key: row[key] for key in shared} == {key: episode[key] for key in shared}
        assert (row["start"], row["stop"]) == (0, episode["n_steps"])
        ((_, steps),) = filled.steps(filled.episodes().filter(pl.col("episode_id") == row["episode_id"]))
        assert mixture.steps(at, ["action"]).column("action").to_pylist() == steps.column("action").to_pylist()


def test_every_file_is_listed_with_its_size_and_hash(lake, common, tmp_path):
    source = write_robomimic(tmp_path / "seen.hdf5", episodes=3, cameras=True)
    ingest(lake, SourceRecipe(name="seen", uri=str(source)), **common)
    choose(lake, "all", "seen", method="filter")
    choose(lake, "one", "seen", budget=1)
    mixture = frozen(lake, "one")
    files = pl.read_parquet(f"{mixture.uri}/files.parquet")
    (row,) = mixture.episodes.to_pylist()
    assert sorted(files["path"]) == sorted([row["steps_file"], *(video["blob"] for video in row["videos"])])
    assert len(files) == 2  # the blobs of the others are not needed
    assert len(frozen(lake, "all").files) == 4
    for path, size, sha256 in files.select("path", "bytes", "sha256").iter_rows():
        data = (Path(lake.root) / path).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (size, sha256)


def test_weights_are_the_selections_or_the_weighers(filled):
    choose(filled, "towards", method="transport", target=MASK, budget=8)
    given = stored(filled, "towards").filter(pl.col("rank").is_not_null())
    assert given["weight"].n_unique() > 1
    own = frozen(filled, {"selection": "towards", "weight": 3.0})
    weights = dict(zip(column(own, "episode_id"), column(own, "weight"), strict=True))
    for unit, weight in given.select("episode_id", "weight").iter_rows():
        assert weights[unit] == pytest.approx(weight, rel=1e-5)
    assert [entry.weight for entry in own.document.entries] == [3.0]
    even = frozen(filled, {"selection": "towards", "weigher": "uniform"})
    assert set(column(even, "weight")) == {1.0}
    assert even.id != own.id


def test_an_episode_of_two_entries_is_in_each_with_its_own_weight(filled):
    choose(filled, "towards", method="transport", target=MASK, budget=8)
    choose(filled, "everyone", method="filter")
    mixture = frozen(
        filled, {"selection": "towards", "weight": 2.0}, {"selection": "everyone", "weigher": "uniform"},
        splits={"train": 0.5, "val": 0.5},
    )  # fmt: skip
    rows = pl.DataFrame(mixture.episodes)
    assert rows.group_by("selection").len().sort("selection").rows() == [("everyone", 24), ("towards", 8)]
    twice = rows.filter(pl.len().over("episode_id") == 2)
    assert twice["episode_id"].n_unique() == 8
    assert twice.group_by("episode_id").agg(pl.col("split").n_unique())["split"].unique().to_list() == [1]


def test_statistics_are_those_of_the_train_split_each_episode_once(filled):
    choose(filled, "some", budget=7)
    choose(filled, "more", budget=12)  # holds the seven too
    mixture = frozen(filled, "some", "more", splits={"train": 0.7, "val": 0.3})
    trained = set(column(mixture, "episode_id", pl.col("split") == "train"))
    assert 0 < len(trained) < 12
    found = filled.episodes().filter(pl.col("episode_id").is_in(list(trained)))
    actions = np.concatenate([steps.column("action").to_pylist() for _, steps in filled.steps(found)])
    told = mixture.statistics("arm/unspecified")["action"]
    np.testing.assert_allclose(told["mean"], actions.mean(0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(told["std"], actions.std(0), rtol=1e-4)
    np.testing.assert_allclose(told["min"], actions.min(0), rtol=1e-5)
    np.testing.assert_allclose(told["q99"], np.quantile(actions, 0.99, axis=0), rtol=1e-3)


def test_kinds_keep_their_statistics_apart(filled):
    choose(filled, "arms", budget=5)
    choose(filled, "hands", "hand", where="source_key <> 'demo_8'")
    mixture = frozen(filled, "arms", "hands")
    assert set(mixture.document.statistics) == {"arm/unspecified", "hand/delta"}
    assert set(mixture.datasets) == {"reach", "hand"}


def test_a_stale_selection_is_refused(filled, common, tmp_path, recording):
    choose(filled, "everyone", method="filter")
    choose(filled, "short", where="source_key <> 'demo_0'", method="filter")
    source = tmp_path / "copy.hdf5"
    shutil.copy(recording, source)
    with h5py.File(source, "r+") as file:
        file["data/demo_0/actions"][3, 0] += 1
    ingest(filled, SourceRecipe(name="reach", uri=str(source)), **common)
    with pytest.raises(RequestError, match="of selection 'everyone' has changed since it was chosen") as caught:
        frozen(filled, "everyone")
    assert (caught.value.code, caught.value.fix) == ("stale_selection", "select again")
    assert len(frozen(filled, "short")) == 23  # what it holds has not changed
    choose(filled, "everyone", method="filter")
    assert len(frozen(filled, "everyone")) == 24


def test_the_newest_selection_of_a_name_counts_unless_one_is_pinned(filled):
    first = choose(filled, "some", budget=3)
    second = choose(filled, "some", budget=4)
    assert len(frozen(filled, "some")) == len(frozen(filled, "some", pins={"some": second})) == 4
    pinned = frozen(filled, "some", pins={"some": first})
    assert len(pinned) == 3
    assert set(column(pinned, "selection")) == {"some"}


def test_freezing_it_again_is_the_same_mixture_and_no_second_row(filled):
    choose(filled, "some", budget=6)
    one, two = frozen(filled, "some", seed=4), frozen(filled, "some", seed=4)
    assert one.id == two.id
    assert filled.scan("mixtures").collect().height == 1
    others = [{"seed": 5}, {"unit": "episode"}, {"weight_kind": "repeat"}, {"epoch_size": 10}]
    others += [{"splits": {"train": 0.5, "val": 0.5}}]
    ids = {frozen(filled, "some", **{"seed": 4, **other}).id for other in others}
    assert len({one.id, *ids}) == 1 + len(others)
    assert frozen(filled, "some", seed=4, name="renamed").id == one.id
    assert locate(filled, "renamed") == locate(filled, one.id)
    assert frozen(filled, {"selection": "some", "weight": 2.0}, seed=4).id != one.id


def test_freezing_as_before_makes_it_the_newest_of_its_name_again(filled):
    choose(filled, "some", budget=6)
    ids = [frozen(filled, "some", name="mine", seed=seed).id for seed in (1, 2)]
    for at in (0, 1, 0, 0):
        assert frozen(filled, "some", name="mine", seed=at + 1).id == ids[at]
        assert locate(filled, "mine").endswith(ids[at])
        assert all(locate(filled, one[:12]).endswith(one) for one in ids)


def test_another_layout_of_the_lake_gives_the_same_id(filled, common, tmp_path, monkeypatch, recording):
    towards = {"method": "transport", "target": MASK, "budget": 8}
    lineage = [{"scorer": "s", "version": "1", "config_hash": "c", "fit_id": "f"}]

    def mixed(lake: Lake) -> mixtures.Mixture:
        choose(lake, "towards", **towards)
        recipe = MixtureRecipe(entries=[{"selection": "towards"}], splits={"train": 0.8, "val": 0.2})
        return mixtures.open(mix(lake, recipe, run_id="run_test", recipe_hash="r", scorers=lineage)["uri"])

    monkeypatch.setattr("flows.ingest._SHARD_EPISODES", 5)
    moved = tmp_path / "elsewhere.hdf5"
    shutil.copy(recording, moved)
    other = Lake.open(str(tmp_path / "other"), create=True)
    hand = {"embodiment": "hand", "control_mode": "delta"}
    source = write_robomimic(tmp_path / "hand.hdf5", episodes=9, seed=5)
    with h5py.File(source, "r+") as file:
        file["data/demo_8/actions"][...] = np.nan
    ingest(other, SourceRecipe(name="hand", uri=str(source), options=hand), **common)
    ingest(other, SourceRecipe(name="reach", uri=str(moved)), **common)
    embed(other, SpaceRecipe(), other.episodes(), **common)
    one, two = mixed(filled), mixed(other)
    assert one.id == two.id
    assert len(one.files) == 1 < len(two.files)
    assert one.document.recorded["lake"] != two.document.recorded["lake"]
    assert column(one, "episode_id") == column(two, "episode_id")


def test_it_records_what_it_was_made_from(filled):
    choose(filled, "some", budget=3)
    lineage = {"scorer": "trajectory", "version": "1", "config_hash": "c", "fit_id": "fit_1"}
    recipe = MixtureRecipe(entries=[{"selection": "some"}])
    answer = mix(filled, recipe, run_id="run_7", recipe_hash="abc", scorers=[lineage, lineage])
    document = json.loads(Path(answer["uri"], "mixture.json").read_text())
    assert document["scorers"] == [lineage]
    assert document["recorded"]["run_id"] == "run_7"
    assert document["recorded"]["recipe_hash"] == "abc"
    assert document["recorded"]["table_versions"]["episodes"] == filled.version("episodes")
    (row,) = filled.scan("mixtures").collect().iter_rows(named=True)
    assert (row["mixture_id"], row["status"], row["episodes"]) == (answer["mixture_id"], "frozen", 3)


def test_a_wrong_request_is_one_line(filled):
    with pytest.raises(RequestError, match="no selection 'some'"):
        frozen(filled, "some")
    choose(filled, "some", budget=3)
    with pytest.raises(RequestError, match="selection 'some' is two entries"):
        frozen(filled, "some", "some")
    with pytest.raises(RequestError, match="unknown weigher 'unifrm'"):
        frozen(filled, {"selection": "some", "weigher": "unifrm"})
    with pytest.raises(RequestError, match="epoch_size goes with"):
        frozen(filled, "some", weight_kind="repeat", epoch_size=5)
    with pytest.raises(RequestError, match="no entries"):
        frozen(filled)
    assert not filled.scan("mixtures").collect().height


def test_a_mixture_is_found_by_id_prefix_or_name(filled):
    ids = {}
    for budget in (2, 3, 4):
        choose(filled, "some", budget=budget)
        ids[budget] = frozen(filled, "some", name="twos" if budget == 2 else "others").id
    assert locate(filled, ids[2]) == locate(filled, ids[2][:8]) == locate(filled, "twos")
    assert locate(filled, ids[2]).endswith(f"/mixtures/{ids[2]}")
    assert locate(filled, "others").endswith(ids[4])  # the newest of the name
    for name in ("unknown", ids[2][:3], "", "%", "......"):
        with pytest.raises(RequestError, match="no mixture") as caught:
            locate(filled, name)
        assert ids[4][:12] in caught.value.fix
    twin = filled.scan("mixtures").collect().head(1).with_columns(mixture_id=pl.lit(ids[2][:10] + "f" * 54))
    filled.append("mixtures", twin.to_arrow(), transaction="twin")
    with pytest.raises(RequestError, match="begins 2 mixture ids"):
        locate(filled, ids[2][:10])
    assert locate(filled, ids[2]).endswith(ids[2])


# weighers


def drawn(mixture: mixtures.Mixture, by: str) -> dict[str, float]:
    """How often a step of each value of the column ``by`` is drawn."""
    rows = pl.DataFrame(mixture.episodes).with_columns(mass=pl.col("weight") * pl.col("row_count"))
    shares = rows.group_by(by).agg(pl.col("mass").sum() / rows["mass"].sum())
    return dict(shares.iter_rows())


@pytest.fixture
def rewarded(lake, common, tmp_path):
    """24 episodes, the i-th of which earns i in all, on its last step."""
    source = write_robomimic(tmp_path / "reach.hdf5")
    with h5py.File(source, "r+") as file:
        for number in range(24):
            file[f"data/demo_{number}/rewards"][-1] = number
    ingest(lake, SourceRecipe(name="reach", uri=str(source)), **common)
    choose(lake, "all", method="filter")
    return lake


def test_returns_and_advantages_are_those_of_the_steps(rewarded):
    mixture = frozen(rewarded, {"selection": "all", "weigher": "return_weighting", "params": {"alpha": 0.5}})
    rows = pl.DataFrame(mixture.episodes).with_columns(
        earned=pl.col("source_key").str.extract(r"(\d+)$").cast(pl.Float64)
    )
    for task in rows.partition_by("task"):
        scaled = (task["earned"] - task["earned"].min()) / (task["earned"].max() - task["earned"].min())
        ratio = task["weight"] / (scaled / 0.5).exp()
        np.testing.assert_allclose(ratio / ratio[0], 1, rtol=1e-4)
    told = mixture.document.recorded["weighers"]["all"]
    assert told["weigher"] == "return_weighting"
    assert told["report"]["groups"]["reach/reach left"]["episodes"] == 12
    advantage = frozen(rewarded, {"selection": "all", "weigher": "advantage_weighting"})
    assert advantage.id != mixture.id
    again = frozen(rewarded, {"selection": "all", "weigher": "return_weighting", "params": {"alpha": 0.5}})
    assert again.id == mixture.id


def test_equal_returns_weigh_alike_and_without_rewards_they_are_refused(filled, common, tmp_path):
    choose(filled, "some", budget=6)
    even = frozen(filled, {"selection": "some", "weigher": "return_weighting"})  # the recording's rewards are zero
    assert set(column(even, "weight")) == {1.0}
    source = write_robomimic(tmp_path / "none.hdf5", episodes=3)
    with h5py.File(source, "r+") as file:
        for number in range(3):
            del file[f"data/demo_{number}/rewards"]
    ingest(filled, SourceRecipe(name="none", uri=str(source)), **common)
    choose(filled, "none", "none", method="filter")
    with pytest.raises(RequestError, match="3 of 3 units have steps without a reward"):
        frozen(filled, {"selection": "none", "weigher": "return_weighting"})


def test_scores_sizes_and_temperature_weigh(filled):
    choose(filled, "some", method="filter", where="action_divergence IS NOT NULL")
    by = {"selection": "some", "weigher": "score", "params": {"by": "action_divergence", "tau": 1.0}}
    rows = pl.DataFrame(frozen(filled, by).episodes)
    scores = score_column(filled, rows, "action_divergence")
    ordered = rows.with_columns(score=scores).sort("score")["weight"].to_list()
    assert ordered == sorted(ordered, reverse=True)  # lower is better
    assert ordered[0] / ordered[-1] == pytest.approx(np.e, rel=1e-4)
    alike = frozen(filled, {"selection": "some", "weigher": "size", "params": {"power": 0}})
    shares = drawn(alike, "episode_id")
    np.testing.assert_allclose(list(shares.values()), 1 / len(shares), rtol=1e-4)
    even = {"selection": "some", "weigher": "temperature", "params": {"temperature": 1e9, "over": "task"}}
    np.testing.assert_allclose(list(drawn(frozen(filled, even), "task").values()), 0.5, rtol=1e-4)
    choose(filled, "everyone", method="filter")
    with pytest.raises(RequestError, match="action_divergence is not known of"):
        frozen(filled, {**by, "selection": "everyone"})
    with pytest.raises(RequestError, match="unknown key 'tua'"):
        frozen(filled, {**by, "params": {"by": "action_divergence", "tua": 1}})


def test_remix_says_what_it_found_and_draws_as_it_says(filled):
    choose(filled, "everyone", method="filter")
    params = {"over": "operator", "iterations": 60, "reference_iterations": 200, "hidden": 16}
    mixture = frozen(filled, {"selection": "everyone", "weigher": "remix", "params": params})
    told = mixture.document.recorded["weighers"]["everyone"]["report"]["domains"]
    assert set(told) == {"steady", "shaky", "lost"}
    for operator, share in drawn(mixture, "operator").items():
        assert share == pytest.approx(told[operator]["share"], rel=1e-4)
    assert told["lost"]["share"] > told["steady"]["share"]
    assert frozen(filled, {"selection": "everyone", "weigher": "remix", "params": params}).id == mixture.id
    episodes = filled.episodes().filter(pl.col("source_key") != "demo_8")
    select(filled, SelectRecipe(name="both", method="filter"), episodes, progress=silent(), run_id="run_test")
    with pytest.raises(RequestError, match="these are 2 kinds of robot"):
        frozen(filled, {"selection": "both", "weigher": "remix", "params": {"iterations": 1}})


def test_quotas_are_frozen_and_two_mixtures_say_where_they_differ(filled):
    choose(filled, "some", budget=5)
    one = frozen(filled, "some", name="one")
    kinds = {kind or "unknown" for kind in column(one, "provenance")}
    other = frozen(filled, "some", name="other", quotas=dict.fromkeys(kinds, 1 / len(kinds)))
    assert other.id != one.id
    found = mixture_difference(filled, one.id, other.id)
    assert found["settings"] == {"quotas": {"first": {}, "second": dict.fromkeys(kinds, 1 / len(kinds))}}
    assert (found["same"], found["changed"], found["only_first"]) == (5, [], [])
    with pytest.raises(RequestError, match="no episode of the mixture is of provenance human_video"):
        frozen(filled, "some", quotas={**dict.fromkeys(kinds, 0.5 / len(kinds)), "human_video": 0.5})
