"""What the LeRobot formats share: info.json, path templates and the mapping of their features onto canonical steps.

``next.reward`` becomes ``reward`` and ``next.truncated`` ``truncated``. ``next.terminated`` or, where there is none,
``next.done`` becomes ``terminated``: LeRobot's done marks the episode's last step whatever ended it, so read it as "the
recording says it ended here". ``next.success`` keeps its name; an episode's success is its own metadata column, else
whether any step says so (LeRobot's own evaluation counts that way). ``observation.images.<camera>``,
``observation.image`` and every other image or video feature become cameras. ``frame_index``, ``episode_index``,
``index`` and ``task_index`` are derivable and are not kept as steps. A shape of (1,) is LeRobot's way to write a
scalar; only ``action`` and ``observation.state`` stay vectors of one.
"""

from __future__ import annotations

import math
import re
import string
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from data_engine.errors import EngineError, SourceError
from data_engine.formats import Source, json_text
from data_engine.model import ACTION, IMAGES, REWARD, STATE, TERMINATED, TRUNCATED, Feature
from data_engine.steps import EPISODE_ID, STEP

__all__ = [
    "BOOKKEEPING", "STEP_NAMES", "Info", "attributes_of", "components", "episode_key", "fill", "listed_tasks",
    "read_info",
]  # fmt: skip

BOOKKEEPING = frozenset({"frame_index", "episode_index", "index", "task_index"})
STEP_NAMES = {
    "next.reward": REWARD,
    "next.terminated": TERMINATED,
    "next.truncated": TRUNCATED,
    "next.done": TERMINATED,
}
_OWN = re.compile(r"(episode_index|tasks|length|task_index|(data|videos|stats|meta)/.*|dataset_(from|to)_index)$")
_FIELDS = {"v3.": ("chunk_index", "file_index"), "v2.": ("episode_chunk", "episode_index")}
_DIGITS = re.compile(r"(0?\d{1,2})?d?$")


@dataclass(frozen=True)
class Info:
    """``meta/info.json`` as read and checked. ``features`` are canonical, ``notes`` its lies about itself."""

    version: str
    fps: float
    embodiment: str
    features: tuple[Feature, ...]
    declared: Mapping[str, Mapping[str, Any]]  # by canonical name, each feature as the file has it
    data_path: str
    video_path: str | None
    chunks_size: int
    total_episodes: int | None
    total_frames: int | None
    licence: str | None
    notes: tuple[str, ...]

    @property
    def cameras(self) -> tuple[Feature, ...]:
        """The features whose frames lie in video files."""
        return tuple(feature for feature in self.features if feature.dtype == "video")


def read_info(source: Source, major: str, *, fps: float | None = None) -> Info | None:
    """The info of a LeRobot source of version ``major`` (``v2.``, ``v3.``), or None where it is another thing.

    ``fps`` is the recipe's word against the file's. Raises ``SourceError`` where the file is broken.
    """
    if not source.exists("meta", "info.json"):
        return None
    try:
        with source.open("meta", "info.json") as file:
            raw = json_text.loads(file.read())
    except (ValueError, OSError, EngineError) as error:
        raise SourceError(f"meta/info.json of {source.uri} is not readable: {error}", code="bad_info") from error
    version = raw.get("codebase_version") if isinstance(raw, dict) else None
    if not isinstance(version, str) or not version.startswith(major):
        return None
    rate = fps if fps is not None else raw.get("fps")
    if isinstance(rate, bool) or not isinstance(rate, int | float) or not math.isfinite(rate) or rate <= 0:
        raise SourceError(f"meta/info.json declares fps {rate!r}", code="bad_fps", fix="give the source the option fps")
    declared = raw.get("features")
    if not isinstance(declared, dict) or not declared:
        raise SourceError("meta/info.json declares no features", code="bad_info")
    names = _canonical_names(declared)
    notes: list[str] = []
    features = tuple(_feature(key, declared[key], name, notes) for key, name in names.items())
    chunk = raw.get("chunks_size")
    info = Info(
        version=version,
        fps=float(rate),
        embodiment=str(raw.get("robot_type") or "unknown"),
        features=features,
        declared={name: declared[key] for key, name in names.items()},
        data_path=str(raw.get("data_path") or ""),
        video_path=str(raw["video_path"]) if raw.get("video_path") else None,
        chunks_size=chunk if isinstance(chunk, int) and chunk > 0 else 1000,
        total_episodes=raw["total_episodes"] if isinstance(raw.get("total_episodes"), int) else None,
        total_frames=raw["total_frames"] if isinstance(raw.get("total_frames"), int) else None,
        licence=_licence(source),
        notes=tuple(notes),
    )
    fill(info.data_path, **dict.fromkeys(_FIELDS[major], 0))
    if info.video_path is not None:
        fill(info.video_path, video_key="camera", **dict.fromkeys(_FIELDS[major], 0))
    elif info.cameras:
        raise SourceError("meta/info.json declares video features and no video_path", code="bad_info")
    return info


@lru_cache(maxsize=1024)  # asked for each episode, of few files
@lru_cache(maxsize=1024)
def fill(template: str, **fields: int | str) -> str:
    """``template`` of info.json with ``fields`` put in; only those names and plain integer widths are allowed.

    Raises ``SourceError`` for any other field, attribute, index, conversion or format, and for a path that leaves the
    source: the template is somebody else's text.
    """
    parts: list[str] = []
    try:
        for literal, name, spec, conversion in string.Formatter().parse(template):
            parts.append(literal)
            if name is None:
                continue
            if name not in fields or conversion or not _DIGITS.match(spec or ""):
                raise ValueError(f"field {name!r} with {spec or 'no format'!r} is not allowed")
            value = fields[name]
            if spec and not isinstance(value, int):
                raise ValueError(f"field {name!r} takes no width")
            parts.append(format(value, spec or ""))
    except ValueError as error:
        raise SourceError(f"path template {template!r} of info.json: {error}", code="bad_template") from error
    path = "".join(parts)
    if not path or path.startswith(("/", "\\")) or ".." in path.split("/") or "://" in path or "\0" in path:
        raise SourceError(f"path template {template!r} of info.json leaves the source", code="bad_template")
    return path


def components(names: Any, size: int) -> tuple[str, ...] | None:
    """Component names out of ``names`` in any shape seen in the wild (list, nested lists, dict of lists, dict of
    positions, null); None where they are not ``size`` many."""
    found = tuple(_flatten(names))
    return found if len(found) == size and size else None


def episode_key(index: int) -> str:
    """The key of an episode in its source, the same in v2 and v3."""
    return f"episode_{index:06d}"


def listed_tasks(row: Mapping[str, Any]) -> tuple[str, ...]:
    """The texts that an episode's metadata list as its tasks; one alone counts too."""
    tasks = row.get("tasks")
    listed = tasks if isinstance(tasks, list) else [tasks]
    return tuple(str(task) for task in listed if task is not None)


def attributes_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """An episode's metadata split into our fields: ``success``, ``operator``, ``scene`` and ``attributes``.

    ``success`` counts only as a truth value; ``operator`` and ``scene`` as text. LeRobot's own columns fall away.
    """
    rest = {key: value for key, value in row.items() if value is not None and not _is_own(key)}
    found: dict[str, Any] = {}
    if isinstance(rest.get("success"), bool) or rest.get("success") in (0, 1):
        found["success"] = bool(rest.pop("success"))
    for name in ("operator", "scene"):
        if isinstance(rest.get(name), str | int):
            found[name] = str(rest.pop(name))
    return {**found, "attributes": {key: _plain(value) for key, value in sorted(rest.items())}}


@lru_cache(maxsize=1024)
def _is_own(column: str) -> bool:
    """Whether LeRobot itself writes a column of the metadata."""
    return _OWN.match(column) is not None


def _canonical_names(declared: Mapping[str, Any]) -> dict[str, str]:
    """Source key -> canonical name of every feature that is kept. Raises ``SourceError`` where two become one."""
    names: dict[str, str] = {}
    for key, spec in declared.items():
        if not isinstance(spec, dict) or not isinstance(spec.get("dtype"), str):
            raise SourceError(f"feature {key!r} of info.json has no dtype", code="bad_info")
        if key in BOOKKEEPING:
            continue
        if spec["dtype"] in ("image", "video"):
            names[key] = IMAGES + _camera(key)
        else:
            wanted = STEP_NAMES.get(key, key)
            taken = wanted != key and (wanted in declared or (key == "next.done" and "next.terminated" in declared))
            names[key] = key if taken else wanted
            lower = names[key].lower()
            if lower in (EPISODE_ID, STEP) or (lower != names[key] and lower in declared):  # a table holds it already
                names[key] = f"source.{names[key]}"
    if len(set(names.values())) < len(names):
        twice = next(name for name in names.values() if list(names.values()).count(name) > 1)
        raise SourceError(f"two features of info.json read as {twice!r}", code="bad_info")
    return names


def _camera(key: str) -> str:
    for prefix in (IMAGES, "observation.image.", "observation."):
        if key.startswith(prefix) and key != prefix:
            return key.removeprefix(prefix)
    return key


def _feature(key: str, spec: Mapping[str, Any], name: str, notes: list[str]) -> Feature:
    shape = spec.get("shape")
    if not isinstance(shape, list) or not all(isinstance(side, int) and side > 0 for side in shape):
        raise SourceError(f"feature {key!r} of info.json has shape {shape!r}", code="bad_info")
    sides = tuple(shape)
    if spec["dtype"] in ("image", "video"):
        return Feature(name=name, dtype=spec["dtype"], shape=_height_first(sides, spec.get("names")), source=key)
    if spec["dtype"] == "string":
        return Feature(name=name, dtype="string", source=key)
    try:
        dtype = np.dtype(spec["dtype"])
    except (TypeError, ValueError):
        dtype = np.dtype(object)
    if dtype.kind not in "biuf":
        raise SourceError(f"feature {key!r} of info.json has dtype {spec['dtype']!r}", code="bad_info")
    if sides == (1,) and name not in (STATE, ACTION):
        sides = ()
    size = math.prod(sides)
    named = components(spec.get("names"), size)
    if spec.get("names") and named is None:
        notes.append(f"{key}: names do not fit its {size} components and are left out")
    return Feature(name=name, dtype=dtype.name, shape=sides, components=named, source=key)


def _height_first(shape: tuple[int, ...], names: Any) -> tuple[int, ...]:
    """(h, w, c) of a camera, also where the source declares (c, h, w)."""
    flat = tuple(_flatten(names))
    channels_first = flat[:1] in (("channels",), ("channel",)) if len(flat) == 3 else False
    if len(shape) == 3 and (channels_first or (shape[0] in (1, 3, 4) and shape[2] not in (1, 3, 4))):
        return (shape[1], shape[2], shape[0])
    return shape


def _flatten(names: Any) -> Iterator[str]:
    if isinstance(names, dict):
        if names and all(isinstance(value, int) for value in names.values()):
            yield from sorted(names, key=lambda name: names[name])
        else:
            for value in names.values():
                yield from _flatten(value)
    elif isinstance(names, list | tuple):
        for value in names:
            yield from _flatten(value)
    elif names is not None:
        yield str(names)


def _plain(value: Any) -> Any:
    """``value`` as JSON can hold it: NaN as null, times and bytes as text."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value if isinstance(value, str | int | bool) or value is None else str(value)


def _licence(source: Source) -> str | None:
    """The licence in the front matter of the data set's card."""
    if not source.exists("README.md"):
        return None
    try:
        with source.open("README.md") as file:
            text = file.read(65536).decode("utf-8", "replace")
    except (OSError, EngineError):
        return None
    front = re.match(r"---\s*\n(.*?)\n---", text, re.DOTALL)
    found = re.search(r"^license:\s*['\"]?([\w.\-]+)", front.group(1), re.MULTILINE) if front else None
    return found.group(1) if found else None
