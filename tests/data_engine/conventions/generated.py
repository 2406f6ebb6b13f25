"""Generated recordings of servo arms and end effectors, in every era of units: trajectories that an arm could make."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from data_engine.model import ACTION, STATE, Feature

ERAS = (
    "deg_old", "deg_mid", "deg_industrial", "range_m100_100", "rad_servo", "rad_continuous", "range_m1_1", "ticks",
    "m", "mm",
)  # fmt: skip
TRUTH = {"deg_old": "deg", "deg_mid": "deg", "deg_industrial": "deg", "rad_servo": "rad", "rad_continuous": "rad"}
_TURN = 4096
_LEROBOT = ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll")


@dataclass(frozen=True)
class Recording:
    """``features`` and ``episodes`` as :func:`data_engine.conventions.infer` takes them, and the unit they are in."""

    unit: str
    features: tuple[Feature, ...]
    episodes: list[dict[str, np.ndarray]]


def recording(era: str, seed: int) -> Recording:
    """A few episodes of one robot in one era."""
    rng = np.random.default_rng([ERAS.index(era), seed])
    make = _positions if era in ("m", "mm") else _joints
    names, states, actions = make(era, rng)
    features = tuple(
        Feature(name=name, dtype="float32", shape=(len(names),), components=tuple(names)) for name in (STATE, ACTION)
    )
    episodes = []
    for state, action in zip(states, actions, strict=True):
        state, action = (np.asarray(x, np.float32).astype(np.float64) for x in (state, action))
        if rng.random() < 0.1:
            state[rng.integers(len(state))] = np.nan
        episodes.append({STATE: state, ACTION: action})
    return Recording(TRUTH.get(era, era), features, episodes)


def path(waypoints: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Minimum-jerk motion through ``waypoints`` [k, d] with pauses: [n, d]."""
    parts = []
    for start, stop in pairwise(waypoints):
        t = np.linspace(0, 1, int(rng.integers(15, 45)))[:, None]
        parts.append(start + (stop - start) * (10 * t**3 - 15 * t**4 + 6 * t**5))
        parts.append(np.repeat(stop[None], rng.integers(0, 8), axis=0))
    return np.concatenate(parts)


def _joints(era: str, rng: np.random.Generator) -> tuple[list[str], list[np.ndarray], list[np.ndarray]]:
    """Joint trajectories in ticks of 4096 a turn, and then in the unit of ``era``. The gripper comes last."""
    servo = era in ("deg_old", "deg_mid", "range_m100_100", "ticks", "rad_servo")
    d = 5 if servo else int(rng.integers(6, 8))
    width = rng.uniform(1400, 2600, d) if servo else rng.uniform(2200, 3800, d)
    middle = rng.uniform(1850, 2250, d)
    low, high = np.round(middle - width / 2), np.round(middle + width / 2)
    home = low + (high - low) * np.where(rng.random(d) < 0.4, np.round(rng.random(d)), rng.uniform(0.1, 0.9, d))
    states, actions = [], []
    lag = int(rng.integers(1, 4))
    for _ in range(int(rng.integers(2, 5))):
        inner = low + (high - low) * rng.uniform(0.03, 0.97, (int(rng.integers(3, 7)), d))
        target = path(np.concatenate([home[None], inner, home[None]]), rng) + rng.normal(0, 1.5, (1, d))
        state = np.concatenate([np.repeat(target[:1], lag, 0), target])[: len(target)] + rng.normal(
            0, 0.6, target.shape
        )
        for found, into in ((state, states), (target, actions)):
            into.append(np.clip(np.round(found) if servo else found, low, high))
    if era == "range_m1_1":  # as trainers write it: by what was seen
        low, high = (found(np.concatenate([*states, *actions]), axis=0) for found in (np.min, np.max))
    grip = [np.clip(path(rng.uniform(0, 1, (5, 1)), rng), 0, 1) for _ in states]
    convert = {
        "deg_old": lambda x: (x - np.round(low)) * 360 / _TURN - 5,
        "deg_mid": lambda x: (x - (low + high) / 2) * 360 / (_TURN - 1),
        "deg_industrial": lambda x: (x - 2048) * 360 / _TURN,
        "range_m100_100": lambda x: (x - low) / (high - low) * 200 - 100,
        "rad_servo": lambda x: (x - 2048) * 2 * np.pi / _TURN,
        "rad_continuous": lambda x: (x - 2048) * 2 * np.pi / _TURN,
        "range_m1_1": lambda x: (x - low) / (high - low) * 2 - 1,
        "ticks": lambda x: x,
    }[era]
    scale = {"deg": 100.0, "range_m100_100": 100.0, "ticks": 4000.0}.get(TRUTH.get(era, era), 1.0)

    def whole(found: list[np.ndarray]) -> list[np.ndarray]:
        pairs = [(convert(x), np.resize(g * scale, (len(x), 1))) for x, g in zip(found, grip, strict=True)]
        return [np.concatenate([x, np.round(g) if era == "ticks" else g], axis=1) for x, g in pairs]

    style = int(rng.integers(3))
    joints = list(_LEROBOT) if servo else [f"joint_{i}" for i in range(d)]
    names = [[f"{name}.pos" for name in joints], [f"main_{name}" for name in joints], joints][style]
    return [*names, ["gripper.pos", "main_gripper", "gripper"][style]], whole(states), whole(actions)


def _positions(era: str, rng: np.random.Generator) -> tuple[list[str], list[np.ndarray], list[np.ndarray]]:
    """End-effector positions and Euler angles in radians."""
    centre = np.concatenate([rng.uniform([0.2, -0.3, 0.05], [0.6, 0.3, 0.4]), rng.uniform(-0.5, 0.5, 3)])
    reach = np.concatenate([rng.uniform(0.1, 0.3, 3), rng.uniform(0.3, 1.5, 3)])
    states, actions = [], []
    for _ in range(int(rng.integers(2, 5))):
        target = path(centre + reach * rng.uniform(-1, 1, (int(rng.integers(4, 8)), 6)), rng)
        state = np.concatenate([target[:1], target])[: len(target)] + rng.normal(0, 1e-4, target.shape)
        for found, into in ((state, states), (target, actions)):
            into.append(found * np.where(np.arange(6) < 3, 1000.0 if era == "mm" else 1.0, 1.0))
    names = [["x", "y", "z"], ["ee_x", "ee_y", "ee_z"], ["eef_pos.0", "eef_pos.1", "eef_pos.2"]][int(rng.integers(3))]
    return [*names, "roll", "pitch", "yaw"], states, actions
