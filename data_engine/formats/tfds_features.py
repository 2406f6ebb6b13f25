"""``features.json`` of TensorFlow Datasets: which values each example holds, under which name and in which encoding.

Three spellings are read: protocol buffers as JSON (``pythonClassName`` beside one of ``featuresDict``, ``tensor``, and
so on), the same with the content as JSON text, and the older ``type`` and ``content``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np

from data_engine.errors import SourceError
from data_engine.formats import json_text

__all__ = ["Leaf", "is_features", "read_features"]

_CONTENTS = ("featuresDict", "sequence", "tensor", "image", "text", "classLabel", "video", "boundingBox")
_KINDS = {
    "featuresdict": "dict",
    "sequence": "sequence",
    "dataset": "sequence",
    "tensor": "tensor",
    "scalar": "tensor",
    "image": "image",
    "labeledimage": "image",
    "text": "text",
    "classlabel": "label",
    "video": "video",
    "boundingbox": "box",
    "bboxfeature": "box",
}
_TEXT = ("string", "object", "str")
_NUMBERS = frozenset(
    {"bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64"}
)
_DEEPEST = 32
_LARGEST = 1 << 28  # numbers a step: a few bytes can declare any shape


@dataclass(frozen=True)
class Leaf:
    """One value, or sequence of values, of an example.

    ``path`` joins the names on the way with slashes. ``dtype`` is numpy's name, ``string`` for text. ``shape`` is that
    of one value, ``levels`` the length of each sequence around it from the outermost; None where it varies.
    ``encoding`` says how a tensor lies on disk: ``none`` (numbers), ``bytes`` or ``zlib`` (its bytes, plain or packed).
    """

    path: str
    kind: Literal["tensor", "image"]
    dtype: str
    shape: tuple[int | None, ...] = ()
    encoding: Literal["none", "bytes", "zlib"] = "none"
    levels: tuple[int | None, ...] = ()

    @cached_property
    def is_fixed(self) -> bool:
        """Whether every step (or, outside of sequences, the example) holds the same number of values."""
        return None not in self.shape and None not in self.levels[1:]

    @cached_property
    def is_dynamic(self) -> bool:
        """Whether the shape of each value lies beside it."""
        return self.kind == "tensor" and self.shape.count(None) > 1

    @cached_property
    def sides(self) -> tuple[int, ...]:
        """``shape`` with 0 for a side that varies."""
        return tuple(side or 0 for side in self.shape)

    @cached_property
    def numpy(self) -> np.dtype:
        """``dtype`` as numpy knows it, text as objects."""
        return np.dtype(object if self.dtype == "string" else self.dtype)


def is_features(content: Any) -> bool:
    """Whether parsed JSON looks like a ``features.json`` of TensorFlow Datasets."""
    return isinstance(content, dict) and bool(_class_name(content))


def read_features(content: Any) -> tuple[tuple[Leaf, ...], tuple[str, ...]]:
    """The leaves of a parsed ``features.json`` sorted by path, and a note for each feature of a kind that is not read.

    Raises ``SourceError`` (``bad_features``) where it describes nothing, or the same value twice.
    """
    leaves: dict[str, Leaf] = {}
    notes: list[str] = []
    for found in _walk(content, "", (), 0):
        if isinstance(found, str):
            notes.append(found)
        elif found.path in leaves:
            raise _bad(f"{found.path} is described twice")
        else:
            leaves[found.path] = found
    return tuple(leaves[path] for path in sorted(leaves)), tuple(notes)


def _walk(node: Any, path: str, levels: tuple[int | None, ...], depth: int) -> Iterator[Leaf | str]:
    if not isinstance(node, dict) or depth > _DEEPEST:
        raise _bad(f"{path or 'the top'} is no feature")
    kind, content = _content(node, path)
    if kind == "dict":
        inside = content.get("features")
        for name, inner in (inside if isinstance(inside, dict) and not is_features(inside) else content).items():
            if name:
                yield from _walk(inner, f"{path}/{name}" if path else name, levels, depth + 1)
    elif kind == "sequence":
        yield from _walk(content.get("feature"), path, (*levels, _length(content.get("length"), path)), depth + 1)
    elif kind == "tensor":
        yield _tensor(content, path, levels)
    elif kind == "box":
        yield Leaf(path, "tensor", "float32", (4,), "none", levels)
    elif kind == "text":
        yield Leaf(path, "tensor", "string", (), "none", levels)
    elif kind == "label":
        yield Leaf(path, "tensor", "int64", (), "none", levels)
    elif kind == "image":
        yield _image(content, _shape(content, path) or (None, None, 3), path, levels)
    elif kind == "video":
        length, *shape = _shape(content, path) or (None, None, None, 3)
        yield _image(content, tuple(shape), path, (*levels, length))
    else:
        yield f"{path} is a {_class_name(node).rsplit('.', 1)[-1]}, which is not read"


def _content(node: Mapping[str, Any], path: str) -> tuple[str | None, Mapping[str, Any]]:
    """(kind, content) of a feature, whichever way it is spelled."""
    name = _class_name(node).rsplit(".", 1)[-1].lower()
    wrapped = _either(node, "jsonFeature")
    if wrapped is not None:
        return _KINDS.get(name), _parsed(_mapping(wrapped, path).get("json"), path)
    if "content" in node:
        return _KINDS.get(name), _parsed(node["content"], path)
    for key in _CONTENTS:
        content = _either(node, key)
        if content is not None:
            return _KINDS.get(name, _KINDS[key.lower()]), _mapping(content, path)
    return _KINDS.get(name), {}


def _parsed(content: Any, path: str) -> Mapping[str, Any]:
    if isinstance(content, str):
        try:
            content = json_text.loads(content or "{}")
        except ValueError as error:
            raise _bad(f"{path} is not described by JSON: {error}") from error
    return _mapping(content, path)


def _tensor(content: Mapping[str, Any], path: str, levels: tuple[int | None, ...]) -> Leaf | str:
    dtype = _dtype(content.get("dtype"))
    encoding = str(content.get("encoding") or "none").rsplit(".", 1)[-1].lower()
    shape = _shape(content, path) or ()
    if encoding not in ("none", "bytes", "zlib"):
        raise _bad(f"{path} has encoding {encoding!r}")
    if dtype not in _NUMBERS and dtype != "string":
        return f"{path} has dtype {dtype}, which is not read"
    leaf = Leaf(path, "tensor", dtype, shape, encoding, levels)  # type: ignore[arg-type]
    if (None in shape and encoding == "none" and levels) or (leaf.is_dynamic and len(levels) > 1):
        return f"{path} is a sequence of tensors of any shape, which is not read"
    return leaf


def _image(
    content: Mapping[str, Any], shape: tuple[int | None, ...], path: str, levels: tuple[int | None, ...]
) -> Leaf | str:
    dtype = _dtype(content.get("dtype")) if content.get("dtype") else "uint8"
    if len(shape) != 3:
        raise _bad(f"{path} has shape {shape}, which is no image's")
    *size, channels = shape
    channels = channels or 3  # as in the file; cameras are taken for colour
    if (dtype, channels) not in (("uint16", 1), ("float32", 1), *(("uint8", n) for n in (1, 2, 3, 4))):
        return f"{path} holds images of {channels} channels of {dtype}, which are not read"
    return Leaf(path, "image", dtype, (*size, channels), "none", levels)


def _class_name(node: Mapping[str, Any]) -> str:
    name = _either(node, "pythonClassName")
    name = name if isinstance(name, str) else node.get("type")
    return name if isinstance(name, str) else ""


def _either(node: Mapping[str, Any], key: str) -> Any:
    """The value of ``key``, spelled ``camelCase`` or ``snake_case``."""
    return node.get(key, node.get("".join(f"_{c.lower()}" if c.isupper() else c for c in key)))


def _dtype(value: Any) -> str:
    if not isinstance(value, str):
        return "float32" if value is None else str(value)
    return "string" if value in _TEXT else value.removeprefix("tf.").removesuffix("_")


def _shape(content: Mapping[str, Any], path: str) -> tuple[int | None, ...] | None:
    """The declared shape; None where none is declared."""
    shape = content.get("shape")
    if isinstance(shape, dict):
        shape = shape.get("dimensions", [])
    if shape is None:
        return None
    if not isinstance(shape, list):
        raise _bad(f"{path} has shape {shape!r}")
    sides = tuple(_length(side, path) for side in shape)
    if math.prod(side or 1 for side in sides) > _LARGEST:
        raise _bad(f"{path} declares {sides} numbers a step")
    return sides


def _length(value: Any, path: str) -> int | None:
    """A length; None where it varies (null, absent or below 0)."""
    if value is None:
        return None
    try:
        length = int(value)
    except (TypeError, ValueError) as error:
        raise _bad(f"{path} declares the length {value!r}") from error
    if length > np.iinfo(np.int32).max:
        raise _bad(f"{path} declares the length {length}")
    return length if length >= 0 else None


def _mapping(value: Any, path: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise _bad(f"{path or 'the top'} is no feature")
    return value


def _bad(why: str) -> SourceError:
    return SourceError(f"features.json: {why}", code="bad_features")
