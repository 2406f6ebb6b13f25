"""What a FAISS index is made of, by size, and how hard it must look to find what comparing with everything finds.

Exact below 50 thousand vectors, inverted lists above, and from a million on inverted lists over product-quantised codes
whose best candidates are ranked again on the vectors themselves. How many lists a search probes is no guess: it is
raised until, of queries that are not in the index, at least 95 in 100 of the ten nearest are found.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

import faiss
import numpy as np

from data_engine.selection.neighbours import one_thread

__all__ = [
    "EXACT_BELOW", "GPU_RESULTS", "RECALL", "Effort", "Metric", "accelerated", "exact_of", "form_of", "lists_of",
    "made", "parameters", "recall", "tuned",
]  # fmt: skip

EXACT_BELOW = 50_000
CODES_FROM = 1_000_000
RECALL = 0.95  # at 10, of the default search
_SAMPLE = 100  # vectors that the recall is measured of, and as many moved
_NEAREST = 10
_BLOCK = 100_000  # rows compared at once
_PROBES = 16  # lists that tuning begins with
_REFINE, _MOST_REFINED = 8, 128  # candidates a result that the codes propose for the second ranking
GPU_RESULTS = 2048  # of one query, FAISS's limit there

Metric = Literal["ip", "l2"]


@dataclass(frozen=True)
class Effort:
    """How hard a search looks: ``probes`` lists, ``refine`` candidates a result; and the ``recall`` at 10 that this was
    measured to have against comparing with everything, 1 where it does compare with everything.
    """

    probes: int = 0
    refine: int = _REFINE
    recall: float = 1.0

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def form_of(n: int, d: int) -> str:
    """FAISS's factory string for ``n`` vectors of width ``d``."""
    if n < EXACT_BELOW:
        return "Flat"
    lists = 2 ** round(math.log2(4 * math.sqrt(n)))
    widths = [m for m in range(max(d // 4, 1), 0, -1) if d % m == 0]
    if n < CODES_FROM or widths[0] < d / 8:
        return f"IVF{lists},Flat"
    return f"IVF{lists},PQ{widths[0]}x4fs,RFlat"


def made(matrix: np.ndarray, form: str, metric: Metric, seed: int) -> Any:
    """The FAISS index of ``form`` over ``matrix`` float32 [n, d], the same for the same rows whatever the threads."""
    kind = faiss.METRIC_INNER_PRODUCT if metric == "ip" else faiss.METRIC_L2
    index = faiss.index_factory(matrix.shape[1], form, kind)
    if (lists := lists_of(index)) is not None:
        lists.cp.seed = seed + 1234
        lists.cp.niter = 8
        lists.cp.max_points_per_centroid = 40  # a sixth of FAISS's default takes a sixth of the time; effort is tuned
    with one_thread(faiss):
        index.train(matrix)
    index.add(matrix)
    return index


def tuned(index: Any, matrix: np.ndarray, owners: np.ndarray, metric: Metric, seed: int) -> Effort:
    """The least effort with a recall of ``RECALL``, or the most there is.

    Asked are vectors of the index as if what they are of (``owners`` int64 [n], the episode) were not in it, since its
    own frames are found with no effort; and the same ones moved by as much as vectors vary, as texts and pictures of
    other places lie far from all. The recall is the worse of the two. Of twice the lists and twice the candidates, what
    gains more is taken, step by step.
    """
    lists = lists_of(index)
    if lists is None:
        return Effort()
    draw = np.random.default_rng(seed)
    known = np.unique(owners)
    asked = draw.choice(known, min(_SAMPLE, max(len(known) // 2, 1)), replace=False)
    mine = np.isin(owners, asked)
    rows = draw.permutation(np.flatnonzero(mine))
    rows = rows[np.unique(owners[rows], return_index=True)[1]]  # one of each
    moved = matrix[rows] + matrix[draw.choice(len(matrix), min(len(matrix), 10_000))].std(axis=0) * draw.normal(
        size=(len(rows), matrix.shape[1])
    )
    queries = np.concatenate([matrix[rows], moved]).astype(np.float32)
    kinds: Any = faiss
    others = kinds.IDSelectorBitmap(np.packbits(~mine, bitorder="little"))
    k = min(_NEAREST, int((~mine).sum()))
    if not k:
        return exact_of(index)[1]
    true = _nearest_of(matrix, ~mine, queries, k, metric)

    def measured(probes: int, refine: int) -> Effort:
        given = Effort(min(probes, lists.nlist), refine)
        found, _ = index.search(queries, k, params=parameters(index, given, others))
        parts = (slice(None, len(rows)), slice(len(rows), None))
        return Effort(given.probes, given.refine, min(recall(true[part], found[part], metric) for part in parts))

    best = measured(_PROBES, _REFINE)
    while best.recall < RECALL:
        further = [measured(2 * best.probes, best.refine)] if best.probes < lists.nlist else []
        if _refines(index) and best.refine < _MOST_REFINED:
            further.append(measured(best.probes, 2 * best.refine))
        if not further:
            break
        best = max(further, key=lambda effort: effort.recall)
    return best


def _nearest_of(matrix: np.ndarray, kept: np.ndarray, queries: np.ndarray, k: int, metric: Metric) -> np.ndarray:
    """The scores [q, k] of the nearest among the ``kept`` rows, by comparing with all, so many at a time."""
    kind = faiss.METRIC_INNER_PRODUCT if metric == "ip" else faiss.METRIC_L2
    sign = -1.0 if metric == "ip" else 1.0
    best = np.full((len(queries), k), np.inf, np.float32)
    for first in range(0, len(matrix), _BLOCK):
        rows = matrix[first : first + _BLOCK][kept[first : first + _BLOCK]]
        if len(rows):
            scores, _ = faiss.knn(queries, np.ascontiguousarray(rows), min(k, len(rows)), metric=kind)
            best = np.sort(np.concatenate([best, sign * scores], axis=1), axis=1)[:, :k]
    return sign * best


def recall(true: np.ndarray, found: np.ndarray, metric: Metric) -> float:
    """The share of scores ``found`` [q, k] that are as good as the last of ``true`` [q, k]: of equal vectors any will
    do. Both nearest first.
    """
    worst = true[:, -1:]
    slack = 1e-5 * np.maximum(np.abs(worst), 1e-3)
    near = found >= worst - slack if metric == "ip" else found <= worst + slack
    return float(near.mean()) if near.size else 1.0


def parameters(index: Any, effort: Effort, chosen: Any | None = None) -> Any:
    """FAISS's search parameters for an effort, among the rows of the selector ``chosen``."""
    kinds: Any = faiss  # its stubs do not know that constructors take the fields by name
    lists = lists_of(index)
    if lists is None:
        return kinds.SearchParameters(sel=chosen) if chosen is not None else None
    inner = kinds.SearchParametersIVF(nprobe=min(effort.probes, lists.nlist), sel=chosen)
    if _refines(index):
        return kinds.IndexRefineSearchParameters(k_factor=effort.refine, base_index_params=inner)
    return inner


def exact_of(index: Any) -> tuple[Any, Effort]:
    """The part of ``index`` that holds the vectors themselves, and the effort that compares with all of them."""
    inner = faiss.downcast_index(index)
    if isinstance(inner, faiss.IndexRefine):
        return faiss.downcast_index(inner.refine_index), Effort()
    lists = lists_of(index)
    return index, Effort(probes=lists.nlist if lists is not None else 0)


def accelerated(index: Any) -> Any:
    """A copy on the GPU where there is one and FAISS has the form there (it takes no filter), else the index."""
    if not faiss.get_num_gpus():
        return index
    try:
        return faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), 0, index)
    except (RuntimeError, AttributeError):  # no such form on GPUs, or no room
        return index


def lists_of(index: Any) -> Any | None:
    """The inverted lists of an index, None of one without."""
    inner = faiss.downcast_index(index)
    if isinstance(inner, faiss.IndexRefine):
        inner = faiss.downcast_index(inner.base_index)
    return inner if isinstance(inner, faiss.IndexIVF) else None


def _refines(index: Any) -> bool:
    return isinstance(faiss.downcast_index(index), faiss.IndexRefine)
