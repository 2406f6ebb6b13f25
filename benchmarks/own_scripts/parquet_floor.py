"""SOURCE OUT: frames a second of nothing but decoding a set's Parquet and writing it again."""

import sys
from pathlib import Path

import pyarrow.parquet as pq

from benchmarks.rival_scripts.figures import Work


def rewrite(source: Path, out: Path) -> int:
    out.mkdir(parents=True)
    table = pq.read_table(source / "data")
    pq.write_table(table, out / "file-000.parquet", compression="snappy")
    return table.num_rows


def main() -> None:
    source, out = Path(sys.argv[1]), Path(sys.argv[2])
    warm = Work()
    rewrite(source, out / "first")
    warm_up = warm.seconds
    work = Work()
    n = rewrite(source, out / "second")
    work.report("pyarrow", "decode and write Parquet", n, warm_up_s=warm_up)


if __name__ == "__main__":
    main()
