"""Fits in the lake: ``fits/<producer>/<fit id>/fit.json`` and, named by content, its arrays as safetensors.

The JSON is written last and names the arrays' hash, so that a fit is there whole or not at all, and two workers that
fitted the same thing at once cannot mix their arrays.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from typing import Any

import numpy as np
from safetensors.numpy import load, save

from data_engine.canonical import seal, unseal
from data_engine.errors import RequestError, SourceError
from data_engine.scoring import Fit
from storage.blobs import Blobs

__all__ = ["FITS", "describe", "flag", "get_fit", "list_fits", "put_fit"]

FITS = "fits"


def put_fit(lake: Blobs, fit: Fit) -> str:
    """Store ``fit`` and return its id. The first one stored under an id stays, unless it was flagged."""
    folder = f"{FITS}/{fit.producer}/{fit.id}"
    if lake.size(f"{folder}/fit.json") is not None and not describe(lake, fit.producer, fit.id).get("flagged"):
        return fit.id
    arrays = save({name: np.asarray(fit.arrays[name], order="C") for name in sorted(fit.arrays)})
    sha256 = hashlib.sha256(arrays).hexdigest()
    document = {
        "producer": fit.producer,
        "version": fit.version,
        "config": dict(fit.config),
        "seed": fit.seed,
        "reference": sorted(fit.reference),
        "meta": dict(fit.meta),
        "base": fit.base,
        "arrays": sha256,
    }
    lake.write_bytes(f"{folder}/{sha256}.safetensors", arrays)
    lake.write_bytes(f"{folder}/fit.json", seal(document))
    return fit.id


def get_fit(lake: Blobs, producer: str, fit_id: str) -> Fit:
    """The stored fit. Raises ``RequestError`` where there is none or it is flagged, ``SourceError`` where its content
    has changed.
    """
    folder = f"{FITS}/{producer}/{fit_id}"
    if lake.size(f"{folder}/fit.json") is None:
        known = [name for kind, name in list_fits(lake) if kind == producer]
        raise RequestError(
            f"no fit {fit_id!r} of {producer!r}", code="no_fit", fix=f"there are: {', '.join(known) or 'none'}"
        )
    try:
        document = describe(lake, producer, fit_id)
        if flagged := document.get("flagged"):
            raise RequestError(
                f"fit {fit_id} of {producer} saw {flagged['erased']} recordings that were erased",
                code="flagged_fit",
                fix="leave the fit out to fit anew",
            )
        sha256 = document.pop("arrays")
        document["reference"] = tuple(document["reference"])
        arrays = lake.read_bytes(f"{folder}/{sha256}.safetensors")
        fit = Fit(**document, arrays=load(arrays))
    except (SourceError, RequestError):
        raise
    except Exception as error:  # json, safetensors and the dataclass each raise their own on damaged bytes
        raise SourceError(f"fit {fit_id} of {producer} is damaged: {error}", code="damaged") from error
    if hashlib.sha256(arrays).hexdigest() != sha256 or fit.id != fit_id:
        raise SourceError(f"fit {fit_id} of {producer} is damaged: its content has another hash", code="damaged")
    return fit


def describe(lake: Blobs, producer: str, fit_id: str) -> dict[str, Any]:
    """The JSON of a stored fit: what made it, the content hashes it saw (``reference``), and ``flagged`` if it is.

    Raises ``SourceError`` where it is damaged.
    """
    path = f"{FITS}/{producer}/{fit_id}/fit.json"
    try:
        return unseal(lake.read_bytes(path))
    except ValueError as error:
        raise SourceError(f"{path} is damaged: {error}", code="damaged") from error


def flag(lake: Blobs, hashes: Collection[str], at: str) -> list[tuple[str, str]]:
    """Flag every fit that saw one of the content ``hashes``; (producer, fit id) of each, flagged just now or before.

    A fit may hold the very steps that it saw, so its arrays and facts go. What it measured stays, under its id.
    """
    found, gone = [], set(hashes)
    for producer, fit_id in list_fits(lake):
        folder = f"{FITS}/{producer}/{fit_id}"
        document = describe(lake, producer, fit_id)
        seen = gone.intersection(document["reference"])
        if not seen:
            continue
        if not document.get("flagged"):
            document |= {"arrays": None, "meta": {}, "flagged": {"erased": len(seen), "at": at}}
            lake.write_bytes(f"{folder}/fit.json", seal(document))
        for path in lake.list(folder):
            if path.endswith(".safetensors"):
                lake.remove(path)
        found.append((producer, fit_id))
    return found


def list_fits(lake: Blobs) -> list[tuple[str, str]]:
    """(producer, fit id) of every stored fit, sorted."""
    paths = (path.split("/") for path in lake.list(FITS))
    return sorted((parts[1], parts[2]) for parts in paths if parts[-1] == "fit.json")
