from __future__ import annotations

import pytest

from data_engine.asking import Answer, Picture, replay
from scorers.comparing import compare, review, verdict_of

FIRST, SECOND = (Picture(name, name, "front", 0) for name in ("one", "two"))


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("0", 0), ("1", 1), ("-1", -1), ("- 1", -1), ("Answer: 1.", 1), ("I looked at 10 things.\n\n**0**\n", 0),
        ("Situation 2 is better: 1\nThat is all.", 1), ("It is Situation 1", None), ("1 it is\nThat is all", 1),
        ("", None),
        ("0 or 1", None), ("0.5", None), ("none", None), ("the answer is 1", 1), ("-10", None),
    ],
)  # fmt: skip
def test_a_verdict_is_read_from_the_last_line(text, verdict):
    assert verdict_of(text) == verdict


def judge(verdict):
    """Answers every question: what was shown first, then ``verdict(that)``."""

    def reply(question):
        if question.pictures:
            return Answer("k1", f"first {question.pictures[0].episode_id}", "m")
        shown = question.parts[0].split("first ")[1].split()[0]
        said = verdict(shown)
        return Answer("k2", said, "m") if said is not None else Answer("k2", None, "m", "will not say")

    return reply


def hold(verdict, swapped=False, both=False):
    found, question, _ = replay(compare('the "task"', [FIRST], [SECOND], swapped=swapped, both=both), judge(verdict))
    assert question is None
    return found


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("both", [False, True])
def test_who_sees_says_the_same_in_any_order(swapped, both):
    found = hold(lambda shown: "0" if shown == "two" else "1", swapped, both)
    assert (found.probability, found.flipped) == (1.0, False if both else None)
    found = hold(lambda shown: "0" if shown == "one" else "1", swapped, both)
    assert (found.probability, found.reason) == (0.0, None)
    assert [reading.swapped for reading in found.readings] == ([swapped, not swapped] if both else [swapped])
    assert found.readings[0].keys == ("k1", "k2")


def test_who_chooses_by_the_place_is_found_out_by_asking_again():
    assert hold(lambda _: "0").probability == 0.0
    assert hold(lambda _: "0", swapped=True).probability == 1.0
    found = hold(lambda _: "0", both=True)
    assert (found.probability, found.flipped, found.reason) == (None, True, "it chose by the place")


def test_what_is_unsure_unreadable_or_refused_is_no_verdict():
    for said, reason in (("-1", "unsure"), ("well", "no verdict in the answer"), (None, "refused: will not say")):
        found = hold(lambda _, said=said: said)
        assert (found.probability, found.reason, found.flipped) == (None, reason, None)
    found = hold(lambda shown: "-1" if shown == "one" else "0", both=True)
    assert (found.probability, found.reason, found.flipped) == (None, "unsure", None)


def test_a_review_shows_what_the_first_judge_saw_and_said_but_not_its_verdict():
    asked = []

    def reply(question):
        asked.append(question)
        return Answer("k", "The second is further.\n1", "m")

    reading, _, _ = replay(review("t", [FIRST], [SECOND], "what I saw {0}", swapped=True), reply)
    (question,) = asked
    assert [picture.episode_id for picture in question.pictures] == ["two", "one"]
    assert "what I saw {0}" in question.parts[-1]
    assert reading.verdict == 0  # it was shown the other way round
