from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_engine.errors import EngineError, RequestError
from data_engine.recipe import LabelRecipe, SourceRecipe
from flows.executor import Local
from flows.ingest import ingest
from flows.label import label
from flows.preferences import bring, draw, judge, review, tallies
from flows.progress import silent
from storage import removals
from storage.check import check, fingerprint
from storage.lake import Lake
from tests.flows.pushing import judging
from tests.judge_server import JudgeServer, judge_server
from tests.recordings import write_robomimic
from tests.squares import TASK, write_squares

COMMON = {"on": Local(), "progress": silent(), "run_id": "r"}


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 pushes, and beside them 6 reaches of two tasks without a camera."""
    folder = tmp_path_factory.mktemp("squares")
    lake = Lake.open(str(folder / "lake"), create=True)
    ingest(lake, SourceRecipe(name="squares", uri=str(write_squares(folder / "squares.hdf5", 24))), **COMMON)
    ingest(lake, SourceRecipe(name="reach", uri=str(write_robomimic(folder / "reach.hdf5", 6))), **COMMON)
    return folder / "lake"


@pytest.fixture
def lake(recorded: Path, tmp_path: Path) -> Lake:
    import shutil

    shutil.copytree(recorded, tmp_path / "lake")
    return Lake.open(str(tmp_path / "lake"))


@pytest.fixture
def judge_at() -> Iterator[JudgeServer]:
    with judge_server() as server:
        yield server


def places(lake: Lake) -> dict[str, np.ndarray]:
    """How far the square is at each step of each push."""
    rows = lake.episodes(dataset="squares")
    return {row["episode_id"]: np.array(steps.column("observation.state").to_pylist())[:, 0]
            for row, steps in lake.steps(rows)}  # fmt: skip


def test_pairs_are_of_one_task_and_follow_from_content_and_seed_alone(lake):
    episodes = lake.episodes()
    pairs = draw(episodes, pairs=80, steps=3, seed=5)
    facts = {row["episode_id"]: row for row in episodes.iter_rows(named=True)}
    assert len({frozenset((first, second)) for _, first, second in pairs}) == 80
    for task, first, second in pairs:
        one, other = facts[first.episode_id], facts[second.episode_id]
        assert one["task"] == other["task"] == task
        assert first.stop - first.start == second.stop - second.start == 3
        assert second.stop <= other["n_steps"] and second.content_hash == other["content_hash"]
        assert first.episode_id != second.episode_id or abs(first.start - second.start) >= 3
    assert {task for task, _, _ in pairs} == {TASK, "reach left", "reach right"}
    shuffled = episodes.sample(fraction=1.0, shuffle=True, seed=1)
    assert draw(shuffled, pairs=80, steps=3, seed=5) == pairs
    assert draw(episodes, pairs=80, steps=3, seed=6) != pairs
    assert {first.camera for _, first, _ in draw(episodes, pairs=20, cameras=True)} == {"front_image"}
    assert draw(episodes, pairs=20, camera="wrist", cameras=True) == []
    few = episodes.filter(pl.col("task") == TASK).head(2).with_columns(n_steps=pl.lit(2))
    assert len(draw(few, pairs=50)) == 6  # four frames, every two of them


def test_a_judge_that_sees_tells_which_is_better_and_it_is_entered_once(lake, judge_at):
    episodes, truth = lake.episodes(), places(lake)
    judge_at.unsure_below = 0.05
    found = judge(lake, judging(judge_at.url), episodes, progress=silent(), run_id="r")
    assert (found["pairs"], found["added"]) == (60, 60)
    assert 110 < found["asked"] <= 120  # pairs that are described alike are decided once
    rows = lake.scan("preferences").collect()
    assert found["undecided"] == rows["probability"].null_count() > 0
    for row in rows.iter_rows(named=True):
        one, other = (truth[item["episode_id"]][item["start"]] for item in row["items"])
        if row["probability"] is None:
            assert row["reason"] == "unsure" and abs(one - other) < 0.1
        elif abs(one - other) > 0.05:
            assert row["probability"] == float(other > one) and row["ranks"] == [int(other > one), int(other < one)]
        assert (row["annotator_kind"], row["model"], row["annotator"]) == ("model", "vlm", "vlm")
        assert row["version"] == "compare 1; vlm-of-test" and "{task}" in row["prompt"]
        assert "Situation 1 is at" in json.loads(row["answer"])[0]["description"]
    swapped = [json.loads(answer)[0]["swapped"] for answer in rows["answer"]]
    assert 10 < sum(swapped) < 50  # the order is drawn
    before = fingerprint(lake)
    again = judge(lake, judging(judge_at.url), episodes, progress=silent(), run_id="later")
    assert (again["added"], again["asked"], again["stored"]) == (0, 0, 120)
    assert fingerprint(lake) == before and check(lake) == []
    more = judge(lake, judging(judge_at.url, 90), episodes, progress=silent(), run_id="r")
    assert more["pairs"] == 90 and more["added"] == 30


def test_both_orders_find_out_who_chooses_by_the_place(lake, judge_at):
    judge_at.placed = 0.4
    found = judge(lake, judging(judge_at.url, both=True), lake.episodes(), progress=silent(), run_id="r")
    rows = lake.scan("preferences").collect()
    assert 0.2 < found["flip_rate"] < 0.6
    assert rows["flipped"].mean() == found["flip_rate"]
    flipped = rows.filter("flipped")
    assert flipped["probability"].null_count() == len(flipped)
    assert set(flipped["reason"]) == {"it chose by the place"}
    assert [asdict(one)["flip_rate"] for one in tallies(lake)] == [found["flip_rate"]]


def test_clips_are_shown_in_several_pictures(lake, judge_at):
    recipe = judging(judge_at.url, 10, steps=5, pictures=3, collection="clips")
    judge(lake, recipe, lake.episodes(), progress=silent(), run_id="r")
    rows, truth = lake.scan("preferences").collect(), places(lake)
    for row in rows.iter_rows(named=True):
        one, other = (truth[item["episode_id"]][[item["start"], item["start"] + 2, item["start"] + 4]].mean()
                      for item in row["items"])  # fmt: skip
        assert abs(one - other) < 0.03 or row["probability"] == float(other > one)


def test_a_second_judge_flags_what_it_sees_otherwise(lake, judge_at):
    episodes, truth = lake.episodes(), places(lake)
    judge_at.wrong = 0.3
    judge(lake, judging(judge_at.url), episodes, progress=silent(), run_id="r")
    with pytest.raises(RequestError, match="vlm judged this collection itself"):
        review(lake, judging(judge_at.url), episodes, progress=silent(), run_id="r")
    judge_at.wrong = 0.0
    second = judging(judge_at.url, endpoint={"model": "other"})
    found = review(lake, second, episodes, progress=silent(), run_id="r")
    rows = lake.scan("preferences").collect()
    first = {row["preference_id"]: row for row in rows.filter(pl.col("reviews").is_null()).iter_rows(named=True)}
    again = rows.filter(pl.col("reviews").is_not_null())
    assert (found["reviewed"], found["added"], len(again)) == (60, 60, 60)
    for row in again.iter_rows(named=True):
        mine = first[row["reviews"]]
        one, other = (truth[item["episode_id"]][item["start"]] for item in mine["items"])
        assert row["contradicts"] == (row["probability"] != mine["probability"])
        assert abs(one - other) < 0.05 or row["contradicts"] == (mine["probability"] != float(other > one))
    assert 5 < found["contradictions"] == again["contradicts"].sum() < 35
    assert review(lake, second, episodes, progress=silent(), run_id="r")["added"] == 0
    (held,) = tallies(lake)
    assert (held.preferences, held.reviewed, held.contradiction_rate) == (60, 60, found["contradiction_rate"])
    with pytest.raises(RequestError, match="holds nothing that a model decided"):
        review(lake, judging(judge_at.url, collection="none"), episodes, progress=silent(), run_id="r")


def test_what_was_answered_is_entered_although_the_rest_was_not(lake, judge_at):
    judge_at.faults = [None] * 10 + [500] * 2
    recipe = judging(judge_at.url, 20, endpoint={"attempts": 1, "concurrency": 1})
    with pytest.raises(EngineError, match="2 of 20 dialogues were not answered"):
        judge(lake, recipe, lake.episodes(), progress=silent(), run_id="r")
    assert len(lake.scan("preferences").collect()) == 18
    assert judge(lake, recipe, lake.episodes(), progress=silent(), run_id="r")["added"] == 2


def test_a_judge_whose_answers_say_nothing_decides_nothing_and_it_is_told_why(lake, judge_at, monkeypatch):
    monkeypatch.setattr(JudgeServer, "reply", lambda self, body: "Bananas, 0 or 1 of them.")
    found = judge(lake, judging(judge_at.url, 12), lake.episodes(), progress=silent(), run_id="r")
    assert (found["decided"], found["undecided"], found["added"]) == (0, 12, 12)
    assert found["reasons"] == {"no verdict in the answer": 12}


def test_without_cameras_there_is_nothing_to_show(lake, judge_at):
    with pytest.raises(RequestError, match="no two items to compare"):
        judge(lake, judging(judge_at.url), lake.episodes(dataset="reach"), progress=silent(), run_id="r")
    assert not judge_at.asked


ROWS = [
    {"first": "squares/demo_0:3-9@front_image", "second": "squares/demo_1", "verdict": "first", "annotator": "ann"},
    {"first": "squares/demo_0", "second": "squares/demo_2:0-5", "verdict": "tie"},
    {"first": "squares/demo_0", "second": "squares/demo_2", "verdict": "unsure", "reason": "too dark"},
    {"ranking": "squares/demo_1 > squares/demo_0 = squares/demo_2", "task": "another task"},
    {"winner": "squares/demo_1", "items": "squares/demo_0;squares/demo_2"},
    {"first": "squares/demo_99", "second": "squares/demo_0", "verdict": "first"},
    {"first": "squares/demo_0:0-999", "second": "squares/demo_1", "verdict": "first"},
    {"first": "squares/demo_0@wrist", "second": "squares/demo_1", "verdict": "first"},
    {"first": "squares/demo_0", "second": "reach/demo_0", "verdict": "first", "mood": "bad"},
]


def written(folder: Path, ending: str) -> Path:
    path = folder / f"said.{ending}"
    if ending == "json":
        path.write_text(json.dumps(ROWS))
    elif ending == "jsonl":
        path.write_text("\n".join(json.dumps(row) for row in ROWS))
    elif ending == "csv":
        with open(path, "w", newline="") as file:
            table = csv.DictWriter(file, sorted({name for row in ROWS for name in row}))
            table.writeheader()
            table.writerows(ROWS)
    else:
        pq.write_table(pa.Table.from_pylist(
            [{name: row.get(name) for name in sorted({key for one in ROWS for key in one})} for row in ROWS]
        ), path)  # fmt: skip
    return path


def test_people_enter_theirs_from_any_file_once(lake, tmp_path):
    given = {"collection": "people", "annotator": "bob", "progress": silent(), "run_id": "r"}
    found = bring(lake, str(written(tmp_path, "json")), **given)
    assert (found["rows"], found["added"], found["already"], found["ignored"]) == (9, 5, 0, ["mood"])
    assert [bad["row"] for bad in found["rejected"]] == [6, 7, 8, 9]
    reasons = [bad["reason"] for bad in found["rejected"]]
    for reason, said in zip(reasons, ("no episode", "not within its", "no camera", "several tasks"), strict=True):
        assert said in reason
    rows = lake.scan("preferences").collect()
    assert sorted(rows["annotator"]) == ["ann", "bob", "bob", "bob", "bob"]
    assert rows.filter(pl.col("kind") == "ranking")["task"].to_list() == ["another task"]
    assert set(rows.filter(pl.col("kind") == "pair")["task"]) == {TASK}
    facts = {row["episode_id"]: row for row in lake.episodes().iter_rows(named=True)}
    for item in rows["items"].explode().to_list():
        assert facts[item["episode_id"]]["content_hash"] == item["content_hash"]
        assert 0 <= item["start"] < item["stop"] <= facts[item["episode_id"]]["n_steps"]
    before = fingerprint(lake)
    for ending in ("jsonl", "csv", "parquet", "json"):
        again = bring(lake, str(written(tmp_path, ending)), **given)
        assert (again["added"], again["already"]) == (0, 5), ending
    assert fingerprint(lake) == before
    (held,) = tallies(lake)
    assert (held.preferences, held.decided, held.ties, held.undecided) == (5, 4, 1, 1)


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("a.json", b"{", "cannot be read as json"),
        ("a.json", b"[" * 100_000, "cannot be read as json"),
        ("a.json", b'{"a": 1}', "holds no list of rows"),
        ("a.json", b"[]", "holds no preference"),
        ("a.csv", b"first,second\n1,2,3\n", "more cells than the header"),
        ("a.csv", b"first\n\xff\xfe", "cannot be read as csv"),
        ("a.parquet", b"PAR1 no", "cannot be read as parquet"),
        ("a.pkl", b"cos\nsystem\n", "is none of .csv"),
        ("a.jsonl", b'{"first": "x", "second": "y", "verdict": 0}', "row 1: no episode 'x'"),
    ],
)
def test_what_is_no_file_of_preferences_is_one_line(lake, tmp_path, name, data, said):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(RequestError) as raised:
        bring(lake, str(tmp_path / name), collection="c", annotator=None, progress=silent(), run_id="r")
    assert said in str(raised.value) and "\n" not in str(raised.value)


def test_preferences_go_out_of_sight_with_their_episodes(lake, tmp_path):
    given = {"collection": "people", "annotator": "bob", "progress": silent(), "run_id": "r"}
    bring(lake, str(written(tmp_path, "json")), **given)
    gone = lake.episodes().filter(pl.col("source_key") == "demo_2").filter(pl.col("dataset") == "squares")
    removals.record(lake, "removed", {gone["episode_id"][0]: "squares"})
    (held,) = tallies(lake)
    assert held.preferences == 1


def test_the_reward_ranks_pairs_right_that_it_never_saw_with_a_tenth_of_the_answers_wrong(lake, judge_at):
    episodes, truth = lake.episodes(dataset="squares"), places(lake)
    judge_at.wrong = 0.1
    told, unseen = episodes.head(16), episodes.tail(8)
    judge(lake, judging(judge_at.url, 250), told, progress=silent(), run_id="r")
    rows = lake.scan("preferences").collect()
    right = [float(truth[b["episode_id"]][b["start"]] > truth[a["episode_id"]][a["start"]]) == row["probability"]
             for row in rows.iter_rows(named=True) for a, b in [row["items"]]]  # fmt: skip
    assert 0.05 < 1 - np.mean(right) < 0.2  # it was told wrong that often
    params = {"iterations": 150}
    done = label(lake, LabelRecipe(labeller="preference_reward", params=params), told, **COMMON)
    later = LabelRecipe(labeller="preference_reward", params=params, fit=done["fit_id"])
    assert label(lake, later, unseen, **COMMON)["fit_id"] == done["fit_id"]
    said = lake.scan("annotations").collect()
    reward = {row["episode_id"]: np.array(row["step_values"])
              for row in said.filter(pl.col("kind") == "reward").iter_rows(named=True)}  # fmt: skip
    spread = said.filter(pl.col("kind") == "reward_uncertainty")["step_values"].explode()
    assert len(reward) == 24 and spread.min() > 0
    names = unseen["episode_id"].to_list()
    x, y = (np.concatenate([values[name] for name in names]) for values in (truth, reward))
    pairs = np.random.default_rng(0).integers(len(x), size=(4000, 2))
    ahead = x[pairs[:, 1]] - x[pairs[:, 0]]
    told_apart = np.abs(ahead) > 0.02
    assert np.mean(((y[pairs[:, 1]] - y[pairs[:, 0]]) * ahead > 0)[told_apart]) >= 0.9
    scores = lake.scan("scores").filter(pl.col("metric") == "held_out_accuracy").collect()["value"]
    assert 0.7 < scores[0] <= 1.0

    before = fingerprint(lake)
    assert label(lake, LabelRecipe(labeller="preference_reward", params=params), told, **COMMON)["already"] == 16
    assert fingerprint(lake) == before
    judge(lake, judging(judge_at.url, 255), told, progress=silent(), run_id="r")
    other = label(lake, LabelRecipe(labeller="preference_reward", params={"iterations": 2}), told, **COMMON)
    assert other["fit_id"] != done["fit_id"]  # it was told more


def test_without_preferences_there_is_no_reward(lake):
    with pytest.raises(RequestError, match="collection 'default' holds no preferences"):
        label(lake, LabelRecipe(labeller="preference_reward"), lake.episodes(), **COMMON)
