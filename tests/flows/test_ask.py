from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import polars as pl
import pytest

from data_engine.asking import Picture, Question
from data_engine.endpoint import Endpoint
from data_engine.errors import EngineError, RequestError
from data_engine.recipe import LabelRecipe, SourceRecipe
from flows.ask import ask
from flows.executor import Local
from flows.ingest import ingest
from flows.label import label
from flows.preferences import judge
from flows.progress import Progress, silent
from storage.answers import answer_path, get_answer, list_answers
from storage.check import check
from storage.lake import Lake
from tests.flows.pushing import judging
from tests.judge_server import JudgeServer, judge_server
from tests.squares import write_squares


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("squares")
    lake = Lake.open(str(folder / "lake"), create=True)
    source = SourceRecipe(name="squares", uri=str(write_squares(folder / "squares.hdf5", 8)))
    ingest(lake, source, on=Local(), progress=silent(), run_id="r")
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


def endpoint(server: JudgeServer, **changes) -> Endpoint:
    return Endpoint(**{"url": server.url, "model": "vlm", "pause_s": 0.01, "concurrency": 4, **changes})


def said(*questions: Question):
    """A dialogue of ``questions`` that comes to its answers."""
    answers = []
    for question in questions:
        answer = yield question
        answers.append(answer)
    return [answer.text if answer.text is not None else answer.refusal for answer in answers]


def about(lake: Lake, count: int) -> list[Question]:
    """``count`` questions, each with another pair of pictures."""
    row = lake.episodes().row(0, named=True)
    pictures = [Picture(row["episode_id"], row["content_hash"], "front_image", step) for step in range(count + 1)]
    return [Question(("compare:", pictures[0], pictures[step + 1])) for step in range(count)]


def hold(lake: Lake, server: JudgeServer, questions, *, progress=None, **changes):
    begins = [partial(said, question) for question in questions]
    return ask(lake, endpoint(server, **changes), begins, lake.episodes(), rounds=1, progress=progress or silent(),
               title="t")  # fmt: skip


def test_every_answer_is_kept_as_it_came_and_never_asked_for_again(lake, judge_at):
    questions = about(lake, 12)
    first = hold(lake, judge_at, [*questions, *questions[:5]])  # asked twice at the same time, too
    assert (first.asked, first.stored, first.unanswered) == (12, 0, 0)
    assert set(judge_at.asked.values()) == {1}
    assert first.results[:5] == first.results[12:]
    assert first.models == ["vlm-of-test"]
    second = hold(
        lake, judge_at, questions, url="http://127.0.0.1:9/v1", concurrency=2
    )  # nobody is there: none is asked
    assert second.results == first.results[:12]
    assert (second.asked, second.stored, sum(judge_at.asked.values())) == (0, 12, 12)
    keys = list_answers(lake)
    assert len(keys) == 12
    document = get_answer(lake, questions[0].key(endpoint(judge_at)))
    assert document["reply"]["choices"][0]["message"]["content"] == first.results[0][0]
    assert document["parts"] == questions[0].as_list()
    assert check(lake) == []


def test_a_damaged_answer_is_found_and_asked_again(lake, judge_at):
    (question,) = about(lake, 1)
    hold(lake, judge_at, [question])
    path = answer_path(question.key(endpoint(judge_at)))
    lake.write_bytes(path, lake.read_bytes(path).replace(b"Situation 1", b"Situation 2"))
    assert [problem["path"] for problem in check(lake)] == [path]
    assert hold(lake, judge_at, [question]).asked == 1
    assert check(lake) == []


@pytest.mark.parametrize("fault", [500, 503, 429, (429, "0"), (503, "0.01"), "cut", "garbage", "hang"])
def test_what_passes_is_tried_again(lake, judge_at, fault):
    judge_at.faults = [fault, fault]
    found = hold(lake, judge_at, about(lake, 3), timeout_s=0.7, concurrency=1)
    assert (found.asked, found.unanswered) == (3, 0)
    assert sorted(judge_at.asked.values()) == [1, 1, 3]


def test_a_server_that_asks_for_time_is_given_it(lake, judge_at):
    judge_at.faults = [(429, "0.4")]
    began = time.monotonic()
    hold(lake, judge_at, about(lake, 1))
    assert time.monotonic() - began >= 0.4


def test_questions_without_an_answer_are_told_and_the_others_kept(lake, judge_at):
    judge_at.faults = [500] * 4
    found = hold(lake, judge_at, about(lake, 6), attempts=2, concurrency=1)
    assert (found.asked, found.unanswered) == (4, 2)
    assert found.results[:2] == [None, None] and None not in found.results[2:]
    with pytest.raises(EngineError, match="2 of 6 dialogues were not answered: HTTP 500: induced, 2 times") as raised:
        found.complete()
    assert raised.value.exit_code == 1
    assert hold(lake, judge_at, about(lake, 6)).asked == 2


def test_it_gives_up_on_a_server_that_is_gone_and_keeps_what_it_has(lake, judge_at):
    judge_at.faults = [None] * 3 + [500] * 100
    with pytest.raises(EngineError, match="does not answer any more") as raised:
        hold(lake, judge_at, about(lake, 20), attempts=1, concurrency=1)
    assert raised.value.code == "unreachable"
    assert len(list_answers(lake)) == 3
    assert sum(judge_at.asked.values()) == 3 + 8
    with pytest.raises(EngineError, match="does not answer"):
        hold(lake, judge_at, about(lake, 20), url="http://127.0.0.1:9/v1", attempts=1)
    judge_at.faults = ["hang"] * 100
    with pytest.raises(EngineError, match=r"no answer within 0\.2 s, 1 times"):
        hold(lake, judge_at, about(lake, 20), timeout_s=0.2, attempts=1, concurrency=8)


def test_no_more_are_in_flight_than_allowed(lake, judge_at):
    judge_at.delay_s = 0.05
    hold(lake, judge_at, about(lake, 16), concurrency=3)
    assert judge_at.most_at_once == 3


def test_a_refusal_is_kept_like_an_answer_unless_all_is_refused(lake, judge_at):
    questions = [*about(lake, 3), Question(("is this forbidden?",))]
    judge_at.refuses = "forbidden"
    found = hold(lake, judge_at, questions)
    assert (found.asked, found.refused, found.unanswered) == (3, 1, 0)
    assert found.results[3] == ["HTTP 400: this cannot be answered"]
    again = hold(lake, judge_at, questions)
    assert again.results == found.results and sum(judge_at.asked.values()) == 4
    judge_at.refuses = "different"
    with pytest.raises(
        RequestError, match=r"none of 2 questions to .* was answered: HTTP 400: this cannot be answered"
    ):
        hold(lake, judge_at, [Question(("one different",)), Question(("two different",))])
    assert len(list_answers(lake)) == 4


def test_a_key_is_sent_and_written_nowhere(lake, judge_at, monkeypatch, capfd):
    judge_at.key = "sk-very-secret"
    monkeypatch.setenv("JUDGE_KEY", "sk-very-secret")
    hold(lake, judge_at, about(lake, 2), key_env="JUDGE_KEY", progress=Progress(bars=False))
    assert judge_at.headers[0]["Authorization"] == "Bearer sk-very-secret"
    held = b"".join(path.read_bytes() for path in Path(lake.root).rglob("*") if path.is_file())
    assert b"sk-very-secret" not in held
    assert "secret" not in "".join(capfd.readouterr())
    monkeypatch.setenv("JUDGE_KEY", "sk-wrong")
    with pytest.raises(RequestError, match="lets nobody in") as raised:  # the server says the key aloud
        hold(lake, judge_at, about(lake, 4), key_env="JUDGE_KEY")
    assert "sk-wrong" not in str(raised.value) and "JUDGE_KEY" in str(raised.value)
    monkeypatch.delenv("JUDGE_KEY")
    with pytest.raises(RequestError, match="the environment has no JUDGE_KEY"):
        hold(lake, judge_at, about(lake, 5), key_env="JUDGE_KEY")


def test_a_wrong_address_is_one_line(lake, judge_at):
    with pytest.raises(RequestError, match="is not there, or has no model 'vlm'") as raised:
        hold(lake, judge_at, about(lake, 4), url=judge_at.url + "/v2")
    assert raised.value.code == "bad_endpoint"
    assert sum(judge_at.asked.values()) <= 4


def test_the_price_is_said_first_and_a_budget_holds(lake, judge_at, capsys):
    questions = about(lake, 10)
    prices = {"price_in": 1000.0, "price_out": 1000.0, "max_tokens": 100, "picture_tokens": 50}
    with pytest.raises(RequestError, match=r"may cost 2\.02, the budget is 2\.00") as raised:
        hold(lake, judge_at, questions, progress=Progress(bars=False), budget=2.0, **prices)
    assert raised.value.code == "over_budget"
    with pytest.raises(RequestError, match="10 questions are more than most_questions, 9"):
        hold(lake, judge_at, questions, most_questions=9)
    assert not judge_at.asked
    line = capsys.readouterr().err
    assert "10 questions to vlm (0 are answered already), at most 1,020 tokens in and 1,000 out, at most 2.02" in line
    assert "2 s an answer, assumed, 4 at a time" in line
    found = hold(lake, judge_at, questions[:4], budget=2.0, **prices).estimate
    assert (found.questions, found.input_tokens, found.output_tokens) == (4, 408, 400)
    found = hold(lake, judge_at, questions, budget=2.0, **prices).estimate  # what is answered costs nothing
    assert (found.questions, found.stored) == (6, 4) and "as before" in found.basis


def test_it_asks_where_a_loop_runs_already(lake, judge_at):
    async def inside():
        return hold(lake, judge_at, about(lake, 2))

    assert asyncio.run(inside()).asked == 2


def test_pictures_are_what_was_recorded_at_the_size_asked_for(lake, judge_at):
    row = lake.episodes().row(0, named=True)
    state = next(lake.steps(lake.episodes().head(1)))[1].column("observation.state").to_pylist()
    for step in (0, row["n_steps"] // 2, row["n_steps"] - 1):
        question = Question((Picture(row["episode_id"], row["content_hash"], "front_image", step),))
        for picture in ({"side": 32, "quality": None}, {"side": 4096, "quality": 95}):
            text = hold(lake, judge_at, [question], **picture).results[0][0]
            place = (float(text.rpartition(" ")[2][:-1]) * 63 - 8) / 47
            assert abs(place - state[step][0]) < 0.06


def test_a_picture_that_cannot_be_drawn_is_a_refusal(lake, judge_at):
    row = lake.episodes().row(0, named=True)
    known = (row["episode_id"], row["content_hash"])
    bad = [
        Picture(*known, "wrist", 0),
        Picture(known[0], "old", "front_image", 0),
        Picture("ep_gone", "x", "front_image", 0),
        Picture(*known, "front_image", 999),
    ]
    found = hold(lake, judge_at, [*about(lake, 1), *(Question((picture,)) for picture in bad)])
    assert (found.asked, found.refused) == (1, 4)
    assert all(result[0].startswith("no picture to show: ") for result in found.results[1:])


def test_killed_midway_it_loses_no_answer_and_asks_none_twice(lake, judge_at):
    judge_at.delay_s = 0.02
    command = [sys.executable, "-m", "tests.flows.pushing", lake.uri, judge_at.url]
    child = subprocess.Popen(command, cwd=Path(__file__).parents[2], env={**os.environ, "PYTHONPATH": "."})
    try:
        while sum(judge_at.answered.values()) < 30 and child.poll() is None:
            time.sleep(0.01)
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    kept = set(list_answers(lake))
    time.sleep(0.2)  # what was in flight at the server comes to its end
    before = dict(judge_at.answered)
    assert 20 <= len(kept) < 120
    assert len(before) - len(kept) <= 4  # in flight: answered, and nobody there any more
    found = judge(lake, judging(judge_at.url), lake.episodes(), progress=silent(), run_id="r")
    assert (found["added"], found["decided"], found["stored"]) == (60, 60, len(kept))
    twice = [name for name, count in judge_at.answered.items() if count > 1]
    assert len(twice) == len(before) - len(kept)  # only those that never arrived
    assert kept < set(list_answers(lake))
    assert len(lake.scan("preferences").collect()) == 60
    assert check(lake) == []


def test_success_and_captions_are_asked_once_and_labelled_from_the_answers(lake, judge_at):
    common = {"on": Local(), "progress": silent(), "run_id": "r"}
    episodes = lake.episodes()
    params = {"endpoint": endpoint(judge_at).model_dump(), "pictures": 3}
    done = label(lake, LabelRecipe(labeller="success", params=params), episodes, **common)
    assert (done["labelled"], done["asked"], done["nulls"]) == (8, 8, 0)
    rows = lake.scan("annotations").filter(pl.col("kind") == "success").collect().join(episodes, on="episode_id")
    assert rows["value"].cast(bool).to_list() == rows["success"].to_list()
    assert rows["label"].to_list() == [str(value).lower() for value in rows["success"]]
    assert all("The square ends at" in reason for reason in rows["reason"])
    assert all(text.endswith(("SUCCESS", "FAILURE")) for text in rows["text"])
    scores = lake.scan("scores").filter(pl.col("scorer") == "success").collect()
    assert scores["value"].sum() == episodes["success"].sum()

    other = {**params, "endpoint": {**params["endpoint"], "concurrency": 1, "price_in": 3.0}}
    again = label(lake, LabelRecipe(labeller="success", params=other), episodes, **common)
    assert (again["already"], again["asked"]) == (8, 0)  # another price is no other question
    done = label(lake, LabelRecipe(labeller="caption", params=params), episodes, **common)
    assert done["asked"] == 8
    captions = lake.scan("annotations").filter(pl.col("kind") == "caption").collect()["text"].unique()
    assert set(captions) <= {"Move the square right.", "Move the square left."}
    bodies = [json.dumps(get_answer(lake, key)["parts"]) for key in list_answers(lake)]
    assert sum("push the square" in body for body in bodies) == 8  # a caption is not told the task
