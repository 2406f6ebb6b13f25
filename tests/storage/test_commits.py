from __future__ import annotations

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pytest

from data_engine.errors import EngineError, RequestError
from data_engine.model import TABLES
from storage import commits
from storage.lake import Lake

ROWS = pa.schema([("worker", pa.int64()), ("row", pa.int64())])


RACE = """
import multiprocessing, sys, pyarrow as pa, s3fs
from storage.lake import Lake

def work(worker):
    lake = Lake.open(uri)
    for name in names[worker // 2 :: 4][:: 1 if worker % 2 else -1]:
        rows = pa.table({"worker": [worker], "row": [int(name)]}, schema=schema)
        lake.append("race", rows, transaction=name)

uri, schema = sys.argv[1], pa.schema([("worker", pa.int64()), ("row", pa.int64())])
names = [str(number) for number in range(int(sys.argv[2]))]
jobs = [multiprocessing.get_context("fork").Process(target=work, args=(worker,)) for worker in range(8)]
for job in jobs: job.start()
for job in jobs: job.join()
sys.exit(max(job.exitcode for job in jobs))
"""


def test_racing_committers_lose_and_double_nothing(lake: Lake) -> None:
    """Eight processes commit transactions that are each tried by two of them, in opposite orders."""
    lake.create_table("race", ROWS)
    count = 16 if lake.is_local else 8
    subprocess.run([sys.executable, "-c", RACE, lake.uri, str(count)], env=os.environ, check=True)
    assert sorted(lake.scan("race").collect()["row"]) == list(range(count))
    assert lake.version("race") == count


def test_one_transaction_by_many_threads_commits_once(lake: Lake) -> None:
    lake.create_table("race", ROWS)
    rows = pa.table({"worker": [0], "row": [0]}, schema=ROWS)
    with ThreadPoolExecutor(8) as pool:
        versions = list(pool.map(lambda _: Lake(lake.uri).append("race", rows, transaction="same"), range(16)))
    assert set(versions) == {1} and len(lake.scan("race").collect()) == 1


def test_racing_creators_make_one_table(lake: Lake) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: Lake(lake.uri).create_table("episodes", TABLES["episodes"]), range(8)))
    assert lake.version("episodes") == 0 and lake.schema("episodes") == TABLES["episodes"]


def test_a_repeated_transaction_is_a_no_op_even_past_a_checkpoint(lake: Lake) -> None:
    count = 12 if lake.is_local else 4
    for number in range(count):
        lake.append_rows("runs", [{"run_id": str(number)}], transaction=f"t{number}")
    before = lake.version("runs"), lake.files("runs")
    assert lake.append_rows("runs", [{"run_id": "other"}], transaction="t3") == count
    assert (lake.version("runs"), lake.files("runs")) == before
    assert lake.committed("runs", "t3") and not lake.committed("runs", "other")
    assert not lake.committed("scores", "t3")


def test_a_transaction_of_no_files_is_recorded(lake: Lake) -> None:
    assert lake.commit("runs", [], transaction="nothing") == 1
    assert lake.commit("runs", [], transaction="nothing") == 1
    assert lake.committed("runs", "nothing") and len(lake.scan("runs").collect()) == 0


KILLED = """
import os, signal, sys, pyarrow as pa
from storage import commits
from storage.lake import Lake
rows = pa.table({"worker": [1], "row": [2]}, schema=pa.schema([("worker", pa.int64()), ("row", pa.int64())]))
commits.commit = lambda *a, **k: os.kill(os.getpid(), signal.SIGKILL)
Lake.open(sys.argv[1]).append("race", rows, transaction="killed")
"""


def test_killed_between_write_and_commit_then_run_again(lake: Lake) -> None:
    lake.create_table("race", ROWS)
    done = subprocess.run([sys.executable, "-c", KILLED, lake.uri], env=os.environ, check=False)
    assert done.returncode == -signal.SIGKILL
    orphan = [path for path in lake.list("tables/race") if path.endswith(".parquet")]
    assert len(orphan) == 1 and lake.files("race") == [] and len(lake.scan("race").collect()) == 0
    rows = pa.table({"worker": [1], "row": [2]}, schema=ROWS)
    lake.append("race", rows, transaction="killed")
    assert [file.path for file in lake.files("race")] == orphan
    assert len(lake.scan("race").collect()) == 1


def test_another_schema_is_refused(lake: Lake) -> None:
    lake.create_table("race", ROWS)
    with pytest.raises(RequestError, match="row is int64 there, double here"):
        lake.create_table("race", pa.schema([("worker", pa.int64()), ("row", pa.float64())]))
    with pytest.raises(RequestError, match="extra is absent there"):
        lake.create_table("race", ROWS.append(pa.field("extra", pa.int64())))


@pytest.mark.parametrize(
    "kind",
    [pa.uint64(), pa.float16(), pa.timestamp("ns"), pa.list_(pa.float32(), 3), pa.list_(pa.uint8()),
     pa.struct([("x", pa.duration("us"))])],
)  # fmt: skip
def test_a_type_that_delta_would_change_is_refused(local_lake: Lake, kind: pa.DataType) -> None:
    with pytest.raises(RequestError, match="cannot be kept unchanged"):
        local_lake.create_table("odd", pa.schema([("x", kind)]))
    assert not local_lake.exists_table("odd")


def test_a_commit_to_no_table_says_so(local_lake: Lake) -> None:
    with pytest.raises(EngineError, match="no table at"):
        commits.commit(f"{local_lake.uri}/tables/none", {}, [], transaction="t", metadata={})
