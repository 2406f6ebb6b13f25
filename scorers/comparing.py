"""What a model is asked when it compares two pieces of behaviour, and how its answers are read.

Wang et al., "RL-VLM-F" (2024): first describe and compare, then, from that text alone, answer 0, 1 or -1. The order in
which the two are shown is drawn, or both are asked: a judge that chooses by the place is found out. A second judge is
shown the pictures and the first one's description, not its verdict ("Listener-Rewarded Thinking in VLMs", 2025).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from data_engine.asking import Answer, Dialogue, Picture, Question

__all__ = ["PROMPT", "VERSION", "Reading", "Verdict", "compare", "review", "verdict_of"]

VERSION = "1"

_SYSTEM = "You judge the behaviour of robots from pictures, soberly: what cannot be seen, you do not know."
_DESCRIBE = (
    'The task of the robot is: "{task}".\n'
    "You see two situations, each in {pictures}.\n"
    "1. What is shown in Situation 1?\n2. What is shown in Situation 2?\n"
    "3. The task is the only measure. Is there a difference between Situation 1 and Situation 2 in how far it is "
    "achieved, and which?\n"
)
_DECIDE = (
    'The task of the robot is: "{task}". Somebody described two situations:\n\n{description}\n\n'
    "By this text, is the task better achieved in Situation 1 or in Situation 2?\n"
    "Answer with a single line: 0 if it is Situation 1, 1 if it is Situation 2, -1 if the text does not say or there "
    "is no difference."
)
_REVIEW = (
    'The task of the robot is: "{task}".\n'
    "You see two situations, each in {pictures}. Somebody described them:\n\n{description}\n\n"
    "Look for yourself, and trust the pictures where the text says otherwise: is the task better achieved in "
    "Situation 1 or in Situation 2?\n"
    "Say why in one sentence. The last line is 0 if it is Situation 1, 1 if it is Situation 2, -1 if you are not sure "
    "or there is no difference."
)
PROMPT = f"{_SYSTEM}\n\n{_DESCRIBE}\n{_DECIDE}"
"""The judge's words, as they are kept beside its preferences."""

_NUMBER = re.compile(r"(?<![\w.+-])(-\s?1|[01])(?!\w|[.,-]\d)")
_NAMED = re.compile(r"\bsituation\s*[12]\b", re.IGNORECASE)  # which are no verdicts


@dataclass(frozen=True)
class Reading:
    """One look at a pair: shown in the other order (``swapped``) or not, what was said of it, and the verdict: 0 the
    first of the pair is better, 1 the second, -1 unsure, None where the answer cannot be read, for ``reason``.
    """

    swapped: bool
    description: str
    verdict: int | None
    reason: str | None
    keys: tuple[str, ...]
    models: tuple[str, ...]


@dataclass(frozen=True)
class Verdict:
    """What came of one pair: ``probability`` that the second is better, None for ``reason``; see ``Preference``."""

    probability: float | None
    reason: str | None
    flipped: bool | None
    readings: tuple[Reading, ...]


def compare(
    task: str, first: Sequence[Picture], second: Sequence[Picture], *, swapped: bool, both: bool
) -> Dialogue[Verdict]:
    """Compare two items, shown in the order given or, ``swapped``, the other way round; with ``both``, then again the
    other way. Answers that follow the place are no verdict.
    """
    readings = [(yield from _read(task, first, second, swapped))]
    if both:
        readings.append((yield from _read(task, first, second, not swapped)))
    found = [reading.verdict for reading in readings]
    decided = [verdict for verdict in found if verdict in (0, 1)]
    flipped = len(set(decided)) == 2 if len(decided) == 2 else None
    if len(decided) < len(found) or flipped:
        unsure = next((reading.reason for reading in readings if reading.verdict not in (0, 1)), None)
        return Verdict(None, unsure or "it chose by the place", flipped, tuple(readings))
    return Verdict(float(decided[0]), None, flipped, tuple(readings))


def review(
    task: str, first: Sequence[Picture], second: Sequence[Picture], description: str, *, swapped: bool
) -> Dialogue[Reading]:
    """Read a pair again, by the pictures and what the first judge said of them in the order ``swapped``."""
    said = _REVIEW.format(task=_quoted(task), pictures=_count(first), description=description)
    answer = yield Question((*_shown(first, second, swapped), said), _SYSTEM)
    return _reading(swapped, description, answer, (answer,))


def verdict_of(text: str) -> int | None:
    """0, 1 or -1 as the last line says, or the whole text where the line does not; None where neither says one."""
    lines = [line for line in text.splitlines() if line.strip()]
    for part in (lines[-1] if lines else "", text):
        found = {int(number.replace(" ", "")) for number in _NUMBER.findall(_NAMED.sub("", part))}
        if len(found) == 1:
            return found.pop()
    return None


def _read(task: str, first: Sequence[Picture], second: Sequence[Picture], swapped: bool) -> Dialogue[Reading]:
    ask = _DESCRIBE.format(task=_quoted(task), pictures=_count(first))
    described = yield Question((*_shown(first, second, swapped), ask), _SYSTEM)
    if described.text is None:
        return _reading(swapped, "", described, (described,))
    ask = _DECIDE.format(task=_quoted(task), description=described.text.strip())
    decided = yield Question((ask,), _SYSTEM)
    return _reading(swapped, described.text.strip(), decided, (described, decided))


def _reading(swapped: bool, description: str, answer: Answer, answers: Sequence[Answer]) -> Reading:
    keys = tuple(one.key for one in answers)
    models = tuple(sorted({one.model for one in answers if one.model}))
    if answer.text is None:
        return Reading(swapped, description, None, f"refused: {answer.refusal}", keys, models)
    verdict = verdict_of(answer.text)
    if verdict is None:
        why = "cut off before it said" if answer.cut else "no verdict in the answer"
        return Reading(swapped, description, None, why, keys, models)
    if verdict == -1:
        return Reading(swapped, description, -1, "unsure", keys, models)
    return Reading(swapped, description, verdict ^ swapped, None, keys, models)


def _shown(first: Sequence[Picture], second: Sequence[Picture], swapped: bool) -> list[str | Picture]:
    one, two = (second, first) if swapped else (first, second)
    return ["Situation 1:", *one, "Situation 2:", *two]


def _count(pictures: Sequence[Picture]) -> str:
    return "one picture" if len(pictures) == 1 else f"{len(pictures)} pictures in the order of time"


def _quoted(task: str) -> str:
    return " ".join(task.replace('"', "'").split())
