from __future__ import annotations

import os
import shutil

import h5py
import numpy as np
import polars as pl
import pytest

from data_engine.errors import RequestError
from data_engine.recipe import SourceRecipe, SpaceRecipe
from flows.index import complete, embed, index, search, vectors
from flows.ingest import ingest
from storage import indices
from storage.check import fingerprint
from storage.fits import list_fits
from storage.lake import Lake
from tests.recordings import write_robomimic

SPACE = "trajectory"


def table(lake: Lake) -> pl.DataFrame:
    return lake.scan(f"embeddings/{SPACE}").collect()


def of(lake: Lake, dataset: str, **facts) -> pl.DataFrame:
    episodes = lake.episodes(dataset=dataset)
    return episodes.filter(*(pl.col(name) == value for name, value in facts.items()))


def unit(matrix) -> np.ndarray:
    matrix = np.asarray(matrix, np.float32)
    return matrix / np.linalg.norm(matrix, axis=1, keepdims=True)


def more(lake: Lake, folder, common, seed: int = 9, name: str = "more") -> pl.DataFrame:
    """Six further episodes of the arm, ingested and not embedded."""
    source = write_robomimic(folder / f"{name}.hdf5", episodes=6, seed=seed)
    ingest(lake, SourceRecipe(name=name, uri=str(source)), **common)
    return of(lake, name)


def test_one_vector_an_episode_and_none_without_a_finite_step(read_only):
    found = table(read_only)
    assert len(found) == 32
    assert set(found["run_id"]) == {"run_measured"}
    assert found["encoder_version"].n_unique() == 1
    assert found["vector"].dtype == pl.List(pl.Float32)
    assert np.isfinite(found["vector"].to_list()).all()
    empty = of(read_only, "hand", source_key="demo_8")
    assert not set(empty["episode_id"]) & set(found["episode_id"])
    with pytest.raises(RequestError, match="has no vector in space 'trajectory'"):
        search(read_only, SPACE, empty["episode_id"][0])


def test_embedding_again_changes_nothing(filled, common):
    before, version = fingerprint(filled), filled.version(f"embeddings/{SPACE}")
    again = embed(filled, SpaceRecipe(), filled.episodes(), **common)
    assert (again["embedded"], len(again["empty"])) == (0, 1)
    assert filled.version(f"embeddings/{SPACE}") == version
    assert fingerprint(filled) == before


def test_new_episodes_are_embedded_with_a_named_fit_and_old_ones_left_alone(filled, common, tmp_path):
    before = table(filled).sort("episode_id")
    (fit,) = [fit for producer, fit in list_fits(filled) if producer == SPACE]
    fresh = more(filled, tmp_path, common)
    answer = embed(filled, SpaceRecipe(fit=fit), filled.episodes(), **common)
    assert (answer["fit_id"], answer["embedded"]) == (fit, 6)
    after = table(filled).sort("episode_id")
    assert after.filter(~pl.col("episode_id").is_in(fresh["episode_id"].implode())).equals(before)
    assert after["encoder_version"].n_unique() == 1


def test_there_is_one_index_a_kind_and_it_holds_the_vectors(read_only):
    stored = indices.list_indices(read_only)
    assert [name.rpartition("-")[0] for name, _ in stored] == ["trajectory/arm-unspecified", "trajectory/hand-delta"]
    for (name, version), count in zip(stored, (24, 8), strict=True):
        held = indices.load(read_only, name, version)
        assert len(held.ids) == count
        kind = f"{held.meta['embodiment']}/{held.meta['control_mode']}"
        assert kind in ("arm/unspecified", "hand/delta")


def test_an_index_is_built_again_only_when_what_it_holds_changed(filled, common, tmp_path):
    folder = os.path.join(filled.root, "indices")
    stamps = {path: os.stat(os.path.join(at, path)).st_mtime_ns for at, _, names in os.walk(folder) for path in names}
    before = indices.list_indices(filled)
    built = index(filled, SPACE, filled.episodes().reverse())
    assert sorted((entry["space"], entry["version"]) for entry in built) == before == indices.list_indices(filled)
    after = {path: os.stat(os.path.join(at, path)).st_mtime_ns for at, _, names in os.walk(folder) for path in names}
    assert after == stamps
    (fit,) = [fit for producer, fit in list_fits(filled) if producer == SPACE]
    more(filled, tmp_path, common)
    embed(filled, SpaceRecipe(fit=fit), filled.episodes(), **common)
    built = {entry["embodiment"]: entry for entry in index(filled, SPACE, filled.episodes())}
    assert (built["arm"]["count"], built["hand"]["count"]) == (30, 8)
    new = set(indices.list_indices(filled)) - set(before)
    assert new == {(built["arm"]["space"], built["arm"]["version"])}


@pytest.mark.parametrize("stored", [True, False])
def test_search_finds_the_nearest_by_cosine(filled, stored):
    if not stored:
        shutil.rmtree(os.path.join(filled.root, "indices"))
    found, _ = vectors(filled, SPACE, of(filled, "reach"))
    similarity = unit(found["vector"].to_list()) @ unit(found["vector"].to_list()).T
    ids = found["episode_id"].to_list()
    for at in (0, 7, 23):
        hits = search(filled, SPACE, ids[at], k=5)
        order = [i for i in np.argsort(-similarity[at]) if i != at][:5]
        assert [hit["episode_id"] for hit in hits] == [ids[i] for i in order]
        np.testing.assert_allclose([hit["similarity"] for hit in hits], similarity[at, order], atol=1e-5)


def test_search_keeps_to_its_kind_and_to_where(read_only):
    episodes = read_only.episodes()
    facts = {row["episode_id"]: row for row in episodes.iter_rows(named=True)}
    one = of(read_only, "reach", task="reach left")["episode_id"][0]
    hits = search(read_only, SPACE, one, k=100)
    assert len(hits) == 23
    assert one not in {hit["episode_id"] for hit in hits}
    assert {facts[hit["episode_id"]]["embodiment"] for hit in hits} == {"arm"}
    where = "task = 'reach right' AND operator <> 'lost'"
    hits = search(read_only, SPACE, one, k=100, where=where)
    admitted = of(read_only, "reach", task="reach right").filter(pl.col("operator") != "lost")
    assert {hit["episode_id"] for hit in hits} == set(admitted["episode_id"])
    assert [hit["similarity"] for hit in hits] == sorted((hit["similarity"] for hit in hits), reverse=True)
    assert search(read_only, SPACE, one, where="n_steps > 1000") == []


def test_vectors_of_unlike_kinds_are_never_compared(read_only):
    one = of(read_only, "reach")["episode_id"][0]
    with pytest.raises(RequestError, match=r"is arm/unspecified and what --where admits is not") as caught:
        search(read_only, SPACE, one, where="dataset = 'hand'")
    assert caught.value.code == "unlike_spaces"
    mixed = search(read_only, SPACE, one, k=100, where="operator = 'steady'")
    assert {hit["dataset"] for hit in mixed} == {"reach"}


def test_a_stale_index_is_not_used_once_new_episodes_arrived(filled, common, tmp_path):
    (fit,) = [fit for producer, fit in list_fits(filled) if producer == SPACE]
    one = of(filled, "reach", source_key="demo_0")["episode_id"][0]
    twin = tmp_path / "twin.hdf5"
    write_robomimic(twin)  # the very recording, of which one episode's last step differs a little
    with h5py.File(twin, "r+") as file:
        for name in [name for name in file["data"] if name != "demo_0"]:
            del file["data"][name]
        del file["mask"]
        file["data/demo_0/actions"][-1] += 0.001
    ingest(filled, SourceRecipe(name="twin", uri=str(twin)), **common)
    (new,) = of(filled, "twin")["episode_id"]
    assert new not in {hit["episode_id"] for hit in search(filled, SPACE, one, k=100)}  # not embedded yet
    embed(filled, SpaceRecipe(fit=fit), filled.episodes(), **common)
    assert search(filled, SPACE, one, k=1)[0]["episode_id"] == new


def test_a_changed_episodes_old_vector_is_not_its_own(filled, common, tmp_path, recording):
    source = tmp_path / "copy.hdf5"
    shutil.copy(recording, source)
    with h5py.File(source, "r+") as file:
        file["data/demo_0/actions"][...] = -file["data/demo_0/actions"][:]
    ingest(filled, SourceRecipe(name="reach", uri=str(source)), **common)
    one = of(filled, "reach", source_key="demo_0")["episode_id"][0]
    assert len(vectors(filled, SPACE, of(filled, "reach"))[0]) == 23
    with pytest.raises(RequestError, match="has no vector"):
        search(filled, SPACE, one)


def test_of_several_encoder_versions_the_one_that_holds_all_counts(filled, common, tmp_path):
    old = table(filled)["encoder_version"][0]
    more(filled, tmp_path, common)
    new = embed(filled, SpaceRecipe(), filled.episodes(), **common)["encoder_version"]
    assert new != old
    found, version = vectors(filled, SPACE, filled.episodes())
    assert (version, len(found)) == (new, 38)
    assert vectors(filled, SPACE, of(filled, "reach"))[1] == new  # both hold these: the later one holds more beside
    assert vectors(filled, SPACE, of(filled, "reach"), old)[1] == old
    one = of(filled, "reach")["episode_id"][0]
    assert len(search(filled, SPACE, one, k=100)) == 29
    other = more(filled, tmp_path, common, seed=11, name="other")
    embed(filled, SpaceRecipe(), other, **common)
    with pytest.raises(RequestError, match="in several encoder versions") as caught:
        vectors(filled, SPACE, filled.episodes())
    assert (caught.value.code, caught.value.fix) == ("ambiguous_space", "embed them together")


def test_vectors_that_racing_runs_wrote_twice_count_once(filled):
    filled.append(f"embeddings/{SPACE}", table(filled).to_arrow(), transaction="again")
    assert len(vectors(filled, SPACE, filled.episodes())[0]) == 32
    index(filled, SPACE, filled.episodes())


def test_a_wrong_request_is_one_line(filled, read_only):
    one = of(read_only, "reach")["episode_id"][0]
    with pytest.raises(RequestError, match="no episode 'ep_0' in the lake"):
        search(read_only, SPACE, "ep_0")
    with pytest.raises(RequestError, match="space 'pictures' holds none of these episodes"):
        search(read_only, "pictures", one)
    with pytest.raises(RequestError, match="holds none"):
        index(read_only, "pictures", read_only.episodes())
    with pytest.raises(RequestError, match="no fit 'fit_0'"):
        embed(filled, SpaceRecipe(fit="fit_0"), filled.episodes(), on=None, progress=None, run_id="")
    with pytest.raises(RequestError, match="unknown column or score 'wher'"):
        search(read_only, SPACE, one, where="wher = 1")


def test_completing_a_space_embeds_what_is_new_with_the_fit_it_has(filled, tmp_path, common):
    before = table(filled)
    new = more(filled, tmp_path, common)
    version = complete(filled, SpaceRecipe(), filled.episodes(), **common)
    assert version == before["encoder_version"][0]
    after = table(filled)
    assert set(after["episode_id"]) == set(before["episode_id"]) | set(new["episode_id"])
    assert after["encoder_version"].n_unique() == 1
    assert complete(filled, SpaceRecipe(), filled.episodes(), **common) == version
    assert len(table(filled)) == len(after)


def test_completing_an_empty_space_fits_it(lake, recording, common):
    ingest(lake, SourceRecipe(name="reach", uri=str(recording)), **common)
    version = complete(lake, SpaceRecipe(), lake.episodes(), **common)
    assert set(table(lake)["encoder_version"]) == {version}
