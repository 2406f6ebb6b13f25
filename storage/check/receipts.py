"""Receipts: what went in came out, what was stored is there still, and streams show the frames they showed then."""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any

import numpy as np
import polars as pl

from data_engine.errors import EngineError
from storage.check.look import Look, Problem, problem

__all__ = ["counts", "streams"]

_PATH = "receipts"


def counts(look: Look) -> Iterator[Problem]:
    """Episodes, steps and frames per camera that published receipts say were stored are in the episodes table.

    All revisions count. Of episodes that were erased since only their number is known.
    """
    stored: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for dataset, receipt in _receipts(look):
        came = receipt["stored"]["episodes"] + receipt["unchanged"] + len(receipt["quarantined"])
        came += receipt.get("removed", 0)
        if came != receipt["in"]["episodes"]:
            yield problem(_PATH, f"{dataset}: {receipt['in']['episodes']} episodes in, {came} out")
        if ("episodes", receipt["transaction"]) in look.committed:
            said = dict(receipt["stored"])
            frames = said.pop("frames", {})
            stored[dataset].update(said)
            stored[dataset].update({f"frames of {camera}": count for camera, count in frames.items()})
    erased = look.readable("removals").filter(pl.col("state") == "erased")
    rows = look.readable("episodes")
    for dataset, said in stored.items():
        there = _there(rows.filter(pl.col("dataset") == dataset))
        lost = int(erased.filter(pl.col("dataset") == dataset)["rows"].sum())
        there["episodes"] += lost
        for what in sorted(said.keys() | (there.keys() if "steps" in said else set())):
            if there[what] != said[what] and not (lost and what != "episodes" and there[what] < said[what]):
                less = f" and {lost} were erased" if lost and what == "episodes" else ""
                now = there[what] - (lost if what == "episodes" else 0)
                yield problem(_PATH, f"{dataset}: receipts say {said[what]} {what} were stored, {now} are there{less}")


def streams(look: Look) -> Iterator[Problem]:
    """The first and last decoded frame of every stream that is there still has the hash that its receipt states."""
    from data_engine.video import FrameReader

    done = set()
    for dataset, receipt in _receipts(look):
        for name, stream in receipt.get("streams", {}).items():
            blob = stream["blob"]
            if blob is None or (blob, stream["first"]) in done or blob in look.bad:
                continue
            done.add((blob, stream["first"]))
            try:
                if look.lake.size(blob) is None and look.lake.reference(blob) is None:
                    continue  # nothing shows it any more, or its absence is reported already
                reader = FrameReader(look.lake.local(blob))
                try:
                    frames = reader.at(reader.times[[0, -1]])
                    info = {"frames": reader.info.frames, "codec": reader.info.codec}
                finally:
                    reader.close()
            except EngineError as error:
                yield problem(blob, error)
                continue
            found = {"first": _sha256(frames[0]), "last": _sha256(frames[-1]), **info}
            for what in (key for key in found if found[key] != stream[key]):
                yield problem(blob, f"{dataset}/{name}: {what} is {found[what]}, its receipt says {stream[what]}")


def _receipts(look: Look) -> Iterator[tuple[str, dict[str, Any]]]:
    for row in look.readable("receipts").iter_rows(named=True):
        yield row["dataset"], json.loads(row["receipt"])


def _there(rows: pl.DataFrame) -> Counter[str]:
    found = Counter({"episodes": len(rows), "steps": int(rows["n_steps"].sum())})
    for n_steps, videos in rows.select("n_steps", "videos").iter_rows():
        for video in videos or ():
            found[f"frames of {video['camera']}"] += n_steps
    return found


def _sha256(frame: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(frame).data).hexdigest()
