"""Ingest of a LeRobot v3 set and export back to LeRobot v3, in frames a second, against two rivals and the floor.

    python benchmarks/ingest.py [--quick] [--json]

180 Meta-World episodes, 30,568 steps without video. Each process works twice and the second time counts, so neither
side's imports do; the first is in the table. Ours writes a new lake with its receipt, a mixture with statistics, and
the export; forge converts directly; LeRobot's own writer is handed arrays. All data is in the page cache.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from benchmarks import rivals
from benchmarks.table import Machine, Row, Table, options, ratio, rounds, show, target

OWN = Path(__file__).parent / "own_scripts"


def main() -> int:
    asked = options(__doc__)
    source = asked.data / "metaworld_tiers/lerobot_v3"
    if not source.exists():
        print(f"{source} is not there; give --data", file=sys.stderr)
        return 2
    machine = Machine()
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        work = Path(folder)
        slice_ = rivals.tiers_slice(asked.data, work / "tiers.npz", 2 if asked.quick else 12)
        found = rounds(
            {
                "ours": lambda i: rivals.measure(None, OWN / "convert.py", source, work / f"ours-{i}"),
                "forge": lambda i: rivals.forge(source, work / f"forge-{i}"),
                "lerobot": lambda i: rivals.writer(slice_, work / f"lerobot-{i}"),
                "floor": lambda i: rivals.measure(None, OWN / "parquet_floor.py", source, work / f"floor-{i}"),
            },
            1 if asked.quick else 3,
        )
    ours = found["ours"]
    whole = Row.of("data-engine: ingest, mixture and export", ours)
    both = Row.of("data-engine: ingest and export", ours, lambda f: f["n"] / (f["ingest_s"] + f["export_s"]))
    stages = [
        Row.of(f"data-engine: {name} alone", ours, lambda f, key=key: f["n"] / f[key])
        for name, key in (("ingest", "ingest_s"), ("mixture", "mix_s"), ("export", "export_s"))
    ]
    forge = Row.of("forge-robotics 0.2.0: convert", found["forge"])
    lerobot = Row.of("lerobot 0.4.4: its own writer", found["lerobot"])
    floor = Row.of("floor: pyarrow decodes and writes the Parquet", found["floor"])
    table = Table("LeRobot v3 to LeRobot v3, state only", "frames", [both, whole, *stages, forge, lerobot, floor])
    fastest = max((forge, lerobot), key=lambda row: row.rate or 0.0)
    lines = [
        target(f"ingest and export against {fastest.label}", ratio(both, fastest), 3),
        f"the same with the mixture between: {ratio(whole, fastest) or 0:.2f}x",
    ]
    show([table], lines, machine, as_json=asked.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
