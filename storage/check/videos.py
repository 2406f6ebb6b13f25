"""Videos: every blob has the bytes that it is named by, and what lies elsewhere is still what was ingested."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import PurePosixPath

from data_engine.errors import EngineError
from data_engine.references import REFERENCES, VIDEOS, blob_of, pointer
from storage.check.look import Look, Problem, problem

__all__ = ["references", "videos"]

_AT_ONCE = 16  # references looked at side by side


def videos(look: Look) -> Iterator[Problem]:
    """The blobs in the lake."""
    for path in look.lake.list(VIDEOS):
        stem = PurePosixPath(path).stem
        if len(stem) != 64:
            yield problem(path, "not named by the hash of its content")
        elif look.deep and look.sha256(path) != stem:
            look.bad.add(path)
            yield problem(path, "damaged: its bytes do not have the hash that it is named by")


def references(look: Look) -> Iterator[Problem]:
    """Videos that lie elsewhere, asked for side by side: the places are often far.

    Only those that an episode's newest revision or a mixture shows: what was ingested again may have changed.
    """
    look.referred |= {blob_of(path) for path in look.lake.list(REFERENCES)}
    newest = look.readable("episodes").sort("revision").unique("episode_id", keep="last")
    shown = {video["blob"] for videos in newest["videos"].to_list() for video in videos or ()}
    shown |= {row["path"] for _, rows in look.mixture_files() for row in rows or ()}
    look.bad |= look.referred - shown
    blobs = sorted(look.referred & shown)
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for blob, found in zip(blobs, pool.map(partial(_drift, look), blobs), strict=True):
            if found:
                look.bad.add(blob)
                yield found


def _drift(look: Look, blob: str) -> Problem | None:
    try:
        reference = look.lake.reference(blob)
    except EngineError as error:
        return problem(pointer(blob), error)
    what = reference.drift(PurePosixPath(blob).stem, deep=look.deep) if reference else None
    return problem(reference.uri, f"ingested by reference: {what}") if reference and what else None
