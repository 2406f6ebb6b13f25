"""``judge``: new demonstrations against a base set before anything is stored, while whoever made them is there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from data_engine.arrays import to_array
from data_engine.errors import EngineError, RequestError
from data_engine.formats import Format, Probe, Source, SourceEpisode, Unreadable, detect
from data_engine.model import ACTION, STATE
from data_engine.scoring import Fit
from data_engine.steps import canonical
from scorers.compatibility import Judgement
from scorers.compatibility import judge as judged
from storage.lake import Lake

__all__ = ["judge", "named"]


def judge(
    lake: Lake, uri: str, fit_id: str, *, fmt: str = "auto", options: Mapping[str, Any] | None = None
) -> list[dict[str, Any]]:
    """What the base set of a stored fit of ``compatibility`` makes of each episode at ``uri``; nothing is written.

    A row: ``key``, ``accepted`` (None where nothing can be said, with ``reason``), ``compatibility``, ``bad_fraction``,
    ``longest_run``, ``note``, ``windows`` (``start``, ``stop``, ``error``, ``nearest``: the base demonstration). Raises
    ``RequestError`` for a fit that is not there, ``SourceError`` where the source cannot be read.
    """
    fit = lake.get_fit("compatibility", fit_id)
    source = Source(uri)
    reader, probe = detect(source, fmt, dict(options or {}))
    if probe.proposal is not None:
        raise RequestError(f"the columns of {source.uri} are only a guess", code="unconfirmed_map", fix="see `ingest`")
    names = dict(lake.episodes().select("content_hash", "episode_id").iter_rows())
    return [
        {"key": item.key, **named(_judged(item, fit, reader, probe), names)}
        for item in reader.read(source, probe, [ref.key for ref in probe.episodes])
    ]


def _judged(item: SourceEpisode | Unreadable, fit: Fit, reader: Format, probe: Probe) -> Judgement:
    if isinstance(item, Unreadable):
        return Judgement(None, reason=item.reason)
    fps = float(reader.fps or probe.fps)
    try:
        steps = canonical(item.steps, probe.features, fps)
        state, action = (to_array(steps[name], name).astype(np.float64) for name in (STATE, ACTION))
    except (EngineError, KeyError) as error:
        return Judgement(None, reason=f"no state and action to judge by: {error}")
    embodiment, mode = reader.embodiment or probe.embodiment, reader.control_mode or probe.control_mode
    group = f"{embodiment}/{mode}" if mode and embodiment != "unknown" else None  # else by the widths alone
    state, action = (x.reshape(len(steps), -1) for x in (state, action))
    return judged(fit, state, action, fps=fps, task=item.task or "", group=group)


def named(found: Judgement, names: Mapping[str, str]) -> dict[str, Any]:
    """A judgement as plain values; base demonstrations by their id where ``names`` has it, by content hash."""
    return {
        "accepted": found.accepted,
        "compatibility": found.compatibility,
        "bad_fraction": found.bad_fraction,
        "longest_run": found.longest_run,
        "reason": found.reason,
        "note": found.note,
        "windows": [
            {"start": w.start, "stop": w.stop, "error": w.error, "nearest": names.get(w.nearest, w.nearest)}
            for w in found.windows
        ],
    }
