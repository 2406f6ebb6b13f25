"""Composite: one number of the layers of evidence, in their order: integrity, then consistency, then information.

No part of it is learned. The order matters: information measured on a defective recording misleads, so an episode that
fails an earlier layer ranks below all that pass it, whatever later layers say. It is for ranking at a glance; the parts
are always beside it, and so is the length, the baseline that it has to beat.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from data_engine.model import TIMESTAMP
from data_engine.scoring import EpisodeBatch, Fit, Metric, Needs, Resources, Scorer, ScoreRow, Spec

__all__ = ["Composite"]

_QUARTER = 0.970  # deviations from the 5 % to the 25 % quantile of a normal distribution
MIN_EPISODES = 5  # of a task; below it an episode is held against its group


@dataclass(frozen=True)
class Part:
    """A metric of another scorer. ``sign`` 1 where lower is better, -1 where higher is; ``weight`` of its surprise;
    ``least``: the smallest deviation taken for one, where the usual episode is exactly like the next; ``most``: of a
    surprise. ``brisk``: it is held against the better quarter and not against the median, for what no majority makes
    good; ``slack``: how far beyond that is still usual; ``exact``: where even the best twentieth have more than this,
    the measure is vague by the rest of it: three times that is usual as well, and the least grows by it."""

    metric: str
    sign: float
    weight: float
    least: float = 1e-9
    most: float = 20.0
    brisk: bool = False
    slack: float = 0.0
    exact: float = np.inf


DEFECTS = "integrity.defect_fraction"
INCONSISTENCY = "consistency.inconsistency"
LOG_ODDS = "task_match.log_odds"
INFORMATION = (
    Part("action_divergence.own_residual_capped", 1.0, 1.0),
    Part("mutual_information.information", -1.0, 0.5),
    Part("mutual_information.uninformative_fraction", 1.0, 0.5, 0.02),
)
BEHAVIOUR = (
    *INFORMATION,
    Part("extraneous.dropped_fraction", 1.0, 1.0, 0.03, 3.0),
    Part("smoothness.pause_fraction", 1.0, 1.0, 0.02),
    Part("smoothness.settled_s", 1.0, 1.0, 1.0, brisk=True),
    Part("ending.unfinished", 1.0, 1.0, 0.05, brisk=True, slack=0.1, exact=0.02),
)


class Composite(Scorer):
    """The layers that an episode passes, and its standing in the first that it does not.

    Integrity is passed without a defect: below it ``composite`` is 1 / (1 + defect fraction). Consistency is passed
    where ``inconsistency`` stays below ``gate`` and no other task is likelier than its own (log-odds of at least 0):
    below it, 1 + 1 / (1 + doubt), doubt = hypot(inconsistency / gate, how far the log-odds are negative). An episode
    that passes both has 2 + 1 / (1 + divergence): how surprisingly bad its action divergence (capped by step), mutual
    information, uninformative share, extraneous share, pauses, rest at the end and what its end leaves unfinished are,
    root of the sum of squares, the two of information at half weight. A surprise is log(1 + e^z), z being how many
    robust deviations (1.4826 MAD; at least 2 % of the steps, 3 % of them, 2 % of the time, a second and 5 % of a course
    for the last five, which most have little of) it lies beyond the median of its task in the reference set: nearly z
    on the bad side, and next to nothing, though never a tie, on the good one; 20 at most, 3 for the extraneous share,
    of which a task may want some. The last two are held against the task's better quarter, as those who fail or give up
    may be many (where a task is done by holding still, that quarter holds still too). A tenth of a course more to come
    is still usual; where even the best twentieth seem to leave over 2 % of one, what is recorded shows but vaguely when
    the task is done, and three times the rest of that is usual too. Tasks of fewer than 5 reference episodes are held
    against all of their (embodiment, control mode).

    A part that is null adds nothing and is named in the reason: where a task is the only one there is no log-odds.
    Without integrity, or with neither divergence nor information, there is no composite.

    Metrics: ``composite``; ``doubt`` and ``divergence`` as above; ``length``, the baseline to beat.
    """

    gate: float = Field(default=0.7, gt=0)

    spec: ClassVar[Spec] = Spec(
        name="composite",
        version="4",
        level="episode",
        metrics=(
            Metric("composite", "layers passed", "higher"),
            Metric("doubt", "gates", "lower"),
            Metric("divergence", "robust deviations", "lower"),
            Metric("length", "steps", "neither"),
        ),
        needs=Needs(
            columns=(TIMESTAMP,), scores=(DEFECTS, INCONSISTENCY, LOG_ODDS, *(part.metric for part in BEHAVIOUR))
        ),
        resources=Resources(cpus=1),
    )

    def fit(
        self, batches: Iterable[EpisodeBatch], *, base: Fit | None = None, seed: int = 0, device: str = "cpu"
    ) -> Fit:
        """Learn median and deviation of each part of behaviour, by task and by group."""
        seen: list[str] = []
        found: dict[str, dict[str, list[float]]] = {part.metric: defaultdict(list) for part in BEHAVIOUR}
        for batch in batches:
            seen += batch.content_hashes
            for metric, by_place in found.items():
                for (group, task), value in zip(_places(batch), batch.scores[metric], strict=True):
                    if np.isfinite(value):
                        by_place[_key(group, task)].append(float(value))
                        by_place[_key(group)].append(float(value))
        usual = {
            part.metric: {
                place: _usual(part, np.array(values))
                for place, values in sorted(found[part.metric].items())
                if len(values) >= MIN_EPISODES
            }
            for part in BEHAVIOUR
        }
        return self.learned(
            tuple(sorted(seen)),
            seed=seed,
            base=base,
            meta={"usual": usual},
        )

    def score(self, batch: EpisodeBatch, fit: Fit, *, device: str = "cpu") -> list[list[ScoreRow]]:
        """Every metric of every episode, from its parts alone."""
        lengths = np.diff(batch.offsets)
        return [
            self._rows({name: float(found[i]) for name, found in batch.scores.items()}, fit, place, int(lengths[i]))
            for i, place in enumerate(_places(batch))
        ]

    def _rows(self, values: Mapping[str, float], fit: Fit, place: tuple[str, str], n: int) -> list[ScoreRow]:
        silent = [name for name in self.spec.needs.scores if np.isnan(values[name])]
        without = f"without {', '.join(silent)}" if silent else None
        known = {
            part: _surprise(part, values[part.metric], fit.meta["usual"][part.metric], place) for part in BEHAVIOUR
        }
        told = [surprise for surprise in known.values() if surprise is not None]
        informed = any(known[part] is not None for part in INFORMATION)
        divergence = float(np.linalg.norm(told)) if informed else None
        unlike = max(0.0, -float(np.nan_to_num(values[LOG_ODDS])))
        doubt = float(np.hypot(np.nan_to_num(values[INCONSISTENCY]) / self.gate, unlike))
        unsaid = np.isnan(values[INCONSISTENCY]) and np.isnan(values[LOG_ODDS])
        defects = values[DEFECTS]
        if np.isnan(defects):
            headline = ScoreRow("composite", None, "undefined", without)
        elif defects > 0:
            headline = ScoreRow("composite", 1 / (1 + defects), reason="fails integrity")
        elif values[INCONSISTENCY] >= self.gate or unlike > 0:
            headline = ScoreRow("composite", 1 + 1 / (1 + doubt), reason="fails consistency")
        elif divergence is None:
            headline = ScoreRow("composite", None, "undefined", without or "no reference")
        else:
            headline = ScoreRow("composite", 2 + 1 / (1 + divergence), reason=without)
        return [
            headline,
            ScoreRow("doubt", None if unsaid else doubt, "undefined" if unsaid else "ok", without),
            ScoreRow("divergence", divergence, "undefined" if divergence is None else "ok", without),
            ScoreRow("length", float(n)),
        ]


def _places(batch: EpisodeBatch) -> Iterator[tuple[str, str]]:
    """(group, task) of each episode; a group is an embodiment and a control mode."""
    for row in batch.episodes.select(["embodiment", "control_mode", "task"]).to_pylist():
        group = (row["embodiment"] or batch.dataset.embodiment, row["control_mode"] or batch.dataset.control_mode)
        yield "/".join(map(str, group)), row["task"] or ""


def _key(*place: str) -> str:
    return json.dumps(place)


def _usual(part: Part, values: np.ndarray) -> tuple[float, float]:
    """What is usual, and the robust deviation from it."""
    if part.brisk:
        usual, best = np.quantile(part.sign * values, [0.25, 0.05])
        vague = max(0.0, float(best) - part.exact)
        return float(part.sign * (usual + part.slack + 3 * vague)), max(
            float(usual - best) / _QUARTER, part.least + vague
        )
    median = float(np.median(values))
    return median, 1.4826 * float(np.median(np.abs(values - median)))


def _surprise(part: Part, value: float, usual: Mapping[str, Any], place: tuple[str, str]) -> float | None:
    """How surprisingly bad ``value`` is, weighted; None where it, or what is usual, is unknown."""
    known = usual.get(_key(*place)) or usual.get(_key(place[0]))
    if known is None or np.isnan(value):
        return None
    middle, deviation = known
    beyond = part.sign * (value - middle) / max(deviation, part.least)
    return part.weight * min(float(np.logaddexp(0.0, beyond)), part.most)
