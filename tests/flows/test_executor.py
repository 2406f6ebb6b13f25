from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from threadpoolctl import threadpool_info, threadpool_limits

from data_engine.errors import EngineError, RequestError, SourceError
from data_engine.scoring import Resources
from flows.executor import Local, Shard, _cores, _free_mb, _helpers, executor, run_shards, set_threads
from flows.progress import silent


def shards(tmp_path, n=5):
    return [Shard(f"shard{i}", {"value": i, "log": str(tmp_path / "log")}) for i in range(n)]


def run(lake, parts, on=None, function="tests.flows.work:double"):
    with on or Local() as workers:
        return run_shards(lake, function, parts, on=workers, progress=silent(), title="work")


@pytest.mark.parametrize("workers", [1, 2])
def test_results_come_in_order_and_done_shards_never_run_again(lake, tmp_path, workers):
    parts = shards(tmp_path)
    assert [result["value"] for result in run(lake, parts[:3], Local(workers))] == [0, 2, 4]
    assert [result["value"] for result in run(lake, parts, Local(workers))] == [0, 2, 4, 6, 8]
    assert sorted((tmp_path / "log").read_text().split()) == [f"shard{i}" for i in range(5)]


def test_a_pool_works_in_other_processes(lake, tmp_path):
    assert os.getpid() not in {result["pid"] for result in run(lake, shards(tmp_path), Local(2))}
    assert {result["pid"] for result in run(lake, [Shard("alone", shards(tmp_path)[0].payload)], Local(2))} == {
        os.getpid()
    }


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_of_the_function_comes_back_whole_and_nothing_is_marked_done(lake, tmp_path, workers):
    with pytest.raises(SourceError, match="cannot do") as caught:
        run(lake, shards(tmp_path), Local(workers), "tests.flows.work:refuse")
    assert (caught.value.code, caught.value.fix) == ("cannot", "do another")
    assert all(lake.done(f"shard{i}") is None for i in range(5))


def test_a_killed_worker_is_one_line_with_a_way_out(lake, tmp_path):
    with pytest.raises(EngineError, match="a worker was killed") as caught:
        run(lake, shards(tmp_path), Local(2), "tests.flows.work:vanish")
    assert "fewer --workers" in caught.value.fix


def test_an_unknown_executor_is_a_wrong_request():
    with pytest.raises(RequestError, match="local or ray"):
        executor("cluster")


def test_a_pools_workers_die_with_a_killed_parent(lake, tmp_path):
    code = (
        "from flows.executor import *; from flows.progress import silent; from storage.lake import Lake\n"
        "if __name__ == '__main__':\n"
        f"  run_shards(Lake.open({lake.uri!r}), 'tests.flows.work:sleep', [Shard('a'), Shard('b')], on=Local(2),"
        " progress=silent(), title='')\n"
    )
    script = tmp_path / "script.py"
    script.write_text(code)
    parent = subprocess.Popen(
        [sys.executable, str(script)], start_new_session=True, env={**os.environ, "PYTHONPATH": os.getcwd()}
    )
    children = wait_for(lambda: session(parent.pid) - {parent.pid}, lambda found: len(found) >= 2)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    assert len(children) >= 2
    assert not wait_for(lambda: session(parent.pid), lambda found: not found)


def session(leader: int) -> set[int]:
    """Live processes of the session that ``leader`` leads."""
    found = set()
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            fields = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == leader and fields[0] != "Z":
            found.add(int(name))
    return found


def wait_for(look, enough, limit=60.0):
    """What ``look`` finds, once it is enough or the time is up."""
    end = time.monotonic() + limit
    while not enough(found := look()) and time.monotonic() < end:
        time.sleep(0.05)
    return found


def test_short_work_stays_in_this_process(lake, tmp_path):
    found = run(lake, shards(tmp_path), Local(None))
    assert {result["pid"] for result in found} == {os.getpid()}


def test_long_work_is_helped_by_another_process(lake, tmp_path, monkeypatch):
    monkeypatch.setattr("flows.executor._WORTH_S", 1e-9)
    monkeypatch.setattr("flows.executor._cores", lambda: 2.0)
    found = run(lake, shards(tmp_path), Local(None), "tests.flows.work:meet")
    assert [result["value"] for result in found] == [0, 1, 2, 3, 4]
    assert found[0]["pid"] == os.getpid() != found[-1]["pid"]
    assert len({result["pid"] for result in found}) == 2


def test_a_killed_helper_is_told_of_too(lake, tmp_path, monkeypatch):
    monkeypatch.setattr("flows.executor._WORTH_S", 1e-9)
    monkeypatch.setattr("flows.executor._cores", lambda: 2.0)
    with pytest.raises(EngineError, match="a worker was killed"):
        run(lake, shards(tmp_path, 12), Local(None), "tests.flows.work:vanish_elsewhere")
    assert not multiprocessing.active_children()


@pytest.mark.parametrize(
    ("resources", "helpers"),
    [
        (Resources(), 7),
        (Resources(cpus=3), 1),
        (Resources(cpus=8), 0),
        (Resources(gpus=1), 0),
        (Resources(memory_mb=3000), 5),
        (Resources(memory_mb=20_000), 0),
    ],
)
def test_helpers_leave_each_worker_its_cores_and_memory_and_the_device_to_this_process(monkeypatch, resources, helpers):
    monkeypatch.setattr("flows.executor._cores", lambda: 8.0)
    monkeypatch.setattr("flows.executor._free_mb", lambda: 16_384.0)
    assert _helpers(1000, 60.0, resources) == helpers
    assert _helpers(1000, 0.0, resources) == 0


def test_what_this_machine_has_is_known():
    assert _free_mb() > 100
    assert 0 < _cores() <= (os.cpu_count() or 1)


def test_threads_of_torch_and_of_numpy_are_what_was_declared():
    before = torch.get_num_threads()
    with threadpool_limits():  # puts back what it found
        set_threads(1)
        blas = [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]
        assert torch.get_num_threads() == 1
        assert blas
        assert set(blas) == {1}
    torch.set_num_threads(before)
