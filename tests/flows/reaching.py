"""A simulator plug-in of somebody else's: the arm of ``tests.recordings``, which reaches for a goal."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from data_engine import registry
from flows.simulators import Simulator, Step, World

GOALS = {"right": np.array([0.5, 0.0, 0.2]), "left": np.array([-0.3, 0.4, 0.1])}


class Reaching(Simulator):
    control_modes: ClassVar[tuple[str, ...]] = ("delta",)

    limit: int = 40
    broken_at: int | None = None

    def open(self) -> ReachingWorld:
        return ReachingWorld(self)


class ReachingWorld(World):
    """Shows where the arm is and where it shall go; it moves by the action."""

    observation_size, action_size, version = 6, 3, "1"

    def __init__(self, asked: Reaching) -> None:
        self.asked, self.goal = asked, GOALS[asked.id]

    def reset(self, seed: int) -> np.ndarray:
        self.at, self.taken = np.random.default_rng(seed).normal(0, 0.05, 3), 0
        self.start = np.linalg.norm(self.at - self.goal)
        return self._seen()

    def step(self, action: np.ndarray) -> Step:
        self.at, self.taken = self.at + action, self.taken + 1
        if self.taken == self.asked.broken_at:
            self.at = self.at * np.nan
        far = float(np.linalg.norm(self.at - self.goal))
        progress = max(0.0, 1 - far / self.start)
        return Step(self._seen(), far < 0.1, progress, far < 0.1 or self.taken >= self.asked.limit)

    def _seen(self) -> np.ndarray:
        return np.concatenate([self.at, self.goal])


def register(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Install the plug-in as a package would, for the length of a test: found here and by children."""
    info = folder / "reaching-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: reaching\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[data_engine.simulators]\nreaching = tests.flows.reaching:Reaching\n")
    root = Path(__file__).resolve().parents[2]
    monkeypatch.setattr(sys, "path", [str(folder), *sys.path])
    monkeypatch.setenv("PYTHONPATH", f"{folder}:{root}")
    registry._registered.cache_clear()
