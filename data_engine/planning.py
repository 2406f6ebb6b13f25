"""What to collect next: how failure falls with what the data holds more of, fitted to policies that were evaluated.

Lin et al., "Data Scaling Laws in Imitation Learning for Robotic Manipulation" (2024): the share of failures follows a
power law in the number of environments and of objects, failure = a n_1^b_1 n_2^b_2 ..., b below 0. Fitted as a
regression of counts with a logarithmic link, so that a mixture counts as much as it was rolled out and one without a
failure is a point like any other. Trainings differ by more than their rollouts tell: the spread of the points about
the law widens every interval (quasi-likelihood, McCullagh and Nelder 1989), by Student's t with the points that are to
spare.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from data_engine.errors import RequestError

__all__ = ["Between", "ScalingLaw", "fit_law"]

_LEVELS = 3  # counts of a factor below which its exponent is a line through two points
_SPARE = 2  # points beyond the coefficients: without them nothing says how far the law is off
_TOGETHER = 0.95  # correlation of two factors' logarithms above which nothing parts their effects
_DRAWS = 4000
_SURE = 0.95


@dataclass(frozen=True)
class Between:
    """A value and its 95 % interval; None where that is unbounded."""

    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class ScalingLaw:
    """failure = exp(``beta`` . [1, log n_1, ...]) with the ``names`` of the factors, [k].

    ``beta`` float64 [k + 1], ``covariance`` [k + 1, k + 1], ``spare``: degrees of freedom, ``dispersion``: how many
    times more the points spread than their rollouts alone would (at least 1).
    """

    names: tuple[str, ...]
    beta: np.ndarray
    covariance: np.ndarray
    spare: int
    dispersion: float

    def exponent(self, name: str) -> Between:
        """b of one factor: how failure falls with it."""
        at = 1 + self.names.index(name)
        away = _student(self.spare) * float(np.sqrt(self.covariance[at, at]))
        value = float(self.beta[at])
        return Between(value, value - away, value + away)

    def failure(self, counts: Mapping[str, float]) -> Between:
        """The share of failures of a mixture that holds ``counts``, at most 1."""
        row = self._row(counts)
        middle, away = float(row @ self.beta), _student(self.spare) * float(np.sqrt(row @ self.covariance @ row))
        low, value, high = (float(np.exp(min(x, 0.0))) for x in (middle - away, middle, middle + away))
        return Between(value, low, high)

    def needed(self, name: str, counts: Mapping[str, float], success: float) -> Between:
        """How much of one factor a success rate takes, the others as in ``counts``: None where no number does."""
        row, at = self._row(counts), 1 + self.names.index(name)
        row[at] = 0.0

        def solved(beta: np.ndarray) -> np.ndarray:
            slope = np.atleast_2d(beta)[:, at]
            with np.errstate(divide="ignore", over="ignore"):
                found = np.exp((np.log(1 - success) - np.atleast_2d(beta) @ row) / np.where(slope < 0, slope, -1e-300))
            return np.where(slope < 0, found, np.inf)

        value, (low, high) = (
            float(solved(self.beta)[0]),
            np.quantile(solved(self._drawn), [0.025, 0.975], method="lower"),
        )
        return Between(*(float(x) if np.isfinite(x) else None for x in (value, low, high)))

    def gain(self, name: str, counts: Mapping[str, float], more: float) -> Between:
        """By how much success rises when ``counts`` holds ``more`` of one factor."""
        before = self._row(counts)
        after = self._row({**counts, name: counts[name] + more})

        def risen(beta: np.ndarray) -> np.ndarray:
            return np.asarray(np.exp(np.minimum(beta @ before, 0)) - np.exp(np.minimum(beta @ after, 0)))

        low, high = np.quantile(risen(self._drawn), [0.025, 0.975])
        return Between(float(risen(self.beta)), float(low), float(high))

    def best(self, counts: Mapping[str, float], costs: Mapping[str, float]) -> tuple[str, float]:
        """The factor of which the next unit lowers failure most for its cost, and how sure that is: the share of the
        laws that would fit as well under which it is."""
        slopes = np.array([1 / (counts[name] * costs.get(name, 1.0)) for name in self.names])
        rates = -self._drawn[:, 1:] * slopes
        place = int((-self.beta[1:] * slopes).argmax())
        return self.names[place], float((rates.argmax(axis=1) == place).mean())

    @cached_property
    def _drawn(self) -> np.ndarray:
        """Laws that would fit as well, [draws, k + 1]: Student's t about ``beta``, always the same."""
        rng = np.random.default_rng(0)
        values, vectors = np.linalg.eigh(self.covariance)
        root = vectors * np.sqrt(np.maximum(values, 0.0))
        normal = rng.standard_normal((_DRAWS, len(self.beta))) @ root.T
        return np.asarray(self.beta + normal * np.sqrt(self.spare / rng.chisquare(self.spare, _DRAWS))[:, None])

    def _row(self, counts: Mapping[str, float]) -> np.ndarray:
        return np.array([1.0, *(np.log(counts[name]) for name in self.names)])


def fit_law(counts: Mapping[str, Sequence[float]], failures: Sequence[float], rollouts: Sequence[float]) -> ScalingLaw:
    """The law of p points: by factor the ``counts`` [p] of each mixture, its ``failures`` [p] of ``rollouts`` [p].

    Raises ``RequestError`` where there are too few points, a factor has too few counts, two factors rose together, or
    nothing ever failed.
    """
    names = tuple(counts)
    k, n = np.asarray(failures, np.float64), np.asarray(rollouts, np.float64)
    spare = len(n) - len(names) - 1
    if not names or spare < _SPARE:
        raise RequestError(
            f"{len(n)} evaluated mixtures are too few for a law of {' and '.join(names) or 'nothing'}: "
            f"{len(names) + 1 + _SPARE} at least",
            code="too_few_points",
            fix="evaluate more mixtures, of unlike breadth" + (", or plan by one factor" if len(names) > 1 else ""),
        )
    logs = np.log(np.array([counts[name] for name in names], np.float64))
    for name, values in zip(names, logs, strict=True):
        if len(np.unique(values)) < _LEVELS:
            raise RequestError(
                f"{name}: {len(np.unique(values))} unlike counts are too few to tell how failure falls",
                code="too_few_points",
                fix=f"evaluate mixtures of at least {_LEVELS} unlike numbers of {name}",
            )
    for i in range(len(names)):
        for j in range(i):
            if abs(np.corrcoef(logs[i], logs[j])[0, 1]) > _TOGETHER:
                raise RequestError(
                    f"{names[j]} and {names[i]} rose together in the evaluated mixtures: nothing parts their effects",
                    code="not_told_apart",
                    fix="evaluate mixtures that have more of one alone, or plan by one factor",
                )
    if not k.sum():
        raise RequestError("no rollout failed: there is nothing to plan against", code="nothing_failed")
    x = np.vstack([np.ones(len(n)), logs]).T
    beta = _fitted(x, k, n)
    expected = n * np.exp(x @ beta)
    spread = expected * np.maximum(1 - expected / n, 0.5 / n)  # binomial, and never of none
    dispersion = max(float(((k - expected) ** 2 / spread).sum()) / spare, 1.0)
    bread = np.linalg.inv(x.T @ (x * expected[:, None]))
    covariance = dispersion * bread @ (x.T @ (x * spread[:, None])) @ bread
    return ScalingLaw(names, beta, covariance, spare, dispersion)


def _fitted(x: np.ndarray, k: np.ndarray, n: np.ndarray) -> np.ndarray:
    """The coefficients: Newton's steps on the Poisson likelihood of ``k`` failures, which has one maximum and, unlike
    the binomial under a logarithmic link, no edge at a rate of 1 (Zou 2004)."""

    def likelihood(beta: np.ndarray) -> float:
        logarithm = np.minimum(x @ beta, 50.0)
        return float((k * logarithm - n * np.exp(logarithm)).sum())

    beta = np.linalg.lstsq(x, np.log((k + 0.5) / (n + 1)), rcond=None)[0]
    held = likelihood(beta)
    for _ in range(100):
        expected = n * np.exp(np.minimum(x @ beta, 50.0))
        step = np.linalg.solve(x.T @ (x * expected[:, None]), x.T @ (k - expected))
        size = 1.0
        while likelihood(beta + size * step) < held and size > 1e-10:
            size /= 2
        beta = beta + size * step
        gained, held = likelihood(beta) - held, likelihood(beta)
        if size <= 1e-10 or gained < 1e-14 * abs(held):
            break
    return beta


def _student(spare: int) -> float:
    """The two-sided 95 % quantile of Student's t."""
    from scipy.special import stdtrit

    return float(stdtrit(spare, 0.5 + _SURE / 2))
