from __future__ import annotations

import io

import numpy as np
import pyarrow.parquet as pq
import pytest

from data_engine import mixture as mixtures
from data_engine.errors import RequestError
from data_engine.goals import Goals
from data_engine.recipe import MixtureRecipe, SelectRecipe, SourceRecipe, SpaceRecipe, parse, validate
from data_engine.samples import Samples
from data_engine.windows import Windows
from flows.differences import mixture_difference
from flows.index import embed, vectors
from flows.ingest import ingest
from flows.mix import mix
from flows.progress import silent
from flows.remove import erase, remove
from flows.select import select
from storage.check import check


def mixed(lake, *clusters, where=None):
    """A mixture of all episodes of one set, with these clusterings."""
    episodes = lake.episodes(dataset="reach")
    select(lake, SelectRecipe(name="all", method="filter", where=where), episodes, progress=silent(), run_id="run_test")
    recipe = MixtureRecipe(entries=[{"selection": "all"}], clusters=list(clusters))
    return mixtures.open(mix(lake, recipe, run_id="run_test")["uri"])


def test_goals_come_from_episodes_that_are_near_in_a_space(filled):
    mixture = mixed(filled, {"space": "trajectory", "count": 3}, {"name": "fine", "count": 5, "seed": 1})
    assert [(each.name, each.space, each.count) for each in mixture.document.clusters] == [
        ("trajectory", "trajectory", 3), ("fine", "trajectory", 5),
    ]  # fmt: skip
    group = dict(zip(mixture.episodes["episode_id"].to_pylist(), mixture.clusters("trajectory").tolist(), strict=True))
    assert set(group.values()) == {0, 1, 2} and len(set(mixture.clusters("fine"))) == 5
    found, version = vectors(filled, "trajectory", filled.episodes(dataset="reach"))
    assert mixture.document.clusters[0].encoder_version == version
    units = np.stack(found["vector"].to_list())
    units = units / np.linalg.norm(units, axis=1, keepdims=True)
    of = np.array([group[name] for name in found["episode_id"]])
    middle = np.stack([units[of == k].mean(axis=0) for k in range(3)])
    middle /= np.linalg.norm(middle, axis=1, keepdims=True)
    assert (units @ middle.T).argmax(axis=1).tolist() == of.tolist()

    windows = Windows(action_horizon=1, goals=Goals(future=0.0, random=1.0, clusters="trajectory", columns=("action",)))
    samples = Samples(mixture, windows)
    batch = samples.read(0, np.arange(samples.size()))
    steps = {name: mixture.steps(i, ["action"])["action"].to_pylist() for i, name in
             enumerate(mixture.episodes["episode_id"].to_pylist())}  # fmt: skip
    owner = {tuple(np.float32(row)): group[name] for name, rows in steps.items() for row in rows}
    goals = [owner[tuple(row)] for row in batch["goal.action"]]
    assert goals == [group[name] for name in batch["episode_id"]]
    assert mixed(filled, {"count": 3}, {"name": "fine", "count": 5, "seed": 1}).id == mixture.id
    other = mixed(filled, {"space": "trajectory", "count": 3})
    assert set(mixture_difference(filled, mixture.id, other.id)["settings"]) == {"clusters"}


def test_more_clusters_than_episodes_and_a_space_that_lacks_some(filled, common):
    few = mixed(filled, {"count": 90_000}, where="success")
    count = few.document.clusters[0].count
    assert count <= len(few) and sorted(set(few.clusters("trajectory"))) == list(range(count))
    with pytest.raises(RequestError, match="'frames' holds none of these"):
        mixed(filled, {"space": "frames"})
    embed(filled, SpaceRecipe(name="some"), filled.episodes(dataset="reach").slice(1), **common)
    with pytest.raises(RequestError, match=r"holds no vector of 1 of the mixture's \d+ episodes"):
        mixed(filled, {"space": "some"})


def test_an_erased_episode_is_in_no_cluster_and_comes_back_only_with_a_vector(
    filled, recording, common, monkeypatch, tmp_path
):
    monkeypatch.setattr(mixtures, "_MAPPED_BYTES", 0)  # every table is kept decoded on this machine
    monkeypatch.setenv("DATA_ENGINE_CACHE", str(tmp_path / "cache"))
    windows = Windows(action_horizon=1, goals=Goals(future=0.0, random=1.0, clusters="trajectory", columns=("action",)))

    def goals(mixture):
        samples = Samples(mixture, windows)
        return samples.read(0, np.arange(samples.size()))["goal.action"]

    spared = mixed(filled, {"count": 2}, where="success")
    whole = mixed(filled, {"count": 3})
    before, frozen = goals(spared), spared.clusters("trajectory").tolist()
    assert len(goals(whole))
    held = {each.document.mixture_id: set(each.document.contents.values()) for each in (spared, whole)}
    gone = min(set(whole.episodes["episode_id"].to_pylist()) - set(spared.episodes["episode_id"].to_pylist()))
    remove(filled, episodes=[gone])
    assert erase(filled)["mixtures"] == [whole.id] and check(filled) == []
    with pytest.raises(RequestError, match="1 of its 24 rows were erased"):
        mixtures.open(whole.uri)
    assert pq.read_table(io.BytesIO(filled.read_bytes(f"mixtures/{whole.id}/clusters.parquet"))).num_rows == 0
    cached = {path.parent.name for path in (tmp_path / "cache" / "tables").rglob("*.arrow")}
    assert cached & held[spared.id] and not cached & (held[whole.id] - held[spared.id])

    again = mixtures.open(spared.uri)
    assert again.id == spared.id and again.clusters("trajectory").tolist() == frozen
    np.testing.assert_array_equal(goals(again), before)
    rest = mixed(filled, {"count": 3})
    assert gone not in rest.episodes["episode_id"].to_pylist() and len(rest) == len(whole) - 1
    assert set(rest.clusters("trajectory")) == {0, 1, 2} and len(goals(rest))

    ingest(filled, SourceRecipe(name="reach", uri=str(recording)), take_back=True, **common)
    with pytest.raises(RequestError, match="holds no vector of 1 of the mixture's 24 episodes"):
        mixed(filled, {"count": 3})
    embed(filled, SpaceRecipe(), filled.episodes(), **common)
    assert mixed(filled, {"count": 3}).id == whole.id and mixtures.open(whole.uri).clusters("trajectory").tolist()


def test_a_recipe_names_its_own_spaces():
    recipe = "source: {uri: x}\nselect: [{name: a, method: filter}]\nmixture: {clusters: [{space: %s}]}"
    assert validate(parse(recipe % "trajectory")).mixture.clusters[0].called == "trajectory"
    with pytest.raises(RequestError, match="clusters 'frames' name space 'frames'; the recipe makes trajectory"):
        validate(parse(recipe % "frames"))
    with pytest.raises(RequestError, match="clusters 'a' is named twice"):
        validate(parse(recipe % "trajectory, name: a}, {name: a"))
