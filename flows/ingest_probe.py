"""What a source is, before any of it comes in: its format, what it declares, and what its first episodes show.

A source over which a library crashes is looked at in a process of its own (:mod:`flows.apart`): it ends in one line.
"""

from __future__ import annotations

import numpy as np

from data_engine.errors import SourceError
from data_engine.formats import Format, Probe, Source, detect
from data_engine.outages import reaching
from data_engine.recipe import SourceRecipe
from flows.apart import Crash, carefully
from flows.ingest_conventions import Conventions, conventions

__all__ = ["CRASH", "Examined", "examine"]

CRASH = "reader_crash"

Examined = tuple[Format, Probe, Conventions | None]


def examine(recipe: SourceRecipe) -> Examined:
    """Format, probe and conventions of a source; no conventions where its columns are only a guess.

    An episode whose reading crashes is no evidence and else left to the ingest. Raises ``RequestError`` or
    ``SourceError`` where the source as a whole cannot be read, with code ``reader_crash`` where that crashes.
    """
    without: tuple[str, ...] = ()
    while True:
        try:
            return carefully(_examine, recipe, without)
        except Crash as crash:
            if crash.reading is None or crash.reading in without:
                raise SourceError(
                    f"looking at {recipe.uri} crashed the library that reads it ({crash.how})",
                    code=CRASH,
                    fix="the file is damaged: copy it again",
                ) from None
            without = (*without, crash.reading)


def _examine(recipe: SourceRecipe, without: tuple[str, ...]) -> Examined:
    with reaching(recipe.uri):
        source = Source(recipe.uri)
        fmt, probe = detect(source, recipe.format, recipe.options)
        if probe.proposal is not None:
            return fmt, probe, None
        fps = fmt.fps or probe.fps
        if not fps or not np.isfinite(fps) or fps <= 0:
            raise SourceError(
                f"{source.uri} declares {fps} frames a second", code="bad_fps", fix="give options: {fps: ...}"
            )
        return fmt, probe, conventions(fmt, probe, source, fps, without)
