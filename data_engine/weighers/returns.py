"""Trajectory weighting: the better an episode's return, the more often its transitions are drawn.

Hong et al. 2023, "Harnessing Mixed Offline Reinforcement Learning Datasets via Trajectory Weighting". w is a
transition's, so an episode of T steps is drawn as T w. Returns of unlike tasks or datasets share no scale: each
(dataset, task) is weighed apart and keeps its share.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from data_engine.errors import RequestError
from data_engine.model import REWARD, STATE
from data_engine.weighers import Drawn, Weigher, Weights

__all__ = ["TrajectoryWeigher"]

_EQUAL = 1e-9  # of the returns' size: a spread below that is rounding


class TrajectoryWeigher(Weigher):
    """w = exp(x / ``alpha``), x what :meth:`worth` gives, brought to [0, 1] by least and most (``normalise``).

    Where all of a group are worth the same, least and most do not differ and there is nothing to prefer: its weights
    are uniform, and the report says so. The report's ``gain`` is the positive-sided variance E[max(x - E x, 0)^2] of
    the returns: how much there is to gain from weighing at all.
    """

    needs_steps = True

    alpha: float = Field(0.1, gt=0.001)
    normalise: bool = True

    @abstractmethod
    def worth(self, returns: np.ndarray, first_state: np.ndarray | None, where: str) -> np.ndarray:
        """float64 [n] of ``returns`` [n] and, where ``needs_state``, the states that the episodes begin in [n, d]."""

    @property
    def needs_state(self) -> bool:
        """Whether :meth:`worth` wants the first states."""
        return False

    def weigh(self, drawn: Drawn) -> Weights:
        """Raises ``RequestError`` where a unit has no reward at some step, and where the mixture draws datasets."""
        returns, states = _read(drawn, self.needs_state)
        per_step, report = np.ones(len(drawn)), {}
        keys = [f"{dataset}/{task}" for dataset, task in zip(drawn.datasets, drawn.tasks, strict=True)]
        for key in sorted(set(keys)):
            mine = np.flatnonzero([other == key for other in keys])
            own, steps = returns[mine], drawn.n_steps[mine]
            begun = _stacked([states[i] for i in mine], key) if self.needs_state else None
            worth = self.worth(own, begun, key)
            spread, size = float(np.ptp(worth)), float(np.abs(own).max())
            uniform = spread <= _EQUAL * max(size, 1e-300)
            if not uniform:
                scaled = (worth - worth.max()) / (spread if self.normalise else 1.0)
                weight = np.maximum(np.exp(scaled / self.alpha), 1e-12)
                per_step[mine] = weight * steps.sum() / (weight * steps).sum()
            report[key] = {
                "episodes": len(mine),
                "returns": [float(own.min()), float(own.max())],
                "gain": float((np.maximum(own - own.mean(), 0) ** 2).mean()),
                "uniform": uniform,
            }
        return Weights(drawn.per_unit(per_step * drawn.n_steps), {"groups": report})


def _read(drawn: Drawn, with_state: bool) -> tuple[np.ndarray, list[Any]]:
    """The return float64 [k] of each unit, and its first state where that is wanted."""
    assert drawn.steps is not None
    returns, states, lacking = np.zeros(len(drawn)), [None] * len(drawn), 0
    for i, table in drawn.steps():
        reward = table[REWARD] if REWARD in table.column_names else pa.chunked_array([pa.nulls(table.num_rows)])
        if reward.null_count or pa.types.is_list(reward.type):
            lacking += 1
            continue
        returns[i] = pc.sum(pc.cast(reward, pa.float64())).as_py()
        if with_state and STATE in table.column_names:
            states[i] = table[STATE][0].as_py()
    lacking += int((~np.isfinite(returns)).sum())
    if lacking:
        raise RequestError(
            f"{lacking} of {len(drawn)} units have steps without a reward, so their return is not known",
            code="no_rewards",
            fix="select episodes with rewards, or use another weigher",
        )
    return returns, states


def _stacked(states: list[Any], where: str) -> np.ndarray:
    rows = [np.atleast_1d(np.asarray([] if state is None else state, dtype=np.float64)) for state in states]
    if len({len(row) for row in rows}) != 1 or not len(rows[0]) or not np.isfinite(rows).all():
        raise RequestError(
            f"the first states of {where} are not all known, so no advantage is",
            code="no_states",
            fix="use weigher: return_weighting",
        )
    return np.stack(rows)
