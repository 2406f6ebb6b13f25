"""The plan of an erase: what will be done, looked up and written down before anything of it is.

Making it writes the files that take the place of others: steps without the erased rows, videos without the frames.
"""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_engine.canonical import canonical_json, digest
from data_engine.steps import EPISODE_ID
from storage.blobs import Blobs
from storage.lake import Lake
from storage.removals import gone
from storage.scrub import Traces

__all__ = ["PLAN", "Plan", "load", "make"]

PLAN = "_erase/plan.json"


@dataclass(frozen=True)
class Plan:
    """What an erase does, as plain JSON values.

    ``counts``: rows of the episodes table by dataset. ``hashes``: content hashes that no episode has any more.
    ``steps``: by old steps file, ``new`` ([path, bytes, rows] or None) and ``cuts``, the row ranges that go.
    ``videos``: by old blob, the moved spans: ``start``, ``end`` in it, ``to`` the fields of the video that change.
    ``drop``: files of no table that hold erased steps. ``elsewhere``: files outside the lake that show erased episodes.
    """

    at: str
    ids: list[str]
    keys: dict[str, list[str]]
    words: list[str]
    counts: dict[str, int]
    empty: list[str]
    hashes: list[str]
    steps: dict[str, dict[str, Any]]
    videos: dict[str, list[dict[str, Any]]]
    drop: list[str]
    elsewhere: list[str]

    @cached_property
    def traces(self) -> Traces:
        """What they leave in rows and texts."""
        return Traces(frozenset(self.ids), self.keys, frozenset(self.words))

    @property
    def id(self) -> str:
        """Names this erase in commits."""
        return digest("erase", self.at, self.ids, length=16)

    def row(self, row: dict[str, Any]) -> dict[str, Any]:
        """A row of ``episodes`` or of a mixture with its files where they are now."""
        moved = dict(row)
        found = self.steps.get(row["steps_file"])
        if found is not None and found["new"] is not None:
            moved["steps_file"] = found["new"][0]
            moved["row_start"] -= sum(stop - start for start, stop in found["cuts"] if start < row["row_start"])
        if any(video["blob"] in self.videos for video in row["videos"] or ()):
            moved["videos"] = [self._video(video) for video in row["videos"]]
        return moved

    def _video(self, video: dict[str, Any]) -> dict[str, Any]:
        for span in self.videos.get(video["blob"], ()):
            if (span["start"], span["end"]) == (video["start_s"], video["end_s"]):
                return {**video, **span["to"]}
        return video


def load(lake: Blobs) -> Plan | None:
    """The plan of an erase that was begun; None where there is none."""
    return Plan(**json.loads(lake.read_bytes(PLAN))) if lake.size(PLAN) is not None else None


def make(lake: Lake) -> Plan | None:
    """Look at everything, write the new steps files and videos, and then the plan itself; None without removals."""
    ids = sorted(gone(lake))
    if not ids:
        return None
    rows = lake.scan("episodes").collect()
    mine = rows.filter(pl.col("episode_id").is_in(ids))
    rest = rows.filter(~pl.col("episode_id").is_in(ids))
    counts = dict(sorted(mine.group_by("dataset").len().iter_rows()))
    keys = {name: sorted(set(part["source_key"])) for (name,), part in mine.group_by("dataset")}
    steps, drop = _steps(lake, frozenset(ids), mine, rows)
    plan = Plan(
        at=datetime.now(UTC).isoformat(timespec="seconds"),
        ids=ids,
        keys=dict(sorted(keys.items())),
        words=_words(mine, rest),
        counts=counts,
        empty=sorted(set(counts) - set(rest["dataset"])),
        hashes=sorted(set(mine["content_hash"].drop_nulls()) - set(rest["content_hash"])),
        steps=steps,
        videos=_videos(lake, mine, rest),
        drop=drop,
        elsewhere=_elsewhere(lake, mine),
    )
    lake.write_bytes(PLAN, canonical_json(plan.__dict__).encode())
    return plan


def _words(mine: pl.DataFrame, rest: pl.DataFrame) -> list[str]:
    """Operators, tasks and sentences that no episode has that stays, and source keys that are nobody else's."""
    said, stays = (
        set(rows["language"].explode().drop_nulls()) | set(rows["task"].drop_nulls()) for rows in (mine, rest)
    )
    found = (said - stays) | (set(mine["operator"].drop_nulls()) - set(rest["operator"]))
    found |= {key for key in set(mine["source_key"]) - set(rest["source_key"]) if len(key) > 2 and not key.isdigit()}
    return sorted(found - {""} - set(mine["dataset"]) - set(rest["dataset"]))


def _steps(
    lake: Lake, ids: frozenset[str], mine: pl.DataFrame, rows: pl.DataFrame
) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """What takes the place of each steps file that holds erased episodes, and files of no table that do.

    Files that no row names are looked into as well: an ingest that was killed leaves some.
    """
    named = set(rows["steps_file"])
    known = set(mine["steps_file"])
    found: dict[str, dict[str, Any]] = {}
    drop: list[str] = []
    for dataset in sorted(set(mine["dataset"])):
        name = f"steps/{dataset}"
        held = {file.path: file for file in lake.files(name)}
        for path in lake.list(lake.folder(name)):
            if not path.endswith(".parquet") or "_delta_log" in path or (path in named and path not in known):
                continue
            owners = _column(lake, path, EPISODE_ID)
            lost = pc.is_in(owners, value_set=pa.array(sorted(ids))).to_numpy(zero_copy_only=False)
            if not lost.any():
                continue
            if path not in held:
                drop.append(path)
                continue
            new = lake.altered(name, held[path], lambda table: _without(table, ids), lake.schema(name))
            edges = np.flatnonzero(np.diff(np.concatenate([[0], lost.astype(np.int8), [0]]))).tolist()
            cuts = [list(pair) for pair in zip(edges[::2], edges[1::2], strict=True)]
            found[path] = {"new": [new.path, new.bytes, new.rows] if new else None, "cuts": cuts}
    return found, drop


def _column(lake: Lake, path: str, name: str) -> pa.Array:
    with lake.fs.open(lake._at(path), "rb") as handle:
        column = pq.ParquetFile(handle, pre_buffer=False).read(columns=[name]).column(name)
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], pa.string())


def _without(table: pa.Table, ids: frozenset[str]) -> pa.Table:
    lost = pc.is_in(table.column(EPISODE_ID), value_set=pa.array(sorted(ids)))
    return table.filter(pc.invert(lost)) if pc.any(lost, min_count=0).as_py() else table


def _videos(lake: Lake, mine: pl.DataFrame, rest: pl.DataFrame) -> dict[str, list[dict[str, Any]]]:
    """Where the spans of the others go, by blob; none for a blob that only erased episodes show.

    Of the datasets concerned every blob with frames that nobody shows is recut: a source file that grew lies in the
    lake twice, and the newer one holds the erased frames too.
    """
    concerned = {video["blob"] for videos in mine["videos"].to_list() for video in videos or ()}
    spans: dict[str, set[tuple[float, float]]] = defaultdict(set)
    rates: dict[str, float] = {}
    datasets = set(mine["dataset"])
    for dataset, videos in rest.select("dataset", "videos").iter_rows():
        for video in videos or ():
            spans[video["blob"]].add((video["start_s"], video["end_s"]))
            rates[video["blob"]] = video["fps"]
            if dataset in datasets:
                concerned |= {video["blob"]}
    shown = {video["blob"] for videos in mine["videos"].to_list() for video in videos or ()}
    found = {}
    for blob in sorted(concerned):
        if spans[blob] and lake.is_reference(blob):
            continue  # its bytes are not ours to change
        if blob in shown or _gaps(sorted(spans[blob]), 0.5 / rates[blob]):
            found[blob] = _recut(lake, blob, sorted(spans[blob])) if spans[blob] else []
    return found


def _elsewhere(lake: Lake, mine: pl.DataFrame) -> list[str]:
    blobs = {video["blob"] for videos in mine["videos"].to_list() for video in videos or ()}
    return sorted(found.uri for found in map(lake.reference, blobs) if found is not None)


def _gaps(spans: Sequence[tuple[float, float]], slack: float) -> bool:
    upto = 0.0
    for start, end in spans:
        if start > upto + slack:
            return True
        upto = max(upto, end)
    return False


def _recut(lake: Lake, blob: str, spans: Sequence[tuple[float, float]]) -> list[dict[str, Any]]:
    from data_engine.video.recut import recut

    with tempfile.TemporaryDirectory(prefix="data-engine-") as folder:
        kept = recut(lake.local(blob), spans, folder)
        blobs = {path: lake.put_video(path) for path in {part.path for part in kept}}
    return [
        {
            "start": start,
            "end": end,
            "settings": part.settings.as_dict() if part.settings else None,
            "to": {
                "blob": blobs[part.path], "start_s": part.start_s, "end_s": part.end_s, "codec": part.info.codec,
                "width": part.info.width, "height": part.info.height,
            },
        }
        for (start, end), part in zip(spans, kept, strict=True)
    ]  # fmt: skip
