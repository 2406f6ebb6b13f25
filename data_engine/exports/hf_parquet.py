"""A mixture as Parquet with a dataset card, which Hugging Face ``datasets`` and the Hub's viewer open as they are."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from pydantic import Field

from data_engine.arrays import to_array
from data_engine.errors import RequestError
from data_engine.exports.columns import camera_name, chosen, left_out
from data_engine.exports.folder import FolderExporter, Written
from data_engine.exports.lerobot_data import task_text
from data_engine.exports.pictures import Pictures, encoded
from data_engine.exports.rates import rates, splits_of
from data_engine.exports.rows import rows_and_steps
from data_engine.exports.values import arrow_column, arrow_type
from data_engine.mixture import Mixture
from data_engine.model import TIMESTAMP, Dataset, Feature

__all__ = ["HFParquetExporter"]

_CARD = "README.md"
_BESIDE = {
    "episode_index": pa.int64(),
    "frame_index": pa.int64(),
    TIMESTAMP: pa.float64(),
    "task": pa.string(),
    "weight": pa.float64(),
}
_PICTURE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
_WEIGHTS = (
    "column weight is that rate; datasets draws every row alike, so sample rows by it, with replacement: whole passes"
    " hold in expectation"
)
_GROUP_ROWS = 4096
_GROUP_BYTES = 32 << 20


class HFParquetExporter(FolderExporter):
    """One configuration a dataset, one row a step, in ``data/<dataset>/<split>-00000-of-00001.parquet``, with the
    features of ``datasets`` in its schema, and ``README.md``, the card that says where each split lies.

    Columns keep their canonical names, original dtypes and shapes (one number is a scalar); missing values stay null;
    cameras are ``Image`` columns, encoded as ``images``. Beside them ``episode_index`` (as in provenance.parquet),
    ``frame_index``, ``timestamp`` (float64 seconds, also of an uneven clock), ``task`` and ``weight``. Several
    embodiments stay apart. ``columns``: ``all``, or the canonical names to keep. ``shard_mb``: the size at which a file
    ends.
    """

    name: ClassVar[str] = "hf_parquet"

    columns: Literal["all"] | tuple[str, ...] = "all"
    images: Literal["jpeg", "png"] = "jpeg"
    quality: int = Field(default=95, ge=1, le=100)
    shard_mb: int = Field(default=256, gt=0)

    def write(self, mixture: Mixture, order: list[int], folder: Path) -> Written:
        """See :meth:`FolderExporter.write`. Memory: a row group."""
        pictures, rate, splits = Pictures(mixture), rates(mixture), splits_of(mixture)
        frames: dict[str, int] = {}
        notes = []
        for dataset, rows in _by_dataset(mixture, order):
            features = self._features(dataset)
            for split in dict.fromkeys(splits[i] for i in rows):
                mine = [i for i in rows if splits[i] == split]
                shards = _Shards(folder / "data" / dataset.name, split, _schema(features), self.shard_mb << 20)
                numbers = {i: number for number, i in enumerate(order)}
                for i, (row, steps) in zip(mine, rows_and_steps(mixture, mine), strict=True):
                    shards.add(self._table(features, row, steps, numbers[i], rate[i], pictures))
                    for feature in features:
                        if feature.is_camera:
                            frames[camera_name(feature)] = frames.get(camera_name(feature), 0) + steps.num_rows
                shards.close()
            if any(feature.is_camera for feature in features):
                how = f"JPEG of quality {self.quality}, which loses detail" if self.images == "jpeg" else "PNG"
                notes.append(f"{dataset.name}: frames are decoded and kept as {how}")
            notes += left_out(dataset, features)
        (folder / _CARD).write_text(_card(mixture, order), encoding="utf-8")
        return Written(_WEIGHTS, tuple(notes), frames)

    def differences(self, mixture: Mixture, order: list[int], folder: Path) -> Iterator[str]:
        """See :meth:`FolderExporter.differences`. Every value and every coded image is compared."""
        pictures, rate, splits = Pictures(mixture), rates(mixture), splits_of(mixture)
        numbers = {i: number for number, i in enumerate(order)}
        head = _head(mixture, order)
        card = (folder / _CARD).read_text(encoding="utf-8").split("---\n")
        if card[0] or len(card) < 3 or yaml.safe_load(card[1])["configs"] != head["configs"]:
            yield f"{_CARD} does not say where the mixture's splits lie"
        for dataset, rows in _by_dataset(mixture, order):
            features = self._features(dataset)
            for split in dict.fromkeys(splits[i] for i in rows):
                paths = sorted((folder / "data" / dataset.name).glob(f"{split}-*-of-*.parquet"))
                held = _Rows(paths)
                for path in paths:
                    if not _is(pq.read_schema(path), _schema(features)):
                        yield f"{path.relative_to(folder)} has other features than the mixture"
                mine = [i for i in rows if splits[i] == split]
                for i, (row, steps) in zip(mine, rows_and_steps(mixture, mine), strict=True):
                    table = held.take(steps.num_rows)
                    where = f"{dataset.name} {split} ({row['source_key']} {row['start']}:{row['stop']})"
                    if table.num_rows < steps.num_rows:
                        yield f"{where}: {table.num_rows} steps, {steps.num_rows} in the mixture"
                        continue
                    beside = {"episode_index": numbers[i], "task": task_text(row), "weight": float(rate[i])}
                    for name, value in beside.items():
                        if table[name].unique().to_pylist() != [value]:
                            yield f"{where}: {name} is not {value!r}"
                    if table["frame_index"].to_pylist() != list(range(steps.num_rows)):
                        yield f"{where}: frame_index does not count"
                    times = to_array(steps[TIMESTAMP])
                    if not np.array_equal(to_array(table[TIMESTAMP]), times - times[:1]):
                        yield f"{where}: {TIMESTAMP} differs"
                    for feature in features:
                        if feature.is_camera:
                            read = [cell["bytes"] for cell in table[feature.name].to_pylist()]
                            shown = pictures.frames(row, steps, feature)
                            same = read == [encoded(frame, self.images, self.quality) for frame in shown]
                        else:
                            same = _same(steps[feature.name], table[feature.name], feature)
                        if not same:
                            yield f"{where}: {feature.name} differs"
                if held.take(1).num_rows:
                    yield f"{dataset.name} {split}: more steps than in the mixture"

    def _features(self, dataset: Dataset) -> list[Feature]:
        known = chosen(dataset, self.columns)
        taken = [feature.name for feature in known if feature.name in _BESIDE]
        if taken:
            raise RequestError(f"column {taken[0]!r} has the name of one that is added", code="name_taken")
        return known

    def _table(
        self,
        features: list[Feature],
        row: Mapping[str, Any],
        steps: pa.Table,
        number: int,
        rate: float,
        pictures: Pictures,
    ) -> pa.Table:
        n = steps.num_rows
        times = to_array(steps[TIMESTAMP], TIMESTAMP)
        beside = [np.full(n, number), np.arange(n), times - times[:1], [task_text(row)] * n, np.full(n, rate)]
        arrays = [pa.array(values, kind) for values, kind in zip(beside, _BESIDE.values(), strict=True)]
        for feature in features:
            if feature.is_camera:
                shown = pictures.frames(row, steps, feature)
                cells = [{"bytes": encoded(frame, self.images, self.quality), "path": None} for frame in shown]
                arrays.append(pa.array(cells, _PICTURE))
            else:
                arrays.append(arrow_column(row, steps, feature, "Parquet"))
        return pa.Table.from_arrays(arrays, schema=_schema(features))


class _Shards:
    """The Parquet files of one split as they grow; they get their names when :meth:`close` knows how many there are."""

    def __init__(self, folder: Path, split: str, schema: pa.Schema, max_bytes: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.split, self.schema, self.max_bytes = folder, split, schema, max_bytes
        self._pending: list[pa.Table] = []
        self._count, self._held = 0, 0
        self._writer: pq.ParquetWriter | None = None

    def add(self, table: pa.Table) -> None:
        self._pending.append(table)
        rows, size = sum(t.num_rows for t in self._pending), sum(t.nbytes for t in self._pending)
        if rows >= _GROUP_ROWS or size >= _GROUP_BYTES:
            self._flush()

    def close(self) -> None:
        self._flush()
        if self._writer is not None:
            self._writer.close()
        for number in range(self._count):
            name = f"{self.split}-{number:05d}-of-{self._count:05d}.parquet"
            self._path(number).rename(self.folder / name)

    def _flush(self) -> None:
        if not self._pending:
            return
        table = pa.concat_tables(self._pending)
        self._pending = []
        if self._writer is not None and self._held + table.nbytes > self.max_bytes:
            self._writer.close()
            self._writer = None
        if self._writer is None:
            self._writer = pq.ParquetWriter(self._path(self._count), self.schema, compression="snappy")
            self._count += 1
            self._held = 0
        self._writer.write_table(table, row_group_size=max(table.num_rows, 1))
        self._held += table.nbytes

    def _path(self, number: int) -> Path:
        return self.folder / f".{self.split}-{number}"


class _Rows:
    """The rows of several Parquet files in order, a row group in memory at a time."""

    def __init__(self, paths: list[Path]) -> None:
        self._groups = (
            file.read_row_group(g) for file in map(pq.ParquetFile, paths) for g in range(file.num_row_groups)
        )
        self._held: pa.Table | None = None

    def take(self, n: int) -> pa.Table:
        """The next ``n`` rows; fewer where there are no more."""
        parts: list[pa.Table] = [] if self._held is None else [self._held]
        while sum(part.num_rows for part in parts) < n:
            more = next(self._groups, None)
            if more is None:
                break
            parts.append(more)
        whole = pa.concat_tables(parts) if parts else pa.table({})
        self._held = whole.slice(n)
        return whole.slice(0, n)


def _same(mine: pa.ChunkedArray, theirs: pa.ChunkedArray, feature: Feature) -> bool:
    if theirs.type != arrow_type(feature):
        return False
    if feature.dtype == "string":
        return mine.to_pylist() == theirs.to_pylist()
    if mine.null_count or theirs.null_count or feature.dtype == "uint64":
        flat = [None if value is None else np.ravel(np.array(value, object)).tolist() for value in theirs.to_pylist()]
        held = [None if value is None else np.ravel(np.array(value, object)).tolist() for value in mine.to_pylist()]
        return repr(flat) == repr(held) or flat == held
    values = theirs.combine_chunks()
    while hasattr(values.type, "value_type"):
        values = values.flatten()
    read = values.to_numpy(zero_copy_only=False)
    expected = to_array(mine).reshape(-1)
    return len(read) == len(expected) and np.array_equal(
        expected.astype(read.dtype), read, equal_nan=read.dtype.kind == "f"
    )


def _by_dataset(mixture: Mixture, order: list[int]) -> Iterator[tuple[Dataset, list[int]]]:
    names = mixture.episodes["dataset"].to_pylist()
    for name in sorted(set(names)):
        yield mixture.datasets[name], [i for i in order if names[i] == name]


def _schema(features: list[Feature]) -> pa.Schema:
    kinds = [*_BESIDE.items(), *((f.name, _PICTURE if f.is_camera else arrow_type(f)) for f in features)]
    described: dict[str, Any] = {name: {"dtype": _value(kind), "_type": "Value"} for name, kind in _BESIDE.items()}
    for feature in features:
        value: dict[str, Any] = {"dtype": feature.dtype, "_type": "Value"}
        if feature.is_camera:
            value = {"_type": "Image"}
        elif len(feature.shape) > 1:
            for _ in feature.shape:
                value = {"feature": value, "_type": "List"}
        elif feature.size > 1:
            value = {"feature": value, "length": feature.size, "_type": "List"}
        described[feature.name] = value
    return pa.schema(kinds, metadata={"huggingface": json.dumps({"info": {"features": described}})})


def _is(held: pa.Schema, schema: pa.Schema) -> bool:
    """Whether a file has these columns, and tells ``datasets`` so."""
    told = (held.metadata or {}).get(b"huggingface", b"null")
    return held.equals(schema) and json.loads(told) == json.loads(schema.metadata[b"huggingface"])


def _value(kind: pa.DataType) -> str:
    return {"double": "float64"}.get(str(kind), str(kind))


def _head(mixture: Mixture, order: list[int]) -> dict[str, Any]:
    """The Hub's YAML: licence, and where each split of each configuration lies."""
    splits = splits_of(mixture)
    head: dict[str, Any] = {"pretty_name": mixture.name, "task_categories": ["robotics"], "tags": ["robotics"]}
    configs, licences = [], []
    for dataset, rows in _by_dataset(mixture, order):
        files = [
            {"split": split, "path": f"data/{dataset.name}/{split}-*.parquet"}
            for split in dict.fromkeys(splits[i] for i in rows)
        ]
        configs.append({"config_name": dataset.name, "data_files": files})
        licences.append(dataset.licence)
    if len(set(licences)) == 1 and licences[0]:
        head["license"] = licences[0].lower()
    return {**head, "configs": configs}


def _card(mixture: Mixture, order: list[int]) -> str:
    """The dataset card: the Hub's YAML, and what a reader should know."""
    head = _head(mixture, order)
    used = [dataset for dataset, _ in _by_dataset(mixture, order)]
    lines = [
        "---", yaml.safe_dump(head, sort_keys=False, allow_unicode=True).rstrip(), "---", "",
        f"# {mixture.name}", "",
        f"{len(mixture)} episodes, {int(mixture.rows['row_count'].sum())} steps, frozen as mixture `{mixture.id}`.", "",
        "| dataset | robot | control | steps a second | licence |", "| --- | --- | --- | --- | --- |",
        *(f"| {d.name} | {d.embodiment} | {d.control_mode} | {d.fps:g} | {d.licence or 'not stated'} |" for d in used),
        "",
        "Each row is a step. `weight` is how often the mixture draws the step in an epoch, in expectation; where each"
        " episode comes from is in `provenance.parquet`, what became of the rest in `mixture.json`.", "",
    ]  # fmt: skip
    return "\n".join(lines)
