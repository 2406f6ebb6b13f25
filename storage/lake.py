"""The lake: everything the engine keeps, under one root, on a local folder or an object store with the same code.

Tables, blobs, fits and the ledger come together here, and so does the rule of publication: **the episodes row is the
only publication point and every reader joins through it**, newest revision first.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import PurePosixPath
from typing import Any

import polars as pl
import pyarrow as pa

from data_engine.errors import EngineError, RequestError
from data_engine.model import Dataset
from data_engine.outages import Outage
from data_engine.scoring import EpisodeBatch, Fit
from storage import fits, ledger, reading, removals
from storage.blobs import TEMPORARY, DataFile
from storage.tables import Tables
from storage.vacuum import vacuum

__all__ = ["DataFile", "Lake"]

MARKER = "lake.json"
VERSION = 1

_ORDER = ("episode_id", "revision", "ingested_at", "dataset", "source_key")  # which row of an episode, and where

_tested: set[str] = set()  # roots on object stores that passed the self-test in this process


class Lake(Tables):
    """A lake that is there: make one with :meth:`open`. It pickles as its address, without credentials."""

    @classmethod
    def open(cls, uri: str, *, create: bool = False) -> Lake:
        """The lake at ``uri``, made where it is absent and ``create`` is set.

        Raises ``RequestError`` where there is none, where something else lies at ``uri``, and where the object store
        would let two writers make the same object (checked once a process).
        """
        lake = cls(uri)
        try:
            marker = lake.read_bytes(MARKER) if lake.size(MARKER) is not None else None
        except Outage as error:
            raise EngineError(
                f"the lake {lake.uri} did not answer: {error}", code="unreachable", fix="run it again: it goes on"
            ) from error
        except Exception as error:
            raise RequestError(f"cannot reach the lake {lake.uri}: {error}", code="no_lake") from error
        if marker is None and not create:
            raise RequestError(f"no lake at {lake.uri}", code="no_lake", fix="ingest into it first, or give --lake")
        if not lake.is_local and lake.uri not in _tested:
            lake._self_test()
            _tested.add(lake.uri)
        if marker is None:
            lake._refuse_other()
            try:
                lake.write_bytes(MARKER, json.dumps({"version": VERSION}).encode())
            except OSError as error:
                raise RequestError(f"cannot write to {lake.uri}: {error}", code="no_lake") from error
        elif _version(marker) != VERSION:
            raise RequestError(f"{lake.uri}/{MARKER} says no lake of version {VERSION}", code="lake_version")
        return lake

    def __reduce__(self) -> tuple[type[Lake], tuple[str]]:
        return Lake, (self.uri,)

    def __repr__(self) -> str:
        return f"Lake({self.uri!r})"

    def _refuse_other(self) -> None:
        try:
            names = [PurePosixPath(path).name for path in self.fs.ls(self.root, detail=False)]
        except FileNotFoundError:  # nothing there, or another's self-test that has just gone
            names = []
        if names and MARKER not in names and not all(name.startswith((TEMPORARY, "_")) for name in names):
            raise RequestError(f"{self.uri} holds something else", code="no_lake", fix="name an empty folder")

    def _self_test(self) -> None:
        """Write one key twice with ``If-None-Match: *``: Delta's commits are only safe where the second is refused."""
        path = self._at(f"_selftest/{uuid.uuid4().hex}")
        try:
            with suppress(FileExistsError):  # the answer to the first was lost, and it was made again
                self.fs.pipe_file(path, b"1", mode="create")
            try:
                self.fs.pipe_file(path, b"2", mode="create")
            except FileExistsError:
                return
            raise RequestError(
                f"the object store of {self.uri} ignores If-None-Match: racing commits would overwrite each other",
                code="unsafe_store",
                fix="use a store with conditional writes (AWS S3, MinIO, Ceph, R2) or a local folder",
            )
        except OSError as error:
            raise RequestError(f"cannot write to {self.uri}: {error}", code="no_lake") from error
        finally:
            if self.fs.exists(path):
                self.fs.rm_file(path)

    # publication

    def episodes(
        self, where: pl.Expr | None = None, dataset: str | None = None, *, removed: bool = False,
        columns: Sequence[str] | None = None,
    ) -> pl.DataFrame:  # fmt: skip
        """The newest revision of each episode, sorted by (dataset, source_key).

        ``where`` filters those newest revisions: an older revision that would match is not brought back. Removed
        episodes are left out unless ``removed`` is set. ``columns``: read no others (but those that ``where`` needs).
        """
        rows = self.scan("episodes")
        if columns is not None and where is None:
            rows = rows.select(*dict.fromkeys((*columns, *_ORDER)))
        if dataset is not None:
            rows = rows.filter(pl.col("dataset") == dataset)
        newest = rows.collect()
        if newest["episode_id"].n_unique() < len(newest):
            newest = newest.sort("revision", "ingested_at").unique("episode_id", keep="last", maintain_order=True)
        newest = newest if removed else removals.live(self, newest)
        found = (newest if where is None else newest.filter(where)).sort("dataset", "source_key", "episode_id")
        return found if columns is None else found.select(columns)

    def datasets(self) -> dict[str, Dataset]:
        """The newest revision of each dataset, by name, sorted."""
        rows = self.scan("datasets").collect().sort("dataset", "revision", "ingested_at")
        return {
            row["dataset"]: Dataset(
                name=row["dataset"],
                features=json.loads(row["features"]),
                **{name: row[name] for name in ("embodiment", "control_mode", "fps", "licence", "origin", "format")},
            )
            for row in rows.iter_rows(named=True)
        }

    def steps(
        self, episodes: pl.DataFrame, columns: Sequence[str] | None = None
    ) -> Iterator[tuple[dict[str, Any], pa.Table]]:
        """Each row of ``episodes`` and its steps; see :func:`storage.reading.steps`."""
        return reading.steps(self, episodes, columns)

    def batches(
        self, episodes: pl.DataFrame, columns: Sequence[str] | None = None, batch_steps: int = 100_000
    ) -> Iterator[EpisodeBatch]:
        """``episodes`` with their steps and frames, one dataset a batch; see :func:`storage.reading.batches`."""
        return reading.batches(self, self.datasets(), episodes, columns, batch_steps)

    # fits, ledger, upkeep

    def put_fit(self, fit: Fit) -> str:
        """Store a fit and return its id. The first one stored under an id stays."""
        return fits.put_fit(self, fit)

    def get_fit(self, producer: str, fit_id: str) -> Fit:
        """A stored fit, its content verified. Raises ``RequestError`` where there is none."""
        return fits.get_fit(self, producer, fit_id)

    def done(self, fingerprint: str) -> dict[str, Any] | None:
        """What the ledger says a shard came to; None where it is not done."""
        return ledger.done(self, fingerprint)

    def mark_done(self, fingerprint: str, result: Mapping[str, Any]) -> None:
        """Enter a shard in the ledger, after all its files exist."""
        ledger.mark_done(self, fingerprint, result)

    def write_pending(self, fingerprint: str, rows: pa.Table) -> None:
        """Keep a shard's rows until the commit that publishes them."""
        ledger.write_pending(self, fingerprint, rows)

    def read_pending(self, fingerprint: str, columns: Sequence[str] | None = None) -> pa.Table:
        """The rows kept for a shard, whole or in ``columns``. Raises ``SourceError`` where there are none."""
        return ledger.read_pending(self, fingerprint, columns)

    def vacuum(self, grace_hours: float = 168.0) -> dict[str, Any]:
        """Remove what nobody names any more; see :func:`storage.vacuum.vacuum`."""
        return vacuum(self, grace_hours)


def _version(marker: bytes) -> Any:
    try:
        return json.loads(marker)["version"]
    except (ValueError, KeyError, TypeError) as error:
        raise EngineError(f"{MARKER} is damaged: {error}", code="damaged") from error
