"""Parts of episodes that look like the targets, whatever their speed: a selector of step ranges.

Memmel et al., "STRAP: Robot Sub-Trajectory Retrieval for Augmented Policy Learning" (2025): targets are cut into
pieces, each is aligned with every candidate by subsequence dynamic time warping over frame embeddings
(``scorers.kernels.subsequence``), and the pieces share the budget.
"""

from __future__ import annotations

import numpy as np
from pydantic import Field

from data_engine.errors import RequestError
from data_engine.scoring import Clips
from data_engine.selection import Budget, Candidates, Chosen, Selector, resolve_budget
from data_engine.selection.pool import canonical_order, unit_keys
from scorers.kernels.subsequence import matches

__all__ = ["Retrieval"]

_AT_ONCE = 128  # candidates whose frames are held together
_FIX = "embed their frames (embed open_clip, or another encoder that sees) and name that space"


class Retrieval(Selector):
    """Take the part of a candidate most like each piece of the targets: every piece's best, then every piece's second.

    Name ``segments`` in the recipe to cut the targets (``keyposes``: where the arm stops); pieces of fewer than
    ``shortest`` steps say too little and are left out. ``camera``: whose frames are compared; default: a piece's first
    by name, with all of a candidate's. The budget counts parts, or is a share of the number of candidates; parts of one
    candidate do not overlap. Weights are alike. Every candidate is aligned with every piece: O(frames of both), a few
    candidates in memory.
    """

    name = "retrieval"
    needs_clips = True
    needs_targets = True

    camera: str | None = None
    shortest: int = Field(20, ge=1)

    def select(self, candidates: Candidates, targets: Candidates | None, *, budget: Budget | None, seed: int) -> Chosen:
        """``budget`` parts, best first. Raises ``RequestError`` for ``auto``, and where no piece or candidate has
        frames."""
        if targets is None or candidates.clips is None or targets.clips is None:
            raise RequestError("this method needs targets and a space of frames", code="no_targets")
        count = resolve_budget(budget, len(candidates))
        pieces = self._pieces(targets)
        copies = frozenset(key.partition(":")[0] for key in unit_keys(targets))
        order = [at for at in canonical_order(candidates).tolist() if candidates.content_hashes[at] not in copies]
        found, seen = self._aligned(candidates, order, pieces)
        if not seen.any():
            raise RequestError("no candidate has a vector of its frames", code="no_usable_vectors", fix=_FIX)
        taken, lines = _shared(found, np.flatnonzero(seen), count)
        reasons = [
            "left out: the same recording as a target" if content in copies
            else "left out: the space holds no frames of it" if not seen[at]
            else lines[at]
            for at, content in enumerate(candidates.content_hashes)
        ]  # fmt: skip
        report = {
            "candidates": len(candidates),
            "unusable": len(candidates) - int(seen.sum()),
            "targets": len(targets),
            "pieces": len(pieces),
            "chosen": len(taken),
            "mean_cost": round(float(np.mean([cost for _, _, _, cost in taken])), 6),
        }
        order_ = np.array([at for at, _, _, _ in taken], np.int64)
        spans = np.array([[start, stop] for _, start, stop, _ in taken], np.int64)
        return Chosen(order_, np.ones(len(taken)), reasons, report, spans)

    def _pieces(self, targets: Candidates) -> list[np.ndarray]:
        """The vectors [q, d] of each piece that is long enough, in canonical order."""
        assert targets.clips is not None
        long = [at for at in canonical_order(targets).tolist() if targets.n_steps[at] >= self.shortest]
        if not long:
            raise RequestError(
                f"no piece of the targets has {self.shortest} steps", code="no_targets", fix="set shortest, or cut less"
            )
        found = []
        for clips in targets.clips(long):
            cameras = sorted({name for name in clips.cameras if name is not None})
            shown = clips.of(self.camera or cameras[0]) if cameras else Clips.none()
            if len(shown):
                found.append(shown.vectors)
        if not found:
            raise RequestError("no piece of the targets has a vector of its frames", code="no_usable_vectors", fix=_FIX)
        return found

    def _aligned(
        self, candidates: Candidates, order: list[int], pieces: list[np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray]:
        """float64 [pieces, n, 3]: the cost, first step and step after the last of the best part of each candidate, and
        bool [n], which have any."""
        assert candidates.clips is not None
        found = np.full((len(pieces), len(candidates), 3), np.inf)
        for first in range(0, len(order), _AT_ONCE):
            rows = order[first : first + _AT_ONCE]
            shown, owner = [], []
            for at, clips in zip(rows, candidates.clips(rows), strict=True):
                cameras = sorted({name for name in clips.cameras if name is not None})
                mine = [clips.of(name) for name in ([self.camera] if self.camera else cameras)]
                shown += [each for each in mine if len(each)]
                owner += [at] * sum(len(each) > 0 for each in mine)
            if not shown:
                continue
            vectors = np.concatenate([each.vectors for each in shown])
            offsets = np.cumsum([0, *map(len, shown)])
            for piece, asked in enumerate(pieces):
                for at, each, cost, a, b in zip(owner, shown, *matches(asked, vectors, offsets), strict=True):
                    if round(cost, 9) < found[piece, at, 0]:
                        found[piece, at] = round(cost, 9), each.starts[a], each.stops[b - 1]
        return found, np.isfinite(found[:, :, 0]).any(axis=0)


def _shared(
    found: np.ndarray, usable: np.ndarray, count: int
) -> tuple[list[tuple[int, int, int, float]], dict[int, str]]:
    """(candidate, start, stop, cost) of at most ``count`` parts, and a line for each candidate of ``usable``.

    Rounds over the pieces; in a round the cheapest first. A part that overlaps one taken before is passed over.
    """
    ranks = np.argsort(np.argsort(found[:, usable, 0], axis=1, kind="stable"), axis=1, kind="stable")
    offers = sorted(
        (int(ranks[piece, place]), float(found[piece, at, 0]), piece, place)
        for piece in range(len(found))
        for place, at in enumerate(usable.tolist())
    )
    taken: list[tuple[int, int, int, float]] = []
    held: dict[int, list[tuple[int, int]]] = {}
    lines: dict[int, str] = {}
    for round_, cost, piece, place in offers:
        at = int(usable[place])
        start, stop = (int(edge) for edge in found[piece, at, 1:])
        said = f"steps {start} to {stop} are the {round_ + 1}. nearest of a piece, cost {cost:.4f}"
        free = all(stop <= a or b <= start for a, b in held.get(at, ()))
        if len(taken) < count and free:
            held.setdefault(at, []).append((start, stop))
            taken.append((at, start, stop, cost))
            before = lines.get(at, "")
            lines[at] = f"{before}; {said}" if before.startswith("chosen") else f"chosen: {said}"
        else:
            lines.setdefault(at, f"left out: {said}")
    return taken, lines
