"""Small recordings that tests make: an arm that reaches for a goal, by a steady, a shaky and a lost operator."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np

OPERATORS = ("steady", "shaky", "lost")


def reach(rng: np.random.Generator, operator: str, task: int, steps: int = 30) -> tuple[np.ndarray, np.ndarray, bool]:
    """(positions [T, 3], actions [T, 3], success): the action is the step that the arm takes next."""
    goal = np.array([0.5, 0.0, 0.2]) if task == 0 else np.array([-0.3, 0.4, 0.1])
    aim = goal if operator != "lost" else goal + rng.normal(0, 0.6, 3)
    noise = {"steady": 0.002, "shaky": 0.02, "lost": 0.03}[operator]
    position = rng.normal(0, 0.05, 3)
    positions, actions = [], []
    for _ in range(steps + int(rng.integers(0, 8))):
        action = 0.15 * (aim - position) + rng.normal(0, noise, 3)
        positions.append(position)
        actions.append(action)
        position = position + action
    return np.array(positions, np.float32), np.array(actions, np.float32), bool(np.linalg.norm(position - goal) < 0.1)


def write_robomimic(path: Path, episodes: int = 24, seed: int = 0, cameras: bool = False, **attributes: str) -> Path:
    """A robomimic HDF5 of two tasks by three operators; two demonstrations of each task carry the mask ``target``."""
    rng = np.random.default_rng(seed)
    targets: list[tuple[int, str]] = []
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["env_args"] = json.dumps({"env_name": "Reach", "env_kwargs": {"robots": "arm", "control_freq": 20}})
        total = 0
        for number in range(episodes):
            operator, task = OPERATORS[number % 3], number // 3 % 2
            positions, actions, success = reach(rng, operator, task)
            demo = data.create_group(f"demo_{number}")
            demo.attrs.update({"num_samples": len(actions), "operator": operator, "success": success})
            demo.attrs.update({"task": ("reach right", "reach left")[task], **attributes})
            demo["actions"] = actions
            demo["obs/robot0_eef_pos"] = positions
            demo["obs/object"] = np.repeat(positions[-1:], len(positions), axis=0)
            demo["rewards"] = np.zeros(len(actions), np.float32)
            demo["dones"] = np.arange(len(actions)) == len(actions) - 1
            if cameras:
                shade = (np.arange(len(actions)) * 5 + number * 3) % 200
                frames = np.zeros((len(actions), 64, 64, 3), np.uint8) + shade[:, None, None, None].astype(np.uint8)
                frames[:, 10:30, 10:30] += 40
                demo["obs/front_image"] = frames
            total += len(actions)
            if operator == "steady" and sum(t == task for t, _ in targets) < 2:
                targets.append((task, f"demo_{number}"))
        data.attrs["total"] = total
        file["mask/target"] = np.array([name for _, name in targets], dtype="S16")
    return path


RECIPE = """
name: reach
source: {{uri: {source}, name: reach}}
score:
  - {{scorer: integrity}}
  - {{scorer: action_divergence}}
  - {{scorer: mutual_information}}
select:
  - name: towards
    method: transport
    target: {{where: "contains(labels, 'target')"}}
    budget: 0.5
  - {{name: anyone, method: random, budget: 6, seed: 3}}
mixture:
  entries: [{{selection: towards, weight: 3.0}}, {{selection: anyone, weight: 1.0, weigher: uniform}}]
  splits: {{train: 0.8, val: 0.2}}
export:
  - {{format: lerobot_v3, uri: {out}}}
"""


def write_recipe(folder: Path, source: Path | str, more: str = "") -> Path:
    """A recipe over ``source`` from scores to an export, which goes to ``folder / "out"``; with ``more`` keys."""
    path = folder / "recipe.yaml"
    path.write_text(RECIPE.format(source=source, out=folder / "out") + more)
    return path
