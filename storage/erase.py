"""Erasing: removed episodes leave the lake for good, whatever pins them, and nothing else changes what it means.

What will be done is written down first (``_erase/plan.json``, gone at the end): which episodes, the files that take the
place of those they lie in, and where the frames of the others move to. Every step after that looks at what is there and
does what is left, so an erase that was killed goes on when it is run again. New files come before the commits that name
them, old ones go last.

The Delta logs stay, for they say which commits were made: they hold hashes, sizes and counts. What an erase cannot
reach: exports, other machines' caches, videos that the lake only refers to, the store's own backups and object
versions. A content hash stays where it is evidence of what a fit or a selection saw.
"""

from __future__ import annotations

import html
import io
import json
import tempfile
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_engine.cache import Cache
from data_engine.canonical import canonical_json, digest
from data_engine.model import TABLES
from data_engine.references import REFERENCES, VIDEOS, pointer
from data_engine.steps import EPISODE_ID
from storage import fits, indices, ledger
from storage.blobs import Blobs, DataFile
from storage.lake import Lake
from storage.removals import gone
from storage.scrub import EPISODE, ERASED, Traces
from storage.tables import file_of

__all__ = ["PLAN", "Rebuild", "erase", "pending"]

PLAN = "_erase/plan.json"
TEXTS = {  # columns that may speak of an episode, and the one that says whose source keys count in them
    "runs": (("recipe", "error", "result"), None),
    "receipts": (("receipt",), "dataset"),
    "quarantine": (("reason",), "dataset"),
    "selections": (("reason", "inputs"), None),
    "removals": (("reason",), None),
    "scores": (("reason",), None),
    "evaluations": (("initial_condition", "task"), None),
    "preferences": (("annotator", "prompt", "answer"), None),
}

Rebuild = Callable[[str, str, Sequence[str]], None]


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


def erase(lake: Lake, rebuild: Rebuild) -> dict[str, Any]:
    """Erase every removed episode. ``rebuild(space, encoder version, episode ids)`` makes an index anew without them.

    Returns ``{"erased", "steps_files", "videos": {"deleted", "recut", "encoded"}, "mixtures", "fits", "indices",
    "reports", "settings", "elsewhere", "left"}``: counts, names of what is broken or flagged, the settings of what had
    to be encoded again, files outside the lake that still show an episode, and files of it that still name one.
    Raises ``EngineError`` where a file cannot be read or written; run it again then.
    """
    plan = _load(lake) or _plan(lake)
    if plan is None:
        return {"erased": 0, "left": []}
    why = f"erase {plan.id}"
    _swap_steps(lake, plan, why)
    _rewrite_tables(lake, plan, why)
    broken = _mixtures(lake, plan)
    lake.rewrite("mixtures", lambda table: _broken(table, broken), why=why)
    report = {
        "erased": len(plan.ids),
        "mixtures": broken,
        "fits": [f"{producer}/{fit}" for producer, fit in fits.flag(lake, plan.hashes, plan.at)],
        "indices": _indices(lake, plan, rebuild),
        "reports": _reports(lake, plan, broken),
    }
    _ledger(lake, plan, report["fits"])
    report["left"] = _delete(lake, plan)
    report["left"] += _leftovers(lake, plan)
    lake.remove(PLAN)
    return report | _told(plan)


def pending(lake: Blobs) -> list[str]:
    """The episodes of an erase that was cut off; none where there is no such."""
    plan = _load(lake)
    return plan.ids if plan else []


# the plan


def _load(lake: Blobs) -> Plan | None:
    return Plan(**json.loads(lake.read_bytes(PLAN))) if lake.size(PLAN) is not None else None


def _plan(lake: Lake) -> Plan | None:
    """Look at everything, write the new steps files and videos, and then the plan itself."""
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


# the tables


def _swap_steps(lake: Lake, plan: Plan, why: str) -> None:
    for dataset in sorted({PurePosixPath(path).parent.name for path in plan.steps}):
        name = f"steps/{dataset}"
        mine = {path: found["new"] for path, found in plan.steps.items() if PurePosixPath(path).parent.name == dataset}
        files: dict[str, DataFile | None] = {path: file_of(*new) if new else None for path, new in mine.items()}
        lake.swap(name, files, why=why)  # what is swapped already is passed over


def _rewrite_tables(lake: Lake, plan: Plan, why: str) -> None:
    """The episodes first: once they name the new files, nothing reads the old ones."""
    lake.rewrite("episodes", lambda table: _episodes(table, plan), why=why)
    for name in (*sorted(set(TABLES) - {"episodes", "removals", "mixtures"}), *lake.tables("embeddings/")):
        lake.rewrite(name, lambda table, name=name: _rows(name, table, plan), why=why)  # type: ignore[misc]
    rows = [
        {"state": "erased", "dataset": dataset, "rows": count, "created_at": datetime.now(UTC)}
        for dataset, count in plan.counts.items()
    ]
    lake.append_rows("removals", rows, transaction=plan.id)
    lake.rewrite("removals", lambda table: _forget(table, plan), why=why)


def _episodes(table: pa.Table, plan: Plan) -> pa.Table:
    kept = plan.traces.rows(table)
    before = kept.to_pylist()
    after = [
        {**plan.row(row), "parent": None if row["parent"] in plan.traces.ids else row["parent"],
         "attributes": _ids_out(row["attributes"], plan)}
        for row in before
    ]  # fmt: skip
    return kept if after == before else pa.Table.from_pylist(after, schema=TABLES["episodes"])


def _ids_out(text: str | None, plan: Plan) -> str | None:
    return text and EPISODE.sub(lambda found: ERASED if found.group() in plan.traces.ids else found.group(), text)


def _rows(name: str, table: pa.Table, plan: Plan) -> pa.Table:
    if name == "selections":
        table = _selections(table, plan)
    elif name == "quarantine":
        keys, datasets = table.column("source_key").to_pylist(), table.column("dataset").to_pylist()
        keep = [
            dataset not in plan.empty and key not in plan.keys.get(dataset, ())
            for key, dataset in zip(keys, datasets, strict=True)
        ]
        table = table if all(keep) else table.filter(pa.array(keep, pa.bool_()))
    else:
        table = plan.traces.rows(table)
    columns, dataset = TEXTS.get(name, ((), None))
    return plan.traces.texts(table, columns, dataset)


def _selections(table: pa.Table, plan: Plan) -> pa.Table:
    """What was left out goes; of what was chosen the place stays, so that nobody takes the rest for the whole."""
    ids, ranks = table.column("episode_id").to_pylist(), table.column("rank").to_pylist()
    lost = [name in plan.traces.ids for name in ids]
    if not any(lost):
        return table
    blank = {"episode_id": None, "content_hash": None, "start": None, "stop": None, "reason": "erased"}
    rows = [
        {**row, **blank} if out else row
        for row, out, rank in zip(table.to_pylist(), lost, ranks, strict=True)
        if not (out and rank is None)
    ]
    return pa.Table.from_pylist(rows, schema=table.schema)


def _broken(table: pa.Table, broken: Sequence[str]) -> pa.Table:
    states = [
        "broken" if name in broken else state
        for name, state in zip(table.column("mixture_id").to_pylist(), table.column("status").to_pylist(), strict=True)
    ]
    if states == table.column("status").to_pylist():
        return table
    return table.set_column(table.schema.get_field_index("status"), "status", pa.array(states, pa.string()))


def _forget(table: pa.Table, plan: Plan) -> pa.Table:
    """The removals of the erased episodes without their ids; the marks stay."""
    ids = [None if name in plan.traces.ids else name for name in table.column("episode_id").to_pylist()]
    if ids != table.column("episode_id").to_pylist():
        at = table.schema.get_field_index("episode_id")
        table = table.set_column(at, "episode_id", pa.array(ids, pa.string()))
    return plan.traces.texts(table, ("reason",))


# mixtures, indices, reports, ledger


def _mixtures(lake: Lake, plan: Plan) -> list[str]:
    """Mixtures that held an erased episode become tombstones, the rest name the new files; ids of the broken ones.

    A tombstone keeps which other episodes it held and no statistics, and pins nothing. It says so before its rows go,
    and a mixture that stays is whole again when its document names the new tables.
    """
    broken = []
    for folder in sorted({str(PurePosixPath(path).parent) for path in lake.list("mixtures")}):
        there = set(lake.list(folder))
        if f"{folder}/mixture.json" not in there:  # half of one, from a run that was killed
            for path in there:
                _remove(lake, path)
            continue
        document = json.loads(lake.read_bytes(f"{folder}/mixture.json"))
        rows = pq.read_table(io.BytesIO(lake.read_bytes(f"{folder}/episodes.parquet")))
        listed = pq.read_table(io.BytesIO(lake.read_bytes(f"{folder}/files.parquet")))
        kept = plan.traces.rows(rows)
        why = {"erase": plan.id, "on": plan.at[:10]}
        if len(kept) < len(rows):
            reason = f"{len(rows) - len(kept)} of its {len(rows)} rows were erased on {plan.at[:10]}"
            recorded = {**document["recorded"], "broken_by": [*document["recorded"].get("broken_by", []), why]}
            document |= {"status": "broken", "reason": reason, "statistics": {}, "recorded": recorded}
            lake.write_bytes(f"{folder}/mixture.json", canonical_json(document).encode())
        if why in document["recorded"].get("broken_by", ()):
            broken.append(PurePosixPath(folder).name)
        moved = pa.Table.from_pylist([plan.row(row) for row in kept.to_pylist()], schema=rows.schema)
        files = listed.slice(0, 0) if document["status"] == "broken" else _listed(lake, moved, listed)
        for name, before, after in (("episodes", rows, moved), ("files", listed, files)):
            if not after.equals(before):
                lake.write_bytes(f"{folder}/{name}.parquet", _parquet(after))
        document["contents"] = {name: lake.sha256(f"{folder}/{name}") for name in document["contents"]}
        document["recorded"] = json.loads(plan.traces.text(canonical_json(document["recorded"])) or "{}")
        if canonical_json(document).encode() != lake.read_bytes(f"{folder}/mixture.json"):
            lake.write_bytes(f"{folder}/mixture.json", canonical_json(document).encode())
    return broken


def _parquet(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()


def _listed(lake: Lake, rows: pa.Table, listed: pa.Table) -> pa.Table:
    """Every file that ``rows`` lie in, with size and hash: as it was listed, or as its name says for a new one."""
    known = {row["path"]: row for row in listed.to_pylist()}
    needed = set(rows["steps_file"].to_pylist())
    needed |= {video["blob"] for videos in rows["videos"].to_pylist() for video in videos or ()}
    if needed == set(known):
        return listed
    for path in needed - set(known):
        name = PurePosixPath(path).stem.rpartition("-")[2]
        known[path] = {"path": path, "bytes": lake.size(path), "sha256": name}
    return pa.Table.from_pylist([known[path] for path in sorted(needed)], schema=listed.schema)


def _indices(lake: Lake, plan: Plan, rebuild: Rebuild) -> list[str]:
    """Every index over an erased episode is made anew without it, and then deleted."""
    made = []
    for folder in sorted({str(PurePosixPath(path).parent) for path in lake.list(indices.INDICES)}):
        there = set(lake.list(folder))
        ids: list[str] = []
        if f"{folder}/ids.parquet" in there:
            ids = pq.read_table(io.BytesIO(lake.read_bytes(f"{folder}/ids.parquet"))).column("id").to_pylist()
        kept = [name for name in ids if name not in plan.traces.ids]
        if ids and len(kept) == len(ids):
            continue
        space = str(PurePosixPath(folder).parent.relative_to(indices.INDICES))
        if f"{folder}/meta.json" in there:
            document = json.loads(lake.read_bytes(f"{folder}/meta.json"))
            version = document["meta"].get("encoder_version")
            for sha256 in document["sha256"].values():
                Cache().forget(sha256)
            if kept and version:
                rebuild(space.rpartition("/")[0], version, kept)
            made.append(space)
        for path in sorted(there, key=_last_ids):
            _remove(lake, path)
    return made


def _last_ids(path: str) -> int:
    """Deleting starts with what makes the files an index and ends with what says that they must go."""
    return ("meta.json", "index.faiss", "ids.parquet").index(PurePosixPath(path).name)


def _reports(lake: Lake, plan: Plan, broken: Sequence[str]) -> list[str]:
    """Reports that show an erased episode, or a mixture that is broken now, are deleted."""
    found = []
    for path in lake.list("reports"):
        text = lake.read_bytes(path).decode(errors="replace")
        if any(name in text for name in broken) or plan.traces.names(text) or plan.traces.names(html.unescape(text)):
            _remove(lake, path)
            found.append(path)
    return found


def _ledger(lake: Lake, plan: Plan, flagged: Sequence[str]) -> None:
    """Shards that hold or name what is gone are forgotten: they would run again, on what is there."""
    names = {*plan.steps, *plan.videos, *plan.drop, *(name.rpartition("/")[2] for name in flagged)}
    for path in lake.list(ledger.PENDING):
        table = pq.read_table(io.BytesIO(lake.read_bytes(path)))
        if plan.traces.rows(table) is not table:
            ledger.forget(lake, PurePosixPath(path).stem)
    for path in lake.list(ledger.LEDGER):
        text = lake.read_bytes(path).decode()
        if plan.traces.names(text) or any(name in text for name in names):
            ledger.forget(lake, PurePosixPath(path).stem)


# what goes


def _delete(lake: Lake, plan: Plan) -> list[str]:
    """Delete every file that is out of its table, the old videos, and copies of them on this machine.

    Returns old videos that an episode names again: something was ingested meanwhile that shows them.
    """
    for path in plan.drop:
        _remove(lake, path)
    for name in lake.tables():
        held, retired = {file.path for file in lake.files(name)}, set(lake.retired(name))
        loose = [path for path in lake.list(lake.folder(name)) if path.endswith(".parquet") and path not in held]
        for path in loose:
            if "_delta_log" not in path and (path in retired or _mentions(lake, path, plan)):
                _remove(lake, path)
    rows = lake.scan("episodes").select("videos").collect()
    named = {video["blob"] for videos in rows["videos"].to_list() for video in videos or ()}
    moved = {span["to"]["blob"] for spans in plan.videos.values() for span in spans}
    for blob in sorted(set(plan.videos) - named - moved):
        _remove(lake, blob)
        lake.remove(pointer(blob))
    return sorted((set(plan.videos) & named) - moved)


def _mentions(lake: Lake, path: str, plan: Plan) -> bool:
    """Whether a file that was never committed has rows of an erased episode."""
    with lake.fs.open(lake._at(path), "rb") as handle:
        source = pq.ParquetFile(handle, pre_buffer=False)
        groups = (source.read_row_group(index) for index in range(source.num_row_groups))
        return any(plan.traces.rows(group) is not group for group in groups)


def _remove(lake: Lake, path: str) -> None:
    """Delete a file of the lake, and what this machine keeps of it."""
    name = PurePosixPath(path).stem.rpartition("-")[2]
    if len(name) == 64:
        Cache().forget(name)
    lake.remove(path)


def _leftovers(lake: Lake, plan: Plan) -> list[str]:
    """Documents and logs that still name an erased episode; tables and videos were rewritten row by row."""
    binary = (".parquet", ".faiss", ".safetensors")
    found = []
    for path in lake.list():
        if path == PLAN or path.endswith(binary) or path.startswith((f"{VIDEOS}/", f"{REFERENCES}/")):
            continue
        if plan.traces.names(lake.read_bytes(path).decode(errors="replace")):
            found.append(path)
    return found


def _told(plan: Plan) -> dict[str, Any]:
    spans = [span for spans in plan.videos.values() for span in spans]
    return {
        "steps_files": len(plan.steps),
        "videos": {
            "deleted": sum(not spans for spans in plan.videos.values()),
            "recut": sum(bool(spans) for spans in plan.videos.values()),
            "encoded": sum(span["settings"] is not None for span in spans),
        },
        "elsewhere": plan.elsewhere,
        "settings": next((span["settings"] for span in spans if span["settings"]), None),
    }
