"""Toy mixtures whose values say where they come from: state and action of step t of episode e are (e, t, ...)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_engine import mixture as mixtures
from data_engine.fs import filesystem, join
from data_engine.mixture import FILES, Frozen, Mixture
from data_engine.model import Dataset, Feature
from data_engine.steps import EPISODE_ID, STEP

FPS = 10.0


class Toy:
    """Episodes of some lengths, several a file, written to a lake and frozen.

    ``lengths``: dataset -> length of each episode; ``widths``: dataset -> width of state and action (at least 2).
    """

    def __init__(self, lake: str, lengths: Mapping[str, list[int]], widths: Mapping[str, int] | None = None) -> None:
        self.lake = lake
        self.datasets: dict[str, Dataset] = {}
        self.rows: list[dict[str, Any]] = []
        self.steps: list[pa.Table] = []
        self.files: list[dict[str, Any]] = []
        for name, sizes in lengths.items():
            width = (widths or {}).get(name, 2)
            self.datasets[name] = Dataset(
                name=name,
                embodiment=f"arm{width}",
                control_mode="delta",
                fps=FPS,
                features=(
                    Feature(name="observation.state", dtype="float32", shape=(width,)),
                    Feature(name="action", dtype="float64", shape=(width,)),
                    Feature(name="reward", dtype="float32"),
                ),
                origin="made up",
                format="toy",
            )
            for file, numbers in enumerate(np.array_split(np.arange(len(sizes)), max(1, len(sizes) // 3))):
                self._file(name, f"steps/{name}/{file}.parquet", width, {int(i): sizes[i] for i in numbers})

    def _file(self, dataset: str, path: str, width: int, lengths: Mapping[int, int]) -> None:
        tables, row = [], 0
        for number, length in lengths.items():
            episode = len(self.rows)
            t = np.arange(length)
            values = np.stack([np.full(length, episode), t, *([t * 0.5] * (width - 2))], axis=1)
            steps = pa.table(
                {
                    "timestamp": t / FPS,
                    "observation.state": pa.array(values.astype(np.float32).tolist(), pa.list_(pa.float32())),
                    "action": pa.array(values.tolist(), pa.list_(pa.float64())),
                    "reward": pa.array(t == length - 1).cast(pa.float32()),
                }
            )
            identity = {EPISODE_ID: [f"ep_{dataset}_{number}"] * length, STEP: t}
            tables.append(pa.table({**identity, **dict(zip(steps.column_names, steps.columns, strict=True))}))
            self.steps.append(steps)
            self.rows.append(
                {
                    "episode_id": f"ep_{dataset}_{number}",
                    "content_hash": hashlib.sha256(f"{dataset}{number}".encode()).hexdigest(),
                    "dataset": dataset,
                    "source_key": str(number),
                    "embodiment": f"arm{width}",
                    "control_mode": "delta",
                    "fps": FPS,
                    "task": f"task of {dataset}",
                    "selection": dataset,
                    "start": 0,
                    "stop": length,
                    "weight": 1.0,
                    "steps_file": path,
                    "row_start": row,
                    "row_count": length,
                }
            )
            row += length
        sink = pa.BufferOutputStream()
        pq.write_table(pa.concat_tables(tables), sink, row_group_size=7)
        data = sink.getvalue().to_pybytes()
        fs, where = filesystem(join(self.lake, path))
        fs.makedirs(where.rsplit("/", 1)[0], exist_ok=True)
        fs.pipe_file(where, data)
        self.files.append({"path": path, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()})

    def freeze(self, **options: Any) -> Frozen:
        """Freeze; every dataset is a selection of its own name and weight 1 unless ``entries`` says otherwise."""
        rows = options.pop("rows", self.rows)
        starts = [row["start"] for row in rows]
        number = {row["episode_id"]: i for i, row in enumerate(self.rows)}
        whole = [self.steps[number[row["episode_id"]]] for row in rows]
        defaults: dict[str, Any] = {
            "name": "toy",
            "episodes": pa.Table.from_pylist(rows),
            "files": pa.Table.from_pylist(self.files, schema=FILES),
            "datasets": self.datasets,
            "entries": [{"selection": name, "weight": 1.0} for name in self.datasets],
            "steps": lambda i: whole[i].slice(starts[i], rows[i]["row_count"]),
        }
        return mixtures.freeze(**(defaults | options))

    def mixture(self, cache: Path, **options: Any) -> Mixture:
        """Freeze, write and open."""
        return mixtures.open(mixtures.write(self.freeze(**options), self.lake), cache_dir=cache)


@pytest.fixture
def toy(tmp_path: Path) -> Callable[..., Toy]:
    """Makes a :class:`Toy` in a local lake."""
    return lambda *args, **kwargs: Toy(str(tmp_path / "lake"), *args, **kwargs)


@pytest.fixture
def toy_at() -> type[Toy]:
    """:class:`Toy` itself, for a lake elsewhere."""
    return Toy
