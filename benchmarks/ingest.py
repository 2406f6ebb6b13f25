"""Ingest of a LeRobot v3 set and a robomimic file, and export as LeRobot v3, against two rivals and the floor.

    python benchmarks/ingest.py [--quick] [--json]

180 Meta-World episodes, 30,568 steps without video, and 100 copies of them (3 with --quick) as one set, where what an
ingest costs once (a new lake, its tables and commits) no longer decides. Each process works twice and the second time
counts, so neither side's imports do; the first is in the table.

Ours writes a new lake with its receipt: every value checked, each episode hashed, every byte read and written hashed;
then a mixture with statistics, and the export. forge converts directly; LeRobot's own writer is handed arrays. The
floor is pyarrow alone: it decodes every column of the source and encodes the rows that the lake holds, to the same
bytes (columns, row groups, zstd), out of memory and with nothing checked; a second row adds the sha256 of all bytes
read and written. An ingest that takes long has other processes help it, as from the command line; the floor decodes
on all cores and encodes on one, and ``CPU s`` is of the first process alone. The robomimic file is of the same
episodes (the first 40 with --quick). All data is in the page cache.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from benchmarks import rivals
from benchmarks.copies import copies
from benchmarks.table import Figures, Found, Machine, Row, Table, options, ratio, rounds, show, target

OWN = Path(__file__).parent / "own_scripts"


def main() -> int:
    asked = options(__doc__)
    source = asked.data / "metaworld_tiers/lerobot_v3"
    if not source.exists():
        print(f"{source} is not there; give --data", file=sys.stderr)
        return 2
    machine = Machine()
    times = 1 if asked.quick else 3
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        work = Path(folder)
        slice_ = rivals.tiers_slice(asked.data, work / "tiers.npz", 2 if asked.quick else 12)
        found = rounds(
            {
                "ours": lambda i: rivals.measure(None, OWN / "convert.py", source, work / f"ours-{i}"),
                "forge": lambda i: rivals.forge(source, work / f"forge-{i}"),
                "lerobot": lambda i: rivals.writer(slice_, work / f"lerobot-{i}"),
            },
            times,
        )
        small = against_floor(source, work / "small", times)
        large = against_floor(copies(source, work / "copies", 3 if asked.quick else 100), work / "large", times)
        file = rivals.robomimic_slice(asked.data, work / "robomimic.hdf5", 40 if asked.quick else 180)
        found_hdf5 = rounds(
            {
                "ours": lambda i: rivals.measure(None, OWN / "convert.py", file, work / f"hdf5-{i}"),
                "forge": lambda i: rivals.forge(file, work / f"forge-hdf5-{i}"),
            },
            times,
        )
    lerobot = Row.of("lerobot 0.4.4: its own writer", found["lerobot"])
    table = converted("LeRobot v3 to LeRobot v3, state only", found, lerobot)
    hdf5 = converted("robomimic HDF5 to LeRobot v3, state only", found_hdf5)
    floors = [floor_table(figures) for figures in (small, large)]
    lines = []
    for what, (both, whole, ingest, *_, forge) in (("LeRobot", table.rows[:6]), ("HDF5", hdf5.rows)):
        fastest = max([forge, *([lerobot] if what == "LeRobot" else [])], key=lambda row: row.rate or 0.0)
        lines += [
            target(f"{what} to lake against {fastest.label}", ratio(ingest, fastest), 3),
            target(f"{what} to lake and out again against it", ratio(both, fastest), 3),
            f"the same with the mixture between: {ratio(whole, fastest) or 0:.2f}x",
        ]
    lines += [
        target(f"ingest of {each.title.split(': ')[1]} against the floor", ratio(*each.rows[:2]), 1 / 1.5)
        for each in floors
    ]
    show([table, *floors, hdf5], lines, machine, as_json=asked.json)
    return 0


def against_floor(source: Path, work: Path, times: int) -> Found:
    """Ingest alone, and the floor of the lake that it made, with and without hashes."""

    def floor(number: int, *more: str) -> Figures:
        out = work / "-".join(["floor", str(number), *more])
        return rivals.measure(None, OWN / "parquet_floor.py", source, work / f"ours-{number}/second", out, *more)

    return rounds(
        {
            "ours": lambda i: rivals.measure(None, OWN / "ingest_alone.py", source, work / f"ours-{i}"),
            "floor": floor,
            "hashed": lambda i: floor(i, "hash"),
        },
        times,
    )


def floor_table(found: Found) -> Table:
    """Ingest beside its floor."""
    frames = next((figures["n"] for figures in found["ours"] if "n" in figures), 0)
    return Table(
        f"LeRobot v3 to lake, state only: {frames:,} frames",
        "frames",
        [
            Row.of("data-engine: ingest", found["ours"]),
            Row.of("floor: pyarrow decodes and encodes", found["floor"]),
            Row.of("the same, with the sha256 of all bytes", found["hashed"]),
        ],
    )


def converted(title: str, found: Found, *more: Row) -> Table:
    """The whole way and its stages, beside forge and ``more``."""
    ours = found["ours"]
    rows = [
        Row.of("data-engine: ingest and export", ours, lambda f: f["n"] / (f["ingest_s"] + f["export_s"])),
        Row.of("data-engine: ingest, mixture and export", ours),
        *(
            Row.of(f"data-engine: {name} alone", ours, lambda f, key=key: f["n"] / f[key])
            for name, key in (("ingest", "ingest_s"), ("mixture", "mix_s"), ("export", "export_s"))
        ),
        Row.of("forge-robotics 0.2.0: convert", found["forge"]),
    ]
    return Table(title, "frames", [*rows, *more])


if __name__ == "__main__":
    sys.exit(main())
