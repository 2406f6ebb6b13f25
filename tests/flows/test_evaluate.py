from __future__ import annotations

import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import polars as pl
import pytest

from api.cli.evaluation import _text
from data_engine import mixture as mixtures
from data_engine import registry
from data_engine.errors import RequestError
from data_engine.recipe import MixtureRecipe, SelectRecipe, SourceRecipe
from flows.evaluate import _demonstrated, evaluate, place
from flows.executor import Local
from flows.ingest import ingest
from flows.mix import mix
from flows.outcomes import compare_all
from flows.policy import Policy, PolicyConfig
from flows.progress import silent
from flows.query import query
from flows.remove import erase, remove
from flows.select import select
from storage.checkpoints import get_checkpoint, list_checkpoints
from storage.lake import Lake
from tests.api.commands import answer, refusal
from tests.flows.reaching import register
from tests.recordings import write_robomimic

RIGHT, LEFT = "reaching:right=reach right", "reaching:left=reach left"
SMALL = PolicyConfig(hidden=32, limit=400, horizon=4, execute=2)


@pytest.fixture(autouse=True)
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = tmp_path / "site"
    folder.mkdir()
    register(folder, monkeypatch)
    yield
    registry._registered.cache_clear()


@pytest.fixture(scope="module")
def arms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lake of 36 demonstrations with two mixtures: ``good`` of who gets there, ``lost`` of who does not."""
    folder = tmp_path_factory.mktemp("arms")
    source = write_robomimic(folder / "reach.hdf5", episodes=36)
    lake = Lake.open(str(folder / "lake"), create=True)
    ingest(lake, SourceRecipe(name="reach", uri=str(source)), on=Local(), progress=silent(), run_id="run_test")
    for name, where in (("good", "operator <> 'lost'"), ("lost", "operator = 'lost'")):
        frozen(lake, name, where)
    return folder / "lake"


@pytest.fixture
def lake(tmp_path: Path, arms: Path) -> Lake:
    shutil.copytree(arms, tmp_path / "lake")
    return Lake.open(str(tmp_path / "lake"))


def frozen(lake: Lake, name: str, where: str | None = None, **recipe) -> str:
    chosen = SelectRecipe(name=name, method="filter", where=where)
    select(lake, chosen, lake.episodes(), progress=silent(), run_id="run_test")
    recipe = MixtureRecipe(name=name, entries=[{"selection": name}], **recipe)
    return mix(lake, recipe, run_id="run_test")["uri"]


def uri(lake: Lake, name: str) -> str:
    return lake.uri_of(lake.scan("mixtures").filter(pl.col("name") == name).collect()["path"][0])


def run(lake: Lake, mixture: str, *envs: str, workers: int = 1, **more):
    given = {"config": SMALL, "seeds": 2, "rollouts": 12, "seed": 0, "run_id": "run_test", **more}
    return evaluate(lake, uri(lake, mixture), envs, on=Local(workers), progress=silent(), **given)


def rows(lake: Lake) -> pl.DataFrame:
    return query(lake, table="evaluations")[0].sort("evaluation_id")


def test_good_demonstrations_make_a_policy_that_gets_there_and_lost_ones_do_not(lake):
    good, lost = run(lake, "good", RIGHT, LEFT), run(lake, "lost", RIGHT)
    assert [(item["env"], item["task"], item["rollouts"]) for item in good["items"]] == [
        ("reaching:right", "reach right", 24), ("reaching:left", "reach left", 24),
    ]  # fmt: skip
    for item in good["items"]:
        assert item["success"] > 0.9
        assert item["low"] < item["success"] <= item["high"]
    assert lost["items"][0]["success"] < good["items"][0]["success"] - 0.1
    assert lost["items"][0]["progress"] < good["items"][0]["progress"]


def test_every_rollout_is_a_row_of_its_own(lake):
    given = run(lake, "good", RIGHT, LEFT)
    found = rows(lake)
    assert given["added"] == len(found) == found["evaluation_id"].n_unique() == 48
    assert set(found["mixture_id"]) == {given["mixture_id"]}
    assert found.group_by("task", "seed").len().sort("task", "seed").rows() == [
        (task, seed, 12) for task in ("reach left", "reach right") for seed in (0, 1)
    ]
    assert found["initial_condition"].n_unique() == 48  # of its own for each training
    assert set(found["checkpoint"]) == {each["checkpoint"] for each in given["checkpoints"]}
    right = found.filter(pl.col("task") == "reach right")
    assert right["success"].mean() == pytest.approx(given["items"][0]["success"])


def test_running_it_again_trains_and_rolls_nothing_and_adds_no_row(lake, monkeypatch):
    first = run(lake, "good", RIGHT)
    before = rows(lake)
    monkeypatch.setattr("flows.evaluate.learn", None)
    monkeypatch.setattr("flows.evaluate.roll", None)
    again = run(lake, "good", RIGHT)
    assert (first.pop("added"), again.pop("added")) == (24, 0)
    assert first == again
    assert rows(lake).equals(before)


def test_more_rollouts_add_to_those_there_are(lake):
    run(lake, "good", RIGHT, rollouts=10)
    assert run(lake, "good", RIGHT, rollouts=25)["added"] == 30
    assert len(rows(lake)) == 50


def test_the_same_seed_gives_the_same_outcomes_in_other_processes(lake, tmp_path, arms):
    shutil.copytree(arms, tmp_path / "other")
    other = Lake.open(str(tmp_path / "other"))
    run(lake, "good", RIGHT)
    run(other, "good", RIGHT, workers=2)
    assert rows(lake).drop("created_at").equals(rows(other).drop("created_at"))
    assert rows(lake)["checkpoint"].n_unique() == 2
    elsewhere = run(lake, "good", RIGHT, seed=5, rollouts=1)
    assert {each["seed"] for each in elsewhere["checkpoints"]} == {5, 6}


def test_a_checkpoint_is_named_by_its_bytes_and_acts_as_it_did(lake):
    given = run(lake, "good", RIGHT, LEFT, rollouts=1)
    names = [each["checkpoint"] for each in given["checkpoints"]]
    assert sorted(names) == list_checkpoints(lake)
    policy = Policy.from_bytes(get_checkpoint(lake, names[0]))
    assert policy.facts["mixture_id"] == given["mixture_id"]
    assert policy.tasks == ("reach left", "reach right")
    assert policy.to_bytes() == get_checkpoint(lake, names[0])
    state = np.array([[0.0, 0, 0, 0.5, 0, 0.2]])
    action = policy.act(state, "reach right")
    assert action.shape == (2, 3)
    assert np.linalg.norm(action[0] - [0.075, 0, 0.03]) < 0.05


def test_a_checkpoint_that_is_gone_is_trained_again(lake):
    first = run(lake, "good", RIGHT, rollouts=1)
    shutil.rmtree(Path(lake.root) / "checkpoints")
    assert run(lake, "good", RIGHT, rollouts=12)["checkpoints"] == first["checkpoints"]
    assert len(list_checkpoints(lake)) == 2


def test_training_follows_the_weights_of_the_mixture(lake):
    good = lake.episodes().filter(pl.col("operator") == "steady")["episode_id"].to_list()
    for name, where in (("one", "operator = 'steady'"), ("two", "operator = 'lost'")):
        chosen = SelectRecipe(name=name, method="filter", where=where)
        select(lake, chosen, lake.episodes(), progress=silent(), run_id="run_test")
    entries = [{"selection": "one", "weight": 9.0}, {"selection": "two", "weight": 1.0}]
    weighed = mixtures.open(mix(lake, MixtureRecipe(name="both", entries=entries), run_id="run_test")["uri"])
    shown, notes = _demonstrated(weighed, SMALL)
    content = set(lake.episodes().filter(pl.col("episode_id").is_in(good))["content_hash"])
    share = np.mean([shown.contents[at] in content for at in shown.owner])
    assert share == pytest.approx(0.9, abs=0.03)
    assert notes == []


def test_what_is_not_finite_is_left_out_and_said(lake, tmp_path):
    source = write_robomimic(tmp_path / "gap.hdf5", episodes=6, seed=3)
    with h5py.File(source, "r+") as file:
        file["data/demo_0/actions"][5:10] = np.nan
    ingest(lake, SourceRecipe(name="gap", uri=str(source)), on=Local(), progress=silent(), run_id="run_test")
    holed = mixtures.open(frozen(lake, "holed", "dataset = 'gap'"))
    shown, notes = _demonstrated(holed, SMALL)
    assert np.isfinite(shown.states).all()
    assert np.isfinite(shown.actions).all()
    assert len(notes) == 1
    assert "were not finite and left out" in notes[0]
    assert not shown.known.all()


def test_a_rollout_that_breaks_has_failed(lake):
    broken = run(lake, "good", RIGHT, rollouts=3, options={"broken_at": 2})
    assert broken["items"][0]["success"] == 0
    assert run(lake, "good", RIGHT, rollouts=3)["added"] == 6  # other options are other initial conditions


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ("reachin:right=reach right", "unknown simulator 'reachin'"),
        ("reaching:right", "no task 'right' for reaching:right"),
        ("reaching:right=reach up", "no task 'reach up'"),
        ("metaworld:drawer-opn-v3=reach right", "no task 'drawer-opn-v3'"),
        ("metaworld:drawer-open-v3=reach right", "shows 39 numbers, dataset 'reach' has observation.state of 6"),
        ("gymnasium:Pendulum-v1=reach right", "shows 3 numbers"),
        ("gymnasium:CartPole-v1=reach right", "no vector of real numbers"),
        ("gymnasium:NoSuchThing-v0=reach right", "cannot make environment"),
    ],
)
def test_what_does_not_fit_is_one_line(lake, env, message):
    pytest.importorskip(env.partition(":")[0]) if env.startswith(("metaworld", "gymnasium")) else None
    with pytest.raises(RequestError, match=message):
        place(env, mixtures.open(uri(lake, "good")))
    assert not rows(lake).height


def test_another_control_mode_is_refused(lake, tmp_path):
    source = write_robomimic(tmp_path / "far.hdf5", episodes=3, seed=3)
    far = SourceRecipe(name="far", uri=str(source), options={"control_mode": "joint_position"})
    ingest(lake, far, on=Local(), progress=silent(), run_id="run_test")
    with pytest.raises(RequestError, match="actions of reaching:right are delta, those of dataset 'far' are joint_pos"):
        place(RIGHT, mixtures.open(frozen(lake, "far", "dataset = 'far'")))


def test_the_verb_answers_success_by_task_and_query_lists_the_rows(lake, capsys):
    small = ["--policy", "hidden=32", "--policy", "limit=400", "--seeds", 2, "--rollouts", 5, "--workers", 1]
    given = answer(capsys, "evaluate", "run", "good", "--env", RIGHT, *small, "--lake", lake.uri)
    assert given["items"][0]["rollouts"] == 10
    assert given["run_id"].startswith("run_")
    listed = answer(capsys, "query", "--table", "evaluations", "--where", "success", "--lake", lake.uri)
    assert len(listed["items"]) == given["items"][0]["successes"]
    done = lake.scan("runs").filter((pl.col("verb") == "evaluate") & (pl.col("state") == "completed")).collect()
    assert json.loads(done["result"][0])["items"] == given["items"]
    assert "95 % interval" in _text(given, 2)
    line = refusal(capsys, "evaluate", "run", "good", "--env", "reaching:right", "--lake", lake.uri)
    assert "TASK is one of: 'reach left', 'reach right'" in line
    line = refusal(capsys, "evaluate", "run", "good", "--env", RIGHT, "--policy", "hiden=3", "--lake", lake.uri)
    assert "did you mean 'hidden'?" in line
    assert "execute is at most horizon" in refusal(
        capsys, "evaluate", "run", "good", "--env", RIGHT, "--policy", "execute=9", "--lake", lake.uri
    )


def test_mixtures_are_compared_by_name(lake):
    ids = [run(lake, name, RIGHT)["mixture_id"] for name in ("good", "lost")]
    found = compare_all(lake, ["lost", "good"])
    assert [item["name"] for item in found["items"]] == ids
    assert [found["pairs"][0][name] for name in ("first", "second")] == ids[::-1]
    with pytest.raises(RequestError, match="one arm is no comparison"):
        compare_all(lake, ["good", "good"])
    with pytest.raises(RequestError, match="no rollout of mixture 'nobody'"):
        compare_all(lake, ["good", "nobody"])


def test_a_real_set_in_its_own_simulator(tmp_path, shared_data):
    pytest.importorskip("metaworld", reason="the simulator metaworld is not installed")
    lake = Lake.open(str(tmp_path / "tiers"), create=True)
    source = str(shared_data / "metaworld_tiers/lerobot_v3")
    ingest(lake, SourceRecipe(name="tiers", uri=source), on=Local(), progress=silent(), run_id="run_test")
    frozen(lake, "drawers", "task = 'drawer open'")
    env = "metaworld:drawer-open-v3"
    config = PolicyConfig(limit=150, hidden=64)
    given = run(lake, "drawers", env, seeds=1, rollouts=2, config=config, options={"limit": 60})
    assert given["items"][0]["task"] == "drawer open"
    assert 0 < given["items"][0]["progress"] <= 1
    assert given["added"] == 2


def test_an_erase_takes_the_checkpoints_that_saw_an_episode(lake):
    kept = run(lake, "lost", RIGHT, rollouts=1)["checkpoints"]
    run(lake, "good", RIGHT, rollouts=1)
    assert len(list_checkpoints(lake)) == 4
    remove(lake, where="source_key = 'demo_0'")  # by the steady one
    report = erase(lake)
    assert len(report["checkpoints"]) == 2
    assert list_checkpoints(lake) == sorted(each["checkpoint"] for each in kept)
