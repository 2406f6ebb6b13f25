from __future__ import annotations

import json
from datetime import UTC, datetime

import h5py
import numpy as np
import polars as pl
import pytest

from api.cli import main
from data_engine.recipe import EntryRecipe, MixtureRecipe, SelectRecipe, SourceRecipe, SpaceRecipe
from flows.describe import describe, law
from flows.index import embed
from flows.ingest import ingest
from flows.mix import mix
from flows.select import select
from tests.recordings import write_robomimic


def item(answer, name):
    return next(row for row in answer["items"] if row["name"] == name)


def test_trajectory_quality_is_the_mean_return_between_worst_and_best(lake, common, tmp_path):
    paths = [write_robomimic(tmp_path / f"{name}.hdf5", episodes=12, seed=seed) for seed, name in enumerate("ab")]
    returns = {}
    for path, bonus in zip(paths, (0.0, 2.0), strict=True):
        with h5py.File(path, "r+") as file:
            for number in range(12):
                demo = file[f"data/demo_{number}"]
                rewards = np.zeros(len(demo["actions"]), np.float32)
                rewards[-1] = number + bonus
                demo["rewards"][...] = rewards
                returns[path.stem, number] = number + bonus, demo.attrs["task"]
        ingest(lake, SourceRecipe(name=path.stem, uri=str(path)), **common)
    plain = write_robomimic(tmp_path / "plain.hdf5", episodes=6, seed=7)
    with h5py.File(plain, "r+") as file:
        for demo in file["data"].values():
            del demo["rewards"]
    ingest(lake, SourceRecipe(name="plain", uri=str(plain)), **common)
    answer = describe(lake, lake.episodes())
    for name in "ab":
        parts = []
        for task in {task for _, task in returns.values()}:
            everyone = [value for value, own in returns.values() if own == task]
            mine = [value for (dataset, _), (value, own) in returns.items() if (dataset, own) == (name, task)]
            parts += [(np.mean(mine) - min(everyone)) / (max(everyone) - min(everyone))] * len(mine)
        assert item(answer, name)["trajectory_quality"] == pytest.approx(np.mean(parts))
        assert item(answer, name)["reason"] is None
    assert item(answer, "plain")["trajectory_quality"] is None
    assert item(answer, "plain")["reason"] == "no rewards"


def test_equal_returns_and_single_values_have_reasons(read_only, capsys):
    answer = describe(read_only, read_only.episodes())
    assert item(answer, "reach")["reason"] == "all returns of a task are equal"
    factors = {row["factor"]: row for row in answer["shortcuts"]}
    assert factors["scene"]["reason"] == "scene has fewer than two values"
    assert factors["operator"]["above_chance"] < 0.2  # every operator does either task
    assert [row["reason"] for row in answer["scaling"]] == ["fewer than 3 evaluated mixtures of unlike breadth"] * 2
    (pair,) = answer["disparities"]
    assert (pair["first"], pair["second"], pair["mmd"]) == ("hand", "reach", None)
    assert pair["reason"] == "unlike robots or control modes"
    with pytest.raises(SystemExit):
        main(["describe", "--lake", read_only.uri, "--json"])
        raise SystemExit(0)
    assert json.loads(capsys.readouterr().out)["items"] == answer["items"]


def test_a_factor_that_gives_the_task_away_is_a_shortcut(read_only):
    told = read_only.episodes().with_columns(operator=pl.col("task"))
    factors = {row["factor"]: row for row in describe(read_only, told)["shortcuts"]}
    assert (factors["operator"]["nmi"], factors["operator"]["above_chance"]) == (pytest.approx(1), pytest.approx(1))


def test_datasets_that_do_otherwise_are_farther_apart(lake, common, tmp_path):
    for name, seed in (("one", 0), ("like", 1), ("other", 2)):
        path = write_robomimic(tmp_path / f"{name}.hdf5", episodes=18, seed=seed)
        if name == "other":
            with h5py.File(path, "r+") as file:
                for demo in file["data"].values():
                    demo["actions"][...] = -demo["actions"][:]
        ingest(lake, SourceRecipe(name=name, uri=str(path)), **common)
    assert {row["reason"] for row in describe(lake, lake.episodes())["disparities"]} != {None}  # nothing is embedded
    embed(lake, SpaceRecipe(), lake.episodes(), **common)
    found = {(row["first"], row["second"]): row for row in describe(lake, lake.episodes())["disparities"]}
    assert set(found) == {("like", "one"), ("like", "other"), ("one", "other")}
    for name in ("mmd", "sinkhorn"):
        near, far = found["like", "one"][name], [found["like", "other"][name], found["one", "other"][name]]
        assert min(far) > 1.3 * max(near, 0)


def test_the_law_is_fitted_to_what_was_evaluated(lake, common, tmp_path):
    source = write_robomimic(tmp_path / "scenes.hdf5", episodes=12)
    with h5py.File(source, "r+") as file:
        for name, demo in file["data"].items():
            demo.attrs["scene"] = name  # one each
    ingest(lake, SourceRecipe(name="scenes", uri=str(source)), **common)
    made = []
    for breadth in (2, 6, 12, 9):
        name = f"some{breadth}"
        recipe = SelectRecipe(name=name, method="random", budget=breadth)
        select(lake, recipe, lake.episodes(), progress=common["progress"], run_id="run_test")
        frozen = MixtureRecipe(name=name, entries=(EntryRecipe(selection=name),))
        made.append(mix(lake, frozen, run_id="run_test", recipe_hash="x")["mixture_id"])
    *made, sure = made
    now = datetime.now(UTC)
    rows = [
        {"evaluation_id": f"{mixture}{seed}", "mixture_id": mixture, "seed": seed, "success": seed < good}
        for mixture, good in zip([*made, sure, "gone"], (2, 5, 8, 10, 9), strict=True)
        for seed in range(10)
    ]
    rows = [{**row, "created_at": now} for row in rows]
    lake.append_rows("evaluations", rows, transaction="t", run_id="run_test", config_hash="x")
    scenes, objects = describe(lake, lake.episodes())["scaling"]
    points = sorted((point["scenes"], point["success"]) for point in scenes["points"])
    assert points == [(2, 0.2), (6, 0.5), (9, 1.0), (12, 0.8)]
    assert (scenes["left_out"], objects["left_out"]) == (2, 5)  # the one that never fails has no logarithm, one is gone
    want = law([2, 6, 12], [0.2, 0.5, 0.8])
    assert scenes["exponent"] == pytest.approx(want["exponent"])
    assert scenes["r"] < -0.9
    assert objects["points"] == []  # this source names none
    assert objects["reason"].startswith("fewer than 3")


def test_law():
    counts = np.array([1, 2, 4, 8])
    found = law(counts, 1 - 0.8 * counts**-0.5)
    assert (found["exponent"], found["factor"], found["r"]) == pytest.approx((-0.5, 0.8, -1))
    assert law([1, 2, 4], [1.0, 1.0, 0.5])["reason"].startswith("fewer than 3")
    assert law([1, 2, 4], [0.5, 0.5, 0.5])["exponent"] == 0
