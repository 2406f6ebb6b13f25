"""What a reward learned from preferences is worth, and how fast models are asked.

    python benchmarks/preferences.py [--quick] [--json]

Accuracy: 206 human PushT episodes, whose truth is the block's distance from its goal pose. Pairs of frames of two
thirds of the episodes are answered by that truth, a share of the answers wrong; a line says how often the reward ranks
pairs of the other third as the truth does (pairs that differ by less than a twentieth of its deviation are left out),
and what its own held-out accuracy, which knows the answers only, says.

Speed: answers a second of ``flows.ask`` (pictures decoded and coded, every answer on disk) against a server that does
nothing, at 1, 8 and 32 at once, and what the same requests take from that server with nothing but aiohttp.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.acting_pusht import recordings
from benchmarks.measures import batch_of
from benchmarks.table import Machine, options
from data_engine.model import PREFERENCES
from data_engine.preferences import Item, Preference
from data_engine.scoring import EpisodeBatch
from flows.executor import set_threads
from scorers.preference_reward import PreferenceReward

FLIPS = (0.0, 0.1, 0.2, 0.3)
PAIRS = (100, 300, 1000)
AT_ONCE = (1, 8, 32)
QUESTIONS = 400


def worth(state: np.ndarray) -> np.ndarray:
    """How near the block is to its goal pose (256, 256, 45 degrees): minus pixels, minus 100 a radian, float64 [n]."""
    turn = (state[:, 4] - np.pi / 4 + np.pi) % (2 * np.pi) - np.pi
    return -np.linalg.norm(state[:, 2:4] - 256.0, axis=1) - 100.0 * np.abs(turn)


def accuracies(data: Path, quick: bool) -> Iterator[dict[str, Any]]:
    """A row for each share of wrong answers and number of pairs, the mean of the seeds."""
    courses = recordings(data)
    told = [course for place, course in enumerate(courses) if place % 3]
    unseen = [course for place, course in enumerate(courses) if not place % 3]
    batch, other = batch_of(told, fps=10.0), batch_of(unseen, fps=10.0)
    truth, judged = (np.concatenate([worth(course.state) for course in part]) for part in (told, unseen))
    for flips in FLIPS:
        for pairs in PAIRS[1:2] if quick else PAIRS:
            found = [_accuracy(batch, truth, other, judged, pairs, flips, seed) for seed in range(1 if quick else 3)]
            right, own, seconds = (float(np.mean(column)) for column in zip(*found, strict=True))
            yield {"wrong answers": flips, "pairs": pairs, "unseen pairs ranked right": right,
                   "held-out accuracy by its answers": own, "CPU s to learn": seconds}  # fmt: skip


def _accuracy(
    batch: EpisodeBatch, truth: np.ndarray, other: EpisodeBatch, judged: np.ndarray, pairs: int, flips: float, seed: int
) -> tuple[float, float, float]:
    draw = np.random.default_rng(seed)
    steps = draw.integers(len(truth), size=(pairs, 2))
    better = (truth[steps[:, 1]] > truth[steps[:, 0]]) ^ (draw.random(pairs) < flips)
    owner = np.searchsorted(batch.offsets, steps, side="right") - 1
    said = []
    for row, answer in enumerate(better.tolist()):
        items = [Item("", int(step - batch.offsets[e]), int(step - batch.offsets[e]) + 1, None, batch.content_hashes[e])
                 for step, e in zip(steps[row], owner[row], strict=True)]  # fmt: skip
        said.append(Preference.pair(*items, float(answer), own_id=str(row)).row())
    labeller = PreferenceReward()
    began = time.process_time()
    told = pa.Table.from_pylist(said, schema=PREFERENCES)
    fit = labeller.fit([replace(batch, preferences=told)], seed=seed)
    seconds = time.process_time() - began
    labels = labeller.label(other, fit)
    reward = np.concatenate([one.annotations[0].step_values for one in labels])
    two = np.random.default_rng(7).integers(len(judged), size=(20_000, 2))
    ahead, said_ahead = (values[two[:, 1]] - values[two[:, 0]] for values in (judged, reward))
    apart = np.abs(ahead) > judged.std() / 20
    right = float((np.sign(ahead) == np.sign(said_ahead))[apart].mean())
    return right, float(fit.meta["nets"][0]["accuracy"] or np.nan), seconds


def _serve(ports: Any) -> None:
    """A server of the protocol that answers at once, in a process of its own."""
    from aiohttp import web

    said = {"model": "m", "choices": [{"message": {"role": "assistant", "content": "1"}, "finish_reason": "stop"}]}
    data = json.dumps(said).encode()

    async def answer(request: web.Request) -> web.Response:
        await request.read()
        return web.Response(body=data, content_type="application/json")

    async def main() -> None:
        app = web.Application(client_max_size=1 << 24)
        app.router.add_post("/v1/chat/completions", answer)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        ports.put(runner.addresses[0][1])
        await asyncio.Event().wait()

    asyncio.run(main())


@contextmanager
def server() -> Iterator[str]:
    """Its URL, up for as long as the block."""
    context = multiprocessing.get_context("spawn")
    ports = context.Queue()
    process = context.Process(target=_serve, args=(ports,), daemon=True)
    process.start()
    try:
        yield f"http://127.0.0.1:{ports.get(timeout=60)}/v1"
    finally:
        process.terminate()
        process.join()


def speeds(quick: bool) -> Iterator[dict[str, Any]]:
    """A row for each number at once."""
    from data_engine.recipe import SourceRecipe
    from flows.executor import Local
    from flows.ingest import ingest
    from flows.progress import silent
    from storage.lake import Lake
    from tests.squares import write_squares

    count = 100 if quick else QUESTIONS
    with tempfile.TemporaryDirectory() as folder, server() as url:
        lake = Lake.open(f"{folder}/lake", create=True)
        source = SourceRecipe(name="squares", uri=str(write_squares(Path(folder) / "squares.hdf5", 24)))
        ingest(lake, source, on=Local(), progress=silent(), run_id="benchmark")
        for at_once in AT_ONCE:
            engine = _asked(lake, url, count, at_once)
            bare = asyncio.run(_bare(url, count, at_once))
            yield {"at once": at_once, "answers/s": count / engine, "bare aiohttp/s": count / bare}


def _asked(lake: Any, url: str, count: int, at_once: int) -> float:
    """Seconds to ask ``count`` questions of two pictures each, which nobody has asked before."""
    from functools import partial

    from data_engine.asking import Picture, Question
    from data_engine.endpoint import Endpoint
    from flows.ask import ask
    from flows.preferences import draw
    from flows.progress import silent

    def dialogue(question: Question) -> Any:
        answer = yield question
        return answer.text

    episodes = lake.episodes()
    begins = []
    for _, *items in draw(episodes, pairs=count, cameras=True, seed=at_once):
        shown = [Picture(item.episode_id, item.content_hash, item.camera, item.start) for item in items]
        begins.append(partial(dialogue, Question((f"{at_once}: which?", *shown))))
    began = time.perf_counter()
    endpoint = Endpoint(url=url, model="m", concurrency=at_once)
    ask(lake, endpoint, begins, episodes, rounds=1, progress=silent(), title="asking").complete()
    return time.perf_counter() - began


async def _bare(url: str, count: int, at_once: int) -> float:
    import aiohttp

    data = json.dumps({"model": "m", "messages": [{"role": "user", "content": "x" * 6000}]}).encode()
    left = iter(range(count))
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=at_once)) as session:

        async def work() -> None:
            for _ in left:
                async with session.post(f"{url}/chat/completions", data=data) as response:
                    await response.json()

        began = time.perf_counter()
        await asyncio.gather(*(work() for _ in range(at_once)))
        return time.perf_counter() - began


def main() -> None:
    """Print both tables."""
    given = options(__doc__)
    set_threads(1)
    machine = Machine()
    tables = {"accuracy": list(accuracies(given.data, given.quick)), "speed": list(speeds(given.quick))}
    facts = machine.facts()
    if given.json:
        print(json.dumps({**tables, "machine": facts}))
        return
    for name, rows in tables.items():
        print(f"{name}\n\n" + "  ".join(rows[0]))
        for row in rows:
            cells = (
                f"{value:.3g}" if isinstance(value, float) and value < 100 else f"{value:.0f}" for value in row.values()
            )
            print("  ".join(cell.rjust(len(head)) for head, cell in zip(row, cells, strict=True)))
        print()
    print(f"{facts['seconds']:.0f} s; other programs used {facts['others']:.0%} of the processors")


if __name__ == "__main__":
    main()
