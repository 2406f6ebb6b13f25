"""Is each camera's view what that camera shows? Swapped, black and frozen views, seen through stored frame vectors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from data_engine.model import STATE, TIMESTAMP
from data_engine.reference import key_of, matrix
from data_engine.scoring import Clips, EpisodeBatch, Fit, Metric, Needs, Resources, Scorer, ScoreRow, Span, Spec
from scorers.kernels.discriminant import linear_rule

__all__ = ["Views"]

_REFERENCE = 4096  # cameras of episodes that are kept
_LOOKS = 8  # frames of each that teach what the camera shows
_FOLDS = 4  # so that no episode taught the rule that it is judged by
_SHRINKAGE = 0.1
_SPEC = Spec(
    name="views",
    version="2",
    level="step",
    metrics=(
        Metric("defect_fraction", "fraction of steps", "lower"),
        Metric("swapped", "fraction of steps", "lower"),
        Metric("frozen", "fraction of steps", "lower"),
        Metric("empty", "fraction of steps", "lower"),
    ),
    needs=Needs(columns=(TIMESTAMP, STATE), spaces=("open_clip",)),
    resources=Resources(cpus=1),
)


class Views(Scorer):
    """Steps whose frame is not what its camera shows in other episodes.

    ``space``: where the frames' vectors are. A frame is ``swapped`` where a linear discriminant of the cameras, learned
    from other episodes of the (embodiment, control mode), takes it for another camera's. It is ``frozen`` where it does
    not change (cosine distance from frame to frame under ``still``) for ``freeze_s`` while the state does. It is
    ``empty`` where it is so frozen and farther from every reference view than nine in ten of these are from their own
    nearest: black, covered, or another room; an empty view is no swapped one.

    Spans carry the reason (``swapped_camera``, ``frozen_view``, ``empty_view``) and the camera. Undefined where no
    frame is in the space; ``swapped`` with one camera has nothing to be swapped with and is 0.
    """

    space: str = "open_clip"
    still: float = Field(default=1e-5, gt=0)
    freeze_s: float = Field(default=0.5, gt=0)

    spec: ClassVar[Spec] = _SPEC

    @property
    def needs(self) -> Needs:
        """The vectors of ``space``, and the state."""
        return Needs(columns=(TIMESTAMP, STATE), spaces=(self.space,))

    def fit(
        self, batches: Iterable[EpisodeBatch], *, base: Fit | None = None, seed: int = 0, device: str = "cpu"
    ) -> Fit:
        """Keep the mean view of each camera of some episodes, and learn to tell the cameras apart."""
        held: dict[int, _View] = {}
        seen = []
        for batch in batches:
            rows = batch.episodes.select(["content_hash", "embodiment", "control_mode"]).to_pylist()
            for row, clips in zip(rows, batch.spaces[self.space], strict=True):
                seen.append(row["content_hash"])
                content = clips.hash
                for camera in dict.fromkeys(clips.cameras):
                    held[key_of(seed, content, str(camera))] = _View(row, content, str(camera), clips.of(camera))
                    if len(held) > _REFERENCE:
                        del held[max(held)]
        groups: dict[str, list[_View]] = {}
        for key in sorted(held):
            groups.setdefault(held[key].group, []).append(held[key])
        arrays, meta = {}, {}
        for number, (group, views) in enumerate(sorted(groups.items())):
            cameras = sorted({view.camera for view in views})
            arrays[f"{number}.means"] = np.array([view.mean for view in views], np.float32)
            arrays[f"{number}.rules"] = _rules(views, cameras)
            meta[group] = {
                "number": number, "cameras": cameras, "whose": [view.content for view in views], "far": _far(views),
            }  # fmt: skip
        return Fit(
            self.spec.name, self.spec.version, self.config, seed, tuple(seen),
            arrays=arrays, meta={"groups": meta}, base=base.id if base else None,
        )  # fmt: skip

    def score(self, batch: EpisodeBatch, fit: Fit, *, device: str = "cpu") -> list[list[ScoreRow]]:
        """The fraction of steps with a defect in any camera, and of each kind."""
        rows = batch.episodes.select(["embodiment", "control_mode"]).to_pylist()
        state = matrix(batch, STATE)
        found = []
        for row, clips, span in zip(rows, batch.spaces[self.space], batch, strict=True):
            n = span.stop - span.start
            known = fit.meta["groups"].get(_group(row))
            if not len(clips) or known is None:
                problem = "no frames in the space" if known else "nothing like it in the reference"
                found.append([ScoreRow(metric.name, None, "undefined", problem) for metric in self.spec.metrics])
                continue
            moves = np.ones(n, bool) if state is None else _moves(state[span])
            found.append(self._rows(clips.hash, clips, n, moves, batch.dataset.fps, known, fit))
        return found

    def _rows(
        self, content: str, clips: Clips, n: int, moves: np.ndarray, fps: float, known: Mapping[str, Any], fit: Fit
    ) -> list[ScoreRow]:
        number, cameras = known["number"], known["cameras"]
        rule = fit.arrays[f"{number}.rules"][_fold(content) if content in known["whose"] else _FOLDS]
        others = fit.arrays[f"{number}.means"][[whose != content for whose in known["whose"]]]
        flags = {kind: np.zeros(n, bool) for kind in _REASONS}
        spans = []
        for camera in dict.fromkeys(clips.cameras):
            shown = clips.of(camera)
            vectors = _unit(shown.vectors.astype(np.float64))
            frozen = self._frozen(vectors, shown, moves, fps)
            strange = np.zeros(len(shown), bool)
            if known["far"] is not None and len(others):
                strange = (vectors @ others.T).max(axis=1) < known["far"]
            likely = np.array(cameras)[(vectors @ rule[:, :-1].T + rule[:, -1]).argmax(axis=1)]
            told = str(camera) in cameras and len(cameras) > 1
            bad = {"swapped": (likely != str(camera)) & told & ~(frozen & strange), "frozen": frozen,
                   "empty": frozen & strange}  # fmt: skip
            for kind, which in bad.items():
                for start, stop in zip(shown.starts[which].tolist(), shown.stops[which].tolist(), strict=True):
                    flags[kind][start:stop] = True
                spans += [Span(a, b, f"{_REASONS[kind]} {camera}") for a, b in _ranges(shown, which)]
        every = flags["swapped"] | flags["frozen"] | flags["empty"]
        reasons = ", ".join(dict.fromkeys(span.reason for span in spans)) or None
        order = tuple(sorted(spans, key=lambda span: (span.start, span.stop, span.reason)))
        head = ScoreRow("defect_fraction", float(every.mean()), reason=reasons, step_values=every, spans=order)
        return [head, *(ScoreRow(kind, float(flag.mean())) for kind, flag in flags.items())]

    def _frozen(self, vectors: np.ndarray, shown: Clips, moves: np.ndarray, fps: float) -> np.ndarray:
        """bool [m]: frames of a run that does not change while the state does."""
        frozen = np.zeros(len(vectors), bool)
        same = 1 - np.einsum("nd,nd->n", vectors[1:], vectors[:-1]) < self.still
        edges = np.flatnonzero(np.diff(np.r_[False, same, False].astype(np.int8)))
        for first, last in zip(edges[::2], edges[1::2], strict=True):
            start, stop = int(shown.starts[first]), int(shown.stops[last])
            if (stop - start) / fps >= self.freeze_s and moves[start + 1 : stop].any():
                frozen[first : last + 1] = True
        return frozen


_REASONS = {"swapped": "swapped_camera", "frozen": "frozen_view", "empty": "empty_view"}


class _View:
    """What one camera showed in one episode: its mean direction and a few frames."""

    def __init__(self, row: Mapping[str, Any], content: str, camera: str, clips: Clips) -> None:
        self.group, self.content, self.camera = _group(row), content, camera
        looks = np.unique(np.linspace(0, len(clips) - 1, _LOOKS).round().astype(int))
        self.frames = _unit(clips.vectors[looks].astype(np.float64))
        self.mean = _unit(clips.vectors.mean(axis=0, dtype=np.float64)[None])[0]


def _rules(views: list[_View], cameras: list[str]) -> np.ndarray:
    """float64 [folds + 1, cameras, d + 1]: rule i has not seen the episodes of fold i, the last has seen all."""
    samples = np.concatenate([view.frames for view in views])
    labels = np.concatenate([[cameras.index(view.camera)] * len(view.frames) for view in views])
    fold = np.concatenate([[_fold(view.content)] * len(view.frames) for view in views])
    rules = []
    for out in range(_FOLDS + 1):
        kept = fold != out
        kept = kept if kept.any() else np.ones(len(fold), bool)
        rules.append(linear_rule(samples[kept], labels[kept], len(cameras), _SHRINKAGE))
    return np.stack(rules)


def _fold(content: str) -> int:
    return key_of(0, content, "fold") % _FOLDS


def _group(row: Mapping[str, Any]) -> str:
    return f"{row['embodiment']}/{row['control_mode']}"


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def _moves(state: np.ndarray) -> np.ndarray:
    """bool [n]: the steps whose state is another than the one before."""
    return np.r_[False, (np.diff(state, axis=0) != 0).any(axis=1)]


def _far(views: list[_View]) -> float | None:
    """The cosine to the nearest view of another episode that nine in ten reference views reach."""
    vectors, whose = np.array([view.mean for view in views]), np.array([view.content for view in views])
    like = np.where(whose[:, None] == whose[None], -np.inf, vectors @ vectors.T).max(axis=1)
    return float(np.quantile(like[np.isfinite(like)], 0.1)) if np.isfinite(like).any() else None


def _ranges(shown: Clips, which: np.ndarray) -> list[tuple[int, int]]:
    edges = np.flatnonzero(np.diff(np.r_[False, which, False].astype(np.int8)))
    return [(int(shown.starts[a]), int(shown.stops[b - 1])) for a, b in zip(edges[::2], edges[1::2], strict=True)]
