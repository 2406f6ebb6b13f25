from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_engine.asking import Answer, Picture, Question, instruction, replay, steps_of
from data_engine.endpoint import Endpoint

ENDPOINT = Endpoint(url="http://host/v1", model="m")
PICTURE = Picture("ep_a", "content", "front", 3)


def test_a_question_is_named_by_what_is_shown_not_by_whose_it_is():
    asked = Question(("look:", PICTURE), "be sober")
    same = Question(("look:", replace(PICTURE, episode_id="ep_b")), "be sober")
    assert asked.key(ENDPOINT) == same.key(ENDPOINT)
    others = [
        Question(("look!", PICTURE), "be sober"),
        Question((PICTURE, "look:"), "be sober"),
        Question(("look:", PICTURE)),
        Question(("look:", replace(PICTURE, step=4)), "be sober"),
        Question(("look:", replace(PICTURE, camera="wrist")), "be sober"),
        Question(("look:", replace(PICTURE, content_hash="other")), "be sober"),
    ]
    keys = {question.key(ENDPOINT) for question in others}
    keys |= {asked.key(ENDPOINT.model_copy(update=change)) for change in ({"model": "n"}, {"side": 32})}
    assert len(keys) == len(others) + 2
    assert asked.key(ENDPOINT) not in keys
    assert asked.pictures == (PICTURE,)
    assert asked.characters == len("look:be sober")


def test_a_dialogue_is_replayed_as_far_as_its_answers_are_known():
    first, second = Question(("one",)), Question(("two",))

    def dialogue():
        one = yield first
        if one.text == "enough":
            return "short"
        two = yield second
        return one.text + two.text

    known: dict[Question, Answer] = {}
    assert replay(dialogue(), known.get) == (None, first, 0)
    known[first] = Answer("k", "a")
    assert replay(dialogue(), known.get) == (None, second, 1)
    known[second] = Answer("k", "b")
    assert replay(dialogue(), known.get) == ("ab", None, 2)
    known[first] = Answer("k", "enough")
    assert replay(dialogue(), known.get) == ("short", None, 1)


@given(st.integers(0, 100), st.integers(1, 60), st.integers(1, 20))
@settings(max_examples=60, deadline=None)
def test_steps_are_spread_from_end_to_end(start, length, count):
    steps = list(steps_of(start, start + length, count))
    assert steps == sorted(set(steps))
    assert len(steps) == min(count, length)
    assert start <= steps[0] and steps[-1] < start + length
    if len(steps) > 1:
        assert (steps[0], steps[-1]) == (start, start + length - 1)


@pytest.mark.parametrize(
    ("task", "language", "said"), [("t", ["l"], "t"), (None, ["l", "m"], "l"), (None, [], None), (None, None, None)]
)
def test_the_instruction_is_the_task_else_the_first_sentence(task, language, said):
    assert instruction({"task": task, "language": language}) == said
