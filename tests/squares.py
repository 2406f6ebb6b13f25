"""Recordings of a bright square that is pushed to the right: how far it came is its place in every frame."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np

TASK = "push the square to the right"
SIDE = 64


def frame(place: float, height: float = 0.5) -> np.ndarray:
    """uint8 [64, 64, 3]: the square with its centre ``place`` of the way from left to right."""
    picture = np.full((SIDE, SIDE, 3), 20, np.uint8)
    x, y = (8 + round(at * (SIDE - 17)) for at in (place, height))
    picture[y - 7 : y + 8, x - 7 : x + 8] = 230
    return picture


def places(rng: np.random.Generator, good: bool, steps: int) -> np.ndarray:
    """Where the square is at each step: a push to the right, or one to and fro."""
    if good:
        return np.linspace(rng.uniform(0, 0.3), rng.uniform(0.8, 1.0), steps)
    start, turns = rng.uniform(0.1, 0.5), rng.uniform(1, 3)
    return np.clip(start + 0.3 * np.sin(np.linspace(0, turns * np.pi, steps)), 0, 1)


def write_squares(path: Path, episodes: int = 16, seed: int = 0, task: str = TASK) -> Path:
    """A robomimic HDF5: state (place, height, noise), camera ``front_image``, every third push in vain."""
    rng = np.random.default_rng(seed)
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["env_args"] = json.dumps(
            {"env_name": "Squares", "env_kwargs": {"robots": "arm", "control_freq": 20}}
        )
        for number in range(episodes):
            steps = 20 + int(rng.integers(0, 5))
            place, height = places(rng, number % 3 != 2, steps), rng.uniform(0.2, 0.8)
            demo = data.create_group(f"demo_{number}")
            demo.attrs.update({"num_samples": steps, "success": bool(place[-1] > 0.7), "task": task})
            heights = np.stack([np.full(steps, height), rng.uniform(0.2, 0.8, steps)], axis=1)
            demo["obs/robot0_eef_pos"] = np.column_stack([place, heights]).astype(np.float32)
            demo["actions"] = np.diff(place, append=place[-1])[:, None].astype(np.float32)
            demo["rewards"] = np.zeros(steps, np.float32)
            demo["dones"] = np.arange(steps) == steps - 1
            demo["obs/front_image"] = np.stack([frame(at, height) for at in place])
        data.attrs["total"] = sum(len(demo["actions"]) for demo in data.values())
    return path
