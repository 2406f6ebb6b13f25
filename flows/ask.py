"""Dialogues held with a model: priced first, then many at a time; every answer is kept the moment it is there.

What the lake holds is never asked again, so a run that was cut off goes on with the questions that it had not seen
answered. Two runs at the same time do not know of each other and may ask the same.
"""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from statistics import median
from typing import Any, Generic, TypeVar

import polars as pl

from data_engine.asking import Answer, Asking, Dialogue, Question, replay
from data_engine.endpoint import Endpoint
from data_engine.errors import EngineError, RequestError, SourceError
from data_engine.labelling import Labels
from flows.chat import Chat, Refused, Unanswered
from flows.pictures import Pictures
from flows.progress import Progress
from storage.answers import get_answer, list_answers, put_answer
from storage.lake import Lake

__all__ = ["Asked", "Estimate", "Held", "ask", "ask_about", "stored_answer"]

T = TypeVar("T")
_PATCH = 28  # pixels of a side that one token of a picture stands for, in most models
_CHARACTERS = 4  # of a token
_GIVE_UP = 8  # questions in a row without an answer, at least
_WRITERS = 16


@dataclass(frozen=True)
class Estimate:
    """What holding the dialogues will take at most.

    ``questions`` to ask (``stored`` are answered already), their ``input_tokens`` and ``output_tokens``, the ``cost``
    in the currency of the endpoint's prices, and ``seconds``; ``basis`` says where the seconds come from.
    """

    questions: int
    stored: int
    input_tokens: int
    output_tokens: int
    cost: float
    seconds: float
    basis: str

    def line(self, endpoint: Endpoint) -> str:
        """What a person reads before it starts."""
        price = f", at most {_money(self.cost)} at the stated prices" if endpoint.price_in or endpoint.price_out else ""
        return (
            f"{self.questions:,} questions to {endpoint.model} ({self.stored:,} are answered already), at most "
            f"{self.input_tokens:,} tokens in and {self.output_tokens:,} out{price}, about {_time(self.seconds)} "
            f"({self.basis})"
        )


@dataclass(frozen=True)
class Asked(Generic[T]):
    """``results``: what each dialogue came to, None where the model did not answer. ``why``: the last reason for that.

    ``asked``: questions that the model answered now; ``stored``: that the lake held; ``models``: what answered now.
    """

    results: Sequence[T | None]
    estimate: Estimate
    asked: int
    stored: int
    unanswered: int
    refused: int
    why: str | None
    models: Sequence[str]

    def facts(self) -> dict[str, Any]:
        """Plain JSON values for a report."""
        return {
            "estimate": asdict(self.estimate), "asked": self.asked, "stored": self.stored,
            "unanswered": self.unanswered, "refused": self.refused,
        }  # fmt: skip

    def complete(self) -> None:
        """Raises ``EngineError`` where a dialogue was not held to its end."""
        if self.unanswered:
            raise EngineError(
                f"{self.unanswered} of {len(self.results)} dialogues were not answered: {self.why}",
                code="unanswered",
                fix="run it again: what was answered is kept",
            )


class Held:
    """The answers that the lake holds, each read once."""

    def __init__(self, lake: Lake, endpoint: Endpoint) -> None:
        self.lake, self.endpoint = lake, endpoint
        self._keys = set(list_answers(lake))
        self._read: dict[str, Answer] = {}
        self.seconds: list[float] = []

    def __call__(self, question: Question) -> Answer | None:
        """The stored answer to ``question``."""
        key = question.key(self.endpoint)
        if key not in self._read and key in self._keys:
            document = get_answer(self.lake, key)
            if document is not None:
                self._read[key] = _answer(key, document)
                if document["reply"] is not None:
                    self.seconds.append(document["seconds"])
        return self._read.get(key)

    def __contains__(self, key: str) -> bool:
        return key in self._keys

    def keep(self, question: Question, document: Mapping[str, Any]) -> Answer:
        """Store what was answered; only then is it one."""
        key = question.key(self.endpoint)
        put_answer(self.lake, key, document)
        self._keys.add(key)
        answer = self._read[key] = _answer(key, document)
        return answer


def stored_answer(lake: Lake, key: str) -> Answer | None:
    """The answer that the lake keeps under ``key``, None where there is none."""
    document = get_answer(lake, key)
    return None if document is None else _answer(key, document)


def ask(
    lake: Lake,
    endpoint: Endpoint,
    dialogues: Sequence[Callable[[], Dialogue[T]]],
    episodes: pl.DataFrame,
    *,
    rounds: int,
    progress: Progress,
    title: str,
) -> Asked[T]:
    """Hold ``dialogues`` (each a function that begins it anew) of at most ``rounds`` questions about ``episodes``.

    Says what it will take before the first question. Raises ``RequestError`` where that is over the endpoint's budget,
    where its key or address is wrong, and where it refuses everything; ``EngineError`` where nothing answers any more.
    """
    held = Held(lake, endpoint)
    with ThreadPoolExecutor(1 if lake.is_local else _WRITERS) as pool:
        found = list(pool.map(lambda begin: replay(begin(), held), dialogues))
    estimate = _estimate(found, endpoint, rounds, held)
    todo = [index for index, (_, question, _) in enumerate(found) if question is not None]
    results: list[T | None] = [result for result, _, _ in found]
    talk = _Talk(held, endpoint, Pictures(lake, episodes, endpoint), any_answer=bool(held.seconds))
    if todo:
        chat = Chat(endpoint)
        progress.say(estimate.line(endpoint))
        _afford(estimate, endpoint)
        with progress.stage(title, len(todo)) as forward:
            _outside(talk.run(chat, [(index, dialogues[index]) for index in todo], results, forward))
        talk.settle()
    return Asked(
        results, estimate, talk.asked, estimate.stored, talk.unanswered, len(talk.refusals), talk.why,
        sorted(talk.models),
    )  # fmt: skip


def ask_about(lake: Lake, labeller: Asking, episodes: pl.DataFrame, *, progress: Progress) -> Asked[Labels]:
    """Ask what ``labeller`` wants to know of ``episodes``, so that it can label them from stored answers.

    Raises as :func:`ask` does, and where a question was not answered.
    """
    begins = [partial(labeller.dialogue, episode) for episode in episodes.iter_rows(named=True)]
    asked = ask(
        lake, labeller.endpoint, begins, episodes, rounds=labeller.rounds, progress=progress,
        title=f"ask for {labeller.spec.name}",
    )  # fmt: skip
    asked.complete()
    return asked


class _Talk:
    """The dialogues of one run while they are held."""

    def __init__(self, held: Held, endpoint: Endpoint, pictures: Pictures, *, any_answer: bool) -> None:
        self.held, self.endpoint, self.pictures = held, endpoint, pictures
        self.any_answer = any_answer
        self.asked = self.unanswered = 0
        self.in_a_row = 0
        self.why: str | None = None
        self.models: set[str] = set()
        self.refusals: dict[str, tuple[Question, dict[str, Any]]] = {}
        self._asking: dict[str, asyncio.Future[Answer]] = {}

    async def run(
        self, chat: Chat, todo: Sequence[tuple[int, Callable[[], Dialogue[T]]]], results: list[T | None],
        forward: Callable[[int], None],
    ) -> None:  # fmt: skip
        """Hold them over ``chat``, ``concurrency`` at a time."""
        queue = iter(todo)
        with ThreadPoolExecutor(_WRITERS) as self._writers, ThreadPoolExecutor(2) as self._painters:
            async with chat as self._chat:
                workers = [
                    asyncio.create_task(self._work(queue, results, forward))
                    for _ in range(min(self.endpoint.concurrency, len(todo)))
                ]
                try:
                    await asyncio.gather(*workers)
                finally:
                    for worker in workers:
                        worker.cancel()
                    await asyncio.gather(*workers, return_exceptions=True)

    async def _work(
        self, queue: Iterator[tuple[int, Callable[[], Dialogue[T]]]], results: list[T | None],
        forward: Callable[[int], None],
    ) -> None:  # fmt: skip
        for index, begin in queue:
            try:
                results[index] = await self._hold(begin())
            except Unanswered as error:
                self.unanswered += 1
                self.in_a_row += 1
                self.why = str(error)
                if self.in_a_row >= max(_GIVE_UP, self.endpoint.concurrency):
                    raise EngineError(
                        f"{self.endpoint.url} does not answer any more: {error}",
                        code="unreachable",
                        fix="run it again: what was answered is kept",
                    ) from error
            forward(1)

    async def _hold(self, dialogue: Dialogue[T]) -> T:
        try:
            question = next(dialogue)
            while True:
                question = dialogue.send(await self._answer(question))
        except StopIteration as end:
            return end.value
        finally:
            dialogue.close()

    async def _answer(self, question: Question) -> Answer:
        """The stored answer, or the model's, which others that ask the same wait for."""
        key = question.key(self.endpoint)
        loop = asyncio.get_running_loop()
        while (waiting := self._asking.get(key)) is not None:
            await asyncio.wait([waiting])
        if key in self.refusals:
            return _answer(key, self.refusals[key][1])
        mine = self._asking[key] = loop.create_future()
        try:
            known = await loop.run_in_executor(self._writers, self.held, question) if key in self.held else None
            return known if known is not None else await self._new(key, question)
        finally:
            del self._asking[key]
            mine.cancel()

    async def _new(self, key: str, question: Question) -> Answer:
        loop = asyncio.get_running_loop()
        document: dict[str, Any] = {
            "key": key, "endpoint": self.endpoint.identity, "system": question.system, "parts": question.as_list(),
            "asked_at": datetime.now(UTC).isoformat(timespec="milliseconds"),
        }  # fmt: skip
        try:
            urls = [await loop.run_in_executor(self._painters, self.pictures.url, one) for one in question.pictures]
            reply = await self._chat.complete(_body(self.endpoint, question, urls))
        except SourceError as error:
            if error.code == "missing_file":
                raise Unanswered(str(error)) from error
            refusal: str | None = f"no picture to show: {error}"
        except Refused as error:
            refusal = str(error)
        else:
            document |= {"reply": reply.document, "refusal": None, "seconds": reply.seconds}
            answer = await loop.run_in_executor(self._writers, self.held.keep, question, document)
            self.asked, self.in_a_row = self.asked + 1, 0
            self.any_answer = True
            self.models.add(answer.model)
            return answer
        document |= {"reply": None, "refusal": refusal, "seconds": 0.0}
        self.refusals[key] = (question, document)
        return _answer(key, document)

    def settle(self) -> None:
        """Keep the refusals, if anything was answered: where nothing was, it is the request that is wrong."""
        if self.refusals and not self.any_answer:
            first = next(iter(self.refusals.values()))[1]["refusal"]
            raise RequestError(
                f"none of {len(self.refusals)} questions to {self.endpoint.url} was answered: {first}",
                code="refused",
                fix="see the camera, and what the model takes: pictures, max_tokens, side",
            )
        for question, document in self.refusals.values():
            self.held.keep(question, document)


def _estimate(
    found: Sequence[tuple[Any, Question | None, int]], endpoint: Endpoint, rounds: int, held: Held
) -> Estimate:
    questions = tokens_in = tokens_out = 0
    each = endpoint.picture_tokens or math.ceil(endpoint.side / _PATCH) ** 2
    for _, question, answered in found:
        if question is None:
            continue
        left = max(rounds - answered, 1)
        mine = math.ceil(question.characters / _CHARACTERS) + each * len(question.pictures)
        questions += left
        tokens_in += left * mine + (left - 1) * endpoint.max_tokens  # what was answered may be read out again
        tokens_out += left * endpoint.max_tokens
    cost = (tokens_in * endpoint.price_in + tokens_out * endpoint.price_out) / 1e6
    one = median(held.seconds) if held.seconds else endpoint.seconds
    basis = f"{one:.2g} s an answer, {'as before' if held.seconds else 'assumed'}, {endpoint.concurrency} at a time"
    seconds = math.ceil(questions / endpoint.concurrency) * one
    return Estimate(questions, sum(n for _, _, n in found), tokens_in, tokens_out, cost, seconds, basis)


def _afford(estimate: Estimate, endpoint: Endpoint) -> None:
    if endpoint.most_questions is not None and estimate.questions > endpoint.most_questions:
        raise RequestError(
            f"{estimate.questions:,} questions are more than most_questions, {endpoint.most_questions:,}",
            code="over_budget",
            fix="ask about less, or raise it",
        )
    if endpoint.budget is not None and estimate.cost > endpoint.budget:
        raise RequestError(
            f"it may cost {_money(estimate.cost)}, the budget is {_money(endpoint.budget)}",
            code="over_budget",
            fix="ask about less, lower max_tokens or side, or raise the budget",
        )


def _body(endpoint: Endpoint, question: Question, urls: Sequence[str]) -> dict[str, Any]:
    """The request, as chat completions take it."""
    left = iter(urls)
    parts = [
        {"type": "text", "text": part}
        if isinstance(part, str)
        else {"type": "image_url", "image_url": {"url": next(left)}}
        for part in question.parts
    ]
    content: Any = parts if question.pictures else "".join(part for part in question.parts if isinstance(part, str))
    system = [{"role": "system", "content": question.system}] if question.system else []
    return {
        "model": endpoint.model, "messages": [*system, {"role": "user", "content": content}],
        "temperature": endpoint.temperature, "max_tokens": endpoint.max_tokens,
        **({} if endpoint.seed is None else {"seed": endpoint.seed}),
    }  # fmt: skip


def _answer(key: str, document: Mapping[str, Any]) -> Answer:
    reply = document["reply"]
    if reply is None:
        return Answer(key, None, refusal=document["refusal"])
    choice = reply["choices"][0]
    content, refusal = choice["message"].get("content"), choice["message"].get("refusal")
    if isinstance(content, list):  # some servers answer in parts
        content = "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    model = str(reply.get("model") or document["endpoint"]["model"])
    if not content and refusal:
        return Answer(key, None, model, str(refusal))
    return Answer(key, str(content or ""), model, cut=choice.get("finish_reason") == "length")


def _outside(work: Any) -> None:
    """Run a coroutine to its end, also where this thread runs a loop already."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        asyncio.run(work)
        return
    failed: list[BaseException] = []

    def run() -> None:
        try:
            asyncio.run(work)
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run, name="asking")
    thread.start()
    thread.join()
    if failed:
        raise failed[0]


def _money(amount: float) -> str:
    return f"{amount:,.2f}" if amount >= 0.1 or not amount else f"{amount:.2g}"


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
