"""The tables of an erase: steps swapped for files without the erased rows, every other table rewritten."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import PurePosixPath

import pyarrow as pa

from data_engine.model import TABLES
from storage.blobs import DataFile
from storage.erase.plan import Plan
from storage.lake import Lake
from storage.scrub import EPISODE, ERASED
from storage.tables import file_of

__all__ = ["mark_broken", "rewrite", "swap_steps"]

TEXTS = {  # columns that may speak of an episode, and the one that says whose source keys count in them
    "runs": (("recipe", "error", "result"), None),
    "receipts": (("receipt",), "dataset"),
    "quarantine": (("reason",), "dataset"),
    "selections": (("reason", "inputs"), None),
    "removals": (("reason",), None),
    "scores": (("reason",), None),
    "annotations": (("label", "text", "reason"), None),
    "evaluations": (("initial_condition", "task"), None),
    "preferences": (("task", "annotator", "prompt", "answer", "reason"), None),
}


def swap_steps(lake: Lake, plan: Plan, why: str) -> None:
    """Swap the planned steps files; what is swapped already is passed over."""
    for dataset in sorted({PurePosixPath(path).parent.name for path in plan.steps}):
        name = f"steps/{dataset}"
        mine = {path: found["new"] for path, found in plan.steps.items() if PurePosixPath(path).parent.name == dataset}
        files: dict[str, DataFile | None] = {path: file_of(*new) if new else None for path, new in mine.items()}
        lake.swap(name, files, why=why)


def rewrite(lake: Lake, plan: Plan, why: str) -> None:
    """Take the erased out of every table but that of mixtures.

    The episodes first: once they name the new files, nothing reads the old ones.
    """
    lake.rewrite("episodes", lambda table: _episodes(table, plan), why=why)
    for name in (*sorted(set(TABLES) - {"episodes", "removals", "mixtures"}), *lake.tables("embeddings/")):
        lake.rewrite(name, lambda table, name=name: _rows(name, table, plan), why=why)  # type: ignore[misc]
    rows = [
        {"state": "erased", "dataset": dataset, "rows": count, "created_at": datetime.now(UTC)}
        for dataset, count in plan.counts.items()
    ]
    lake.append_rows("removals", rows, transaction=plan.id)
    lake.rewrite("removals", lambda table: _forget(table, plan), why=why)


def mark_broken(lake: Lake, broken: Sequence[str], why: str) -> None:
    """Say in the table of mixtures which are ``broken``."""
    lake.rewrite("mixtures", lambda table: _broken(table, broken), why=why)


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
