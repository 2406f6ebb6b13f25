"""A mixture as what LeRobot needs beside the source sets themselves: episode lists and a weight a frame."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from data_engine.exports.folder import FolderExporter, Written, write_json
from data_engine.exports.origins import LeRobotSet, origins, step_rates
from data_engine.exports.rates import splits_of
from data_engine.mixture import Mixture

__all__ = ["LeRobotEpisodesExporter"]

_LISTS = "episodes.json"
_WEIGHTS = (
    "weights/<split>/<dataset>.parquet has the rate of each frame by its index in the source set (draw with a weighted"
    " sampler, with replacement: whole passes hold in expectation); LeRobotDataset(episodes=...) alone draws all alike"
)


class LeRobotEpisodesExporter(FolderExporter):
    """``episodes.json``: split -> dataset -> ``root``, ``episodes`` (for LeRobotDataset or ``--dataset.episodes``) and
    ``frames``; and ``weights/<split>/<dataset>.parquet``: ``index`` int64, ``weight`` float64.

    ``index`` is LeRobot's own: the frame's number in the whole source set, whatever episodes are loaded. Frames that
    the mixture does not draw have no row. ``sources``: dataset -> where its LeRobot set (v2.x or v3.0) is now, if not
    where it was ingested from. A list names whole episodes: where the mixture takes a range, only the weights say so.
    """

    name: ClassVar[str] = "lerobot_episodes"

    sources: dict[str, str] = Field(default_factory=dict)

    def write(self, mixture: Mixture, order: list[int], folder: Path) -> Written:
        """See :meth:`FolderExporter.write`. Nothing is read of the sources but their metadata."""
        lists, weights = self._content(mixture)
        write_json(folder / _LISTS, lists)
        for path, table in weights.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(table, folder / path, compression="snappy")
        partly = sum(len(item["ranges"]) for split in lists.values() for item in split.values())
        notes = [f"{partly} episodes are taken in part: episodes.json names them whole, the weights do not"] * (
            partly > 0
        )
        return Written(_WEIGHTS, tuple(notes))

    def differences(self, mixture: Mixture, order: list[int], folder: Path) -> Iterator[str]:
        """See :meth:`FolderExporter.differences`; and the source sets are read, whether they hold what was frozen."""
        lists, weights = self._content(mixture)
        if json.loads((folder / _LISTS).read_bytes()) != lists:
            yield f"{_LISTS} is not the mixture's"
        for path, table in weights.items():
            if not (folder / path).exists() or not pq.read_table(folder / path).equals(table):
                yield f"{path} is not the mixture's"
        for origin in self._origins(mixture).values():
            yield from origin.unlike(mixture)

    def _origins(self, mixture: Mixture) -> Mapping[str, Any]:
        return origins(mixture, ("lerobot_v2", "lerobot_v3"), self.sources, "a LeRobot episode list")

    def _content(self, mixture: Mixture) -> tuple[dict[str, dict[str, Any]], dict[str, pa.Table]]:
        sets = {name: LeRobotSet(origin) for name, origin in self._origins(mixture).items()}
        for held in sets.values():
            held.check(mixture)
        lists: dict[str, dict[str, Any]] = {}
        weights: dict[str, pa.Table] = {}
        for split in sorted(set(splits_of(mixture)), key=lambda split: (split != "train", split)):
            parts: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
            for (name, key), rate in step_rates(mixture, split).items():
                held, at = sets[name], np.flatnonzero(rate)
                item = lists.setdefault(split, {}).setdefault(
                    name, {"root": held.origin.source.uri, "episodes": [], "frames": 0, "ranges": {}}
                )
                number = held.number(key)
                item["episodes"].append(number)
                item["frames"] += len(at)
                if len(at) < held.lengths[key]:
                    item["ranges"][str(number)] = _ranges(at)
                parts.setdefault(name, []).append((at + held.firsts[key], rate[at]))
            for name, found in parts.items():
                lists[split][name]["episodes"].sort()
                index = np.concatenate([at for at, _ in found])
                by_index = np.argsort(index)
                rate = np.concatenate([rate for _, rate in found])
                weights[f"weights/{split}/{name}.parquet"] = pa.table(
                    {"index": pa.array(index[by_index]), "weight": pa.array(rate[by_index])}
                )
        return lists, weights


def _ranges(at: np.ndarray) -> list[list[int]]:
    """The runs of consecutive numbers in ``at``, as [start, stop)."""
    return [[int(run[0]), int(run[-1]) + 1] for run in np.split(at, np.flatnonzero(np.diff(at) > 1) + 1)]
