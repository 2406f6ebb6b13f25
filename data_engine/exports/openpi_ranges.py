"""A mixture as openpi's list of RLDS datasets with a keep-ranges file each."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from data_engine.errors import RequestError
from data_engine.exports.folder import FolderExporter, Written, write_json
from data_engine.exports.origins import Origin, origins, step_rates, stretches
from data_engine.exports.rates import splits_of
from data_engine.formats import SourceEpisode
from data_engine.formats.tfds_files import find_version, read_json
from data_engine.mixture import Mixture

__all__ = ["OpenpiRangesExporter"]

_DATASETS = "datasets.json"
_MOST = 1000
_WEIGHTS = (
    "datasets.json lists, split by split, RLDSDataset(name, version, weight, filter_dict_path) for each rate, weight"
    " the share of all draws; openpi draws a dataset by weight, then its frames, so whole passes hold in expectation"
)

Ranges = dict[str, list[list[int]]]


class OpenpiRangesExporter(FolderExporter):
    """``datasets.json`` with the fields of openpi's ``RLDSDataset``, and a keep-ranges file for each rate of a dataset:
    ``{"<recording_folderpath>--<file_path>": [[start, stop], ...]}``, steps [start, stop) of the episode.

    ``key``: the fields of ``episode_metadata`` that make an episode's key; openpi's own loader, written for DROID,
    takes the default. ``sources``: dataset -> where its RLDS set is now, if not where it was ingested from.
    """

    name: ClassVar[str] = "openpi_ranges"

    key: tuple[str, ...] = ("recording_folderpath", "file_path")
    sources: dict[str, str] = Field(default_factory=dict)

    def write(self, mixture: Mixture, order: list[int], folder: Path) -> Written:
        """See :meth:`FolderExporter.write`. Reads the metadata of every episode that the mixture takes."""
        datasets, files = self._content(mixture)
        write_json(folder / _DATASETS, datasets)
        for path, ranges in files.items():
            write_json(folder / path, ranges)
        notes = []
        if self.key != type(self).model_fields["key"].default:
            notes.append(f"episodes are keyed by {'--'.join(self.key)}, not by openpi's own fields")
        return Written(_WEIGHTS, tuple(notes))

    def differences(self, mixture: Mixture, order: list[int], folder: Path) -> Iterator[str]:
        """See :meth:`FolderExporter.differences`; and the source sets are read, whether they hold what was frozen."""
        datasets, files = self._content(mixture)
        if json.loads((folder / _DATASETS).read_bytes()) != datasets:
            yield f"{_DATASETS} is not the mixture's"
        for path, ranges in files.items():
            if not (folder / path).exists() or json.loads((folder / path).read_bytes()) != ranges:
                yield f"{path} is not the mixture's"
        for origin in self._origins(mixture).values():
            yield from origin.unlike(mixture)

    def _origins(self, mixture: Mixture) -> dict[str, Origin]:
        return origins(mixture, ("rlds",), self.sources, "openpi")

    def _content(self, mixture: Mixture) -> tuple[dict[str, list[dict[str, Any]]], dict[str, Ranges]]:
        held = self._origins(mixture)
        keys = {name: self._keys(origin, mixture) for name, origin in held.items()}
        named = {name: _builder(origin) for name, origin in held.items()}
        datasets: dict[str, list[dict[str, Any]]] = {}
        files: dict[str, Ranges] = {}
        for split in sorted(set(splits_of(mixture)), key=lambda split: (split != "train", split)):
            groups: dict[tuple[str, float], Ranges] = {}
            drawn: dict[tuple[str, float], float] = {}
            for (name, key), rate in step_rates(mixture, split).items():
                for start, stop, value in stretches(rate):
                    group = name, -value
                    groups.setdefault(group, {}).setdefault(keys[name][key], []).append([start, stop])
                    drawn[group] = drawn.get(group, 0.0) + value * (stop - start)
            if len(groups) > _MOST:
                raise RequestError(
                    f"the weights make {len(groups)} groups of steps, too many for a list of datasets",
                    code="too_many_weights",
                    fix="mix with weigher: uniform",
                )
            count: dict[str, int] = {}
            for name, value in sorted(groups):
                number = count[name] = count.get(name, -1) + 1
                path = f"{split}/{name}.json" if not number else f"{split}/{name}__w{number}.json"
                files[path] = groups[name, value]
                builder, version = named[name]
                weight = float(f"{drawn[name, value] / sum(drawn.values()):.9g}")
                datasets.setdefault(split, []).append(
                    {"name": builder, "version": version, "weight": weight, "filter_dict_path": path}
                )
        return datasets, files

    def _keys(self, origin: Origin, mixture: Mixture) -> dict[str, str]:
        """Source key -> openpi's key. Raises ``RequestError`` where an episode has none, or two have the same."""
        mine = zip(mixture.episodes["dataset"].to_pylist(), mixture.episodes["source_key"].to_pylist(), strict=True)
        wanted = sorted({key for name, key in mine if name == origin.dataset.name})
        known = {ref.key for ref in origin.probe.episodes}
        lost = [key for key in wanted if key not in known]
        if lost:
            raise RequestError(f"{origin.source.uri} has no episode {lost[0]!r}", code="changed_source")
        found: dict[str, str] = {}
        taken: dict[str, str] = {}
        for episode in origin.form.read(origin.source, origin.probe, wanted):
            if not isinstance(episode, SourceEpisode):
                raise RequestError(f"{origin.source.uri}: {episode.key}: {episode.reason}", code="changed_source")
            lacking = [name for name in self.key if episode.attributes.get(name) in (None, "")]
            if lacking:
                known_fields = ", ".join(episode.attributes)
                raise RequestError(
                    f"episode {episode.key!r} of {origin.dataset.name!r} has no {lacking[0]!r}, by which openpi finds"
                    " it",
                    code="no_key",
                    fix=f"give the option key; known fields: {known_fields or 'none'}",
                )
            key = "--".join(str(episode.attributes[name]) for name in self.key)
            if key in taken:
                raise RequestError(
                    f"{taken[key]!r} and {episode.key!r} of {origin.dataset.name!r} both have the key {key!r}",
                    code="same_key",
                    fix="give fields in the option key that tell episodes apart",
                )
            taken[key] = episode.key
            found[episode.key] = key
        return found


def _builder(origin: Origin) -> tuple[str, str]:
    """The name and version that TensorFlow Datasets knows the source by."""
    info = read_json(origin.source, f"{find_version(origin.source)}/dataset_info.json")
    return str(info.get("name") or origin.dataset.name), str(info.get("version") or "1.0.0")
