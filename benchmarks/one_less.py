"""A large LeRobot set with one episode less: seconds, beside a plain copy of the bytes that come out.

    python -m benchmarks.one_less [--quick] [--json]

The sets are of noise: numbers, and one camera. One has a file an episode, the other a few large files of many episodes,
as LeRobot v3.0 is meant. Each was ingested, and exported whole once, as it is where people work with it; then the
mixture of all but one episode is frozen and exported. Seconds are of the clock and of this process's processor time; a
plain copy of the same bytes is the I/O that no exporter can save. LeRobot's own ``delete_episodes`` does the same to
the set that was exported whole, and is ended after ``LIMIT_S`` seconds.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl

from benchmarks.long_sets import Shape, clip, lerobot
from benchmarks.own_scripts.lake import frozen, ingested
from benchmarks.rivals import LEROBOT, measure
from benchmarks.table import Machine, options
from data_engine.recipe import MixtureRecipe, SelectRecipe
from flows.export import export
from flows.mix import mix
from flows.progress import silent
from flows.select import select

LIMIT_S = 300
LAYOUTS = {  # (shape, frames a video file, pixels a side), and with --quick
    "a file an episode": ((Shape(200, 200, 32), 200, 96), (Shape(20, 200, 32), 200, 96)),
    "few large files": ((Shape(2000, 50, 32), 10_000, 64), (Shape(40, 50, 32), 1000, 64)),
}

Found = dict[str, dict[str, float]]


@contextmanager
def _timed(found: Found, what: str) -> Iterator[None]:
    """Put down under ``what`` the seconds of the clock, and of this process's work, that the block took."""
    began, cpu = time.perf_counter(), time.process_time()
    yield
    found[what] = {"seconds": time.perf_counter() - began, "cpu_s": time.process_time() - cpu}


def copied(source: Path, out: Path) -> None:
    """A copy of every file of ``source``, on the disk."""
    for path in sorted(source.rglob("*")):
        if path.is_file():
            (out / path.relative_to(source)).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, out / path.relative_to(source))
    os.sync()


def measured(work: Path, shape: Shape, frames: int, size: int) -> dict[str, Any]:
    """What one set takes: see the module. ``found`` by what was done, ``episodes`` and ``bytes`` that came out."""
    os.environ["DATA_ENGINE_CACHE"] = str(work / "cache")
    source = lerobot(work / "set", shape, video=clip(work / "clip.mp4", frames, size))
    lake = ingested(source, work / "lake", "lerobot_v3")
    found: Found = {}
    everything = frozen(lake)
    with _timed(found, "the whole set, for the first time"):
        export(everything["uri"], "lerobot_v3", str(work / "whole"))
    with _timed(found, "selecting and freezing all but one episode"):
        fewer = lake.episodes().filter(pl.col("source_key") != pl.col("source_key").min())
        select(lake, SelectRecipe(name="fewer", method="filter"), fewer, progress=silent(), run_id="run_benchmark")
        less = mix(lake, MixtureRecipe(entries=[{"selection": "fewer"}]), run_id="run_benchmark")
    with _timed(found, "exporting that"):
        report = export(less["uri"], "lerobot_v3", str(work / "less"))
    with _timed(found, "a plain copy of what came out"):
        copied(work / "less", work / "copy")
    try:
        rival = measure(LEROBOT, "lerobot_delete.py", work / "whole", work / "rival", timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        rival = {"error": f"not done after {LIMIT_S} s"}
    return {"found": found, "episodes": report["episodes"], "bytes": report["bytes"], "rival": rival}


def main() -> int:
    asked = options(__doc__)
    machine = Machine()
    layouts: dict[str, dict[str, Any]] = {}
    for name, (full, quick) in LAYOUTS.items():
        with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
            layouts[name] = measured(Path(folder), *(quick if asked.quick else full))
    facts = machine.facts()
    if asked.json:
        print(json.dumps({"layouts": layouts, "machine": facts}))
        return 0
    for name, told in layouts.items():
        found = told["found"]
        print(f"{name}: {told['episodes']:,} of {told['episodes'] + 1:,} episodes, {told['bytes'] / 1e6:,.0f} MB")
        for what, took in found.items():
            print(f"  {what}: {took['seconds']:.2f} s ({took['cpu_s']:.2f} s of CPU)")
        ours, plain = found["exporting that"], found["a plain copy of what came out"]
        over, cpu = ours["seconds"] - plain["seconds"], ours["cpu_s"] - plain["cpu_s"]
        print(f"  over the plain copy: {over:.2f} s ({cpu:.2f} s of CPU), under 1 s is aimed at")
        rival = told["rival"]
        print(f"  lerobot 0.4.4, delete_episodes: {rival.get('error') or '{seconds:.2f} s'.format(**rival)}")
    print("(LeRobot's own figures: 220 s, and 0.90 s by stream copy)")
    print(f"other programs used {facts['others']:.0%} of the processors")
    return 0


if __name__ == "__main__":
    sys.exit(main())
