"""What is asked of a vision-language model: questions of texts and pictures, and dialogues of them.

A dialogue is a generator: it yields a question, is sent the answer, and returns what it makes of them. It neither
decodes a frame nor opens a connection, so the same one is priced, held with a model, and replayed from stored answers.
A picture is named by the recording's content, not by its pixels: what was asked is known before anything is decoded.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

from data_engine.canonical import digest
from data_engine.endpoint import Endpoint
from data_engine.labelling import Labeller, Labels
from data_engine.scoring import EpisodeBatch, Fit

__all__ = ["Answer", "Asking", "Dialogue", "Picture", "Question", "Replies", "instruction", "replay", "steps_of"]

T = TypeVar("T")
_VERSION = "1"  # of how a question becomes a request


@dataclass(frozen=True)
class Picture:
    """The frame of one camera at step ``step`` of a recording. ``episode_id`` says where to find that content."""

    episode_id: str
    content_hash: str
    camera: str
    step: int


@dataclass(frozen=True)
class Question:
    """One request: texts and pictures in the order they are read, and what the model is told of its part."""

    parts: tuple[str | Picture, ...]
    system: str | None = None

    @property
    def pictures(self) -> tuple[Picture, ...]:
        """Its pictures, in order."""
        return tuple(part for part in self.parts if isinstance(part, Picture))

    @property
    def characters(self) -> int:
        """Characters of its texts."""
        return len(self.system or "") + sum(len(part) for part in self.parts if isinstance(part, str))

    def key(self, endpoint: Endpoint) -> str:
        """sha256 in hex over model, sampling, texts and the content of the pictures: what names its answer."""
        return digest("question", _VERSION, endpoint.identity, self.as_list(ids=False), self.system or "")

    def as_list(self, *, ids: bool = True) -> list[Any]:
        """Its parts as plain JSON values. Without ``ids`` a picture is its content alone."""
        found: list[Any] = []
        for part in self.parts:
            if isinstance(part, str):
                found.append(part)
                continue
            picture: dict[str, Any] = {"content": part.content_hash, "camera": part.camera, "step": part.step}
            found.append({**picture, "episode_id": part.episode_id} if ids else picture)
        return found


@dataclass(frozen=True)
class Answer:
    """What a model answered. ``text`` is None where the server refused the question, and ``refusal`` says why.

    ``key`` names the stored raw answer; ``model`` is what the server said it is; ``cut``: it ran out of tokens.
    """

    key: str
    text: str | None
    model: str = ""
    refusal: str | None = None
    cut: bool = False


Dialogue: TypeAlias = Generator[Question, Answer, T]
Replies: TypeAlias = Callable[[Question], Answer | None]  # a stored answer, None where there is none yet


def replay(dialogue: Dialogue[T], replies: Replies) -> tuple[T | None, Question | None, int]:
    """Hold ``dialogue`` with stored answers: (result, None, answers) at its end, (None, next question, answers) before.

    The next question is the first that has no stored answer.
    """
    count, question = 0, None
    try:
        question = next(dialogue)
        while (answer := replies(question)) is not None:
            count += 1
            question = dialogue.send(answer)
    except StopIteration as end:
        return end.value, None, count
    return None, question, count


class Asking(Labeller):
    """A labeller that asks a model. Its questions are asked before it labels, which then reads stored answers only."""

    endpoint: Endpoint

    @abstractmethod
    def dialogue(self, episode: Mapping[str, Any]) -> Dialogue[Labels]:
        """What is asked about an episode (a row of the table), and what is made of the answers."""

    @property
    @abstractmethod
    def rounds(self) -> int:
        """The questions that a dialogue asks at most."""

    @property
    def identity(self) -> dict[str, Any]:
        """What decides the labels: where and at what price the model was asked does not."""
        return {**self.config, "endpoint": self.endpoint.identity}

    def fit(
        self, batches: Iterable[EpisodeBatch], *, base: Fit | None = None, seed: int = 0, device: str = "cpu"
    ) -> Fit:
        """Nothing is learned: the model and the prompt are given."""
        return Fit(self.spec.name, self.spec.version, self.identity, seed, ())

    def label(self, batch: EpisodeBatch, fit: Fit, *, device: str = "cpu") -> list[Labels]:
        """The labels of every episode, from the answers that ``batch`` holds."""
        found: list[Labels] = []
        for episode in batch.episodes.to_pylist():
            labels, question, _ = replay(self.dialogue(episode), self._replies(batch))
            missing = Labels.undefined(self.spec.metrics, "the model was not asked")
            found.append(labels if question is None and labels is not None else missing)
        return found

    def _replies(self, batch: EpisodeBatch) -> Replies:
        answers = batch.answers
        return lambda question: None if answers is None else answers(question.key(self.endpoint))


def instruction(episode: Mapping[str, Any]) -> str | None:
    """What the robot was told to do in an episode (a row of the table): its task, else its first sentence."""
    return episode["task"] or next(iter(episode.get("language") or ()), None)


def steps_of(start: int, stop: int, count: int) -> Sequence[int]:
    """``count`` steps of [start, stop), evenly spread from the first to the last; fewer where there are fewer.

    One is the middle.
    """
    length = stop - start
    if count == 1 or length == 1:
        return (start + length // 2,)
    count = min(count, length)
    return tuple(start + round(i * (length - 1) / (count - 1)) for i in range(count))
