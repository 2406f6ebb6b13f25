"""The values of one feature of an example, out of the lists that TensorFlow Datasets keeps them in.

Integers and booleans lie as int64, all floats as float32, anything encoded as bytes. One sequence around a value makes
one list of all steps' numbers; more make ``ragged_flat_values`` beside ``ragged_row_lengths_<level>``.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from data_engine.errors import SourceError
from data_engine.formats.arrays import EPISODE_BYTES
from data_engine.formats.images import decode
from data_engine.formats.tf_example import Example, Values
from data_engine.formats.tfds_features import Leaf

__all__ = ["coded_images", "single_value", "step_values"]

_COUNT = np.dtype(np.int64)
_RAGGED_BYTES = 1 << 26  # of an episode's values of one feature that become text


def step_values(example: Example, leaf: Leaf) -> np.ndarray | None:
    """The values of a leaf with sequences around it, a row an entry of the outermost; None where it has none.

    A leaf of fixed size is [n, *inner lengths, *shape] in its own dtype, text as objects. One whose size varies is
    text [n]: each entry's nested lists as JSON. Raises ``SourceError`` where the lists do not fit the declaration.
    """
    if leaf.kind == "image":
        return _images(example, leaf)
    if len(leaf.levels) == 1:
        rows = _rows(example, leaf, leaf.path)
        if rows is None or leaf.is_fixed:
            return rows if rows is None else np.asarray(rows)
        return _texts(_listed(rows))
    rows = _rows(example, leaf, f"{leaf.path}/ragged_flat_values")
    lengths = [_row_lengths(example, leaf, level) for level in range(len(leaf.levels) - 1)]
    if rows is None and not any(map(len, lengths)):
        return None
    if rows is None:
        rows = np.empty((0, *leaf.sides), leaf.numpy)
    if leaf.is_fixed:
        for found, declared in zip(lengths, leaf.levels[1:], strict=True):
            if (found != declared).any():
                raise _misfit(leaf, f"holds sequences of {sorted(set(found.tolist()))[:3]}, declared {declared}")
        inner = tuple(int(length or 0) for length in leaf.levels[1:])
        return _reshaped(np.asarray(rows), (len(lengths[0]), *inner, *leaf.sides), leaf)
    if (rows.nbytes if isinstance(rows, np.ndarray) else sum(row.nbytes for row in rows)) > _RAGGED_BYTES:
        raise SourceError(f"{leaf.path} holds more than {_RAGGED_BYTES >> 20} MiB an episode", code="too_large")
    nested = _listed(rows)
    for found in reversed(lengths):
        nested = _folded(nested, found, leaf)
    return _texts(nested)


def single_value(example: Example, leaf: Leaf) -> Any:
    """The value of a leaf outside of the steps: an array, text, a list of them; None where it has none."""
    if leaf.levels:
        values = step_values(example, leaf)
        if values is None or leaf.is_fixed:
            return values
        return [json.loads(value) for value in values.tolist()]
    rows = _rows(example, leaf, leaf.path)
    if rows is None:
        return None
    if len(rows) != 1:
        raise _misfit(leaf, f"holds {len(rows)} values, not one")
    return rows[0]


def coded_images(example: Example, leaf: Leaf) -> list[memoryview]:
    """The images of a leaf in one sequence as they are coded; none where it has none."""
    found = example.get(leaf.path)
    if isinstance(found, np.ndarray):
        raise _misfit(leaf, "holds numbers where images are declared")
    return found


def _images(example: Example, leaf: Leaf) -> np.ndarray | None:
    coded = coded_images(example, leaf)
    if not coded:
        return None
    sides = leaf.sides
    if math.prod(sides) * np.dtype(leaf.dtype).itemsize * len(coded) > EPISODE_BYTES:
        raise SourceError(f"{leaf.path} holds more than {EPISODE_BYTES >> 30} GiB an episode", code="too_large")
    values = np.empty((len(coded), *sides), leaf.dtype)
    for number, data in enumerate(coded):
        image = decode(data, leaf.dtype, sides[2])
        if image.shape != sides:
            raise _misfit(leaf, f"holds {image.shape} in step {number}, declared {sides}")
        values[number] = image
    return values


def _rows(example: Example, leaf: Leaf, name: str) -> np.ndarray | list[np.ndarray] | None:
    """One value after the other, whatever sequences are around them; None where there are none."""
    if leaf.is_dynamic:
        shapes, packed = example.get(f"{name}/shape"), example.get(f"{name}/value")
        if not len(packed):
            return None
        sides = _reshaped(_numbers(shapes, _COUNT, leaf), (len(packed), len(leaf.shape)), leaf)
        return _unpacked(packed, leaf, sides.tolist())
    found = example.get(name)
    if not len(found):
        return None
    if leaf.encoding != "none":
        rows = _unpacked(found, leaf, [[-1 if side is None else side for side in leaf.shape]] * len(found))
        return np.stack(rows) if None not in leaf.shape else rows
    flat = _strings(found, leaf) if leaf.dtype == "string" else _numbers(found, leaf.numpy, leaf)
    if not leaf.shape:
        return flat
    if None in leaf.shape:  # one value of any length: a tensor outside of sequences
        return _reshaped(flat, (1, *(-1 if side is None else side for side in leaf.shape)), leaf)
    return _reshaped(flat, (-1, *leaf.sides), leaf)


def _numbers(found: Values, dtype: np.dtype, leaf: Leaf) -> np.ndarray:
    """The numbers of a list in ``dtype``. Raises ``SourceError`` where they are of another kind or do not fit."""
    if not isinstance(found, np.ndarray) or (found.dtype.kind == "f") != (dtype.kind == "f"):
        kind = "bytes" if not isinstance(found, np.ndarray) else found.dtype.name
        raise _misfit(leaf, f"holds {kind}, declared {dtype}")
    if dtype == np.uint64:
        return found.view(np.uint64)
    if found.dtype == dtype:
        return found
    if dtype.kind == "f":
        with np.errstate(over="ignore"):
            values = found.astype(dtype)
        fits = np.array_equal(values.astype(found.dtype), found, equal_nan=True)
    else:
        values = found.astype(dtype)
        fits = not np.count_nonzero(values != found)
    if not fits:
        raise _misfit(leaf, f"holds numbers that no {dtype} can be")
    return values


def _strings(found: Values, leaf: Leaf) -> np.ndarray:
    if isinstance(found, np.ndarray):
        raise _misfit(leaf, f"holds {found.dtype.name}, declared text")
    texts = np.empty(len(found), object)
    texts[:] = [bytes(view).decode("utf-8", "backslashreplace") for view in found]
    return texts


def _unpacked(packed: Values, leaf: Leaf, shapes: Sequence[list[int]]) -> list[np.ndarray]:
    """Each value out of its bytes. A packed one never unfolds beyond what its shape allows."""
    if isinstance(packed, np.ndarray) or leaf.dtype == "string":
        raise _misfit(leaf, "holds numbers where bytes are declared")
    budget = EPISODE_BYTES if None not in leaf.shape else _RAGGED_BYTES
    dtype = np.dtype(leaf.dtype).newbyteorder("<")
    rows = []
    for data, shape in zip(packed, shapes, strict=True):
        known = -1 not in shape
        most = min(dtype.itemsize * math.prod(shape), budget) if known else budget
        raw = _inflated(data, most, leaf) if leaf.encoding == "zlib" else bytes(data[: most + 1])
        if len(raw) > most:
            what = "more than its shape" if known and most < budget else f"more than {budget >> 20} MiB"
            raise SourceError(f"{leaf.path} holds {what}", code="layout_differs" if known else "too_large")
        budget -= len(raw)
        if len(raw) % dtype.itemsize:
            raise _misfit(leaf, f"holds {len(raw)} bytes, no whole number of {leaf.dtype}")
        flat = np.frombuffer(raw, np.uint8 if leaf.dtype == "bool" else dtype)
        if leaf.dtype == "bool" and flat.max(initial=0) > 1:
            raise _misfit(leaf, "holds booleans other than 0 and 1")
        rows.append(_reshaped(flat.astype(leaf.dtype, copy=False), tuple(shape), leaf))
    return rows


def _inflated(data: memoryview, most: int, leaf: Leaf) -> bytes:
    try:
        stream = zlib.decompressobj()
        raw = stream.decompress(data, most + 1)
    except zlib.error as error:
        raise _misfit(leaf, f"cannot be unpacked: {error}") from error
    if len(raw) <= most and not stream.eof:
        raise _misfit(leaf, "is packed and ends too early")
    return raw


def _row_lengths(example: Example, leaf: Leaf, level: int) -> np.ndarray:
    found = example.get(f"{leaf.path}/ragged_row_lengths_{level}")
    lengths = _numbers(found, _COUNT, leaf) if len(found) else np.empty(0, np.int64)
    if (lengths < 0).any():
        raise _misfit(leaf, "holds sequences shorter than nothing")
    return lengths


def _folded(items: list[Any], lengths: np.ndarray, leaf: Leaf) -> list[Any]:
    if sum(lengths.tolist()) != len(items):
        raise _misfit(leaf, f"holds {len(items)} values, its row lengths add up to {sum(lengths.tolist())}")
    stops = np.cumsum(lengths).tolist()
    return [items[stop - length : stop] for stop, length in zip(stops, lengths.tolist(), strict=True)]


def _listed(rows: np.ndarray | list[np.ndarray]) -> list[Any]:
    """Each row as nested lists. Texts stay Python's own: an array of NumPy's would drop the NULs at their ends."""
    return rows.tolist() if isinstance(rows, np.ndarray) else [row.tolist() for row in rows]


def _texts(nested: list[Any]) -> np.ndarray:
    texts = np.empty(len(nested), object)
    texts[:] = [json.dumps(item, ensure_ascii=False) for item in nested]
    return texts


def _reshaped(values: np.ndarray, shape: tuple[int, ...], leaf: Leaf) -> np.ndarray:
    try:
        return values.reshape(shape)
    except ValueError as error:
        raise _misfit(leaf, f"holds {values.size} values, which do not make {shape}") from error


def _misfit(leaf: Leaf, why: str) -> SourceError:
    return SourceError(f"{leaf.path} {why}", code="layout_differs")
