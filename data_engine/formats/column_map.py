"""The column map: which of a source's own fields become which column, for layouts that no format knows by itself.

A person writes it, or confirms the guess that ``data-engine ingest --dry-run`` prints: nothing guessed is ingested
unseen. A field is a path in the source's own words, with an optional range of a vector's entries: ``obs/qpos[0:7]``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator

from data_engine.errors import SourceError
from data_engine.formats.arrays import Spec, free_name
from data_engine.model import ACTION, IMAGES, REWARD, STATE, TERMINATED, TIMESTAMP, TRUNCATED

__all__ = ["ColumnMap", "Part", "guess"]

_PART = re.compile(r"(?P<path>[^\[\]]+)(?:\[(?P<start>\d*):(?P<stop>\d*)\])?")
_EPISODE_FIELDS = ("task", "language", "success", "operator", "scene", "provenance")
_SYNONYMS = {
    ACTION: ("action", "actions", "act", "command", "cmd", "joint_action", "rel_actions"),
    STATE: ("state", "qpos", "robot_state", "proprio", "proprioception", "joint_positions", "joint_state", "robot_obs",
            "observations"),
    REWARD: ("reward", "rewards", "r"),
    TERMINATED: ("terminated", "terminal", "terminals", "terminations", "done", "dones"),
    TRUNCATED: ("truncated", "timeout", "timeouts", "truncations"),
}  # fmt: skip


@dataclass(frozen=True)
class Part:
    """A field of the source, whole or entries ``start`` up to ``stop`` of its flattened step."""

    path: str
    start: int = 0
    stop: int | None = None

    @classmethod
    def parse(cls, text: str) -> Part:
        """The part that ``path`` or ``path[start:stop]`` names. Raises ``ValueError`` for anything else."""
        match = _PART.fullmatch(text)
        if match is None:
            raise ValueError(f"{text!r} is no field: write path or path[start:stop]")
        start, stop = int(match["start"] or 0), int(match["stop"]) if match["stop"] else None
        if stop is not None and stop <= start:
            raise ValueError(f"{text!r} is an empty range")
        return cls(match["path"], start, stop)

    def width(self, spec: Spec) -> int:
        """Entries a step, of a field of ``spec``. Raises ``SourceError`` for a range beyond it."""
        stop = spec.size if self.stop is None else self.stop
        if stop > spec.size or self.start >= stop:
            raise SourceError(
                f"{self.path}[{self.start}:{stop}] leaves its {spec.size} entries a step", code="bad_range"
            )
        return stop - self.start

    def take(self, values: np.ndarray) -> np.ndarray:
        """The part of ``values`` (n, ...): as they are where the whole is meant, else (n, stop - start)."""
        if self.start == 0 and self.stop is None:
            return values
        return values.reshape(len(values), -1)[:, self.start : self.stop]


def _listed(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


class ColumnMap(BaseModel):
    """Which field goes where.

    ``columns``: a column's name -> the field, or the fields joined in order. ``cameras``: a camera's name (without
    ``observation.images.``) -> its field. ``episode``: ``task``, ``language``, ``success``, ``operator``, ``scene`` or
    ``provenance`` -> a field that holds it once an episode, or ``=text`` for the same in all. ``clock``: the field of
    the recorded time, in ``clock_unit``; without one the steps are even at the source's fps. What the map does not
    name is left out, and the receipt says so.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    columns: dict[str, Annotated[tuple[str, ...], BeforeValidator(_listed)]] = Field(default_factory=dict)
    cameras: dict[str, str] = Field(default_factory=dict)
    episode: dict[str, str] = Field(default_factory=dict)
    clock: str | None = None
    clock_unit: Literal["s", "ms", "us", "ns"] = "s"

    @field_validator("columns")
    @classmethod
    def _columns(cls, columns: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        for name, fields in columns.items():
            if not name or name == TIMESTAMP or name.startswith(IMAGES):
                raise ValueError(f"{name!r} is no column: time goes under clock, images under cameras")
            if not fields:
                raise ValueError(f"{name} names no field")
            for field in fields:
                Part.parse(field)
        return columns

    @field_validator("episode")
    @classmethod
    def _episode(cls, episode: dict[str, str]) -> dict[str, str]:
        for name in episode:
            if name not in _EPISODE_FIELDS:
                raise ValueError(f"{name!r} is no field of an episode; known: {', '.join(_EPISODE_FIELDS)}")
        return episode

    def parts(self, column: str) -> tuple[Part, ...]:
        """The fields joined into ``column``, in order."""
        return tuple(Part.parse(field) for field in self.columns[column])

    @property
    def fields(self) -> frozenset[str]:
        """Every path of the source that the map names."""
        named = {part.path for column in self.columns for part in self.parts(column)}
        named |= {value for value in self.episode.values() if not value.startswith("=")}
        return frozenset(named | set(self.cameras.values()) | ({self.clock} if self.clock else set()))

    @property
    def clock_scale(self) -> float:
        """Seconds in one unit of the clock."""
        return {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}[self.clock_unit]

    def as_options(self) -> dict[str, Any]:
        """The map as a person would write it: single fields as text, defaults left out."""
        plain = self.model_dump(mode="json", exclude_defaults=True)
        plain["columns"] = {name: list(f) if len(f) > 1 else f[0] for name, f in self.columns.items()}
        return plain


def guess(specs: Mapping[str, Spec], separator: str = "/") -> ColumnMap:
    """A map for fields of ``specs``, by their names: a proposal to confirm, never to act on.

    A field whose last name is a known synonym becomes that canonical column (the shallowest, then the first by name,
    where several would); RGB frames become cameras; every other field becomes a column of its own name, without the
    folder that all fields share.
    """
    folders = {path.split(separator, 1)[0] for path in specs}
    shared = folders.pop() + separator if len(folders) == 1 and all(separator in path for path in specs) else ""
    columns: dict[str, tuple[str, ...]] = {}
    cameras: dict[str, str] = {}
    paths = sorted(specs, key=lambda path: (path.count(separator), path))
    taken: set[str] = set()
    for column, names in _SYNONYMS.items():
        ranked = [
            (names.index(leaf), path)
            for path in paths
            if (leaf := path.rsplit(separator, 1)[-1].lower()) in names
            and specs[path].is_vector
            and _PART.fullmatch(path)
        ]
        if ranked:
            columns[column] = (min(ranked, key=lambda item: item[0])[1],)
            taken.add(columns[column][0])
    for path in paths:
        if path in taken or not _PART.fullmatch(path):  # a field with brackets in its name cannot be written
            continue
        leaf = path.rsplit(separator, 1)[-1]
        if specs[path].is_rgb:
            camera = leaf if leaf and leaf not in cameras else path.replace(separator, ".")
            cameras[free_name(camera, cameras)] = path
        else:
            name = path.removeprefix(shared).replace(separator, ".") or "source"
            columns[free_name(f"source.{name}" if name.startswith(IMAGES) else name, columns)] = (path,)
    return ColumnMap(columns=columns, cameras=cameras)
