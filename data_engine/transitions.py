"""Transitions for offline reinforcement learning: n-step rewards, what follows, and whether it ended or just stopped.

Sutton and Barto, "Reinforcement Learning" (2018), section 7.1. A terminal state has no future; an episode that was cut
(a time-out, the end of a recording) has one that nobody saw. Pardo et al., "Time Limits in Reinforcement Learning"
(2018): taking one for the other teaches wrong values.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data_engine.errors import RequestError

__all__ = ["Outcome", "Transitions", "outcome", "to_go"]


@dataclass(frozen=True)
class Transitions:
    """What follows a sample at step t of a range [start, stop).

    With m the steps looked ahead, ``n_step`` or fewer where the episode terminates or the range stops before:

    - ``reward`` float32: sum over i < m of discount^i times the reward of step t + i, as recorded;
    - ``next.<column>`` and ``next.observation.images.<camera>``: the observations at t + m, with their history;
    - ``terminated`` bool: the episode ended by itself within the m steps. A dataset without that column never does;
    - ``truncated`` bool: it did not, and t + m lies beyond the range or a step within says ``truncated``;
    - ``next_is_pad`` bool: t + m lies beyond the range, so the last step stands in its place. Nothing can be learned of
      its value: leave such samples out, unless terminated, where the next observation does not count;
    - ``bootstrap`` float32: discount^m, 0 where terminated; the weight of the next value in a target;
    - with ``returns``, ``return_to_go`` float32: discounted sum of the rewards from t to the end of the range.

    Rewards that are missing are NaN, and so is every sum they belong to.
    """

    n_step: int = 1
    discount: float = 0.99
    returns: bool = False

    def __post_init__(self) -> None:
        if self.n_step < 1 or not 0 <= self.discount <= 1:
            raise RequestError(
                f"n_step {self.n_step} and discount {self.discount:g}",
                code="bad_transitions",
                fix="n_step of at least 1 and a discount between 0 and 1",
            )


@dataclass(frozen=True)
class Outcome:
    """What came of n steps each: arrays [n], ``ahead`` int64 the steps to the next observation."""

    reward: np.ndarray
    bootstrap: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    is_pad: np.ndarray
    ahead: np.ndarray


def outcome(reward: np.ndarray, ended: np.ndarray, stopped: np.ndarray, beyond: np.ndarray, discount: float) -> Outcome:
    """Of windows [n, n_step] from t on: the rewards, and whether a step terminates or is truncated.

    ``beyond`` bool [n, n_step + 1]: whether a step, and the one after the last, lies beyond the range.
    """
    over = (ended | stopped).cumsum(axis=1) - (ended | stopped)  # how many steps before this one ended it
    counted = ~beyond[:, :-1] & (over == 0)
    ahead = counted.sum(axis=1)
    total = np.where(counted, reward * discount ** np.arange(reward.shape[1]), 0.0).sum(axis=1)
    terminated = (ended & counted).any(axis=1)
    is_pad = beyond[np.arange(len(ahead)), ahead]
    truncated = ~terminated & (is_pad | (stopped & counted).any(axis=1))
    bootstrap = np.where(terminated, 0.0, discount**ahead)
    return Outcome(total, bootstrap, terminated, truncated, is_pad, ahead)


def to_go(reward: np.ndarray, discount: float) -> np.ndarray:
    """float64 [T]: at each step the discounted sum of ``reward`` [T] from it to the end. O(T)."""
    found = np.empty(len(reward), np.float64)
    total = 0.0
    for t in range(len(reward) - 1, -1, -1):
        total = reward[t] + discount * total
        found[t] = total
    return found
