"""SOURCE OUT: frames a second into a new lake, receipt and verification included; a first time as warm-up."""

import sys
from pathlib import Path

from benchmarks.own_scripts.lake import ingested
from benchmarks.rival_scripts.figures import Work


def main() -> None:
    source, out = Path(sys.argv[1]), Path(sys.argv[2])
    warm = Work()
    ingested(source, out / "first")
    warm_up = warm.seconds
    work = Work()
    lake = ingested(source, out / "second")
    work.report("data-engine", "ingest", int(lake.episodes()["n_steps"].sum()), warm_up_s=warm_up)


if __name__ == "__main__":
    main()
