"""The documents of an erase: mixtures become tombstones, indices are made anew, reports and ledger entries go."""

from __future__ import annotations

import html
import io
import json
from collections.abc import Callable, Sequence
from pathlib import PurePosixPath

import pyarrow as pa
import pyarrow.parquet as pq

from data_engine.cache import Cache
from data_engine.canonical import canonical_json, seal
from storage import indices, ledger
from storage.answers import ANSWERS
from storage.erase.leavings import remove
from storage.erase.plan import Plan
from storage.lake import Lake

__all__ = ["Rebuild", "drop_answers", "forget_shards", "rebuild_indices", "remove_reports", "rewrite_mixtures"]

Rebuild = Callable[[str, str, Sequence[str]], None]


def rewrite_mixtures(lake: Lake, plan: Plan) -> list[str]:
    """Mixtures that held an erased episode become tombstones, the rest name the new files; ids of the broken ones.

    A tombstone keeps which other episodes it held and no statistics, and pins nothing. It says so before its rows go,
    and a mixture that stays is whole again when its document names the new tables.
    """
    broken = []
    for folder in sorted({str(PurePosixPath(path).parent) for path in lake.list("mixtures")}):
        there = set(lake.list(folder))
        if f"{folder}/mixture.json" not in there:  # half of one, from a run that was killed
            for path in there:
                remove(lake, path)
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
            lake.write_bytes(f"{folder}/mixture.json", seal(document))
        if why in document["recorded"].get("broken_by", ()):
            broken.append(PurePosixPath(folder).name)
        moved = pa.Table.from_pylist([plan.row(row) for row in kept.to_pylist()], schema=rows.schema)
        files = listed.slice(0, 0) if document["status"] == "broken" else _listed(lake, moved, listed)
        for name in ("labels", "clusters"):
            if document["status"] == "broken" and f"{folder}/{name}.parquet" in there:
                beside = pq.read_table(io.BytesIO(lake.read_bytes(f"{folder}/{name}.parquet")))
                if len(beside):
                    lake.write_bytes(f"{folder}/{name}.parquet", _parquet(beside.slice(0, 0)))
        for name, before, after in (("episodes", rows, moved), ("files", listed, files)):
            if not after.equals(before):
                lake.write_bytes(f"{folder}/{name}.parquet", _parquet(after))
        held = document["contents"]
        document["contents"] = {name: lake.sha256(f"{folder}/{name}") for name in held}
        for sha256 in set(held.values()) - set(document["contents"].values()):
            Cache().forget(sha256)  # a large table is kept decoded
        document["recorded"] = json.loads(plan.traces.text(canonical_json(document["recorded"])) or "{}")
        if seal(document) != lake.read_bytes(f"{folder}/mixture.json"):
            lake.write_bytes(f"{folder}/mixture.json", seal(document))
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


def rebuild_indices(lake: Lake, plan: Plan, rebuild: Rebuild) -> list[str]:
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
            remove(lake, path)
    return made


def _last_ids(path: str) -> int:
    """Deleting starts with what makes the files an index and ends with what says that they must go."""
    return ("meta.json", "index.faiss", "ids.parquet").index(PurePosixPath(path).name)


def remove_reports(lake: Lake, plan: Plan, broken: Sequence[str]) -> list[str]:
    """Reports that show an erased episode, or a mixture that is broken now, are deleted."""
    found = []
    for path in lake.list("reports"):
        text = lake.read_bytes(path).decode(errors="replace")
        if any(name in text for name in broken) or plan.traces.names(text) or plan.traces.names(html.unescape(text)):
            remove(lake, path)
            found.append(path)
    return found


def drop_answers(lake: Lake, plan: Plan) -> int:
    """Raw answers of models to questions about erased episodes go; how many."""
    mine = [path for path in lake.list(ANSWERS) if _speaks(lake.read_bytes(path).decode(errors="replace"), plan)]
    for path in mine:
        remove(lake, path)
    return len(mine)


def _speaks(text: str, plan: Plan) -> bool:
    return plan.traces.names(text) or any(content in text for content in plan.hashes)


def forget_shards(lake: Lake, plan: Plan, flagged: Sequence[str]) -> None:
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
