"""Tables that people keep beside their videos: csv, json or jsonl rows of what each file, or a span of it, shows."""

from __future__ import annotations

import codecs
import csv
import io
import math
import posixpath
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from data_engine.errors import RequestError, SourceError
from data_engine.formats import Source, json_text
from data_engine.formats.attributes import pick, plain

__all__ = ["SUFFIXES", "Row", "find_sidecar", "read_sidecar"]

SUFFIXES = (".csv", ".tsv", ".json", ".jsonl", ".ndjson")
_BYTES = 256 << 20
_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)  # what a spreadsheet calls Unicode text
_FILE = ("file_name", "file", "filename", "path", "video", "video_path", "clip")
_START = ("start_s", "start", "start_time", "start_sec")
_END = ("end_s", "end", "end_time", "end_sec", "stop")
_LANGUAGE = ("instruction", "caption", "prompt", "text", "description", "narration")
_TRUE, _FALSE = ("true", "yes", "1", "success"), ("false", "no", "0", "failure")


@dataclass(frozen=True)
class Row:
    """One episode as a sidecar lists it: ``path`` as written, its span in seconds, and what it says of it.

    ``fields`` are keyword arguments of an episode (task, language, success, operator, scene), ``attributes`` the rest.
    """

    path: str
    start_s: float = 0.0
    end_s: float | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)
    attributes: Mapping[str, Any] = field(default_factory=dict)


def find_sidecar(source: Source, paths: Sequence[str], known: Callable[[str], bool]) -> tuple[str | None, list[str]]:
    """The one of ``paths`` (relative to ``source``) that is a table and names a file that is ``known``, else None.

    And a note on each that may have been meant for one: it cannot be read, or names other files only. Raises
    ``RequestError`` where several are.
    """
    found, notes = [], []
    for path in paths:
        try:
            names = [str(_first(row, _FILE)) for row in _table(source, path)]
        except SourceError as error:
            notes.append(f"{error.message}: what it may say of the videos is left out")
            continue
        if any(map(known, names)):
            found.append(path)
        elif any(posixpath.splitext(name)[1] for name in names):  # else a JSON object of anything
            notes.append(f"{path} names no video that is there and is left out: {names[0]}, ...")
    if len(found) > 1:
        raise RequestError(
            f"{' and '.join(found)} both list files", code="ambiguous_sidecar", fix="name one with the option sidecar"
        )
    return found[0] if found else None, notes


def read_sidecar(source: Source, path: str) -> list[Row]:
    """The rows of the sidecar at ``path``, in its order.

    A row names its file in the first of ``file_name``, ``file``, ``filename``, ``path``, ``video``, ``video_path`` or
    ``clip`` that it has; JSON may also be an object by file name. ``start_s`` and ``end_s`` (or ``start``, ``end``) are
    seconds. Raises ``SourceError`` for what is no such table and for a span that is none.
    """
    rows = _table(source, path)
    if not rows:
        raise SourceError(f"{path} has no column that names files", code="bad_sidecar", fix=f"call it {_FILE[0]}")
    return [_row(path, number, row) for number, row in enumerate(rows, 1)]


def _table(source: Source, path: str) -> list[dict[str, Any]]:
    """The rows of a table whose every row names a file, else none."""
    size, _ = source.stamp(path)
    if size > _BYTES:
        raise SourceError(f"{path} is larger than {_BYTES >> 20} MiB", code="too_large")
    try:
        with source.open(path) as file:
            rows = _parsed(path, file.read(_BYTES))
    except (ValueError, csv.Error) as error:
        raise SourceError(f"{path} cannot be read: {error}", code="bad_sidecar") from error
    named = all(isinstance(row, dict) and isinstance(_first(row, _FILE), str) for row in rows)
    return rows if rows and named else []


def _parsed(path: str, data: bytes) -> list[Any]:
    suffix = path.lower().rsplit(".", 1)[-1]
    if suffix in ("csv", "tsv"):
        text = data.decode("utf-16" if data.startswith(_UTF_16) else "utf-8-sig")
        head = text.partition("\n")[0]
        comma = ";" if ";" in head and "," not in head else ","  # as spreadsheets write where 1,5 is a number
        reader = csv.DictReader(
            io.StringIO(text, newline=""), delimiter="\t" if suffix == "tsv" else comma, strict=True
        )
        names = reader.fieldnames or []
        if len(set(names)) < len(names):
            raise ValueError(f"two of its columns are called {next(name for name in names if names.count(name) > 1)!r}")
        return [{key: value for key, value in row.items() if key and value not in (None, "")} for row in reader]
    if suffix in ("jsonl", "ndjson"):
        return json_text.lines(data)
    found = json_text.loads(data)
    if isinstance(found, dict):
        return [
            {_FILE[0]: name, **row} if isinstance(row, dict) else row
            for name, rows in found.items()
            for row in (rows if isinstance(rows, list) else [rows])
        ]
    return found if isinstance(found, list) else []


def _row(path: str, number: int, row: Mapping[str, Any]) -> Row:
    rest = {str(key): value for key, value in row.items()}
    name = str(_take(rest, _FILE))
    start, end = (_seconds(path, number, _take(rest, names)) for names in (_START, _END))
    if (start or 0.0) < 0 or (end is not None and end <= (start or 0.0)):
        raise SourceError(f"{path} row {number}: {start} to {end} s is no span", code="bad_sidecar")
    if isinstance(rest.get("success"), str):
        word = rest["success"].strip().lower()
        if word in _TRUE + _FALSE:
            rest["success"] = word in _TRUE
    attributes = {name: plain(value) for name, value in rest.items()}
    fields = pick(attributes)
    if "language" not in fields:
        said = next((key for key in _LANGUAGE if isinstance(attributes.get(key), str)), None)
        if said is not None:
            fields["language"] = (attributes.pop(said),)
    return Row(name, start or 0.0, end, fields, attributes)


def _seconds(path: str, number: int, value: Any) -> float | None:
    if value is None or value == "":
        return None
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        seconds = math.nan
    if not math.isfinite(seconds):
        raise SourceError(f"{path} row {number}: {value!r} is no time in seconds", code="bad_sidecar")
    return seconds


def _first(row: Mapping[str, Any], names: Sequence[str]) -> Any:
    return next((row[name] for name in names if row.get(name) is not None), None)


def _take(row: dict[str, Any], names: Sequence[str]) -> Any:
    name = next((name for name in names if row.get(name) is not None), None)
    return None if name is None else row.pop(name)
