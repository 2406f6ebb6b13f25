"""The conventions of a source's columns, from a bounded sample of its episodes and what its options state."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

import numpy as np

from data_engine.arrays import is_numeric, to_array
from data_engine.conventions import infer
from data_engine.conventions.control import control_mode
from data_engine.conventions.settle import settle
from data_engine.defects import Defect, of_times
from data_engine.errors import SourceError
from data_engine.formats import Format, Probe, Source, SourceEpisode, Unreadable
from data_engine.model import ACTION, STATE, TIMESTAMP, Feature
from flows.apart import watched

__all__ = ["Conventions", "conventions"]

_EPISODES = 6  # the first ones: a format that streams reads no further
_STEPS = 4_000  # of each


@dataclass(frozen=True)
class Conventions:
    """A source's control mode with its evidence, its features with their findings, and notes on contradictions.

    ``sampled`` are the keys of the episodes that were looked at; ``unreadable`` and ``defects`` (with the keys of the
    episodes they were seen in) what was wrong with them.
    """

    control_mode: str
    evidence: str
    features: tuple[Feature, ...]
    notes: tuple[str, ...]
    sampled: tuple[str, ...] = ()
    unreadable: tuple[Unreadable, ...] = ()
    defects: Mapping[Defect, Sequence[str]] = field(default_factory=dict)


def conventions(fmt: Format, probe: Probe, source: Source, fps: float, without: Collection[str] = ()) -> Conventions:
    """What the first episodes of a source show. What the options or the source state wins; nothing is rescaled.

    Episodes ``without`` are not looked at. Raises ``RequestError`` where the options state something of a column that
    is not there.
    """
    wanted = {feature.name for feature in probe.features if not feature.is_camera}
    keys = list(islice((ref.key for ref in probe.episodes if ref.key not in without), _EPISODES))
    samples, unreadable = [], []
    defects: dict[Defect, list[str]] = {}
    for item in watched(fmt.read(source, probe, keys), keys):
        if isinstance(item, Unreadable):
            unreadable.append(item)
            continue
        samples.append(_sample(item, wanted))
        clock = item.steps.column(TIMESTAMP).to_numpy() if TIMESTAMP in item.steps.column_names else np.zeros(1)
        for defect in (*item.defects, *of_times(clock, np.array([0, len(clock)]), fps)[0]):
            defects.setdefault(defect, []).append(item.key)
    stated = fmt.control_mode or probe.control_mode
    mode, evidence = stated, "stated"
    if mode is None:
        pairs = [(sample[STATE], sample[ACTION]) for sample in samples[:3] if {STATE, ACTION} <= sample.keys()]
        mode, evidence = control_mode(probe.features, pairs)
    said: dict[str, dict[str, str]] = {column: dict(kinds) for column, kinds in (fmt.conventions or {}).items()}
    modes = [word for word in ("delta", "absolute") if stated and word in stated.split("_")]
    if len(modes) == 1 and any(feature.name == ACTION for feature in probe.features):
        said[ACTION] = {"action_mode": modes[0], **said.get(ACTION, {})}
    found = infer(probe.features, samples, fps, mode=modes[0] if len(modes) == 1 else None)
    features, notes = settle(probe.features, found, fmt.units, said)
    return Conventions(mode, evidence, features, notes, tuple(keys), tuple(unreadable), defects)


def _sample(episode: SourceEpisode, wanted: Collection[str]) -> dict[str, np.ndarray]:
    """Column -> float64 [n, d] of an episode's first steps; columns that are no arrays are left out."""
    steps = episode.steps.slice(0, _STEPS)
    sample = {}
    for name in sorted({*wanted} & {*steps.column_names}):
        if is_numeric(steps.schema.field(name).type):
            try:
                values = to_array(steps[name], name)
            except SourceError:  # ragged: the ingest itself says so
                continue
            sample[name] = values.astype(np.float64).reshape(len(values), -1)
    return sample
