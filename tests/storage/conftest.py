"""A small lake, written through the lake's own verbs as an ingest does it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from data_engine.canonical import canonical_json, digest
from data_engine.model import ACTION, EPISODES, STATE, Feature, episode_id
from data_engine.steps import schema
from data_engine.video import encode
from storage.lake import Lake

FEATURES = (Feature(name=STATE, dtype="float32", shape=(3,)), Feature(name=ACTION, dtype="float64", shape=(2,)))


class Filler:
    """Fills a lake with made-up episodes; equal seeds give equal content whatever the shards."""

    def __init__(self, lake: Lake, run_id: str = "run") -> None:
        self.lake, self.run_id = lake, run_id

    def dataset(self, name: str = "arms") -> None:
        self.lake.append_rows(
            "datasets",
            [{"dataset": name, "embodiment": "arm", "control_mode": "joint", "fps": 10.0, "origin": "made up",
              "features": canonical_json([f.model_dump(mode="json") for f in FEATURES]), "format": "none",
              "licence": None, "revision": 0, "run_id": self.run_id, "ingested_at": datetime.now(UTC)}],
            transaction=f"dataset {name}",
        )  # fmt: skip

    def steps(self, key: str, n_steps: int, dataset: str = "arms", seed: int = 0) -> pa.Table:
        rng = np.random.default_rng(int(digest(dataset, key, seed, length=12), 16))
        columns = {
            "episode_id": [episode_id(dataset, key)] * n_steps,
            "step": np.arange(n_steps),
            "timestamp": np.arange(n_steps) / 10,
            STATE: [None if step == 1 else row for step, row in enumerate(rng.normal(size=(n_steps, 3)).tolist())],
            ACTION: rng.normal(size=(n_steps, 2)).tolist(),
        }
        return pa.table(columns, schema=schema(FEATURES))

    def shard(
        self, keys: Sequence[str], dataset: str = "arms", revision: int = 0, seed: int = 0, videos: Sequence[dict] = ()
    ) -> str:
        """Write, commit and publish the episodes ``keys`` as one shard; its transaction."""
        transaction = digest("shard", dataset, list(keys), revision, seed)
        tables = [self.steps(key, 4 + len(key), dataset, seed) for key in keys]
        file = self.lake.write_file(f"steps/{dataset}", transaction, iter(tables), schema(FEATURES))
        self.lake.create_table(f"steps/{dataset}", schema(FEATURES))
        common = {"transaction": transaction, "run_id": self.run_id, "config_hash": "c"}
        self.lake.commit(f"steps/{dataset}", [file], **common)
        rows, start = [], 0
        for key, table in zip(keys, tables, strict=True):
            rows.append(
                {"episode_id": episode_id(dataset, key), "dataset": dataset, "source_key": key, "fps": 10.0,
                 "content_hash": digest(key, seed), "embodiment": "arm", "control_mode": "joint", "task": "push",
                 "n_steps": len(table), "duration_s": len(table) / 10, "labels": ["expert"], "attributes": "{}",
                 "steps_file": file.path, "row_start": start, "row_count": len(table), "videos": list(videos),
                 "revision": revision, "run_id": self.run_id, "ingested_at": datetime.now(UTC)}
            )  # fmt: skip
            start += len(table)
        self._receipt(dataset, len(rows), transaction)
        self.lake.append("episodes", pa.Table.from_pylist(rows, schema=EPISODES), **common)
        return transaction

    def _receipt(self, dataset: str, stored: int, transaction: str) -> None:
        receipt = {"in": {"episodes": stored + 1}, "stored": {"episodes": stored}, "unchanged": 0, "quarantined": [{}],
                   "transaction": transaction, "timing": {"seconds": np.random.random()}}  # fmt: skip
        row = {"dataset": dataset, "receipt": canonical_json(receipt), "run_id": self.run_id}
        self.lake.append_rows("receipts", [row], transaction=transaction)

    def video(self, folder: Path) -> dict:
        """A real encoded video of eight frames, put into the lake, as an entry of ``episodes.videos``."""
        frames = (np.full((64, 64, 3), 30 * shade, np.uint8) for shade in range(8))
        encoded = encode(frames, folder / "frames.mp4", 10.0)
        return {"camera": "front", "blob": self.lake.put_video(folder / "frames.mp4"), "start_s": 0.0, "end_s": 0.8,
                "codec": encoded.info.codec, "width": 64, "height": 64, "fps": 10.0, "frames": 8}  # fmt: skip


@pytest.fixture
def lake(lake_uri: str) -> Lake:
    """An empty lake, once on a local folder and once on S3."""
    return Lake.open(lake_uri, create=True)


@pytest.fixture
def local_lake(tmp_path: Path) -> Lake:
    """An empty lake on a local folder."""
    return Lake.open(str(tmp_path / "lake"), create=True)


@pytest.fixture
def filler() -> type[Filler]:
    """What fills a lake: ``filler(lake).dataset(); filler(lake).shard(["a", "b"])``."""
    return Filler
