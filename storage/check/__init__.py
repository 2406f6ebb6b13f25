"""Verification: every file that the lake stands on is there, is what was written, and holds what the rows say.

Nothing is repaired and nothing raised: what is wrong comes back as a list, each with the path and what is wrong there.

Every byte of tables, blobs, fits, indices, mixtures, raw answers and ledger is held against a hash: in the file's name,
in the document beside it, or in its own seal. Of a Delta log what it says is held against the files, the contracts and
itself; its clocks and the names of programs mean nothing here. Derived, and not looked at: reports, and rows of shards
that were never finished.
"""

from __future__ import annotations

from storage.check.documents import answers, checkpoints, erasing, fits, index_versions, ledger, mixtures
from storage.check.episodes import episodes
from storage.check.look import Look, Problem
from storage.check.receipts import counts, streams
from storage.check.tables import tables
from storage.check.videos import references, videos
from storage.fingerprint import fingerprint
from storage.lake import Lake

__all__ = ["check", "fingerprint"]


def check(lake: Lake, deep: bool = True, decode: bool = False) -> list[Problem]:
    """Every problem as ``{"path", "what"}``, sorted by path; an empty list is a sound lake.

    ``deep`` reads every byte and compares its hash, and every episode's own step rows and frames; without it sizes, row
    counts and names are held against each other only. A video that the lake refers to is reported at its own place
    where it is gone or drifted: without ``deep`` by size and time or ETag, with it by its bytes. ``decode`` decodes
    each stream's first and last frame as well, and compares them with the hashes in its receipt.
    """
    look = Look(lake, deep)
    found = list(erasing(look))
    for part in (
        tables, videos, references, episodes, counts, mixtures, ledger, fits, checkpoints, index_versions, answers,
    ):  # fmt: skip
        found += part(look)
    if decode:
        found += streams(look)
    return sorted(found, key=lambda problem: (problem["path"], problem["what"]))
