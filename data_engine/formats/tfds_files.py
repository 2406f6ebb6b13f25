"""Where a set of TensorFlow Datasets keeps its records: the version folder, its splits and their shards.

``dataset_info.json`` declares how many records each shard holds. It is believed where the files are as large as it says
(a record costs 16 bytes beside its data); where they are not, records are counted, which reads 12 bytes a record.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from data_engine.errors import EngineError, SourceError
from data_engine.formats import Source, json_text
from data_engine.formats.tfrecord import RecordFile

__all__ = ["Shard", "find_version", "open_records", "read_json", "read_shards"]

_VERSION = re.compile(r"\d+\.\d+\.\d+")
_SPLIT = re.compile(r"[\w.+-]+")
_SHARD_NAME = re.compile(r"(?P<prefix>.+)\.tfrecord-(?P<number>\d{5,})-of-(?P<total>\d{5,})")
_TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
_OVERHEAD = 16  # bytes of a record beside its data
_JSON_BYTES = 64 << 20
_CONFIGURATIONS = 64  # folders between a builder and its versions that are looked into
_MOST_RECORDS = 1 << 23  # a few bytes can declare any number
_READ_AHEAD = 1 << 20
_COUNTERS = 8


@dataclass(frozen=True)
class Shard:
    """One TFRecord file of a split: ``path`` relative to the source, and the number of ``records`` to ask it for."""

    split: str
    number: int
    path: str
    records: int
    present: bool = True


def find_version(source: Source) -> str | None:
    """The folder that holds ``features.json``, relative to the source (``.`` for itself); None where there is none.

    It is the source, or the one version folder (``1.0.0``) below it, or below a configuration's folder where there are
    only such folders. Raises ``SourceError`` where there are several.
    """
    if source.is_file:
        return None
    if source.exists("features.json"):
        return "."
    below = _folders(source, ".")
    found = [name for name in below if _is_version(source, name)]
    if not found and len(below) <= _CONFIGURATIONS:
        inside = [[f"{name}/{inner}" for inner in _folders(source, name)] for name in below]
        inside = [[path for path in paths if _is_version(source, path)] for paths in inside]
        found = [path for paths in inside for path in paths] if all(inside) else []  # else a heap of sources
    if len(found) > 1:
        raise SourceError(
            f"{source.uri} holds several versions: {', '.join(sorted(found))}",
            code="several_versions",
            fix=f"name one of them, as in {source.uri}/{max(found)}",
        )
    return found[0] if found else None


def read_json(source: Source, path: str) -> Any:
    """The JSON document at ``path``. Raises ``SourceError`` where it is none, or larger than 64 MiB."""
    try:
        if source.stamp(path)[0] > _JSON_BYTES:
            raise SourceError(f"{path} of {source.uri} is larger than {_JSON_BYTES >> 20} MiB", code="bad_json")
        with source.open(path) as file:
            return json_text.loads(file.read())
    except (ValueError, OSError) as error:
        raise SourceError(f"{path} of {source.uri} is not readable: {error}", code="bad_json") from error


def read_shards(source: Source, folder: str, info: Mapping[str, Any]) -> tuple[tuple[Shard, ...], tuple[str, ...]]:
    """Every shard of every split that ``info`` (``dataset_info.json``) declares, in order, and notes on its lies.

    A shard's ``records`` are the declared ones, and more where its file holds more. Raises ``SourceError`` for another
    file format, for splits it cannot make sense of, and for names that leave the folder.
    """
    if info.get("fileFormat", "tfrecord") != "tfrecord":
        raise SourceError(
            f"{source.uri} is stored as {info['fileFormat']}", code="wrong_format", fix="prepare it as tfrecord"
        )
    splits = info.get("splits")
    if not isinstance(splits, list) or not all(isinstance(split, dict) for split in splits):
        raise SourceError(f"dataset_info.json of {source.uri} declares no splits", code="bad_info")
    sizes = _sizes(source, folder)
    shards: list[Shard] = []
    notes: list[str] = []
    for split in splits:
        if split.get("name") in {shard.split for shard in shards}:
            raise SourceError(f"dataset_info.json declares the split {split['name']!r} twice", code="bad_info")
        declared, unknown = _declared(split, str(info.get("name") or ""), folder, sizes, notes)
        held = sum(sizes.get(shard.path, 0) for shard in declared)
        records = sum(shard.records for shard in declared)
        stated = split.get("numBytes")
        exact = str(stated).isdecimal() and held == int(stated) + _OVERHEAD * records
        if unknown or not exact:
            declared, more = _counted(source, declared)
            notes += [] if unknown else more
        shards += declared
    if sum(shard.records for shard in shards) > _MOST_RECORDS:
        raise SourceError(f"dataset_info.json declares more than {_MOST_RECORDS} episodes", code="bad_info")
    known = {shard.path for shard in shards}
    strays = [path for path in sizes if path not in known and _SHARD_NAME.fullmatch(path.rsplit("/", 1)[-1])]
    if strays:
        notes.append(f"{len(strays)} TFRecord files belong to no declared split and are not read: {strays[0]}")
    return tuple(shards), tuple(notes)


@contextmanager
def open_records(source: Source, path: str) -> Iterator[RecordFile]:
    """The records of the file at ``path``. Raises ``SourceError`` (``missing_file``) where it is not there."""
    try:
        where = source.path(path)
        size = int(source.fs.info(where)["size"])
        more = {} if source.is_local else {"block_size": _READ_AHEAD, "cache_type": "readahead"}
        file = source.fs.open(where, "rb", **more)
    except FileNotFoundError as error:
        raise SourceError(f"{path} is not there", code="missing_file") from error
    with file:
        yield RecordFile(file, size)


def _declared(
    split: Mapping[str, Any], dataset: str, folder: str, sizes: Mapping[str, int], notes: list[str]
) -> tuple[list[Shard], bool]:
    """The shards of a split as declared, and whether their records still have to be counted."""
    name, template = split.get("name"), split.get("filepathTemplate") or _TEMPLATE
    if not isinstance(name, str) or not _SPLIT.fullmatch(name) or not isinstance(template, str):
        raise SourceError(f"dataset_info.json declares a split called {name!r}", code="bad_info")
    found = _by_name(name, folder, sizes)
    lengths = split.get("shardLengths")
    if lengths is None:
        notes.append(f"{name}: dataset_info.json declares no shardLengths; the records are counted")
        return [Shard(name, number, found[number], 0) for number in sorted(found)], True
    if not isinstance(lengths, list) or not all(_is_count(length) for length in lengths):
        raise SourceError(f"dataset_info.json declares no lengths of the shards of {name}", code="bad_info")
    shards = []
    moved = absent = 0
    for number, length in enumerate(lengths):
        path = _join(folder, _filled(template, dataset, name, number, len(lengths)))
        if path not in sizes and found.get(number, path) != path and len(found) == len(lengths):
            path, moved = found[number], moved + 1
        if not int(length) and path not in sizes:
            continue  # an empty shard needs no file
        absent += path not in sizes
        shards.append(Shard(name, number, path, int(length), path in sizes))
    if moved:
        notes.append(f"{name}: {moved} shards lie under another name than declared, as in {shards[-1].path}")
    if absent:
        notes.append(f"{name}: {absent} of {len(shards)} shards are not there")
    return shards, False


def _is_count(value: Any) -> bool:
    return isinstance(value, int | str) and str(value).isdecimal() and int(value) <= _MOST_RECORDS


def _counted(source: Source, shards: Sequence[Shard]) -> tuple[list[Shard], list[str]]:
    """The shards with the records that their files hold where those are more, and a note for each that differs."""

    def count(shard: Shard) -> int:
        if not shard.present:
            return 0
        with open_records(source, shard.path) as records:
            return records.count()

    with ThreadPoolExecutor(_COUNTERS) as pool:
        held = list(pool.map(count, shards))
    pairs = list(zip(shards, held, strict=True))
    notes = [
        f"{shard.path} declares {shard.records} episodes and holds {number}"
        for shard, number in pairs
        if shard.present and number != shard.records
    ]
    return [replace(shard, records=max(shard.records, number)) for shard, number in pairs], notes


def _filled(template: str, dataset: str, split: str, number: int, total: int) -> str:
    digits = max(5, len(str(total)))
    values = {
        "DATASET": dataset,
        "SPLIT": split,
        "FILEFORMAT": "tfrecord",
        "SHARD_INDEX": f"{number:0{digits}d}",
        "NUM_SHARDS": f"{total:0{digits}d}",
        "SHARD_X_OF_Y": f"{number:0{digits}d}-of-{total:0{digits}d}",
    }
    path = re.sub(r"\{(\w+)\}", lambda match: values.get(match[1], match[0]), template)
    if not path or set("{}\\\0") & set(path) or path.startswith("/") or ".." in path.split("/") or "://" in path:
        raise SourceError(f"dataset_info.json names the shard {path!r}, which is no file of it", code="bad_template")
    return path


def _by_name(split: str, folder: str, sizes: Mapping[str, int]) -> dict[int, str]:
    """Shard number -> path of the files named after a split, whatever the dataset is called; none if two sets are."""
    found: dict[int, str] = {}
    for path in sizes:
        match = _SHARD_NAME.fullmatch(path.rsplit("/", 1)[-1])
        if match and (match["prefix"] == split or match["prefix"].endswith(f"-{split}")):
            if int(match["number"]) in found:
                return {}
            found[int(match["number"])] = path
    return found


def _sizes(source: Source, folder: str) -> dict[str, int]:
    """Path relative to the source -> bytes, of every file in the version folder and one folder below."""
    listed = source.fs.find(source.path(folder), maxdepth=2, detail=True)
    return {source.relative(path): int(facts.get("size") or 0) for path, facts in sorted(listed.items())}


def _folders(source: Source, path: str) -> list[str]:
    """Names of the folders at ``path``, sorted; none where it cannot be listed."""
    try:
        listed = source.fs.ls(source.path(path), detail=True)
    except (OSError, EngineError):
        return []
    return sorted(entry["name"].rstrip("/").rsplit("/", 1)[-1] for entry in listed if entry["type"] == "directory")


def _is_version(source: Source, path: str) -> bool:
    if not _VERSION.fullmatch(path.rsplit("/", 1)[-1]):
        return False
    try:
        return source.exists(path, "features.json")
    except EngineError:
        return False


def _join(folder: str, path: str) -> str:
    return path if folder == "." else f"{folder}/{path}"
