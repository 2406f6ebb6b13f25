"""Reading RLDS (Open X-Embodiment's format), in episodes a second, against tensorflow-datasets and the floor.

    python benchmarks/rlds.py [--quick] [--json]

BridgeData V2 as it is, its 25 episodes copied into 16 shards (4 with --quick): 400 episodes of 10 steps, four 64x64
JPEG cameras, 56 MB, in the page cache. `values` is everything but pixels, images left as coded; `frames` decodes them
too. Ours checks the checksums of all records. TensorFlow uses all cores, so ours reads whole shards in a process a core
as an ingest does, each keeping what it read; a second row is of one process with one thread. Each reads twice and the
second time counts. ``CPU s`` is of all processes, ``peak MB`` of the first one, ``worker MB`` of each of the others.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

from benchmarks import rivals
from benchmarks.table import Figures, Machine, Row, Table, options, ratio, rounds, show, target

OWN = Path(__file__).parent / "own_scripts"


def enlarge(folder: Path, out: Path, shards: int) -> float:
    """A set of ``shards`` copies of the train shard in ``folder``; its megabytes."""
    out.mkdir()
    shutil.copy(folder / "features.json", out)
    info = json.loads((folder / "dataset_info.json").read_text())
    (split,) = (each for each in info["splits"] if each["name"] == "train")
    (shard,) = folder.glob("*-train.tfrecord-*")
    for number in range(shards):
        shutil.copy(shard, out / f"{info['name']}-train.tfrecord-{number:05d}-of-{shards:05d}")
    split["numBytes"] = str(int(split["numBytes"]) * shards)
    split["shardLengths"] = split["shardLengths"] * shards
    (out / "dataset_info.json").write_text(json.dumps({**info, "splits": [split]}))
    return shard.stat().st_size * shards / 1e6


def main() -> int:
    asked = options(__doc__)
    source = asked.data / "bridge_rlds/1.0.0"
    if not source.exists():
        print(f"{source} is not there; give --data", file=sys.stderr)
        return 2
    machine = Machine()
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        work, shards = Path(folder) / "1.0.0", 4 if asked.quick else 16
        megabytes = enlarge(source, work, shards)
        found = rounds(
            {
                f"{who} {what}": lambda i, read=read, what=what: read(work, what)
                for what in ("values", "frames")
                for who, read in (("ours", ours), ("one", one), ("tfds", rivals.tfds))
            }
            | {"floor": lambda i: rivals.measure(None, OWN / "tfrecord_floor.py", work)},
            1 if asked.quick else 3,
        )
    tables, lines = [], []
    for what, more in (("values", "images left as coded"), ("frames", "and all images decoded")):
        mine, tfds = Row.of("data-engine", found[f"ours {what}"]), Row.of("tensorflow-datasets", found[f"tfds {what}"])
        rows = [mine, tfds, Row.of("data-engine: one thread", found[f"one {what}"])]
        rows += [Row.of("floor: TFRecords read and checked", found["floor"])] if what == "values" else []
        tables.append(Table(f"RLDS, values of every step, {more}", "episodes", rows, {"worker MB": "worker_mb"}))
        lines.append(target(f"{what} against tensorflow-datasets", ratio(mine, tfds), 3))
        lines.append(f"{what}: {(mine.rate or 0) * megabytes / (25 * shards):,.0f} MB/s")
    show(tables, lines, machine, as_json=asked.json)
    return 0


def ours(folder: Path, what: str) -> Figures:
    """Our episodes a second, in a process a core."""
    return rivals.measure(None, OWN / "rlds_read.py", folder, what, len(os.sched_getaffinity(0)))


def one(folder: Path, what: str) -> Figures:
    """Our episodes a second, in one thread."""
    return rivals.measure(None, OWN / "rlds_read.py", folder, what)


if __name__ == "__main__":
    sys.exit(main())
