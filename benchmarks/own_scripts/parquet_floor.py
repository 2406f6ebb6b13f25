"""SOURCE LAKE OUT [hash]: frames a second of nothing but decoding a LeRobot set and encoding what its lake holds.

Reads every column of the set's data files, whole and on all cores, and writes the rows of the lake's steps files again:
same columns, row groups and settings, byte for byte the same files. The rows are there before the clock starts. With
``hash`` it takes the sha256 of all bytes that it reads and writes too, which an ingest records. The second time counts.
"""

import hashlib
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.rival_scripts.figures import Work

SETTINGS = {"compression": "zstd", "version": "2.6", "use_dictionary": ["episode_id"]}


def held(steps: Path) -> list[tuple[Path, list[pa.Table]]]:
    """The lake's steps files, each with its row groups."""
    files = [(path, pq.ParquetFile(path)) for path in sorted(steps.glob("*/*.parquet"))]
    return [(path, [named(file.read_row_group(i)) for i in range(file.num_row_groups)]) for path, file in files]


def named(table: pa.Table) -> pa.Table:
    """List items under Arrow's own name, as they were when the file was written: it says so in the file."""
    fields = [(f.name, pa.list_(f.type.value_type) if pa.types.is_list(f.type) else f.type) for f in table.schema]
    return table.cast(pa.schema(fields))


def rewrite(source: Path, files: list[tuple[Path, list[pa.Table]]], out: Path, hashed: bool) -> None:
    out.mkdir(parents=True)
    for path in sorted(source.glob("data/*/*.parquet")):
        pq.ParquetFile(path, memory_map=True).read()
        if hashed:
            sha256(path)
    for path, groups in files:
        with pq.ParquetWriter(out / path.name, groups[0].schema, **SETTINGS) as writer:
            for group in groups:
                writer.write_table(group)
        if hashed:
            sha256(out / path.name)


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def main() -> None:
    source, lake, out = map(Path, sys.argv[1:4])
    hashed = sys.argv[4:] == ["hash"]
    files = held(lake / "tables/steps")
    warm = Work()
    rewrite(source, files, out / "first", hashed)
    warm_up = warm.seconds
    work = Work()
    rewrite(source, files, out / "second", hashed)
    frames = sum(group.num_rows for _, groups in files for group in groups)
    work.report("pyarrow", "decode and encode", frames, warm_up_s=warm_up)
    if any(path.read_bytes() != (out / "second" / path.name).read_bytes() for path, _ in files):
        raise SystemExit("what was written is not what the lake holds")


if __name__ == "__main__":
    main()
