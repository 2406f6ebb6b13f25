"""An MP4 of coded packets that lie in other MP4 files already: tables for all of them, and their bytes as they lie.

FFmpeg writes the headers, of the first packet alone; the sample tables of the rest (ISO/IEC 14496-12, section 8.6 and
8.7) are arrays, and runs of packets that lie together are copied at once. A packet costs no call, so a file of any
number of packets takes as long as a copy of its bytes. The tables come first, so that players start at once.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_engine.errors import SourceError

__all__ = ["Piece", "boxes", "write"]

_BLOCK = 4 << 20  # bytes copied at once
_SHORT = 1 << 31  # what a field of 32 bits holds, signed or not
_LARGE = 1 << 31  # bytes of packets from which places take 64 bits
_KEPT = (b"tkhd", b"hdlr", b"vmhd", b"dinf", b"stsd", b"udta")  # of FFmpeg's headers, as they are but for durations


@dataclass(frozen=True)
class Piece:
    """Packets of one file in decode order, from number ``first`` on: where each lies (``at``, ``size``), when it is
    decoded and shown (``dts``, ``pts``, in ticks), whether it is a key frame; ``state`` (bytes, mtime in ns) of the
    file then.
    """

    path: str
    state: tuple[int, int]
    first: int
    at: np.ndarray
    size: np.ndarray
    dts: np.ndarray
    pts: np.ndarray
    key: np.ndarray


def boxes(data: bytes) -> dict[bytes, bytes]:
    """The contents of the boxes that ``data`` is made of, by type; of a type that comes twice the first."""
    found: dict[bytes, bytes] = {}
    at = 0
    while at + 8 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        head = 16 if size == 1 else 8
        size = struct.unpack_from(">Q", data, at + 8)[0] if size == 1 else size or len(data) - at
        if size < head:
            break
        found.setdefault(kind, data[at + head : at + size])
        at += size
    return found


def write(first: bytes, pieces: Sequence[Piece], frame: int, timescale: int, out: Path) -> bool:
    """Write ``pieces``, in order, as the MP4 ``out``; False, and nothing is written, where this cannot be done.

    ``first``: an MP4 of the first packet alone, whose headers count. ``frame``: how long the last packet is shown, in
    ticks of which a second has ``timescale``. Raises ``SourceError`` where a file changed since it was indexed.
    """
    old = boxes(first)
    dts, pts, size, key = (np.concatenate([getattr(piece, name) for piece in pieces]) for name in _COLUMNS)
    length = int(max(dts[-1], pts.max())) + frame
    if length >= _SHORT or int(size.max()) >= _SHORT or min(int(dts[0]), int(pts.min())) < -_SHORT:
        return False
    if old.get(b"mdat") != _read(pieces[0], 0):  # FFmpeg rewrites such packets
        return False
    runs = [_runs(piece) for piece in pieces]
    bytes_ = int(size.sum())
    long = bytes_ >= _LARGE
    mdat = struct.pack(">I4sQ", 1, b"mdat", bytes_ + 16) if long else struct.pack(">I4s", bytes_ + 8, b"mdat")
    chunks = np.concatenate([np.diff([*starts, len(piece.size)]) for starts, piece in zip(runs, pieces, strict=True)])
    begins = np.concatenate([[0], np.cumsum(size)])[np.concatenate([[0], np.cumsum(chunks)[:-1]])]

    def moov(offset: int) -> bytes:
        where = (begins + offset).astype(">u8" if long else ">u4")
        return _moov(old, dts, pts, size, key, chunks, where, length, frame, timescale)

    head = _box(b"ftyp", old[b"ftyp"])
    before = len(head) + len(moov(0)) + len(mdat)
    with out.open("wb") as target:
        target.write(head + moov(before) + mdat)
        for piece, starts in zip(pieces, runs, strict=True):
            for part in _bytes(piece, starts):
                target.write(part)
    return True


_COLUMNS = ("dts", "pts", "size", "key")


def _moov(
    old: dict[bytes, bytes],
    dts: np.ndarray,
    pts: np.ndarray,
    size: np.ndarray,
    key: np.ndarray,
    chunks: np.ndarray,
    where: np.ndarray,
    length: int,
    frame: int,
    timescale: int,
) -> bytes:
    """The box of all tables. ``chunks``: packets in each run of bytes, ``where``: the place of each in the file."""
    movie = boxes(old[b"moov"])
    track = boxes(movie[b"trak"])
    media = boxes(track[b"mdia"])
    info = boxes(media[b"minf"])
    kept = {name: _box(name, held[name]) for held in (movie, track, media, info) for name in _KEPT if name in held}
    late = min(0, int(dts[0]))  # decoded before the file's time 0: an edit says where that is
    media_length = int(dts[-1] - dts[0]) + frame
    shift = pts - dts + (int(dts[0]) - late)
    tables = [
        _box(b"stsd", boxes(info[b"stbl"])[b"stsd"]),
        _table(b"stts", *_counted(np.append(np.diff(dts), frame))),
        _table(b"ctts", *_counted(shift)) if shift.any() else b"",
        b"" if key.all() else _table(b"stss", np.flatnonzero(key) + 1),
        _chunk_table(chunks),
        _box(b"stsz", struct.pack(">III", 0, 0, len(size)) + size.astype(">u4").tobytes()),
        _box(b"co64" if where.itemsize == 8 else b"stco", struct.pack(">II", 0, len(where)) + where.tobytes()),
    ]
    edit = struct.pack(">IIIiI", 0, 1, length, -late, 1 << 16)
    minf = kept[b"vmhd"] + kept[b"dinf"] + _box(b"stbl", b"".join(tables))
    mdia = _box(b"mdhd", _timed(media[b"mdhd"], 12, timescale, media_length)) + kept[b"hdlr"] + _box(b"minf", minf)
    trak = _box(b"tkhd", _timed(track[b"tkhd"], 20, None, length))
    trak += (_box(b"edts", _box(b"elst", edit)) if late else b"") + _box(b"mdia", mdia)
    mvhd = _box(b"mvhd", _timed(movie[b"mvhd"], 12, timescale, length))
    return _box(b"moov", mvhd + _box(b"trak", trak) + kept.get(b"udta", b""))


def _box(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I4s", len(content) + 8, kind) + content


def _timed(header: bytes, at: int, timescale: int | None, length: int) -> bytes:
    """A header of version 0 with another timescale (at ``at``, where it has one) and duration (behind it)."""
    fields = struct.pack(">I", length) if timescale is None else struct.pack(">II", timescale, length)
    return header[:at] + fields + header[at + len(fields) :]


def _counted(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(how often in a row, value) of runs of equal ``values``."""
    starts = np.flatnonzero(np.append(True, values[1:] != values[:-1]))
    return np.diff([*starts, len(values)]), values[starts]


def _table(kind: bytes, *columns: np.ndarray) -> bytes:
    """A box of version 0 of rows of 32-bit numbers, and their count before them."""
    rows = np.column_stack(columns).astype(">u4")
    return _box(kind, struct.pack(">II", 0, len(rows)) + rows.tobytes())


def _chunk_table(chunks: np.ndarray) -> bytes:
    """Packets a chunk, a row wherever that changes: first chunk, packets, and which description they go by."""
    counts, packets = _counted(chunks)
    first = np.concatenate([[0], np.cumsum(counts)[:-1]]) + 1
    return _table(b"stsc", first, packets, np.ones(len(first), np.int64))


def _runs(piece: Piece) -> np.ndarray:
    """The packets with which a run of bytes that lie together begins."""
    return np.flatnonzero(np.append(True, piece.at[1:] != piece.at[:-1] + piece.size[:-1]))


def _read(piece: Piece, i: int) -> bytes:
    with open(piece.path, "rb") as file:
        file.seek(int(piece.at[i]))
        return file.read(int(piece.size[i]))


def _bytes(piece: Piece, starts: np.ndarray) -> Iterator[bytes]:
    """The bytes of ``piece``, in runs that begin with the packets ``starts``, a block at a time."""
    with open(piece.path, "rb", buffering=0) as file:
        state = os.fstat(file.fileno())
        if (state.st_size, state.st_mtime_ns) != piece.state:
            raise _changed(piece)
        for first, stop in zip(starts.tolist(), [*starts[1:].tolist(), len(piece.size)], strict=True):
            file.seek(int(piece.at[first]))
            left = int(piece.at[stop - 1] + piece.size[stop - 1] - piece.at[first])
            while left:
                part = file.read(min(left, _BLOCK))
                if not part:
                    raise _changed(piece)
                left -= len(part)
                yield part


def _changed(piece: Piece) -> SourceError:
    return SourceError(f"{piece.path} was changed while it was being read", code="changed_file")
