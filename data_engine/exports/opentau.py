"""A mixture as OpenTau's ``dataset_mixture``: weighted lists of episodes of LeRobot sets."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from data_engine.errors import RequestError
from data_engine.exports.folder import FolderExporter, Written, write_json
from data_engine.exports.origins import LeRobotSet, Origin, origins, step_rates, stretches
from data_engine.exports.rates import splits_of
from data_engine.mixture import Mixture

__all__ = ["OpenTauExporter"]

_MOST = 1000
_WEIGHTS = (
    "weights are each list's share of all draws; OpenTau draws a list by weight, then its frames alike and with"
    " replacement, so whole passes hold in expectation"
)


class OpenTauExporter(FolderExporter):
    """``<split>.json``, each with a ``dataset_mixture`` as OpenTau's training configuration holds it: one list of
    episodes for each rate of a dataset, without random validation split.

    OpenTau takes whole episodes: a mixture of ranges is refused. It resamples all sets to one ``action_freq``, the
    datasets' own rate where they have one; where they differ it must be given. ``sources``: dataset -> where its
    LeRobot set is now, if not where it was ingested from; ``repo_ids``: dataset -> its name on the Hub, by default its
    own; ``names``: dataset -> OpenTau's ``data_features_name_mapping``, which it needs of sets that it does not know.
    """

    name: ClassVar[str] = "opentau"

    sources: dict[str, str] = Field(default_factory=dict)
    repo_ids: dict[str, str] = Field(default_factory=dict)
    names: dict[str, dict[str, str]] = Field(default_factory=dict)
    action_freq: float | None = Field(default=None, gt=0, allow_inf_nan=False)

    def write(self, mixture: Mixture, order: list[int], folder: Path) -> Written:
        """See :meth:`FolderExporter.write`. Nothing is read of the sources but their metadata."""
        for path, content in self._content(mixture).items():
            write_json(folder / path, content)
        notes = []
        used = sorted(set(mixture.episodes["dataset"].to_pylist()))
        unnamed = [name for name in used if name not in self.names]
        if unnamed:
            notes.append(f"no data_features_name_mapping of {', '.join(unnamed)}: OpenTau must know them")
        later = [name for name in used if mixture.datasets[name].format != "lerobot_v2"]
        if later:
            notes.append(f"{', '.join(later)} is LeRobot v3.0, and OpenTau's documentation speaks of v2.1")
        return Written(_WEIGHTS, tuple(notes))

    def differences(self, mixture: Mixture, order: list[int], folder: Path) -> Iterator[str]:
        """See :meth:`FolderExporter.differences`; and the source sets are read, whether they hold what was frozen."""
        for path, content in self._content(mixture).items():
            if not (folder / path).exists() or json.loads((folder / path).read_bytes()) != content:
                yield f"{path} is not the mixture's"
        for origin in self._origins(mixture).values():
            yield from origin.unlike(mixture)

    def _origins(self, mixture: Mixture) -> Mapping[str, Origin]:
        return origins(mixture, ("lerobot_v2", "lerobot_v3"), self.sources, "OpenTau")

    def _content(self, mixture: Mixture) -> dict[str, Any]:
        sets = {name: LeRobotSet(origin) for name, origin in self._origins(mixture).items()}
        for held in sets.values():
            held.check(mixture)
        freq = self._freq(mixture)
        found: dict[str, Any] = {}
        for split in sorted(set(splits_of(mixture))):
            groups: dict[tuple[str, float], list[int]] = {}
            drawn: dict[tuple[str, float], float] = {}
            for (name, key), rate in step_rates(mixture, split).items():
                whole = stretches(np.pad(rate, (0, sets[name].lengths[key] - len(rate))))
                if len(whole) != 1 or whole[0][:2] != (0, sets[name].lengths[key]):
                    raise RequestError(
                        f"the mixture takes a part of {key!r} of {name!r}, and OpenTau takes whole episodes",
                        code="ranges",
                        fix="select whole episodes, or export as lerobot_v3 first",
                    )
                group = name, -whole[0][2]
                groups.setdefault(group, []).append(sets[name].number(key))
                drawn[group] = drawn.get(group, 0.0) + float(rate.sum())
            if len(groups) > _MOST:
                raise RequestError(
                    f"the weights make {len(groups)} groups of episodes, too many for a list of datasets",
                    code="too_many_weights",
                    fix="mix with weigher: uniform",
                )
            found[f"{split}.json"] = {
                "dataset_mixture": {
                    "datasets": [self._dataset(sets[name], groups[name, rate]) for name, rate in sorted(groups)],
                    "weights": [float(f"{drawn[key] / sum(drawn.values()):.9g}") for key in sorted(groups)],
                    "action_freq": freq,
                    "val_split_ratio": 0.0,
                }
            }
        return found

    def _dataset(self, held: LeRobotSet, episodes: list[int]) -> dict[str, Any]:
        name = held.origin.dataset.name
        mapping = {"data_features_name_mapping": self.names[name]} if name in self.names else {}
        return {
            "repo_id": self.repo_ids.get(name, name),
            "root": held.origin.source.uri,
            "episodes": sorted(episodes),
            **mapping,
        }

    def _freq(self, mixture: Mixture) -> float:
        rates = sorted({mixture.datasets[name].fps for name in mixture.episodes["dataset"].to_pylist()})
        if self.action_freq is None and len(rates) > 1:
            raise RequestError(
                f"the datasets run at {', '.join(f'{rate:g}' for rate in rates)} Hz, and OpenTau resamples to one rate",
                code="unlike_datasets",
                fix="give the option action_freq",
            )
        return self.action_freq or rates[0]
