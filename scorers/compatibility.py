"""Compatibility: does a demonstration act as a base set's policy would, wherever that policy knows what to do?

Gandhi et al., "Eliciting Compatible Demonstrations for Multi-Human Imitation Learning" (2022). An ensemble cloned from
the base set is sure of itself where it has seen like states; a demonstration that does something else there pulls the
policy apart, one that goes where the ensemble is unsure is welcome. The published thresholds differ a thousandfold
between settings, so both come from quantiles of the base set itself, each episode judged by policies that never saw it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from pydantic import Field

from data_engine.canonical import digest
from data_engine.errors import RequestError
from data_engine.model import Dataset
from data_engine.reference import RawEpisode, Reference
from data_engine.scoring import EpisodeBatch, Fit, Metric, Resources, Scorer, ScoreRow, Span, Spec
from data_engine.view import EpisodeView
from scorers.cloning import Clones
from scorers.kernels.neighbours import nearest
from scorers.pool import REFERENCE_STEPS, Pools, usual

__all__ = ["Compatibility", "Judgement", "Window", "judge"]

_FOLDS = 5
_AROUND = 5  # steps on either side of a window's worst
_WINDOWS = 3


@dataclass(frozen=True)
class Window:
    """Steps [start, stop) about a step that the base set would not have taken.

    ``error``: the worst there, in squared view units. ``nearest``: content hash of the base demonstration that was in
    the most alike states.
    """

    start: int
    stop: int
    error: float
    nearest: str


@dataclass(frozen=True)
class Judgement:
    """What the base set makes of one demonstration. Step arrays are float32 [n], NaN where a step is not finite.

    ``accepted`` is None, and ``reason`` says why, where nothing can be said; ``note`` is what to bear in mind.
    ``limits`` are the base set's own: error, novelty, bad fraction and longest bad run.
    """

    accepted: bool | None
    compatibility: float | None = None
    bad_fraction: float | None = None
    longest_run: int | None = None
    novelty: np.ndarray | None = None
    error: np.ndarray | None = None
    windows: tuple[Window, ...] = ()
    limits: Mapping[str, float] | None = None
    reason: str | None = None
    note: str | None = None


class Compatibility(Scorer):
    """``members`` policies a fold, cloned from the base set, against the demonstration's own actions.

    novelty(s): mean over action dimensions of the ensemble's standard deviation. error(s, a): mean over members of the
    squared error a dimension. A step is known where novelty < eta; its compatibility is 1 - min(error / lambda, 1)
    there, 1 where it is novel, and it is bad where error > lambda and it is known. lambda and eta are the
    ``error_quantile`` and ``novelty_quantile`` of the base set's held-out steps, by task where it has at least five
    base episodes. ``iterations`` bounds the training, in which each policy ends by its own held-out loss.

    Metrics: ``compatibility`` (mean over steps); ``rejected`` (1 where the bad fraction or the longest bad run exceeds
    the 95 % quantile over base episodes, each held out: a count of bad steps would only measure length);
    ``bad_fraction`` (of the known steps: what is novel cannot be judged, and must not acquit the rest);
    ``longest_bad_run``; ``novelty`` and ``error`` (means); ``length``, the baseline. The spans are the worst windows,
    each with the nearest base demonstration.
    """

    members: int = Field(default=5, ge=2, le=16)
    error_quantile: float = Field(default=0.95, gt=0.5, lt=1)
    novelty_quantile: float = Field(default=0.99, gt=0.5, lt=1)
    iterations: int = Field(default=10_000, ge=1)

    spec: ClassVar[Spec] = Spec(
        name="compatibility",
        version="3",
        level="episode",
        metrics=(
            Metric("compatibility", "mean over steps, 0 to 1", "higher"),
            Metric("rejected", "0 or 1", "lower"),
            Metric("bad_fraction", "fraction of known steps", "lower"),
            Metric("longest_bad_run", "steps", "lower"),
            Metric("novelty", "view units", "neither"),
            Metric("error", "squared view units", "lower"),
            Metric("length", "steps", "neither"),
        ),
        resources=Resources(cpus=1),
        base="reference",
    )

    def fit(
        self, batches: Iterable[EpisodeBatch], *, base: Fit | None = None, seed: int = 0, device: str = "cpu"
    ) -> Fit:
        """Clone the base set that ``batches`` hold, and calibrate on its episodes as their held-out policies see them.

        Raises ``RequestError`` where no group of it has three episodes to clone.
        """
        reference = Reference(batches, seed=seed, budget=REFERENCE_STEPS)
        clones = Clones.fit(
            reference, seed=seed, folds=_FOLDS, members=self.members, horizon=1, limit=self.iterations, alone=True,
            device=device,
        )  # fmt: skip
        limits: dict[str, dict[str, dict[str, float]]] = {}
        for group in clones.weights:
            views = usual([clones.views[group].measure(raw) for raw in reference.groups[group]])
            if len(views) >= 3:
                found = [(view.task, *_measured(clones, view, device)) for view in views]
                limits[group] = {
                    task: self._limits([item[1:] for item in found if not task or item[0] == task])
                    for task in ["", *clones.tasks[group]]
                }
        if not limits:
            raise RequestError(
                "the base set has no three demonstrations of one robot to clone",
                code="small_base",
                fix="name more of them, at least 10 a task",
            )
        pools = Pools.drawn(reference, seed=seed, size=8192)
        return self.learned(
            reference.seen,
            seed=seed,
            base=base,
            arrays=clones.arrays() | pools.arrays(),
            meta=clones.meta() | pools.meta() | {"limits": limits, "contents": _contents(reference)},
        )

    def score(self, batch: EpisodeBatch, fit: Fit, *, device: str = "cpu") -> list[list[ScoreRow]]:
        """Every metric of every episode; one of the base set is judged by the policies that never saw it."""
        bench = _Bench(fit)
        return [_rows(raw, bench.judge(raw, device)) for raw in bench.episodes(batch)]

    def _limits(self, found: list[tuple[np.ndarray, np.ndarray]]) -> dict[str, float]:
        """What is usual of (novelty, error) by step in the episodes ``found``."""
        novelty, error = (np.concatenate([item[part] for item in found]) for part in (0, 1))
        eta = float(np.quantile(novelty, self.novelty_quantile))
        most = float(np.quantile(error, self.error_quantile))
        bad = [(item[0] < eta) & (item[1] > most) for item in found]
        shares = [_share(steps, item[0] < eta) for steps, item in zip(bad, found, strict=True)]
        return {
            "novelty": eta,
            "error": most,
            "bad_fraction": float(np.quantile(shares, 0.95, method="higher")),
            "longest_run": float(np.quantile([_longest(steps) for steps in bad], 0.95, method="higher")),
        }


def judge(
    fit: Fit, state: np.ndarray, action: np.ndarray, *, fps: float, task: str = "", group: str | None = None
) -> Judgement:
    """Judge one new demonstration online, in milliseconds: ``state`` [n, ds], ``action`` [n, da], missing as NaN.

    ``group`` is the ``embodiment/control_mode`` of the robot; it may be left out where the base set holds one. Raises
    ``RequestError`` where ``fit`` is another scorer's or of another version.
    """
    if fit.producer != Compatibility.spec.name:
        raise RequestError(
            f"a fit of {fit.producer} judges no demonstration", code="unlike_fit", fix="name a fit of compatibility"
        )
    if fit.version != Compatibility.spec.version:
        raise RequestError(
            f"the fit was made by version {fit.version} of compatibility, whose limits mean something else",
            code="unlike_fit",
            fix="score compatibility with the base set anew",
        )
    state, action = np.atleast_2d(np.asarray(state, np.float64)), np.atleast_2d(np.asarray(action, np.float64))
    bench = _Bench(fit)
    shape = f"{state.shape[1]}x{action.shape[1]}"
    alike = sorted(known for known in bench.clones.views if known.endswith(f"/{shape}"))
    own = f"{group}/{shape}" if group else (alike[0] if len(alike) == 1 else f"?/{shape}")
    wrong = None
    if len(state) != len(action) or not len(state):
        wrong = f"{len(state)} states and {len(action)} actions are no demonstration"
    content = digest(state.tobytes(), action.tobytes())
    dataset = Dataset(name="new", fps=fps, features=(), origin="-", format="-")
    return bench.judge(RawEpisode(content, own, task, dataset, state, action, wrong), "cpu")


class _Bench:
    """A fit made ready to judge by."""

    def __init__(self, fit: Fit) -> None:
        self.clones, self.pools, self.limits = Clones.load(fit), Pools.load(fit), fit.meta["limits"]
        contents = fit.meta["contents"]
        self.hashes = {group: [contents[one] for one in owners] for group, owners in self.pools.owners.items()}

    def episodes(self, batch: EpisodeBatch) -> list[RawEpisode]:
        return [raw for raw, _ in self.pools.measure(batch)]

    def judge(self, raw: RawEpisode, device: str) -> Judgement:
        if raw.problem is not None or not raw.finite.any():
            return Judgement(None, reason=raw.problem or "no finite step")
        if raw.group not in self.limits:
            return Judgement(None, reason=f"the base set holds too few demonstrations of {raw.group}")
        view = self.clones.views[raw.group].measure(raw)
        limits = self.limits[raw.group].get(view.task) or self.limits[raw.group][""]
        novelty, error = _measured(self.clones, view, device)
        known = novelty < limits["novelty"]
        bad = known & (error > limits["error"])
        fraction, run = _share(bad, known), _longest(bad)
        welcome = np.where(known, 1 - np.minimum(error / max(limits["error"], 1e-12), 1), 1.0)
        return Judgement(
            accepted=fraction <= limits["bad_fraction"] and run <= limits["longest_run"],
            compatibility=float(welcome.mean()),
            bad_fraction=fraction,
            longest_run=run,
            novelty=_at(view, novelty),
            error=_at(view, error),
            windows=self._windows(view, error, bad, device),
            limits=limits,
            note=self.clones.note(view),
        )

    def _windows(self, view: EpisodeView, error: np.ndarray, bad: np.ndarray, device: str) -> tuple[Window, ...]:
        """The windows about the worst of the bad steps, none over another, in order of time."""
        left = np.where(bad, error, -np.inf)
        rows = np.flatnonzero(view.valid)
        (pool,) = self.pools.of(view)
        windows = []
        while len(windows) < _WINDOWS and np.isfinite(left).any():
            worst = int(left.argmax())
            within = np.abs(rows - rows[worst]) <= _AROUND
            left[np.abs(rows - rows[worst]) <= 2 * _AROUND] = -np.inf
            start, stop = max(int(rows[worst]) - _AROUND, 0), min(int(rows[worst]) + _AROUND + 1, len(view.valid))
            owner = np.full(int(within.sum()), self.pools.owner(view))
            _, index = nearest(view.state[within], pool.state, 1, owner=owner, pool_owner=pool.owner, device=device)
            owners = pool.owner[index[index[:, 0] >= 0, 0]]
            like = self.hashes[view.group][int(np.bincount(owners).argmax())] if len(owners) else ""
            windows.append(Window(start, stop, float(error[worst]), like))
        return tuple(sorted(windows, key=lambda window: window.start))


def _contents(reference: Reference) -> dict[str, str]:
    """The content hash of a base demonstration, which the lake knows it by, by its motion hash."""
    return {raw.motion_hash: raw.content_hash for members in reference.groups.values() for raw in members}


def _measured(clones: Clones, view: EpisodeView, device: str) -> tuple[np.ndarray, np.ndarray]:
    """(novelty, error) of each valid step, float64 [m]: the ensemble of the episode's fold against its own actions."""
    steps = clones.steps(view)
    expected = clones.expected(view, steps, device)[:, :, 0].astype(np.float64)
    width = np.sqrt(view.action.shape[1])  # a view divides its actions by it
    return expected.std(axis=0).mean(axis=1) * width, ((expected - view.action) ** 2).sum(axis=2).mean(axis=0)


def _share(bad: np.ndarray, known: np.ndarray) -> float:
    """The fraction of the known steps that are bad, 0 where none is known."""
    return float(bad.sum() / max(known.sum(), 1))


def _longest(bad: np.ndarray) -> int:
    """The length of the longest run of true."""
    edges = np.flatnonzero(np.diff(np.r_[False, bad, False]))
    return int((edges[1::2] - edges[::2]).max(initial=0))


def _at(view: EpisodeView, values: np.ndarray) -> np.ndarray:
    steps = np.full(len(view.valid), np.nan, np.float32)
    steps[view.valid] = values
    return steps


def _rows(raw: RawEpisode, found: Judgement) -> list[ScoreRow]:
    names = [metric.name for metric in Compatibility.spec.metrics[:-1]]
    length = ScoreRow("length", float(len(raw.state)))
    if found.accepted is None:
        return [*(ScoreRow(name, None, "undefined", found.reason) for name in names), length]
    assert found.error is not None and found.novelty is not None
    spans = tuple(
        Span(w.start, w.stop, f"incompatible_action: nearest base demonstration {w.nearest[:16] or 'none'}")
        for w in found.windows
    )
    return [
        ScoreRow("compatibility", found.compatibility, reason=found.note, spans=spans),
        ScoreRow("rejected", float(not found.accepted), reason=found.note),
        ScoreRow("bad_fraction", found.bad_fraction, reason=found.note),
        ScoreRow("longest_bad_run", float(found.longest_run or 0), reason=found.note),
        ScoreRow("novelty", float(np.nanmean(found.novelty)), reason=found.note, step_values=found.novelty),
        ScoreRow("error", float(np.nanmean(found.error)), reason=found.note, step_values=found.error),
        length,
    ]
