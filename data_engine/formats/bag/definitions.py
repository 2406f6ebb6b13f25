"""ROS message definitions: the text that a bag carries beside each channel, as tables of fields.

The format is of lines (`ROS 1 <https://wiki.ros.org/msg>`_, `ROS 2 <https://docs.ros.org/en/rolling/Concepts/Basic/
About-Interfaces.html>`_): ``type name``, optionally an array, a default, or a constant, which says nothing of the
bytes. Parsing is linear in the text, and what it allows is bounded before anything is decoded by it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

from data_engine.errors import SourceError

__all__ = ["Field", "Leaf", "Types", "leaves", "normal", "parse", "standard"]

PRIMITIVES = {
    "bool": "?", "int8": "b", "uint8": "B", "byte": "B", "char": "B", "int16": "h", "uint16": "H", "int32": "i",
    "uint32": "I", "int64": "q", "uint64": "Q", "float32": "f", "float64": "d",
}  # fmt: skip
"""Type -> the letter that :mod:`struct` has for it."""
SPECIAL = ("string", "wstring", "time", "duration")
_DTYPES = {"byte": "uint8", "char": "uint8", "time": "int64", "duration": "int64"}
_TEXT_BYTES = 1 << 20
_TYPES, _FIELDS, _DEPTH = 1024, 1 << 14, 32
_LEAVES = 4096
_SEPARATOR = re.compile(r"=+[ \t\r]*", re.ASCII)
_LINE = re.compile(
    r"(?P<type>[A-Za-z][A-Za-z0-9_/]*)(?:<=[0-9]+)?(?:\[(?P<bound><=)?(?P<length>[0-9]{0,9})\](?P<array>))?"
    r"[ \t]+(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?:[ \t]*(?P<constant>=).*|[ \t]*#.*|[ \t]+.*)?",
    re.ASCII,
)


@dataclass(frozen=True, slots=True)
class Field:
    """One field: ``type`` is a primitive's name or ``package/Type``; ``length`` None for one value, -1 for a sequence
    of any length, else the entries of a fixed array.
    """

    name: str
    type: str
    length: int | None = None


Types = Mapping[str, tuple[Field, ...]]


@dataclass(frozen=True, slots=True)
class Leaf:
    """A value inside a message: its dotted ``path``, numpy's name of its type (or ``string``), ``length`` as above.

    Times and durations are whole nanoseconds, int64, with ``time`` set.
    """

    path: str
    dtype: str
    length: int | None = None
    time: bool = False


def normal(name: str) -> str:
    """``package/Type`` of a type's name in either spelling (``package/msg/Type``)."""
    parts = name.split("/")
    name = f"{parts[0]}/{parts[2]}" if len(parts) == 3 else name
    return "std_msgs/Header" if name == "roslib/Header" else name


@lru_cache(maxsize=1024)
def parse(text: str, root: str, ros: int) -> Types:
    """The types that ``text`` defines: ``root`` first, then each after a line of ``=`` and its ``MSG: package/Type``.

    ``ros`` is 1 or 2 (a ``byte`` is signed in 1). Raises ``SourceError`` (``bad_definition``) for text that is no such
    definition, for a type that is missing or holds itself, and beyond 1 MiB, 1024 types or 32 levels.
    """
    if len(text) > _TEXT_BYTES:
        raise SourceError(f"the definition of {root} is {len(text) >> 20} MiB long", code="bad_definition")
    root = normal(root)
    types: dict[str, list[Field]] = {}
    name, fields, total = root, types.setdefault(root, []), 0
    for line in text.split("\n"):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        if line.startswith("=") and _SEPARATOR.fullmatch(line):
            name = ""
        elif line.startswith("MSG:"):
            name = normal(line[4:].strip())
            if name in types and types[name] and name != root:
                name = f"{name} again"  # the same section twice: the first one holds
            fields = types.setdefault(name, []) if name != root else []
        elif line.startswith("IDL:") or not name:
            raise SourceError(f"the definition of {root} is no ROS message definition", code="bad_definition")
        else:
            found = _field(line, name, ros)
            if found is not None:
                fields.append(found)
                total += 1
        if len(types) > _TYPES or total > _FIELDS:
            raise SourceError(f"the definition of {root} is too large", code="bad_definition")
    found_types = {name: tuple(fields) for name, fields in types.items()}
    _check(found_types, root)
    return found_types


def _field(line: str, owner: str, ros: int) -> Field | None:
    match = _LINE.fullmatch(line)
    if match is None:
        raise SourceError(f"{owner} has a line that defines nothing: {line[:80]!r}", code="bad_definition")
    if match["constant"]:
        return None
    length = None
    if match["array"] is not None:
        length = -1 if match["bound"] or not match["length"] else int(match["length"])
    return Field(match["name"], _named(match["type"], owner, ros), length)


def _named(name: str, owner: str, ros: int) -> str:
    if name in PRIMITIVES:
        return "int8" if name == "byte" and ros == 1 else name
    if name in SPECIAL:
        return name
    if name == "Header":
        return "std_msgs/Header"
    name = normal(name) if "/" in name else f"{owner.split('/')[0]}/{name}"
    return {"builtin_interfaces/Time": "time", "builtin_interfaces/Duration": "duration"}.get(name, name)


def _check(types: Types, root: str) -> None:
    """Every type that ``root`` needs is there, and none holds itself."""
    done: set[str] = set()
    stack: list[str] = []

    def visit(name: str) -> None:
        if name in done or name in PRIMITIVES or name in SPECIAL:
            return
        if name not in types:
            raise SourceError(f"the definition of {root} lacks {name}", code="bad_definition")
        if name in stack or len(stack) >= _DEPTH:
            raise SourceError(f"the definition of {root} nests {name} without end", code="bad_definition")
        stack.append(name)
        for field in types[name]:
            visit(field.type)
        done.add(stack.pop())

    visit(root)


def leaves(types: Types, root: str, prefix: str = "") -> Iterator[Leaf]:
    """The values of a message of type ``root``, in order; sequences and arrays of messages are passed over.

    At most 4096: a definition of a few lines can hold more than the world has atoms.
    """

    def walk(name: str, at: str) -> Iterator[Leaf]:
        for field in types[name]:
            path = f"{at}{field.name}"
            if field.type in PRIMITIVES or field.type in SPECIAL:
                dtype = "string" if field.type in ("string", "wstring") else _DTYPES.get(field.type, field.type)
                yield Leaf(path, dtype, field.length, field.type in ("time", "duration"))
            elif field.length is None:
                yield from walk(field.type, f"{path}.")

    for count, leaf in enumerate(walk(normal(root), prefix)):
        if count >= _LEAVES:
            return
        yield leaf


_DISTROS = ("humble", "jazzy", "iron", "kilted", "galactic", "foxy")


@lru_cache(maxsize=256)
def standard(name: str, distro: str | None = None) -> tuple[str, str] | None:
    """(definition, ROS 2 release) of a standard type ``package/msg/Type``, or None: older bags have names only."""
    from rosbags.typesys import Stores, get_typestore

    package, _, kind = normal(name).partition("/")
    for release in dict.fromkeys([distro or "", *_DISTROS]):
        try:
            store = get_typestore(Stores(f"ros2_{release}"))
        except ValueError:
            continue
        if f"{package}/msg/{kind}" in store.fielddefs:
            return store.generate_msgdef(f"{package}/msg/{kind}", ros_version=2)[0], release
    return None
