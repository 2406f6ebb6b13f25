"""Ingest of a LeRobot v3 set and a robomimic file, and export as LeRobot v3, against two rivals and the floor.

    python benchmarks/ingest.py [--quick] [--json]

180 Meta-World episodes, 30,568 steps without video. Each process works twice and the second time counts, so neither
side's imports do; the first is in the table. Ours writes a new lake with its receipt, a mixture with statistics, and
the export; forge converts directly; LeRobot's own writer is handed arrays. The robomimic file is the first of the same
episodes. All data is in the page cache.
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
        file = rivals.robomimic_slice(asked.data, work / "robomimic.hdf5", 10 if asked.quick else 40)
        found_hdf5 = rounds(
            {
                "ours": lambda i: rivals.measure(None, OWN / "convert.py", file, work / f"hdf5-{i}"),
                "forge": lambda i: rivals.forge(file, work / f"forge-hdf5-{i}"),
            },
            1,
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
    hdf5 = Row.of(
        "data-engine: ingest and export", found_hdf5["ours"], lambda f: f["n"] / (f["ingest_s"] + f["export_s"])
    )
    forge_hdf5 = Row.of("forge-robotics 0.2.0: convert", found_hdf5["forge"])
    table_hdf5 = Table("robomimic HDF5 to LeRobot v3, state only", "frames", [hdf5, forge_hdf5])
    fastest = max((forge, lerobot), key=lambda row: row.rate or 0.0)
    lines = [
        target(f"ingest and export against {fastest.label}", ratio(both, fastest), 3),
        f"the same with the mixture between: {ratio(whole, fastest) or 0:.2f}x",
        target(f"HDF5 against {forge_hdf5.label}", ratio(hdf5, forge_hdf5), 3),
        target("ingest against the floor", ratio(stages[0], floor), 1 / 1.5),
    ]
    show([table, table_hdf5], lines, machine, as_json=asked.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
