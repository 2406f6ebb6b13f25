"""Documents: mixtures, fits, indices and the ledger are what was written, byte by byte."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import PurePosixPath

from data_engine.canonical import unseal
from storage import indices
from storage import ledger as ledgers
from storage.answers import answer_path, get_answer, list_answers
from storage.blobs import DataFile
from storage.check.look import Look, Problem, problem
from storage.checkpoints import CHECKPOINTS
from storage.erase import PLAN
from storage.fits import FITS, describe, get_fit, list_fits
from storage.lake import Lake

__all__ = ["answers", "checkpoints", "erasing", "fits", "index_versions", "ledger", "mixtures"]


def erasing(look: Look) -> Iterator[Problem]:
    """An erase that was cut off."""
    if look.lake.size(PLAN) is not None:
        yield problem(PLAN, "an erase was cut off: run `data-engine vacuum --erase` again")


def mixtures(look: Look) -> Iterator[Problem]:
    """Each mixture's document and tables, and every file that it names."""
    for path in look.lake.list("mixtures"):
        if PurePosixPath(path).name != "mixture.json":
            continue
        try:
            contents = unseal(look.lake.read_bytes(path))["contents"]
        except (ValueError, KeyError) as error:
            yield problem(path, f"damaged: {error}")
            continue
        for name, sha256 in contents.items():
            table = str(PurePosixPath(path).with_name(name))
            if look.lake.size(table) is None or (look.deep and look.sha256(table) != sha256):
                look.bad.add(table)
                yield problem(table, "missing or damaged: its bytes are not the ones that were frozen")
    for path, rows in look.mixture_files():
        if rows is None and path not in look.bad:
            yield problem(path, "damaged: no table of files")
        for row in rows or ():
            if path not in look.bad and row["path"] not in look.bad:
                yield from look.file(DataFile(row["path"], row["bytes"], row["sha256"]))


def fits(look: Look) -> Iterator[Problem]:
    """Every stored fit; of one that is flagged an erase took what it had learned."""
    for producer, fit in list_fits(look.lake):
        folder = f"{FITS}/{producer}/{fit}"
        arrays = [path for path in look.lake.list(folder) if path.endswith(".safetensors")]
        bad = [path for path in arrays if look.deep and look.sha256(path) != PurePosixPath(path).stem]
        yield from (problem(path, "damaged: its bytes do not have the hash that it is named by") for path in bad)
        if not bad:
            yield from look.attempt(folder, partial(_fit, look.lake, producer, fit))


def _fit(lake: Lake, producer: str, fit: str) -> None:
    if not describe(lake, producer, fit).get("flagged"):
        get_fit(lake, producer, fit)


def checkpoints(look: Look) -> Iterator[Problem]:
    """Every stored checkpoint of a policy."""
    for path in look.lake.list(CHECKPOINTS):
        if look.deep and look.sha256(path) != PurePosixPath(path).stem:
            yield problem(path, "damaged: its bytes do not have the hash that it is named by")


def answers(look: Look) -> Iterator[Problem]:
    """Every raw answer of a model."""
    for key in list_answers(look.lake) if look.deep else ():
        if get_answer(look.lake, key) is None:
            yield problem(answer_path(key), "damaged: it is not what was written; it is asked again when it is needed")


def index_versions(look: Look) -> Iterator[Problem]:
    """Every version of every index."""
    for space, version in indices.list_indices(look.lake):
        seen = partial(indices.verify, look.lake, space, version)
        yield from look.attempt(f"{indices.INDICES}/{space}/{version}", seen)


def ledger(look: Look) -> Iterator[Problem]:
    """What the ledger says is done, and the rows held ready for a commit."""
    if look.deep:
        yield from (problem(path, what) for path, what in ledgers.damage(look.lake))
