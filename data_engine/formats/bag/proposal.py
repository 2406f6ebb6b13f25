"""A column map guessed by the types of topics: for a person to check, never to act on."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from data_engine.errors import RequestError, SourceError
from data_engine.formats.arrays import free_name
from data_engine.formats.bag.cameras import is_camera
from data_engine.formats.bag.codec import Channel, codec
from data_engine.formats.bag.track import field_of, split
from data_engine.formats.column_map import ColumnMap, Part
from data_engine.model import ACTION, STATE

__all__ = ["camera_name", "leading", "propose"]

_COMMAND = re.compile(r"command|cmd|action|target|desired|goal|reference|leader|master", re.IGNORECASE)
_COMMANDS = {"Twist": "", "TwistStamped": "twist", "JointTrajectory": "points.0.positions", "Float64MultiArray": "data",
             "Float32MultiArray": "data", "JointJog": "velocities"}  # fmt: skip
_PASSED_OVER = {"Log", "ParameterEvent", "TFMessage", "tfMessage", "Clock", "DiagnosticArray", "CameraInfo"}
_WIDEST = 1024


def propose(topics: Mapping[str, tuple[Channel, bytes]], cameras: Mapping[str, str]) -> tuple[ColumnMap, list[str]]:
    """(map, notes). ``topics`` by name: the channel and its first message; ``cameras`` by name: those whose images are
    read.

    Joint states are ``observation.state``, or ``action`` where the topic's name says command; without any, messages
    that command are ``action``. Every other field of numbers or text becomes a column of its own name.
    """
    columns: dict[str, tuple[str, ...]] = {}
    taken: set[str] = set()
    notes: list[str] = []
    left: list[str] = []
    readable = {topic: held for topic, held in topics.items() if _readable(held[0], notes)}

    def joined(column: str, wanted: Mapping[str, str]) -> None:
        fits = [(topic, path) for topic, path in wanted.items() if _fits(*readable[topic], path)]
        if fits:
            columns[column] = tuple(_written(topic, path) for topic, path in fits)
            taken.update(columns[column])

    kinds = {topic: channel.kind for topic, (channel, _) in readable.items()}
    joints = [topic for topic, kind in kinds.items() if kind == "JointState"]
    joined(STATE, {topic: "position" for topic in joints if not _COMMAND.search(topic)})
    joined(ACTION, {topic: "position" for topic in joints if _COMMAND.search(topic)})
    if ACTION not in columns:
        joined(ACTION, {topic: _COMMANDS[kind] for topic, kind in kinds.items() if kind in _COMMANDS})
    for topic, (channel, sample) in readable.items():
        if topic in cameras.values():
            continue
        names = [] if is_camera(channel) or channel.kind in _PASSED_OVER else _names(channel, sample)
        written = [_written(topic, path) for path in names]
        for text in written:
            if text not in taken:
                columns[free_name(text.strip("/").replace("/", "."), columns)] = (text,)
        if not written and not any(text.startswith(topic) for text in taken):
            left.append(f"{topic} ({channel.type})")
    if left:
        notes.append(f"no column is proposed for {', '.join(left)}")
    return ColumnMap(columns=columns, cameras=dict(cameras)), notes


def leading(given: ColumnMap, known: Collection[str]) -> str:
    """The topic that is the clock where nobody says: the first of the state, of a camera, of another column, of the
    action. Raises ``RequestError`` for a map without any.
    """
    others = [fields[0] for name, fields in given.columns.items() if name != ACTION]
    first = [*given.columns.get(STATE, ())[:1], *given.cameras.values(), *others, *given.columns.get(ACTION, ())]
    if not first:
        raise RequestError("the map names no column and no camera", code="bad_option")
    return split(Part.parse(first[0]).path, known)[0]


def _written(topic: str, path: str) -> str:
    return f"{topic}.{path}" if path else topic


def _readable(channel: Channel, notes: list[str]) -> bool:
    try:
        codec(channel)
    except SourceError as error:
        notes.append(error.message)
        return False
    return True


def _fits(channel: Channel, sample: bytes, path: str) -> bool:
    try:
        field_of(channel, sample, path)
    except SourceError:
        return False
    return True


def _names(channel: Channel, sample: bytes) -> list[str]:
    """Fields of a message that can be columns: the whole where it is nothing but numbers, else its top-level parts."""
    leaves = [leaf for leaf in codec(channel).leaves(sample) if not leaf.path.startswith("header.") and not leaf.time]
    if not leaves:
        return []
    tops = list(dict.fromkeys(leaf.path.split(".")[0] for leaf in leaves))
    if len(tops) > 1 and all(leaf.dtype != "string" and leaf.length is None for leaf in leaves):
        return [""]
    found = []
    for top in tops:
        try:
            field = field_of(channel, sample, top)
        except SourceError:
            continue
        if (field.size or 1) <= _WIDEST and (field.dtype == "string" or np.dtype(field.dtype).kind in "biuf"):
            found.append(top)
    return found


def camera_name(topic: str, taken: Mapping[str, Any]) -> str:
    """A camera's name out of its topic: ``/wrist/image_raw/compressed`` is ``wrist``."""
    words = [word for word in topic.strip("/").split("/") if word]
    while len(words) > 1 and re.fullmatch(
        r"(image|color|rgb|raw|rect)([_.](raw|rect|color|compressed))*|compressed", words[-1]
    ):
        words.pop()
    name = words[-1] if words else "camera"
    return name if name not in taken else ".".join(topic.strip("/").split("/"))
