"""What ``uplift`` compares: ways to choose, how much each keeps, how large a run is, and what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from benchmarks import uplift_sets as sets
from flows.policy import PolicyConfig

__all__ = [
    "ALL", "BASELINES", "LABEL_FREE", "LABEL_USING", "METHODS", "ORACLE", "PARTS", "QUICK", "RIVAL", "Arm", "Found",
    "Settings", "arms", "of_pusht",
]  # fmt: skip

ALL, ORACLE, RIVAL = "all data", "oracle", "rdq"
BASELINES = ("random", "shortest", "lowest jerk")
LABEL_FREE = ("composite", "mutual_information", "action_divergence")
LABEL_USING = ("compatibility", "influence")
METHODS = (*BASELINES, *LABEL_FREE, RIVAL, *LABEL_USING, ORACLE)
HARMLESS = ("clean", "strategies")  # sets that a selection can only harm
PARTS = ("mixed", *HARMLESS, sets.PUSHT)


@dataclass(frozen=True)
class Settings:
    """How large a run is. ``rollouts`` are of one training; an arm has tasks x seeds x rollouts of them."""

    tasks: tuple[str, ...] = sets.TASKS
    candidates: int = 120
    targets: int = 8
    budgets: tuple[float, ...] = (0.25, 0.5, 0.1, 0.75)
    seeds: int = 5
    rollouts: int = 60
    config: PolicyConfig = field(default_factory=lambda: PolicyConfig(limit=1000, hidden=64))
    seed: int = 0

    @property
    def key(self) -> dict[str, Any]:
        """What an outcome depends on besides its arm."""
        return {"candidates": self.candidates, "targets": self.targets, "seeds": self.seeds, "seed": self.seed,
                "rollouts": self.rollouts, "config": self.config.config}  # fmt: skip


QUICK = Settings(
    tasks=sets.TASKS[:2], candidates=60, targets=6, budgets=(0.25, 0.5), seeds=3, rollouts=8,
    config=PolicyConfig(limit=600, hidden=64),
)  # fmt: skip


def of_pusht(how: Settings) -> Settings:
    """The same for PushT: as many rollouts of one task as of the others together, and the policy that ``evaluate``
    trains by default: from good people alone the small one came to cover 0.18 of the goal, this one 0.28."""
    config = PolicyConfig(limit=min(3 * how.config.limit, 3000))
    return replace(how, tasks=(sets.PUSHT,), seeds=how.seeds * len(how.tasks), config=config)


@dataclass(frozen=True)
class Arm:
    """A way to choose, and the share of the candidates that is kept."""

    method: str
    budget: float


@dataclass
class Found:
    """Everything that came of a set: by arm, for each task the mean success (in PushT, progress) of each training
    [seeds]; the shares of good episodes kept; methods that could not be had, and why; arms that are not whole yet."""

    success: dict[Arm, list[np.ndarray]] = field(default_factory=dict)
    kept_good: dict[Arm, list[float]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    open: list[Arm] = field(default_factory=list)


def arms(part: str, methods: Sequence[str], budgets: Sequence[float]) -> list[Arm]:
    """All data, then every method at the first budget, at the second, ...; a set that selection can only harm is halved
    and no more."""
    kept = (0.5,) if part in HARMLESS else budgets
    return [Arm(ALL, 1.0), *(Arm(method, budget) for budget in kept for method in methods)]
