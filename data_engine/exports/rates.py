"""What a mixture's weights come to: how often each step is drawn, and the groups of rows that are drawn alike.

Every trainer means something else by a weight. What they all can be told is the rate: how often an epoch of the mixture
draws each step of a row, in expectation. It holds weight kind, unit, entry weights and epoch size in one number.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data_engine.drawing import drawing
from data_engine.errors import RequestError
from data_engine.mixture import Mixture

__all__ = ["TRAIN", "Stratum", "meaning", "rates", "splits_of", "strata"]

TRAIN = "train"
_MOST = 1000  # datasets that a trainer's configuration can sensibly list
_DIGITS = 9  # significant digits in which rates are told apart

_KINDS = {
    "probability": "drew independently by probability",
    "repeat": "passed over each as often as its weight says",
    "choose": "chose as many an epoch as its entry's weight says",
}


def splits_of(mixture: Mixture) -> list[str]:
    """The split of each row of the mixture; ``train`` where it has none."""
    return [split or TRAIN for split in mixture.episodes["split"].to_pylist()]


def rates(mixture: Mixture) -> np.ndarray:
    """float64 [R]: how often an epoch of its own split draws each step of each row, in expectation. O(R)."""
    split_of = np.array(splits_of(mixture))
    found = np.zeros(len(mixture))
    for split in np.unique(split_of):
        mine = np.flatnonzero(split_of == split)
        found[mine] = drawing(mixture, mine).rates()
    return found


@dataclass(frozen=True)
class Stratum:
    """The rows of one split of one dataset that are drawn at one rate: what a dialect of weighted datasets can weigh.

    ``rows`` are the mixture's, in the order given. ``share``: of all the split's draws, 0 to 1.
    """

    name: str
    split: str
    dataset: str
    rate: float
    share: float
    rows: tuple[int, ...]


def strata(mixture: Mixture, order: list[int]) -> list[Stratum]:
    """The mixture's rows, in ``order``, as strata: by split (``train`` first), dataset, falling rate.

    A stratum is called as its dataset, the second and later ones of a dataset ``<dataset>__w1``, ``__w2``. Raises
    ``RequestError`` where there are more than a thousand: then almost every episode has a weight of its own.
    """
    rate = rates(mixture)
    drawn = rate * mixture.rows["row_count"]
    splits, datasets = splits_of(mixture), mixture.episodes["dataset"].to_pylist()
    groups: dict[tuple[bool, str, str, float], list[int]] = {}
    for i in order:
        told_apart = float(f"{rate[i]:.{_DIGITS}g}")
        groups.setdefault((splits[i] != TRAIN, splits[i], datasets[i], -told_apart), []).append(i)
    if len(groups) > _MOST:
        raise RequestError(
            f"the weights of mixture {mixture.name!r} make {len(groups)} groups of episodes, too many for a list of"
            " weighted datasets",
            code="too_many_weights",
            fix="mix with weigher: uniform, or export to a dialect with a weight an episode",
        )
    total = {split: float(drawn[np.array(splits) == split].sum()) for split in set(splits)}
    found: list[Stratum] = []
    count: dict[tuple[str, str], int] = {}
    for _, split, dataset, negative in sorted(groups):
        rows = groups[split != TRAIN, split, dataset, negative]
        number = count[split, dataset] = count.get((split, dataset), -1) + 1
        name = f"{dataset}__w{number}" if number else dataset
        share = float(f"{drawn[rows].sum() / total[split]:.{_DIGITS}g}")
        found.append(Stratum(name, split, dataset, -negative, share, tuple(rows)))
    taken = {(stratum.split, stratum.name): stratum.dataset for stratum in found}
    if len(taken) < len(found):
        raise RequestError("two datasets are called alike but for __w1", code="name_taken", fix="rename one at ingest")
    return found


def meaning(mixture: Mixture) -> str:
    """One line: what the mixture's own weights meant, to which a dialect adds what it makes of them."""
    document = mixture.document
    size = f", {document.epoch_size} samples an epoch" if document.epoch_size else ""
    return (
        f"the mixture {_KINDS[document.weight_kind]} (unit {document.unit}{size}); rate in provenance.parquet is how"
        " often that draws each step an epoch"
    )
