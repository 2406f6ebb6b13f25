"""SOURCE OUT: frames a second of ingest, mixture and export as LeRobot v3; a first time as warm-up."""

import sys
from pathlib import Path
from time import perf_counter

from benchmarks.own_scripts.lake import frozen, ingested
from benchmarks.rival_scripts.figures import Work
from flows.export import export


def convert(source: Path, out: Path) -> dict[str, float]:
    """Seconds of each stage; OUT becomes a lake and an export."""
    began = perf_counter()
    lake = ingested(source, out / "lake")
    there = perf_counter()
    mixture = frozen(lake)
    mixed = perf_counter()
    export(mixture["uri"], "lerobot_v3", str(out / "export"))
    done = perf_counter()
    return {"n": mixture["steps"], "ingest_s": there - began, "mix_s": mixed - there, "export_s": done - mixed}


def main() -> None:
    source, out = Path(sys.argv[1]), Path(sys.argv[2])
    warm = Work()
    convert(source, out / "first")
    warm_up = warm.seconds
    work = Work()
    stages = convert(source, out / "second")
    work.report("data-engine", "convert", int(stages.pop("n")), warm_up_s=warm_up, **stages)


if __name__ == "__main__":
    main()
