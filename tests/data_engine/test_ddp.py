"""Two real processes over gloo: DistributedDataParallel, a resume, and accelerate."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from data_engine.loader import MixtureDataset, collate
from tests.data_engine import ddp_rank

WORLD = 2


def test_two_ranks_train_as_one_process_would_and_share_out_the_same_order(toy, tmp_path: Path) -> None:
    mixture = toy({"a": [12, 5, 9, 30], "b": [8, 20]}).mixture(tmp_path / "cache", weight_kind="repeat")
    started = [
        subprocess.Popen(
            [sys.executable, ddp_rank.__file__, mixture.uri, str(tmp_path / "cache"), str(tmp_path)],
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2]),
                 "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(WORLD), "MASTER_ADDR": "127.0.0.1"},
            stderr=subprocess.PIPE, text=True,
        )
        for rank in range(WORLD)
    ]  # fmt: skip
    try:
        for process in started:
            said = process.communicate(timeout=240)[1]
            assert process.returncode == 0, said[-3000:]
    finally:
        for process in started:
            process.kill()
            process.wait()
    ranks = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(WORLD)]

    dataset = MixtureDataset(mixture, ddp_rank.WINDOWS)
    whole = ddp_rank.seen(collate(dataset.__getitems__(list(range(len(dataset))))))
    had = [tuple(sample) for rank in ranks for part in ("first", "rest") for sample in rank[part]]
    assert sorted(had) == whole
    count = WORLD * ddp_rank.BATCH * ddp_rank.STEPS
    assert sorted(tuple(sample) for rank in ranks for sample in rank["first"]) == whole[:count]
    assert ranks[0]["states"] == ranks[1]["states"] == [{"epoch": 0, "position": count}] * WORLD

    batches = [
        collate(dataset.__getitems__(list(range(first, first + count // ddp_rank.STEPS))))
        for first in range(0, count, count // ddp_rank.STEPS)
    ]
    alone = ddp_rank.trained(ddp_rank.linear(), batches)
    for rank in ranks:
        for mine, theirs in zip(alone, rank["weights"], strict=True):
            assert theirs == pytest.approx(mine, abs=1e-6)

    assert [rank["processes"] for rank in ranks] == [WORLD] * WORLD
    turns = [
        [tuple(sample) for sample in batch]
        for number in range(max(len(rank["accelerate"]) for rank in ranks))
        for rank in ranks
        for batch in rank["accelerate"][number : number + 1]
    ]
    assert [sample for batch in turns for sample in batch] == whole
