"""Verification: every file that the lake stands on is there, is what was written, and holds what the rows say.

Nothing is repaired and nothing raised: what is wrong comes back as a list, each with the path and what is wrong there.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from data_engine.errors import EngineError
from data_engine.model import TABLES
from data_engine.references import REFERENCES, VIDEOS, blob_of, pointer
from data_engine.steps import EPISODE_ID, STEP
from storage import indices
from storage.blobs import DataFile
from storage.erase import PLAN
from storage.fingerprint import fingerprint
from storage.fits import FITS, describe, list_fits
from storage.lake import Lake

__all__ = ["check", "fingerprint"]

Problem = dict[str, str]

_AT_ONCE = 16  # references looked at side by side


def check(lake: Lake, deep: bool = True) -> list[Problem]:
    """Every problem as ``{"path", "what"}``, sorted by path; an empty list is a sound lake.

    ``deep`` reads every byte and compares its hash, and every episode's own step rows and frames; without it sizes, row
    counts and names are held against each other only. A video that the lake refers to is reported at its own place
    where it is gone or drifted: without ``deep`` by size and time or ETag, with it by its bytes.
    """
    look = _Look(lake, deep)
    found = list(look.erase())
    for part in (look.tables, look.blobs, look.references, look.episodes, look.receipts, look.mixtures):
        found += part()
    found += [*look.fits(), *look.indices()]
    return sorted(found, key=lambda problem: (problem["path"], problem["what"]))


def _problem(path: str, what: object) -> Problem:
    return {"path": path, "what": str(what)}


class _Look:
    """One look at a lake; each file is hashed once, however many things name it."""

    def __init__(self, lake: Lake, deep: bool) -> None:
        self.lake, self.deep = lake, deep
        self.hashes: dict[str, str] = {}
        self.files: dict[str, DataFile] = {}
        self.committed: set[tuple[str, str]] = set()
        self.bad: set[str] = set()
        self.referred: set[str] = set()

    def file(self, file: DataFile) -> Iterator[Problem]:
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
            yield _problem(file.path, what)

    def sha256(self, path: str) -> str:
        if path not in self.hashes:
            self.hashes[path] = self.lake.sha256(path)
        return self.hashes[path]

    def tables(self) -> Iterator[Problem]:
        for name in self.lake.tables():
            try:
                files = self.lake.files(name)
            except EngineError as error:
                yield _problem(self.lake.folder(name), error)
                continue
            self.files |= {file.path: file for file in files}
            yield from self.log(name, {PurePosixPath(file.path).name for file in files})
            for file in files:
                bad = list(self.file(file))
                yield from bad or self.footer(file)

    def log(self, name: str, files: set[str]) -> Iterator[Problem]:
        """The commits, replayed, must come to the files that the table says it has (from its newest checkpoint)."""
        folder, added = f"{self.lake.folder(name)}/_delta_log", set[str]()
        for path in self.lake.list(folder):
            if not path.endswith(".json"):
                continue
            try:
                actions = [json.loads(line) for line in self.lake.read_bytes(path).splitlines()]
                added |= {action["add"]["path"] for action in actions if "add" in action}
                added -= {action["remove"]["path"] for action in actions if "remove" in action}
                self.committed |= {(name, action["txn"]["appId"]) for action in actions if "txn" in action}
            except (ValueError, KeyError, TypeError) as error:
                yield _problem(path, f"damaged: {error}")
        for path in sorted(added ^ files):
            yield _problem(folder, f"commits and checkpoint disagree on {path}")

    def footer(self, file: DataFile) -> Iterator[Problem]:
        try:
            with self.lake.fs.open(self.lake._at(file.path), "rb") as handle:
                rows = pq.ParquetFile(handle).metadata.num_rows
        except (pa.ArrowException, OSError) as error:
            self.bad.add(file.path)
            yield _problem(file.path, f"no Parquet file: {error}")
            return
        if rows != file.rows:
            yield _problem(file.path, f"{rows} rows, {file.rows} were committed")

    def blobs(self) -> Iterator[Problem]:
        for path in self.lake.list(VIDEOS):
            stem = PurePosixPath(path).stem
            if len(stem) != 64:
                yield _problem(path, "not named by the hash of its content")
            elif self.deep and self.sha256(path) != stem:
                self.bad.add(path)
                yield _problem(path, "damaged: its bytes do not have the hash that it is named by")

    def references(self) -> Iterator[Problem]:
        """Videos that lie elsewhere, asked for side by side: the places are often far.

        Only those that an episode's newest revision or a mixture shows: what was ingested again may have changed.
        """
        self.referred |= {blob_of(path) for path in self.lake.list(REFERENCES)}
        newest = self.readable("episodes").sort("revision").unique("episode_id", keep="last")
        shown = {video["blob"] for videos in newest["videos"].to_list() for video in videos or ()}
        shown |= {row["path"] for _, rows in self.listed() for row in rows or ()}
        self.bad |= self.referred - shown
        blobs = sorted(self.referred & shown)
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            for blob, problem in zip(blobs, pool.map(self.drift, blobs), strict=True):
                if problem:
                    self.bad.add(blob)
                    yield problem

    def drift(self, blob: str) -> Problem | None:
        try:
            reference = self.lake.reference(blob)
        except EngineError as error:
            return _problem(pointer(blob), error)
        what = reference.drift(PurePosixPath(blob).stem, deep=self.deep) if reference else None
        return _problem(reference.uri, f"ingested by reference: {what}") if reference and what else None

    def episodes(self) -> Iterator[Problem]:
        rows = self.readable("episodes")
        known = set(self.readable("datasets")["dataset"])
        twice = rows.filter(pl.struct("episode_id", "revision").is_duplicated())
        for row in twice.unique("episode_id").iter_rows(named=True):
            yield _problem(row["episode_id"], "two rows of one revision")
        sound = []
        for row in rows.sort("steps_file", "row_start").iter_rows(named=True):
            file = self.files.get(row["steps_file"])
            if row["dataset"] not in known:
                yield _problem(row["episode_id"], f"dataset {row['dataset']!r} has no row")
            if row["n_steps"] != row["row_count"]:
                yield _problem(row["episode_id"], f"{row['n_steps']} steps, {row['row_count']} rows")
            if file is None or not file.path.startswith(f"{self.lake.folder('steps/' + row['dataset'])}/"):
                yield _problem(row["episode_id"], f"its steps file {row['steps_file']} is not in the steps table")
            elif not 0 <= row["row_start"] <= row["row_start"] + row["row_count"] <= file.rows:
                yield _problem(row["episode_id"], f"its rows leave its steps file {file.path}")
            elif file.path not in self.bad:
                sound.append(row)
            yield from self.videos(row)
        if self.deep and sound:
            yield from self.steps(pl.DataFrame(sound, schema=rows.schema))

    def readable(self, name: str) -> pl.DataFrame:
        """The rows of the table's sound files: the damaged ones are reported already."""
        folder = f"{self.lake.folder(name)}/"
        good = [path for path in self.files if path.startswith(folder) and path not in self.bad]
        tables = (pq.read_table(io.BytesIO(self.lake.read_bytes(path))) for path in good)
        return pl.DataFrame(pa.concat_tables([TABLES[name].empty_table(), *(t.cast(TABLES[name]) for t in tables)]))

    def steps(self, rows: pl.DataFrame) -> Iterator[Problem]:
        for row, table in self.lake.steps(rows, [EPISODE_ID, STEP]):
            if set(table.column(EPISODE_ID).to_pylist()) - {row["episode_id"]}:
                yield _problem(row["episode_id"], f"rows of {row['steps_file']} belong to another episode")
            if not np.array_equal(table.column(STEP).to_numpy(), np.arange(row["n_steps"])):
                yield _problem(row["episode_id"], "its steps are not numbered 0, 1, 2, ...")

    def videos(self, row: dict) -> Iterator[Problem]:
        for video in row["videos"] or []:
            path, start, end = video["blob"], video["start_s"], video["end_s"]
            if self.lake.size(path) is None and path not in self.referred:
                yield _problem(path, f"missing; {row['episode_id']} shows it")
            elif self.deep and path not in self.bad:
                from data_engine.video import FrameReader

                try:
                    reader = FrameReader(self.lake.local(path))
                    count = reader.count(start, end)
                    reader.close()
                except EngineError as error:
                    yield _problem(path, error)
                    continue
                if count != video["frames"]:
                    yield _problem(path, f"{count} frames, {video['frames']} are recorded for {row['episode_id']}")

    def receipts(self) -> Iterator[Problem]:
        """What went in came out; what published receipts say was stored is in the episodes table."""
        episodes = self.readable("episodes")
        stored: dict[str, int] = {}
        for row in self.readable("receipts").iter_rows(named=True):
            receipt = json.loads(row["receipt"])
            came = receipt["stored"]["episodes"] + receipt["unchanged"] + len(receipt["quarantined"])
            came += receipt.get("removed", 0)
            if came != receipt["in"]["episodes"]:
                yield _problem("receipts", f"{row['dataset']}: {receipt['in']['episodes']} episodes in, {came} out")
            if ("episodes", receipt["transaction"]) in self.committed:
                stored[row["dataset"]] = stored.get(row["dataset"], 0) + receipt["stored"]["episodes"]
        erased = self.readable("removals").filter(pl.col("state") == "erased")
        for dataset, count in stored.items():
            there = len(episodes.filter(pl.col("dataset") == dataset))
            lost = int(erased.filter(pl.col("dataset") == dataset)["rows"].sum())
            if there + lost != count:
                less = f" and {lost} were erased" if lost else ""
                what = f"{dataset}: receipts say {count} episodes were stored, {there} are there{less}"
                yield _problem("receipts", what)

    def mixtures(self) -> Iterator[Problem]:
        for path, rows in self.listed():
            if rows is None:
                yield _problem(path, "damaged: no table of files")
            for row in rows or ():
                if row["path"] not in self.bad:
                    yield from self.file(DataFile(row["path"], row["bytes"], row["sha256"]))

    def listed(self) -> Iterator[tuple[str, list[dict[str, Any]] | None]]:
        """Each mixture's table of files and its rows, None where it cannot be read."""
        for path in self.lake.list("mixtures"):
            if PurePosixPath(path).name == "files.parquet":
                try:
                    yield path, pq.read_table(io.BytesIO(self.lake.read_bytes(path))).to_pylist()
                except pa.ArrowException:
                    yield path, None

    def fits(self) -> Iterator[Problem]:
        for producer, fit in list_fits(self.lake):
            if describe(self.lake, producer, fit).get("flagged"):
                continue  # an erase took what it had learned
            yield from self.attempt(f"{FITS}/{producer}/{fit}", partial(self.lake.get_fit, producer, fit))

    def indices(self) -> Iterator[Problem]:
        for space, version in indices.list_indices(self.lake):
            look = partial(indices.verify, self.lake, space, version)
            yield from self.attempt(f"{indices.INDICES}/{space}/{version}", look)

    def erase(self) -> Iterator[Problem]:
        if self.lake.size(PLAN) is not None:
            yield _problem(PLAN, "an erase was cut off: run `data-engine vacuum --erase` again")

    def attempt(self, path: str, look: Callable[[], object]) -> Iterator[Problem]:
        try:
            look()
        except EngineError as error:
            yield _problem(path, error)
