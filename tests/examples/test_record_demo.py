"""The demo's recorder: what it writes is what the layouts say, and the same seed gives the same bytes."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pyarrow.parquet as pq
import pytest

pytest.importorskip("metaworld", reason="the demo's simulator, metaworld, is not installed")

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "record_demo.py"
EPISODES = 18  # two rounds of three tasks and three operators


@pytest.fixture(scope="module")
def recorder():
    spec = importlib.util.spec_from_file_location("record_demo", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["record_demo"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["record_demo"]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory) -> tuple[Path, str]:
    """The script run as a person runs it, over two processes."""
    out = tmp_path_factory.mktemp("recorded")
    command = [sys.executable, SCRIPT, out, "--episodes", str(EPISODES), "--workers", "2"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return out, done.stdout


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_the_same_seed_gives_the_same_bytes_in_one_process_as_in_two(recorder, recorded, tmp_path, capsys):
    recorder.main([str(tmp_path), "--episodes", str(EPISODES), "--workers", "1"])
    assert files(tmp_path) == files(recorded[0])


def test_a_demonstration_depends_on_its_plan_alone(recorder):
    plans = recorder.plans(9, seed=3)
    noisy = next(plan for plan in plans if plan.operator == "noisy")
    alone = recorder.perform(noisy)
    recorder.perform(plans[0])
    again = recorder.perform(noisy)
    np.testing.assert_array_equal(alone.observations, again.observations)
    np.testing.assert_array_equal(alone.actions, again.actions)
    assert recorder.perform(recorder.plans(9, seed=4)[noisy.index]).observations.tolist() != alone.observations.tolist()


def test_prints_one_line_a_source(recorded):
    lines = recorded[1].splitlines()
    assert [line.split(":")[0].rsplit("/", 1)[-1] for line in lines] == ["robomimic.hdf5", "lerobot_v3"]
    assert all("episodes" in line and "steps" in line for line in lines)


def test_robomimic_layout(recorded):
    with h5py.File(recorded[0] / "robomimic.hdf5") as file:
        data = file["data"]
        assert json.loads(data.attrs["env_args"])["env_kwargs"] == {"robots": "sawyer", "control_freq": 20}
        assert data.attrs["total"] == sum(int(demo.attrs["num_samples"]) for demo in data.values())
        for demo in data.values():
            length = int(demo.attrs["num_samples"])
            widths = {"robot0_eef_pos": 3, "robot0_gripper_qpos": 1, "object": 35}
            assert {name: obs.shape for name, obs in demo["obs"].items()} == {n: (length, w) for n, w in widths.items()}
            assert demo["actions"].shape == (length, 4)
            assert demo["rewards"].shape == demo["dones"].shape == (length,)
            assert np.isfinite(demo["states"][:]).all()
            assert np.abs(demo["actions"][:]).max() <= 1
            state = np.concatenate([demo["obs"][name][:] for name in widths], axis=1)
            np.testing.assert_array_equal(state, demo["states"][:])
        targets = {name for name, demo in data.items() if demo.attrs["operator"] == "target"}
        assert {name.decode() for name in file["mask/target"][:]} == targets
        assert len(targets) == 6
        assert all(data[name].attrs["success"] for name in targets)


def test_lerobot_layout(recorded):
    root = recorded[0] / "lerobot_v3"
    info = json.loads((root / "meta/info.json").read_text())
    steps = pq.read_table(root / "data/chunk-000/file-000.parquet")
    episodes = pq.read_table(root / "meta/episodes/chunk-000/file-000.parquet").to_pylist()
    assert (info["codebase_version"], info["fps"], info["robot_type"]) == ("v3.0", 20, "sawyer")
    assert info["total_frames"] == steps.num_rows == episodes[-1]["dataset_to_index"]
    assert info["total_episodes"] == len(episodes)
    assert info["features"].keys() == set(steps.column_names)
    index = steps.column("episode_index").to_numpy()
    tasks = steps.column("task_index").to_numpy()
    instructions = pq.read_table(root / "meta/tasks.parquet").column("__index_level_0__").to_pylist()
    for row in episodes:
        rows = slice(row["dataset_from_index"], row["dataset_to_index"])
        assert (index[rows] == row["episode_index"]).all()
        assert rows.stop - rows.start == row["length"]
        assert {instructions[task] for task in tasks[rows]} == set(row["tasks"])
    assert pq.ParquetFile(root / "data/chunk-000/file-000.parquet").num_row_groups == len(episodes)
    assert sum(row["operator"] == "target" for row in episodes) == 6
    stats = json.loads((root / "meta/stats.json").read_text())
    state = np.stack(steps.column("observation.state").to_numpy(zero_copy_only=False))
    np.testing.assert_allclose(stats["observation.state"]["mean"], state.mean(0, dtype=np.float64), rtol=1e-6)


def test_every_task_and_operator_reaches_both_sources(recorded):
    with h5py.File(recorded[0] / "robomimic.hdf5") as file:
        first = {(demo.attrs["task"], demo.attrs["operator"]) for demo in file["data"].values()}
    rows = pq.read_table(recorded[0] / "lerobot_v3/meta/episodes/chunk-000/file-000.parquet").to_pylist()
    assert first == {(row["tasks"][0], row["operator"]) for row in rows}
    assert len(first) == 12


def test_operators_differ_in_outcome_and_not_in_limit(recorder):
    outcome = {
        name: [recorder.perform(recorder.Plan(0, 1000 + i, "drawer-open-v3", name)) for i in range(6)]
        for name in recorder.OPERATORS
    }
    successes = {name: sum(demo.success for demo in demos) for name, demos in outcome.items()}
    assert successes["good"] == 6
    assert successes["failing"] <= 2 < successes["noisy"]
    assert all(len(demo) <= recorder.LIMIT for demos in outcome.values() for demo in demos)


def test_children_end_with_the_parent(tmp_path):
    code = (
        "import multiprocessing, os, sys, time, importlib.util\n"
        f"spec = importlib.util.spec_from_file_location('record_demo', {str(SCRIPT)!r})\n"
        "module = importlib.util.module_from_spec(spec); sys.modules['record_demo'] = module\n"
        "spec.loader.exec_module(module)\n"
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        "    context = multiprocessing.get_context('fork')\n"
        "    def child(pipe):\n"
        "        module._end_with_parent(); pipe.send(os.getpid()); time.sleep(600)\n"
        "    here, there = context.Pipe()\n"
        "    context.Process(target=child, args=(there,)).start()\n"
        "    print(here.recv(), flush=True); os.kill(os.getpid(), 9)\n"
        "os.wait()\n"
    )
    # the child holds the pipe's other end: the read below returns only when it has ended too
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60)
    assert int(done.stdout) > 0
