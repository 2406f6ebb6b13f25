"""What rollouts say: how often a policy succeeds, whether another is better, and what difference would have shown.

Rollouts of one training share its luck, so trainings are what is counted and resampled, never single rollouts: two
arms are compared training by training, each pair with the same seed and the same initial conditions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import lgamma
from statistics import NormalDist

import numpy as np

__all__ = ["Difference", "mcnemar", "paired_difference", "strengths", "wilson"]


def wilson(successes: int, trials: int, level: float = 0.95) -> tuple[float, float]:
    """The score interval of a share (Wilson 1927), as (low, high); (0, 1) without a trial.

    It takes the trials as independent: over rollouts of one training it says what that one policy can do.
    """
    if trials < 1:
        return 0.0, 1.0
    z = NormalDist().inv_cdf(0.5 + level / 2)
    share, size = successes / trials, z * z / trials
    centre = (share + size / 2) / (1 + size)
    half = z / (1 + size) * np.sqrt(share * (1 - share) / trials + size / (4 * trials))
    low = 0.0 if successes == 0 else centre - half
    high = 1.0 if successes == trials else centre + half
    return float(low), float(high)


@dataclass(frozen=True)
class Difference:
    """``mean`` of one arm less another, its interval ``low`` to ``high``, and ``detectable``: the least true difference
    that this many trainings, as unlike each other as these, would have found (two-sided at the interval's level) with
    the power asked for."""

    mean: float
    low: float
    high: float
    detectable: float


def paired_difference(
    one: Sequence[np.ndarray],
    other: Sequence[np.ndarray],
    *,
    level: float = 0.95,
    power: float = 0.8,
    draws: int = 4000,
    seed: int = 0,
) -> Difference:
    """How far ``one`` is above ``other``, by task: each array is [trainings], the mean outcome of each training, and
    entry i of both is the same training seed and initial conditions.

    Tasks weigh alike and are taken as they are; trainings stand for others, and are drawn anew inside each task, one
    fewer than there are, which leaves the variance of a small sample unbiased (McCarthy and Snowden 1985). The ends of
    the percentile interval lie as many times further out as Student's quantile is above the normal one: few trainings
    tell their own spread badly. Degrees of freedom by Welch and Satterthwaite. Raises ``ValueError`` where a task has
    fewer than two trainings or the arms do not pair. O(draws x trainings).
    """
    if len(one) != len(other) or any(len(a) != len(b) for a, b in zip(one, other, strict=True)):
        raise ValueError("the arms do not pair")
    gaps = [np.asarray(a, np.float64) - np.asarray(b, np.float64) for a, b in zip(one, other, strict=True)]
    if not gaps or min(map(len, gaps)) < 2:
        raise ValueError("at least two trainings of each task are needed")
    draw = np.random.default_rng(seed)
    means = np.mean([gap[draw.integers(len(gap), size=(draws, len(gap) - 1))].mean(axis=1) for gap in gaps], axis=0)
    parts = np.array([gap.var(ddof=1) / len(gap) for gap in gaps])
    mean, error = float(np.mean([gap.mean() for gap in gaps])), float(np.sqrt(parts.sum())) / len(gaps)
    free = _freedom(parts, np.array([len(gap) - 1 for gap in gaps]))
    reach = _student(0.5 + level / 2, free)
    wider = reach / NormalDist().inv_cdf(0.5 + level / 2)
    low, high = mean + wider * (np.quantile(means, [0.5 - level / 2, 0.5 + level / 2]) - mean)
    return Difference(mean, float(low), float(high), (reach + _student(power, free)) * error)


def _freedom(parts: np.ndarray, each: np.ndarray) -> float:
    """Degrees of freedom of a sum of the variances ``parts`` that have ``each`` (Satterthwaite 1946, Welch 1947)."""
    if not parts.any():
        return float(each.sum())
    share = parts / parts.sum()
    return float(1 / (share**2 / each).sum())


def _student(p: float, free: float) -> float:
    """Student's quantile at ``p``, for ``free`` degrees of freedom, whole or not."""
    from scipy.special import stdtrit

    return float(stdtrit(free, p))


def mcnemar(only_one: int, only_other: int) -> float:
    """The exact two-sided p of so many rollouts in which only one arm, or only the other, succeeded (McNemar 1947).

    Under the null either is as likely; pairs that agree say nothing. It takes the pairs as independent: it speaks of
    the very policies that were rolled out, not of how they were trained. O(pairs that disagree).
    """
    n, least = only_one + only_other, min(only_one, only_other)
    if n == 0:
        return 1.0
    k = np.arange(least + 1)
    logs = lgamma(n + 1) - np.array([lgamma(i + 1) + lgamma(n - i + 1) for i in k]) - n * np.log(2)
    return float(min(1.0, 2 * np.exp(logs).sum()))


def strengths(wins: np.ndarray, prior: float = 0.5, rounds: int = 1000) -> np.ndarray:
    """[..., n] float64 log strengths of mean 0 under which i beats j with odds e^(s_i - s_j) (Bradley and Terry 1952).

    ``wins`` [..., n, n]: how often i was preferred over j; a tie is half of each. ``prior`` such halves against a
    common opponent of strength 0 keep an arm that won or lost all it met finite. Minorisation-maximisation (Hunter
    2004), O(rounds n^2).
    """
    wins = np.asarray(wins, np.float64)
    played = wins + wins.swapaxes(-1, -2)
    won = wins.sum(axis=-1) + prior
    gamma = np.ones(wins.shape[:-1])
    for _ in range(rounds):
        met = (played / (gamma[..., :, None] + gamma[..., None, :])).sum(axis=-1) + 2 * prior / (gamma + 1)
        new = won / met
        done = np.allclose(new, gamma, rtol=1e-10, atol=0)
        gamma = new
        if done:
            break
    logs = np.log(gamma)
    return np.asarray(logs - logs.mean(axis=-1, keepdims=True))
