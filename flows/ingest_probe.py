"""What a source is, before any of it comes in: its format, what it declares, and what its first episodes show.

A source over which a library crashes is looked at in a process of its own (:mod:`flows.apart`): it ends in one line.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np

from data_engine.defects import Defect, of_features
from data_engine.errors import SourceError
from data_engine.formats import Format, Probe, Source, Unreadable, detect
from data_engine.fragile import avoiding, reading
from data_engine.outages import reaching
from data_engine.recipe import SourceRecipe
from data_engine.steps import schema
from flows.apart import Crash, carefully
from flows.ingest_conventions import Conventions, conventions
from flows.receipt import columns

__all__ = ["CRASH", "Examined", "crashing", "examine", "preview", "sparing"]

T = TypeVar("T")

CRASH = "reader_crash"

Examined = tuple[Format, Probe, Conventions | None]


def examine(recipe: SourceRecipe) -> Examined:
    """Format, probe and conventions of a source; no conventions where its columns are only a guess.

    An episode whose reading crashes is no evidence and else left to the ingest. Raises ``RequestError`` or
    ``SourceError`` where the source as a whole cannot be read, with code ``reader_crash`` where that crashes.
    """
    (fmt, probe, found), crashed = sparing(recipe.uri, _examine, recipe)
    return fmt, probe, found and replace(found, unreadable=(*found.unreadable, *crashed.values()))


def sparing(uri: str, function: Callable[..., T], *arguments: Any) -> tuple[T, dict[str, Unreadable]]:
    """What ``function(*arguments, without)`` returns, and the episodes ``without`` which it was called, by key.

    Those are the ones over which it ended the process that it ran in, which is then another one. Raises ``SourceError``
    with code ``reader_crash`` where leaving episodes out does not help.
    """
    crashed: dict[str, Unreadable] = {}
    while True:
        try:
            return carefully(function, *arguments, tuple(crashed)), crashed
        except Crash as crash:
            key = crash.reading
            if key is None or key in crashed:
                raise SourceError(
                    f"looking at {uri} ended its reader ({crash.how})",
                    code=CRASH,
                    fix="the file is damaged: copy it again",
                ) from None
            crashed[key] = Unreadable(key, CRASH, crashing(crash))


def crashing(crash: Crash) -> str:
    """Why an episode over which a library crashes is quarantined."""
    return f"reading it ended its reader ({crash.how})"


def preview(recipe: SourceRecipe) -> dict[str, Any]:
    """What an ingest would make of a source, writing nothing and looking at a few episodes only.

    ``{"dataset", "format", "episodes", "fps", "embodiment", "control_mode", "columns", "inferred", "defects",
    "quarantined", "notes", "sampled"}``, each as its receipt would have it, defects and quarantined episodes as far as
    they show in those ``sampled``. Where the columns are only a guess: ``{"format", "episodes", "proposal", "notes"}``.
    Raises as :func:`examine` does.
    """
    fmt, probe, found = examine(recipe)
    common = {"format": fmt.name, "episodes": probe.n_episodes}
    if found is None:
        return {**common, "proposal": dict(probe.proposal or {}), "notes": list(probe.notes)}
    schema(found.features)  # refuses what cannot be stored
    whole: dict[Defect, Sequence[str]] = dict.fromkeys((*probe.defects, *of_features(found.features)), ())
    defects = {**whole, **found.defects}
    unreadable = (*probe.unreadable, *found.unreadable)
    return {
        "dataset": recipe.dataset,
        **common,
        "fps": fmt.fps or probe.fps,
        "embodiment": fmt.embodiment or probe.embodiment,
        "control_mode": {"mode": found.control_mode, "evidence": found.evidence},
        "columns": columns(found.features),
        "inferred": [finding.model_dump(mode="json") for f in found.features for finding in f.findings],
        "defects": [{"code": seen.code, "what": seen.what, "keys": list(keys)} for seen, keys in defects.items()],
        "quarantined": [{"key": bad.key, "code": bad.code, "reason": bad.reason} for bad in unreadable],
        "notes": [*probe.notes, *found.notes],
        "sampled": list(found.sampled),
    }


def _examine(recipe: SourceRecipe, without: tuple[str, ...]) -> Examined:
    with reaching(recipe.uri):
        source = Source(recipe.uri)
        with avoiding(without):
            fmt, probe = detect(source, recipe.format, recipe.options)
        reading(None)
        if probe.proposal is not None:
            return fmt, probe, None
        fps = fmt.fps or probe.fps
        if not fps or not np.isfinite(fps) or fps <= 0:
            raise SourceError(
                f"{source.uri} declares {fps} frames a second", code="bad_fps", fix="give options: {fps: ...}"
            )
        return fmt, probe, conventions(fmt, probe, source, fps, without)
