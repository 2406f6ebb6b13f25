"""What an ingest needs as its source grows: ten times the bytes, ten times the episodes.

    python benchmarks/long_source.py [--quick] [--json] [--work FOLDER]
                                     [--only lerobot|robomimic|video|episodes|hundredfold ...]

Synthetic sets of 0.5 and 5 GB (``--quick``: 50 and 500 MB) as LeRobot v3 of many files, the same with a video a data
file, and robomimic HDF5 of many demonstrations; then sets of 10,000 and 100,000 (``--quick``: 1,000 and 10,000) short
episodes; then a robomimic file of 0.5 and 50 GB (``--quick``: 50 MB and 5 GB) whose demonstrations, of 2 MB, are
zeros but for their first second, which file systems keep as holes: only so it fits a disk, and all of it is read.
Each is ingested by the command line in a process of its own. ``peak`` is the most memory that the process and its
children held at once: ``anon`` is their own, ``all`` counts mapped files and libraries too, each page once (PSS);
clean pages of mapped files are the page cache's, which the kernel takes back at will. ``growth`` is the larger set's
over the smaller's; time is linear in the episodes where their power is 1, and less where a fixed cost still counts.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.long_sets import FPS, Shape, clip, lerobot, robomimic

_POLL_S = 0.05


@dataclass(frozen=True)
class Memory:
    """Bytes of a process and all its children: their own, and with what is mapped, each shared page once."""

    anon: int = 0
    all: int = 0

    @classmethod
    def of(cls, root: int) -> Memory:
        """What the processes below ``root`` hold now."""
        anon = whole = 0
        for pid in _tree(root):
            try:
                lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
            except OSError:  # it has ended
                continue
            fields = {line.split(":")[0]: int(line.split()[1]) << 10 for line in lines}
            anon, whole = anon + fields.get("Pss_Anon", 0), whole + fields.get("Pss", 0)
        return cls(anon, whole)

    def or_more(self, other: Memory) -> Memory:
        """The larger of each."""
        return Memory(max(self.anon, other.anon), max(self.all, other.all))


def _tree(root: int) -> Iterator[int]:
    yield root
    try:
        children = Path(f"/proc/{root}/task/{root}/children").read_text().split()
    except OSError:
        return
    for child in children:
        yield from _tree(int(child))


@dataclass(frozen=True)
class Ingest:
    """One ingest: seconds, of which ``probe_s`` before the first shard, seconds of processors, and the most memory."""

    kind: str
    bytes: int
    episodes: int
    workers: int
    seconds: float
    cpu_s: float
    probe_s: float
    peak: Memory


def ingest(kind: str, source: Path, work: Path, workers: int) -> Ingest:
    """Ingest ``source`` into a new lake by the command line, and remove the lake."""
    lake = work / "lake"
    size = sum(path.stat().st_size for path in [source, *source.rglob("*")] if path.is_file())
    command = [sys.executable, "-m", "api.cli", "ingest", source, "--dataset", "long", "--lake", lake, "--json"]
    peak = Memory()
    began, worked = time.perf_counter(), _children_s()
    with subprocess.Popen(
        [*map(str, command), "--workers", str(workers)],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": os.getcwd()},
    ) as child:  # fmt: skip
        ended = threading.Event()

        def watch() -> None:
            nonlocal peak
            while not ended.wait(_POLL_S):
                peak = peak.or_more(Memory.of(child.pid))

        watcher = threading.Thread(target=watch)
        watcher.start()
        out, _ = child.communicate()
        seconds = time.perf_counter() - began
        ended.set()
        watcher.join()
    made = json.loads(out)
    if child.returncode:
        raise RuntimeError(f"the ingest of {source} failed: {made['error']['message']}")
    shutil.rmtree(lake)
    return Ingest(kind, size, made["stored"]["episodes"], workers, seconds, _children_s() - worked,
                  made["timing"]["probe_s"], peak)  # fmt: skip


def _children_s() -> float:
    """Processor seconds of all children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def by_bytes(quick: bool) -> dict[str, Callable[[Path, int], Path]]:
    """Sets of a wanted number of bytes: the large one has ten times the files or demonstrations of the small one."""
    steps, width = 200, 288

    def shape(size: int) -> Shape:
        return Shape(size // (steps * width * 4), steps, width)

    def filmed(work: Path, size: int) -> Path:
        frames = clip(work / "clip.mp4", 20 if quick else 120)
        files = max(1, size // frames.stat().st_size)
        return lerobot(work / "set", Shape(files * (1 if quick else 6), 20, 32), video=frames)

    return {
        "lerobot": lambda work, size: lerobot(
            work / "set", shape(size), file_bytes=10_000_000 if quick else 100_000_000
        ),
        "video": filmed,
        "robomimic": lambda work, size: robomimic(work / "set.hdf5", shape(size)),
    }


def by_episodes() -> dict[str, Callable[[Path, int], Path]]:
    """Sets of a wanted number of short episodes."""
    return {
        "lerobot": lambda work, count: lerobot(work / "set", Shape(count, 20, 8)),
        "robomimic": lambda work, count: robomimic(work / "set.hdf5", Shape(count, 20, 8)),
    }


def hundredfold() -> dict[str, Callable[[Path, int], Path]]:
    """Sets of a wanted number of bytes, most of them holes of the file."""
    steps, width = 1800, 288
    return {
        "robomimic": lambda work, size: robomimic(
            work / "set.hdf5", Shape(size // (steps * width * 4), steps, width, noisy=FPS)
        )
    }


def measured(
    work: Path, sets: dict[str, Callable[[Path, int], Path]], sizes: Sequence[int], workers: Sequence[int]
) -> Iterator[list[Ingest]]:
    """The ingests of each kind of set in all ``sizes``, for each number of workers; nothing is left in ``work``."""
    for kind, make in sets.items():
        found: dict[int, list[Ingest]] = {count: [] for count in workers}
        for size in sizes:
            with tempfile.TemporaryDirectory(dir=work) as folder:
                source = make(Path(folder), size)
                for count in workers:
                    found[count].append(ingest(kind, source, Path(folder), count))
        yield from found.values()


COLUMNS = ("workers", "MB", "episodes", "s", "CPU s", "probe s", "anon MB", "all MB")
HEAD = " " * 10 + "".join(f"{name:>9}" for name in COLUMNS)


def _line(row: Ingest) -> str:
    cells = (
        str(row.workers), f"{row.bytes / 1e6:,.0f}", f"{row.episodes:,}", f"{row.seconds:.1f}", f"{row.cpu_s:.1f}",
        f"{row.probe_s:.1f}", f"{row.peak.anon / 1e6:,.0f}", f"{row.peak.all / 1e6:,.0f}",
    )  # fmt: skip
    return f"{row.kind:<10}" + "".join(f"{cell:>9}" for cell in cells)


def _growth(rows: Sequence[Ingest]) -> dict[str, float]:
    small, large = rows[0], rows[-1]
    more = large.episodes / small.episodes
    return {
        "anon": large.peak.anon / small.peak.anon,
        "all": large.peak.all / small.peak.all,
        "order": math.log(large.cpu_s / small.cpu_s) / math.log(more),
        "bytes_an_episode": (large.peak.anon - small.peak.anon) / (large.episodes - small.episodes),
    }


def _grown(growth: dict[str, float]) -> str:
    return (
        f"{'growth':<10}anon {growth['anon']:.2f}x, all {growth['all']:.2f}x, {growth['bytes_an_episode']:,.0f} bytes "
        f"an episode; CPU s by the power {growth['order']:.2f} of the episodes\n"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="sets of a tenth of the size")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of tables")
    parser.add_argument("--only", nargs="+", default=["lerobot", "video", "robomimic", "episodes", "hundredfold"])
    parser.add_argument("--work", type=Path, help="where the sets and lakes are made: 12 GB, a tenth with --quick")
    parser.add_argument("--workers", nargs="+", type=int, default=[1, 2])
    asked = parser.parse_args()
    tenth = 10 if asked.quick else 1
    parts = [
        ("bytes", {kind: make for kind, make in by_bytes(asked.quick).items() if kind in asked.only},
         [500_000_000 // tenth, 5_000_000_000 // tenth]),
        ("episodes", by_episodes() if "episodes" in asked.only else {}, [10_000 // tenth, 100_000 // tenth]),
        ("bytes", hundredfold() if "hundredfold" in asked.only else {}, [5 * 10**8 // tenth, 5 * 10**10 // tenth]),
    ]  # fmt: skip
    answer: dict[str, list[Any]] = {}
    with tempfile.TemporaryDirectory(prefix="benchmark-", dir=asked.work) as folder:
        for name, sets, sizes in parts:
            if not asked.json and sets:
                print(f"{sizes[1] // sizes[0]} times the {name}\n\n{HEAD}")
            for rows in measured(Path(folder), sets, sizes, asked.workers):
                grown = _growth(rows)
                answer.setdefault(name, []).append({"ingests": [_as_dict(row) for row in rows], "growth": grown})
                if not asked.json:
                    for row in rows:
                        print(_line(row))
                    print(_grown(grown), flush=True)
    if asked.json:
        print(json.dumps(answer))
    return 0


def _as_dict(row: Ingest) -> dict[str, Any]:
    return {**vars(row), "peak": vars(row.peak)}


if __name__ == "__main__":
    sys.exit(main())
