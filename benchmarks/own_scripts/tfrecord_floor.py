"""SOURCE: episodes a second of nothing but reading TFRecords and checking their checksums."""

import sys
from pathlib import Path

from benchmarks.rival_scripts.figures import Work
from data_engine.formats.tfrecord import RecordFile


def read(folder: Path) -> int:
    n = 0
    for path in sorted(folder.glob("*.tfrecord-*")):
        with path.open("rb") as file:
            records = RecordFile(file, path.stat().st_size)
            count = records.count()
            for index in range(count):
                records.read(index)
        n += count
    return n


def main() -> None:
    folder = Path(sys.argv[1])
    warm = Work()
    read(folder)
    warm_up = warm.seconds
    work = Work()
    work.report("floor", "read TFRecords", read(folder), warm_up_s=warm_up)


if __name__ == "__main__":
    main()
