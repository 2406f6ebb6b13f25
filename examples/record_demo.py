"""Record demonstrations of three Meta-World tasks and write them as two source formats.

    python examples/record_demo.py OUT [--episodes 200] [--seed 0] [--workers 2]

Meta-World's scripted experts (Yu et al. 2019, "Meta-World") stand in for the people of two laboratories. Three
operators share the work: ``good`` follows the expert, ``noisy`` trembles and hesitates but usually gets there,
``failing`` misjudges where things are and mostly does not. Four ``target`` demonstrations a task say what good looks
like.

Half goes to ``OUT/robomimic.hdf5``, half to ``OUT/lerobot_v3``; what lies there is replaced. The same seed gives the
same bytes with any number of workers.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import multiprocessing
import os
import shutil
import threading
import warnings
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from flows.simulators import named

FPS = 20
LIMIT = 180  # steps; nobody goes on for longer
TARGETS = 4  # a task

TASKS = {
    "drawer-open-v3": "open the drawer",
    "pick-place-v3": "pick up the puck and place it at the goal",
    "peg-insert-side-v3": "insert the peg into the side of the box",
}


@dataclass(frozen=True)
class Operator:
    """How somebody departs from the expert.

    ``noise``: standard deviation of the action noise (actions lie in [-1, 1]), correlated over time by ``drift``.
    ``hesitation``: chance a step to stop for 3 to 8 steps. ``misjudgement``: metres by which object and goal are
    believed to be elsewhere. ``patience``: steps after which the operator gives up, drawn between the two.
    """

    noise: float
    drift: float = 0.0
    hesitation: float = 0.0
    misjudgement: tuple[float, float] = (0.0, 0.0)
    patience: tuple[int, int] = (LIMIT, LIMIT)


OPERATORS = {
    "good": Operator(noise=0.05),
    "noisy": Operator(noise=0.3, drift=0.4, hesitation=0.02),
    "failing": Operator(noise=0.35, drift=0.6, misjudgement=(0.01, 0.08), patience=(60, 150)),
}


@dataclass(frozen=True)
class Plan:
    """One demonstration to record. ``operator`` is ``target`` for one by the good operator that is held apart."""

    seed: int
    index: int
    task: str
    operator: str


@dataclass(frozen=True)
class Demonstration:
    """One recording of T steps.

    ``observations`` float32 [T, 39]: hand xyz in metres, gripper opening 0 to 1, then 35 of objects, the frame before
    and the goal. ``actions`` float32 [T, 4]: dx, dy, dz, gripper, each in [-1, 1], taken at those observations.
    ``rewards`` float32 [T]: what followed them.
    """

    plan: Plan
    observations: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    success: bool

    def __len__(self) -> int:
        return len(self.actions)

    @property
    def dones(self) -> np.ndarray:
        """bool [T]: true on the last step of a success; who gave up was cut off, not done."""
        return (np.arange(len(self)) == len(self) - 1) & self.success


def plans(episodes: int, seed: int) -> list[Plan]:
    """``episodes`` candidates, tasks and operators in turn, then ``TARGETS`` targets a task."""
    tasks, operators = list(TASKS), list(OPERATORS)
    who = [(tasks[i % 3], operators[i // 3 % 3]) for i in range(episodes)]
    who += [(task, "target") for _ in range(TARGETS) for task in tasks]
    return [Plan(seed, index, task, operator) for index, (task, operator) in enumerate(who)]


def perform(plan: Plan) -> Demonstration:
    """Record ``plan``: a pure function of it. Targets are repeated until one succeeds."""
    operator = OPERATORS["good" if plan.operator == "target" else plan.operator]
    for attempt in range(100):
        rng = np.random.default_rng([plan.seed, plan.index, attempt])
        demonstration = _attempt(plan, operator, rng)
        if demonstration.success or plan.operator != "target":
            return demonstration
    raise RuntimeError(f"the expert fails at {plan.task}")


def _attempt(plan: Plan, operator: Operator, rng: np.random.Generator) -> Demonstration:
    from metaworld.policies import ENV_POLICY_MAP

    world, policy = _world(plan.task), ENV_POLICY_MAP[plan.task]()
    observation = world.reset(int(rng.integers(2**31)))
    belief = np.zeros(39)
    belief[4:6], belief[36:38] = _offset(operator, rng), _offset(operator, rng)
    patience, linger = int(rng.integers(operator.patience[0], operator.patience[1] + 1)), int(rng.integers(5, 50))
    noise, pause, success = np.zeros(4), 0, False
    observations: list[np.ndarray] = []
    actions: list[np.ndarray] = []
    rewards: list[np.float32] = []
    while len(actions) < patience and linger > 0:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the experts ask for more than the arm's limits, which cut it below
            action = np.asarray(policy.get_action(observation + belief), dtype=np.float64)
        noise = operator.drift * noise + np.sqrt(1 - operator.drift**2) * rng.normal(0.0, operator.noise, 4)
        noise[3] = 0.0  # nobody's grip trembles
        pause = int(rng.integers(3, 9)) if pause == 0 and rng.random() < operator.hesitation else max(pause - 1, 0)
        if pause:
            action[:3] = 0.0
        action = np.clip(action + (0.2 if pause else 1.0) * noise, -1.0, 1.0).astype(np.float32)
        observations.append(observation.astype(np.float32))
        actions.append(action)
        observation, reward, _, _, info = world.env.step(action)
        rewards.append(np.float32(reward))
        success = success or bool(info["success"])
        linger -= success
    return Demonstration(plan, np.stack(observations), np.stack(actions), np.array(rewards), success)


def _offset(operator: Operator, rng: np.random.Generator) -> np.ndarray:
    angle, metres = rng.uniform(0, 2 * np.pi), rng.uniform(*operator.misjudgement)
    return metres * np.array([np.cos(angle), np.sin(angle)])


@cache
def _world(task: str) -> Any:
    """The simulator of ``task``, built once a process: every reset starts from the same clean state."""
    return named(f"metaworld:{task}").open()


def record(episodes: int, seed: int, workers: int) -> Iterable[Demonstration]:
    """The demonstrations of ``plans(episodes, seed)``, in order, from this process or from ``workers`` of them."""
    work = plans(episodes, seed)
    if workers <= 1:
        yield from map(perform, work)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_end_with_parent) as pool:
        yield from pool.map(perform, work, chunksize=4)


def _end_with_parent() -> None:
    """Start a watch in a worker: it ends when its parent does, however that ended."""
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def write_robomimic(path: Path, demonstrations: Sequence[Demonstration]) -> None:
    """Write robomimic's HDF5 layout; ``task``, ``operator`` and ``success`` are attributes of each demonstration."""
    env_args = {"env_name": "metaworld", "type": 1, "env_kwargs": {"robots": "sawyer", "control_freq": FPS}}
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        for i, demo in enumerate(demonstrations):
            group = data.create_group(f"demo_{i}")
            columns = {
                "obs/robot0_eef_pos": demo.observations[:, :3],
                "obs/robot0_gripper_qpos": demo.observations[:, 3:4],
                "obs/object": demo.observations[:, 4:],
                "states": demo.observations,
                "actions": demo.actions,
                "rewards": demo.rewards,
                "dones": demo.dones.astype(np.int64),
            }
            for name, values in columns.items():
                group.create_dataset(name, data=values)
            group.attrs["num_samples"] = len(demo)
            group.attrs["task"] = TASKS[demo.plan.task]
            group.attrs["operator"] = demo.plan.operator
            group.attrs["success"] = demo.success
        data.attrs["total"] = sum(map(len, demonstrations))
        data.attrs["env_args"] = json.dumps(env_args)
        target = [f"demo_{i}" for i, demo in enumerate(demonstrations) if demo.plan.operator == "target"]
        file.create_group("mask").create_dataset("target", data=np.array(target, dtype="S"))


def write_lerobot(folder: Path, demonstrations: Sequence[Demonstration]) -> None:
    """Write LeRobot's v3.0 layout; ``operator`` and ``success`` are extra columns of the episode rows."""
    lengths = np.array([len(demo) for demo in demonstrations])
    stops = np.cumsum(lengths)
    frames = np.concatenate([np.arange(length) for length in lengths])
    instructions = list(TASKS.values())
    tasks = np.array([list(TASKS).index(demo.plan.task) for demo in demonstrations])
    columns = {
        "observation.state": np.concatenate([demo.observations for demo in demonstrations]),
        "action": np.concatenate([demo.actions for demo in demonstrations]),
        "next.reward": np.concatenate([demo.rewards for demo in demonstrations]),
        "next.done": np.concatenate([demo.dones for demo in demonstrations]),
        "timestamp": (frames / FPS).astype(np.float32),
        "frame_index": frames,
        "episode_index": np.repeat(np.arange(len(lengths)), lengths),
        "index": np.arange(stops[-1]),
        "task_index": np.repeat(tasks, lengths),
    }
    names = {"action": ["dx", "dy", "dz", "gripper"]}
    info = {
        "codebase_version": "v3.0",
        "robot_type": "sawyer",
        "total_episodes": len(lengths),
        "total_frames": int(stops[-1]),
        "total_tasks": len(instructions),
        "chunks_size": 1000,
        "data_files_size_in_mb": 100,
        "video_files_size_in_mb": 200,
        "fps": FPS,
        "splits": {"train": f"0:{len(lengths)}"},
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": None,
        "features": {
            name: {"dtype": values.dtype.name, "shape": list(values.shape[1:]) or [1], "names": names.get(name)}
            for name, values in columns.items()
        },
    }
    episodes = {
        "episode_index": np.arange(len(lengths)),
        "tasks": [[instructions[task]] for task in tasks],
        "length": lengths,
        "data/chunk_index": np.zeros(len(lengths), dtype=np.int64),
        "data/file_index": np.zeros(len(lengths), dtype=np.int64),
        "dataset_from_index": stops - lengths,
        "dataset_to_index": stops,
        "meta/episodes/chunk_index": np.zeros(len(lengths), dtype=np.int64),
        "meta/episodes/file_index": np.zeros(len(lengths), dtype=np.int64),
        "operator": [demo.plan.operator for demo in demonstrations],
        "success": [demo.success for demo in demonstrations],
    }
    for part in ("meta/episodes/chunk-000", "data/chunk-000"):
        (folder / part).mkdir(parents=True)
    (folder / "meta/info.json").write_text(json.dumps(info, indent=2))
    (folder / "meta/stats.json").write_text(json.dumps({name: _stats(v) for name, v in columns.items()}, indent=2))
    pq.write_table(_task_table(instructions), folder / "meta/tasks.parquet")
    pq.write_table(pa.table(episodes), folder / "meta/episodes/chunk-000/file-000.parquet")
    table = pa.table({name: _column(values) for name, values in columns.items()})
    with pq.ParquetWriter(folder / "data/chunk-000/file-000.parquet", table.schema) as writer:
        for start, length in zip(stops - lengths, lengths, strict=True):
            writer.write_table(table.slice(start, length))  # one row group an episode, as LeRobot has it


def _column(values: np.ndarray) -> pa.Array:
    flat = pa.array(values.reshape(-1))
    return flat if values.ndim == 1 else pa.FixedSizeListArray.from_arrays(flat, values.shape[1])


def _stats(values: np.ndarray) -> dict[str, list[float]]:
    wide = values.reshape(len(values), -1).astype(np.float64)
    stats = {"min": wide.min(0), "max": wide.max(0), "mean": wide.mean(0), "std": wide.std(0)}
    stats |= {f"q{percent:02d}": np.percentile(wide, percent, axis=0) for percent in (1, 10, 50, 90, 99)}
    return {name: value.tolist() for name, value in stats.items()} | {"count": [len(values)]}


def _task_table(instructions: Sequence[str]) -> pa.Table:
    """LeRobot keeps the instruction as the index of a pandas frame, which is metadata of the Arrow schema."""
    index = "__index_level_0__"
    columns = [
        {
            "name": "task_index",
            "field_name": "task_index",
            "pandas_type": "int64",
            "numpy_type": "int64",
            "metadata": None,
        },
        {"name": None, "field_name": index, "pandas_type": "unicode", "numpy_type": "object", "metadata": None},
    ]
    pandas = {"index_columns": [index], "column_indexes": [], "columns": columns, "pandas_version": "2.0.0"}
    table = pa.table({"task_index": np.arange(len(instructions)), index: list(instructions)})
    return table.replace_schema_metadata({"pandas": json.dumps(pandas)})


def main(arguments: Sequence[str] | None = None) -> None:
    """Record, write both sources, print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder of the two sources")
    parser.add_argument("--episodes", type=int, default=200, help=f"candidates, beside {TARGETS} targets a task")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2, help="processes")
    options = parser.parse_args(arguments)
    if options.episodes < 0 or options.seed < 0:
        parser.error("--episodes and --seed are not negative")
    if importlib.util.find_spec("metaworld") is None:
        parser.error("the simulator is not installed: pip install 'metaworld>=3'")
    demonstrations = list(record(options.episodes, options.seed, options.workers))
    # every task and operator reaches both laboratories: nine combinations make one round, rounds alternate
    round_of = [
        demo.plan.index // 9 if demo.plan.operator != "target" else i // 3 for i, demo in enumerate(demonstrations)
    ]
    halves = [[d for d, r in zip(demonstrations, round_of, strict=True) if r % 2 == half] for half in (0, 1)]
    options.out.mkdir(parents=True, exist_ok=True)
    robomimic, lerobot = options.out / "robomimic.hdf5", options.out / "lerobot_v3"
    write_robomimic(robomimic, halves[0])
    shutil.rmtree(lerobot, ignore_errors=True)
    write_lerobot(lerobot, halves[1])
    for path, half in ((robomimic, halves[0]), (lerobot, halves[1])):
        successes, steps = sum(demo.success for demo in half), sum(map(len, half))
        print(f"{path}: {len(half)} episodes, {steps} steps, {successes} successes")


if __name__ == "__main__":
    main()
