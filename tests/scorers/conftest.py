"""Episode batches made straight from the real recordings."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import zarr

from data_engine.canonical import digest
from data_engine.model import ACTION, STATE, TIMESTAMP, Dataset, Feature
from data_engine.scoring import EpisodeBatch


def make_batch(
    states: Sequence[np.ndarray],
    actions: Sequence[np.ndarray],
    tasks: Sequence[str | None] | None = None,
    *,
    name: str = "set",
    fps: float = 20.0,
    **columns: Any,
) -> EpisodeBatch:
    lengths = [len(state) for state in states]
    state, action = np.concatenate(states).astype(np.float32), np.concatenate(actions).astype(np.float32)
    steps = {
        STATE: pa.FixedSizeListArray.from_arrays(pa.array(state.ravel()), state.shape[1]),
        ACTION: pa.FixedSizeListArray.from_arrays(pa.array(action.ravel()), action.shape[1]),
        TIMESTAMP: np.concatenate([np.arange(n) / fps for n in lengths]),
        **columns,
    }
    hashes = [
        digest(s.astype(np.float32).tobytes(), a.astype(np.float32).tobytes())
        for s, a in zip(states, actions, strict=True)
    ]
    episodes = {
        "episode_id": [f"{name}-{i}" for i in range(len(lengths))],
        "content_hash": hashes,
        "embodiment": ["arm"] * len(lengths),
        "control_mode": ["delta"] * len(lengths),
        "task": pa.array(tasks or [None] * len(lengths), pa.string()),
        "n_steps": lengths,
    }
    features = (
        Feature(name=STATE, dtype="float32", shape=state.shape[1:]),
        Feature(name=ACTION, dtype="float32", shape=action.shape[1:]),
    )
    dataset = Dataset(
        name=name, embodiment="arm", control_mode="delta", fps=fps, features=features, origin="-", format="-"
    )
    return EpisodeBatch(dataset, pa.table(episodes), pa.table(steps), np.r_[0, np.cumsum(lengths)].astype(np.int64))


def auc(good: np.ndarray, bad: np.ndarray) -> float:
    """The chance that a good one lies above a bad one."""
    above = good[:, None] - bad[None]
    return float((above > 0).mean() + 0.5 * (above == 0).mean())


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As many threads as the scorers ask for."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def batch_of() -> Callable[..., EpisodeBatch]:
    return make_batch


@pytest.fixture(scope="session", name="auc")
def auc_fixture() -> Callable[[np.ndarray, np.ndarray], float]:
    return auc


@pytest.fixture(scope="session")
def tiers(shared_data: Path) -> tuple[list[np.ndarray], list[np.ndarray], list[str], np.ndarray]:
    """States, actions, tasks and tiers of the 180 Meta-World episodes."""
    root = shared_data / "metaworld_tiers"
    table = pq.read_table(root / "lerobot_v3/data/chunk-000/file-000.parquet")
    truth = json.loads((root / "truth.json").read_text())
    cuts = np.flatnonzero(np.diff(table["episode_index"].to_numpy())) + 1
    state, action = (np.stack(table[c].to_numpy(zero_copy_only=False)) for c in (STATE, ACTION))
    return (
        np.split(state, cuts),
        np.split(action, cuts),
        [t["task"] for t in truth],
        np.array([t["tier"] for t in truth]),
    )


@pytest.fixture(scope="session")
def pusht(shared_data: Path) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """States and actions of the 206 human PushT episodes."""
    path = shared_data / "pusht_zarr/pusht_cchi_v7_replay.zarr.zip"
    with zarr.storage.ZipStore(path, mode="r") as store:
        root = zarr.open_group(store, mode="r")
        root = root if "data" in root else root[next(iter(root.keys()))]
        cuts = root["meta/episode_ends"][:][:-1]
        return np.split(root["data/state"][:], cuts), np.split(root["data/action"][:], cuts)


@pytest.fixture(scope="session")
def planted(pusht: tuple[list[np.ndarray], list[np.ndarray]]) -> Callable[[str], tuple[EpisodeBatch, np.ndarray]]:
    """PushT with a semantic defect in a fifth of its episodes, and which those are."""

    def spoil(action: np.ndarray, kind: str, draw: np.random.Generator) -> np.ndarray:
        if kind == "shuffled":
            return action[draw.permutation(len(action))]
        if kind == "lagged":
            lag = int(draw.integers(3, 9))
            return np.concatenate([np.repeat(action[:1], lag, axis=0), action[:-lag]])
        return action[:, ::-1]  # swapped

    def plant(kind: str) -> tuple[EpisodeBatch, np.ndarray]:
        states, actions = pusht
        draw = np.random.default_rng(7)
        bad = np.isin(np.arange(len(states)), draw.choice(len(states), len(states) // 5, replace=False))
        spoilt = [spoil(action, kind, draw) if b else action for action, b in zip(actions, bad, strict=True)]
        return make_batch(states, spoilt, fps=10.0), bad

    return plant
