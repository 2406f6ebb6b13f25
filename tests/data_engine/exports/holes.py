"""A mixture with a missing value, which most dialects cannot hold."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from data_engine import mixture as mixtures
from data_engine.mixture import FILES, Mixture
from data_engine.model import Dataset, Feature
from data_engine.steps import EPISODE_ID, STEP


def with_holes(folder: Path) -> Mixture:
    """Two episodes of three steps; the reward of the second step of episode ``1`` is null."""
    path = folder / "lake" / "steps" / "made.parquet"
    path.parent.mkdir(parents=True)
    vectors = pa.array([[float(i), 0.0] for i in range(6)], pa.list_(pa.float32()))
    columns = {"timestamp": [0.0, 0.1, 0.2] * 2, "observation.state": vectors, "action": vectors}
    reward = pa.array([0, 1, 2, 3, None, 5], pa.float32())
    identity = {EPISODE_ID: ["ep_0"] * 3 + ["ep_1"] * 3, STEP: [0, 1, 2] * 2}
    table = pa.table({**identity, **columns, "reward": reward})
    pq.write_table(table, path)
    vector = [Feature(name=name, dtype="float32", shape=(2,)) for name in ("observation.state", "action")]
    features = (*vector, Feature(name="reward", dtype="float32"))
    rows = [
        {
            "episode_id": f"ep_{i}",
            "content_hash": hashlib.sha256(str(i).encode()).hexdigest(),
            "dataset": "made",
            "source_key": str(i),
            "embodiment": "arm",
            "control_mode": "delta",
            "fps": 10.0,
            "task": "hold",
            "selection": "all",
            "start": 0,
            "stop": 3,
            "weight": 1.0,
            "steps_file": "steps/made.parquet",
            "row_start": 3 * i,
            "row_count": 3,
        }
        for i in range(2)
    ]
    data = path.read_bytes()
    files = [{"path": "steps/made.parquet", "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}]
    frozen = mixtures.freeze(
        name="holes",
        episodes=pa.Table.from_pylist(rows),
        files=pa.Table.from_pylist(files, schema=FILES),
        datasets={
            "made": Dataset(
                name="made",
                embodiment="arm",
                control_mode="delta",
                fps=10.0,
                features=features,
                origin="made up",
                format="toy",
            )
        },
        entries=[{"selection": "all", "weight": 1.0}],
        steps=lambda i: table.slice(3 * i, 3).drop_columns([EPISODE_ID, STEP]),
    )
    return mixtures.open(mixtures.write(frozen, str(folder / "lake")), cache_dir=folder / "cache")
