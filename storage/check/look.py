"""One look at a lake: what is known of its files so far; each is hashed once, however many things name it."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import PurePosixPath
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from data_engine.errors import EngineError
from data_engine.model import TABLES
from storage.blobs import DataFile
from storage.lake import Lake

__all__ = ["Look", "Problem", "problem"]

Problem = dict[str, str]


def problem(path: str, what: object) -> Problem:
    """What is wrong, and where."""
    return {"path": path, "what": str(what)}


class Look:
    """``files``: of the tables, by path. ``committed``: (table, transaction) pairs. ``bad``: paths that were reported.
    ``referred``: blobs that lie elsewhere.
    """

    def __init__(self, lake: Lake, deep: bool) -> None:
        self.lake, self.deep = lake, deep
        self.files: dict[str, DataFile] = {}
        self.committed: set[tuple[str, str]] = set()
        self.bad: set[str] = set()
        self.referred: set[str] = set()
        self._hashes: dict[str, str] = {}

    def sha256(self, path: str) -> str:
        """The hash of the bytes that ``path`` has now."""
        if path not in self._hashes:
            self._hashes[path] = self.lake.sha256(path)
        return self._hashes[path]

    def file(self, file: DataFile) -> Iterator[Problem]:
        """What is wrong with a file whose size and hash are known."""
        size = self.lake.size(file.path)
        what = None
        if size is None and file.path in self.referred:
            return
        if size is None:
            what = "missing"
        elif size != file.bytes:
            what = f"{size} bytes, {file.bytes} were written"
        elif self.deep and self.sha256(file.path) != file.sha256:
            what = "damaged: its bytes are not the ones that were written"
        if what:
            self.bad.add(file.path)
            yield problem(file.path, what)

    def readable(self, name: str) -> pl.DataFrame:
        """The rows of the table's sound files: the damaged ones are reported already."""
        folder = f"{self.lake.folder(name)}/"
        good = [path for path in self.files if path.startswith(folder) and path not in self.bad]
        tables = (pq.read_table(io.BytesIO(self.lake.read_bytes(path))) for path in good)
        return pl.DataFrame(pa.concat_tables([TABLES[name].empty_table(), *(t.cast(TABLES[name]) for t in tables)]))

    def attempt(self, path: str, look: Callable[[], object]) -> Iterator[Problem]:
        """What ``look`` raises, as a problem of ``path``."""
        try:
            look()
        except EngineError as error:
            yield problem(path, error)

    def mixture_files(self) -> Iterator[tuple[str, list[dict[str, Any]] | None]]:
        """Each mixture's table of files and its rows, None where it cannot be read."""
        for path in self.lake.list("mixtures"):
            if PurePosixPath(path).name == "files.parquet":
                try:
                    yield path, pq.read_table(io.BytesIO(self.lake.read_bytes(path))).to_pylist()
                except (pa.ArrowException, OSError):
                    yield path, None
