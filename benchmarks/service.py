"""What a request costs: a service over a million episodes and ten million scores, asked by eight clients at once.

    python benchmarks/service.py [--quick] [--json] [--minutes M] [--episodes N] [--lake FOLDER]

The lake is made of metadata (kept in --lake for the next time). Point look-up stands beside a bare FastAPI route,
filter and top-100 beside raw polars on one wide table in memory; both are limits, not rivals. Clients are a process of
their own on the same cores. ``staleness`` is how long after another process's commit the service tells of it, asked
while the clients go on. ``--minutes`` asks all of it for so long and tells what the service's memory did.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import polars as pl
import pyarrow as pa

from benchmarks.own_scripts.served_lake import SCORERS, THINGS, VERBS, made
from benchmarks.table import Machine, options_of
from storage.lake import Lake

CLIENTS = 8
ARROW = "application/vnd.apache.arrow.stream"
SHOWN = "episode_id,task,operator,n_steps,composite"


def main() -> int:
    parser = options_of(__doc__)
    parser.add_argument("--minutes", type=float, default=0.0, help="of mixed load at the end, for its memory")
    parser.add_argument("--episodes", type=int, default=1_000_000)
    parser.add_argument("--lake", type=Path, default=Path(tempfile.gettempdir()) / "data-engine-served-lake")
    asked = parser.parse_args()
    seconds = 3.0 if asked.quick else 15.0
    machine = Machine()
    lake = made(asked.lake, asked.episodes)
    found: dict[str, Any] = {}
    with Process(["-m", "api.cli", "serve", "--no-schedules", "--no-keys", "--rate", "1000000", "--port", "{port}",
                  "--lake", str(asked.lake)], "/v1/ready") as service:  # fmt: skip
        found["ready_s"] = round(service.ready_s, 1)
        for scorer in SCORERS:  # each is imported when it is first asked for
            get(service.port, f"/v1/scores/{scorer}/distribution")
        for name, ask in QUESTIONS.items():
            load(service.port, ask, asked.episodes, 1.0)
            found[name] = load(service.port, ask, asked.episodes, seconds)
            print(name, found[name], file=sys.stderr, flush=True)
        found["arrow_100k"] = streamed(service.port, 3 if asked.quick else 10)
        found["staleness_s"] = staleness(service.port, lake, asked.episodes, 3 if asked.quick else 10)
        found["memory_mb"] = [round(service.memory_mb())]
        if asked.minutes:
            found["memory_mb"] += remembered(service, lake, asked.episodes, asked.minutes)
    with Process([str(Path(__file__).parent / "own_scripts/bare_route.py"), str(asked.lake), "{port}"],
                 f"/bare/{episode(0)}") as bare:  # fmt: skip
        load(bare.port, lambda rng, count: f"/bare/{episode(rng.integers(count))}", asked.episodes, 1.0)
        found["bare route"] = load(
            bare.port, lambda rng, count: f"/bare/{episode(rng.integers(count))}", asked.episodes, seconds
        )
    found["raw polars"] = raw(lake, 10 if asked.quick else 50)
    found["look-up beside the bare route"] = round(
        found["bare route"]["per_s"] / max(found["point look-up"]["per_s"], 1e-9), 2
    )
    facts = {"machine": machine.facts(), "found": found}
    if asked.json:
        print(json.dumps(facts))
    else:
        print_table(found, facts["machine"])
    return 0


def episode(number: int) -> str:
    return f"ep_{int(number):020x}"


def point(rng: np.random.Generator, count: int) -> str:
    return f"/v1/episodes/{episode(rng.integers(count))}"


def point_row(rng: np.random.Generator, count: int) -> str:
    return f"/v1/episodes?where={quote(_is(rng, count))}&columns={SHOWN}&limit=1"


def _is(rng: np.random.Generator, count: int) -> str:
    return f"episode_id = '{episode(rng.integers(count))}'"


def top(rng: np.random.Generator, count: int) -> str:
    scorer, other = rng.choice(SCORERS, 2, replace=False)
    word = rng.choice(VERBS)
    where = f"success AND {scorer} < {rng.uniform(0.2, 0.8):.3f} AND task ILIKE '%{word}%'"
    return f"/v1/episodes?where={quote(where)}&order_by=-{other}&limit=100&columns={SHOWN},{other}"


def text(rng: np.random.Generator, count: int) -> str:
    where = f"task ILIKE '%{rng.choice(THINGS)[2:]}%' AND operator LIKE '%{rng.integers(10)}'"
    return f"/v1/episodes?where={quote(where)}&limit=20&columns={SHOWN}"


QUESTIONS: dict[str, Callable[[np.random.Generator, int], str]] = {
    "point look-up": point, "filter and top-100": top, "text search": text,
}  # fmt: skip


class Process:
    """A server on a port of its own, ready to be asked; with its memory."""

    def __init__(self, arguments: list[str], ready: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self._command = [sys.executable, *(each.replace("{port}", str(self.port)) for each in arguments)]
        self._ready, self.ready_s = ready, 0.0

    def __enter__(self) -> Process:
        began = time.monotonic()
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])}
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, env=environment)
        while time.monotonic() - began < 300:
            try:
                if get(self.port, self._ready)[0] == 200:
                    self.ready_s = time.monotonic() - began
                    return self
            except OSError:
                pass
            if self._process.poll() is not None:
                raise RuntimeError(f"{self._command} ended")
            time.sleep(0.1)
        raise RuntimeError(f"{self._command} is not ready")

    def __exit__(self, *error: object) -> None:
        self._process.terminate()
        self._process.wait()

    def memory_mb(self) -> float:
        """Resident, of the process and its children."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024  # type: ignore[index]


def get(port: int, path: str, **headers: str) -> tuple[int, bytes]:
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def load(port: int, ask: Callable[[np.random.Generator, int], str], count: int, seconds: float) -> dict[str, Any]:
    """Eight clients, each with a connection that it keeps, for so long, from a process of their own."""
    from multiprocessing import get_context

    with get_context("fork").Pool(1) as pool:
        times, wrong = pool.apply(_clients, (port, ask.__name__, count, seconds))
    if wrong:
        raise RuntimeError(wrong[0])
    p50, p99 = (float(each) * 1000 for each in np.percentile(times, [50, 99]))
    return {"p50_ms": round(p50, 2), "p99_ms": round(p99, 2), "per_s": round(len(times) / seconds, 1)}


def _clients(port: int, name: str, count: int, seconds: float) -> tuple[list[float], list[str]]:
    asks = {ask.__name__: ask for ask in QUESTIONS.values()}
    ask = asks.get(name, lambda rng, count: f"/bare/{episode(rng.integers(count))}")
    times: list[float] = []
    wrong: list[str] = []
    end = time.monotonic() + seconds

    def client(number: int) -> None:
        rng = np.random.default_rng([number, int(seconds * 1000)])
        connection = HTTPConnection("127.0.0.1", port, timeout=60)
        while time.monotonic() < end:
            path = ask(rng, count)
            began = time.perf_counter()
            connection.request("GET", path)
            answer = connection.getresponse()
            said = answer.read()
            times.append(time.perf_counter() - began)
            if answer.status != 200:
                wrong.append(f"{path}: {said[:300]!r}")
                return
        connection.close()

    threads = [threading.Thread(target=client, args=(number,)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return times, wrong


def streamed(port: int, times: int) -> dict[str, float]:
    """100,000 rows as an Arrow stream, read to a table."""
    took, size = [], 0
    for _ in range(times):
        began = time.perf_counter()
        status, body = get(port, "/v1/episodes?limit=100000", Accept=ARROW)
        table = pa.ipc.open_stream(body).read_all()
        took.append(time.perf_counter() - began)
        if status != 200 or len(table) != min(100_000, len(table)):
            raise RuntimeError(body[:300])
        size = len(body)
    return {"mb": round(size / 1e6, 1), "mb_per_s": round(size / 1e6 / float(np.median(took)), 1),
            "ms": round(float(np.median(took)) * 1000, 1)}  # fmt: skip


def staleness(port: int, lake: Lake, count: int, times: int) -> dict[str, float]:
    """Seconds from a commit of this process to the first answer that tells of it, while clients go on asking."""
    stop = threading.Event()

    def busy() -> None:
        while not stop.is_set():
            load(port, top, count, 2.0)

    thread = threading.Thread(target=busy)
    thread.start()
    took = []
    try:
        for number in range(times):
            name = f"run_stale_{time.time_ns()}_{number}"
            row = {"run_id": name, "verb": "note", "state": "completed", "recipe": "{}"}
            lake.append_rows("runs", [row], transaction=name)
            began = time.monotonic()
            while name.encode() not in get(port, "/v1/runs")[1]:
                time.sleep(0.02)
            took.append(time.monotonic() - began)
    finally:
        stop.set()
        thread.join()
    return {"median": round(float(np.median(took)), 2), "most": round(max(took), 2)}


def remembered(service: Process, lake: Lake, count: int, minutes: float) -> list[int]:
    """The service's memory, twice a minute, under all questions in turn and a commit every five seconds."""
    found, end, asks = [], time.monotonic() + 60 * minutes, list(QUESTIONS.values())
    number = 0
    while time.monotonic() < end:
        for _ in range(6):
            load(service.port, asks[number % len(asks)], count, 5.0)
            name = f"run_load_{time.time_ns()}"
            row = {"run_id": name, "verb": "note", "state": "completed", "recipe": "{}"}
            lake.append_rows("runs", [row], transaction=name)
            number += 1
        found.append(round(service.memory_mb()))
        print(f"memory {found[-1]} MB", file=sys.stderr, flush=True)
    return found


def raw(lake: Lake, times: int) -> dict[str, float]:
    """The same filter and top-100 by polars alone, on one wide table that is made beforehand."""
    wide = lake.episodes(columns=["episode_id", "task", "operator", "n_steps", "success"])
    for scorer in SCORERS:
        mine = lake.scan("scores").filter(pl.col("scorer") == scorer).select("unit_id", "value").collect()
        wide = wide.join(mine.rename({"unit_id": "episode_id", "value": scorer}), on="episode_id", how="left")
    rng = np.random.default_rng(0)
    took = []
    for _ in range(times):
        scorer, other = rng.choice(SCORERS, 2, replace=False)
        word = str(rng.choice(VERBS))
        began = time.perf_counter()
        asked = pl.col("success") & (pl.col(scorer) < 0.5) & pl.col("task").str.contains(word, literal=True)
        wide.lazy().filter(asked).top_k(100, by=other).collect()
        took.append(time.perf_counter() - began)
    return {"p50_ms": round(float(np.median(took)) * 1000, 2), "p99_ms": round(float(np.max(took)) * 1000, 2)}


def print_table(found: dict[str, Any], machine: Any) -> None:
    print(f"{'':34}{'p50 ms':>10}{'p99 ms':>10}{'a second':>10}")
    for name in (*QUESTIONS, "bare route", "raw polars"):
        row = found[name]
        print(f"{name:34}{row['p50_ms']:>10}{row['p99_ms']:>10}{row.get('per_s', ''):>10}")
    for name in ("arrow_100k", "staleness_s", "memory_mb", "ready_s", "look-up beside the bare route"):
        print(f"{name:34}{found[name]}")
    print(machine)


if __name__ == "__main__":
    sys.exit(main())
