"""What is settled before an episode is read: which fields make each column, what a step is, where an episode begins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from data_engine.formats.bag.files import Recording
from data_engine.formats.bag.track import Field
from data_engine.model import ACTION, IMAGES, STATE, TERMINATED, TRUNCATED, Feature

__all__ = ["AGE", "EVEN", "Plan", "Span"]

AGE = ".age_s"
EVEN = "fps"
"""The clock that no topic gives."""


@dataclass(frozen=True)
class Span:
    """An episode: a recording from ``start`` up to, not including, ``stop`` nanoseconds of log time.

    ``marker`` is the text of the message that began it.
    """

    recording: Recording
    start: int | None = None
    stop: int | None = None
    marker: str | None = None


@dataclass(frozen=True)
class Plan:
    """The fields of each column, the topic and frame size (height, width) of each camera, fields or ``=text`` of the
    episode, the topic that is the clock (or ``fps``), and the options that say which stamps count and how old a value
    may be.
    """

    columns: Mapping[str, tuple[Field, ...]]
    cameras: Mapping[str, tuple[str, tuple[int, int]]]
    facts: Mapping[str, str | Field]
    clock: str
    stamp: str | None = None
    max_age_s: float | None = None

    @property
    def timed(self) -> tuple[str, ...]:
        """The topics whose stamps matter, the clock's first."""
        clock = () if self.clock == EVEN else (self.clock,)
        fields = (part.topic for parts in self.columns.values() for part in parts)
        return tuple(dict.fromkeys([*clock, *fields, *(topic for topic, _ in self.cameras.values())]))

    @property
    def fields(self) -> dict[str, tuple[Field, ...]]:
        """Topic -> the fields that are read of it: none of a camera's, and of a clock that is no more."""
        found: dict[str, dict[Field, None]] = {topic: {} for topic in self.timed}
        facts = (fact for fact in self.facts.values() if isinstance(fact, Field))
        for part in (*(part for parts in self.columns.values() for part in parts), *facts):
            found.setdefault(part.topic, {})[part] = None
        return {topic: tuple(parts) for topic, parts in found.items()}

    @property
    def features(self) -> tuple[Feature, ...]:
        """Each column and each camera, and after it its age."""
        found: list[Feature] = []
        for name, parts in self.columns.items():
            found += _with_age(_column(name, parts))
        for name, (topic, size) in self.cameras.items():
            found += _with_age(Feature(name=IMAGES + name, dtype="image", shape=(*size, 3), source=topic))
        return tuple(found)


def _with_age(feature: Feature) -> tuple[Feature, Feature]:
    return feature, Feature(name=feature.name + AGE, dtype="float64", unit="s", source=feature.source)


def _column(name: str, parts: Sequence[Field]) -> Feature:
    single = len(parts) == 1 and parts[0].width is None
    text = parts[0].dtype == "string"
    dtype = "string" if text else np.result_type(*(np.dtype(part.dtype) for part in parts)).name
    names = _components(parts)
    named = not single and (name in (STATE, ACTION) or all(part.components for part in parts))
    return Feature(
        name=name,
        dtype="bool" if single and name in (TERMINATED, TRUNCATED) else dtype,
        shape=() if single else (sum(map(len, names)),),
        components=tuple(entry for part in names for entry in part) if named else None,
        source=" + ".join(map(str, parts)),
    )


def _components(parts: Sequence[Field]) -> list[tuple[str, ...]]:
    """Names of each part's entries, with the topic before them where two parts would name one alike."""
    names = [part.components or _numbered(part) for part in parts]
    flat = [name for part in names for name in part]
    if len(set(flat)) == len(flat):
        return names
    topics = [part.topic.strip("/").replace("/", ".") for part in parts]
    return [tuple(f"{topic}.{name}" for name in part) for topic, part in zip(topics, names, strict=True)]


def _numbered(part: Field) -> tuple[str, ...]:
    leaf = part.paths[0].rsplit(".", 1)[-1]
    return (leaf,) if part.size is None else tuple(f"{leaf}.{i + part.start}" for i in range(part.size))
