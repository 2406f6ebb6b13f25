"""One array of an episode, one row a step, wherever its values lie: read whole, or in order a block at a time."""

from __future__ import annotations

import math
import struct
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from data_engine.errors import SourceError
from data_engine.formats.arrays import BLOCK_BYTES, EPISODE_BYTES, Spec

__all__ = ["FAULTS", "Entries", "Held", "Kept", "Rows", "Span", "block_rows", "bounded", "damage_of", "unstored"]

FAULTS = (
    OSError, EOFError, RuntimeError, LookupError, ValueError, TypeError, ArithmeticError, MemoryError, SystemError,
    struct.error, zipfile.BadZipFile, zlib.error,
)  # fmt: skip
"""What the container libraries raise for a damaged file."""


class Rows(ABC):
    """Values of one row a step. ``name`` is the source's own, ``spec`` what a row holds, ``len`` counts the rows."""

    name: str
    spec: Spec

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def blocks(self, start: int, stop: int) -> Iterator[np.ndarray]:
        """Rows ``start`` to ``stop`` in order, some at a time. Raises ``SourceError`` or one of ``FAULTS``."""

    def read(self, start: int, stop: int) -> np.ndarray:
        """Rows ``start`` to ``stop`` as one array; text as numpy strings, bytes as objects."""
        return np.concatenate(list(self.blocks(start, stop)) or [np.empty((0, *self.spec.shape))])

    def load(self) -> np.ndarray:
        """All rows. See :meth:`read`."""
        return self.read(0, len(self))

    @property
    def nbytes(self) -> int:
        """Bytes of all rows once read; text and bytes, whose length no header declares, count 16 a value."""
        width = 16 if self.spec.dtype in ("string", "bytes") else np.dtype(self.spec.dtype).itemsize
        return len(self) * self.spec.size * width

    @property
    def absent(self) -> tuple[int, int]:
        """How many of the parts that it declares the container does not store, and how many it declares."""
        return 0, 1


class Held(Rows):
    """Rows in memory."""

    def __init__(self, name: str, values: np.ndarray, spec: Spec | None = None) -> None:
        self.name, self.values = name, values
        self.spec = Spec.of(values.dtype, values.shape) if spec is None else spec

    def __len__(self) -> int:
        return len(self.values)

    def blocks(self, start: int, stop: int) -> Iterator[np.ndarray]:
        """See :meth:`Rows.blocks`."""
        step = block_rows(self.spec)
        for at in range(start, stop, step):
            yield self.values[at : min(at + step, stop)]

    def read(self, start: int, stop: int) -> np.ndarray:
        """See :meth:`Rows.read`."""
        return self.values[start:stop]


class Kept(Rows):
    """Another's rows, read ``step`` at a time with the last block kept.

    Episodes that share a chunk and are read in order therefore decode it once.
    """

    def __init__(self, rows: Rows, step: int) -> None:
        self.rows, self.name, self.spec = rows, rows.name, rows.spec
        self._step = step
        self._kept: tuple[int, np.ndarray] = (-1, np.empty(0))

    def __len__(self) -> int:
        return len(self.rows)

    def blocks(self, start: int, stop: int) -> Iterator[np.ndarray]:
        """See :meth:`Rows.blocks`."""
        for index in range(start // self._step, -(-stop // self._step)):
            base = index * self._step
            if self._kept[0] != index:
                self._kept = index, self.rows.read(base, min(base + self._step, len(self)))
            yield self._kept[1][max(start - base, 0) : stop - base]

    @property
    def absent(self) -> tuple[int, int]:
        """See :attr:`Rows.absent`."""
        return self.rows.absent


class Span(Rows):
    """Rows ``start`` to ``stop`` of another: one episode of a flat array, or an array without its last row."""

    def __init__(self, rows: Rows, start: int, stop: int) -> None:
        self.rows, self.name, self.spec = rows, rows.name, rows.spec
        self.start, self.stop = start, stop

    def __len__(self) -> int:
        return self.stop - self.start

    def blocks(self, start: int, stop: int) -> Iterator[np.ndarray]:
        """See :meth:`Rows.blocks`."""
        return self.rows.blocks(self.start + start, self.start + stop)

    def read(self, start: int, stop: int) -> np.ndarray:
        """See :meth:`Rows.read`."""
        return self.rows.read(self.start + start, self.start + stop)

    @property
    def absent(self) -> tuple[int, int]:
        """See :attr:`Rows.absent`."""
        return self.rows.absent


class Entries(Rows):
    """Entries ``start`` to ``stop`` of another's flattened rows."""

    def __init__(self, rows: Rows, start: int, stop: int) -> None:
        if not 0 <= start < stop <= rows.spec.size:
            raise SourceError(
                f"{rows.name}[{start}:{stop}] leaves its {rows.spec.size} entries a step", code="bad_range"
            )
        self.rows, self.start, self.stop = rows, start, stop
        self.name, self.spec = f"{rows.name}[{start}:{stop}]", Spec(rows.spec.dtype, (stop - start,))

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def absent(self) -> tuple[int, int]:
        """See :attr:`Rows.absent`."""
        return self.rows.absent

    def blocks(self, start: int, stop: int) -> Iterator[np.ndarray]:
        """See :meth:`Rows.blocks`."""
        for block in self.rows.blocks(start, stop):
            yield block.reshape(len(block), self.rows.spec.size)[:, self.start : self.stop]


def unstored(name: str, rows: Rows) -> list[str]:
    """A note where nobody stored some of the values of ``rows``, by the ``name`` that the source gives."""
    absent, parts = rows.absent
    if not absent:
        return []
    if absent == parts:
        return [f"{name} was never written and reads as its fill value"]
    return [f"{absent} of {parts} chunks of {name} are not stored and read as its fill value"]


def block_rows(spec: Spec, chunk: int = 1) -> int:
    """How many rows to read at a time: whole chunks of ``chunk`` rows, about 8 MB in all; 64 rows of unknown length."""
    if spec.dtype == "bytes":
        return 64
    width = 16 if spec.dtype == "string" else np.dtype(spec.dtype).itemsize
    row = max(width * math.prod(spec.shape), 1)
    return chunk * max(BLOCK_BYTES // (row * chunk), 1)


@contextmanager
def damage_of(name: str) -> Iterator[None]:
    """Inside, one of ``FAULTS`` becomes a ``SourceError`` that says in one line that ``name`` is damaged."""
    try:
        yield
    except FAULTS as error:
        raise SourceError(
            f"{name} is damaged: {error or type(error).__name__}", code="damaged_file", fix="copy it again"
        ) from error


def bounded(blocks: Iterator[np.ndarray], name: str) -> list[np.ndarray]:
    """``blocks`` of bytes objects as a list. Raises ``SourceError`` where together they exceed an episode's limit."""
    kept, size = [], 0
    for block in blocks:
        size += sum(len(value) for value in block.reshape(-1).tolist())
        if size > EPISODE_BYTES:
            raise SourceError(f"{name} holds more than {EPISODE_BYTES >> 30} GiB", code="too_large")
        kept.append(block)
    return kept
