"""The source sets that a mixture's datasets were read from, for dialects that refer to them and copy no step."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from data_engine import registry
from data_engine.errors import EngineError, RequestError
from data_engine.exports.films import local_video
from data_engine.exports.rates import rates, splits_of
from data_engine.formats import EncodedVideo, Format, Probe, Source, SourceEpisode
from data_engine.mixture import Mixture
from data_engine.model import Dataset
from data_engine.steps import canonical
from data_engine.video import FrameReader

__all__ = ["LeRobotSet", "Origin", "origins", "step_rates", "stretches"]


@dataclass(frozen=True)
class Origin:
    """A dataset's source as it is now, opened and probed."""

    dataset: Dataset
    source: Source
    form: Format
    probe: Probe

    def unlike(self, mixture: Mixture) -> Iterator[str]:
        """One line for each row of ``mixture`` whose steps the source no longer has as they were frozen, and for each
        video of an episode whose coded frames are others. Pictures that are no video are not compared.
        """
        rows: dict[str, list[int]] = {}
        videos: dict[str, list[dict[str, Any]]] = {}
        for i, (name, key, shown) in enumerate(_columns(mixture, "dataset", "source_key", "videos")):
            if name == self.dataset.name:
                rows.setdefault(key, []).append(i)
                videos[key] = shown or []
        known = {ref.key for ref in self.probe.episodes}
        yield from (f"{self.source.uri} has no episode {key!r}" for key in rows if key not in known)
        wanted = [key for key in rows if key in known]
        for episode in self.form.read(self.source, self.probe, wanted):
            if not isinstance(episode, SourceEpisode):
                yield f"{self.source.uri}: {episode.key} cannot be read: {episode.reason}"
                continue
            held = canonical(episode.steps, self.dataset.features, self.dataset.fps)
            for i in rows[episode.key]:
                mine = mixture.steps(i)
                start, n = int(mixture.rows["start"][i]), mine.num_rows
                names = [name for name in mine.column_names if name in held.column_names]
                theirs = held.slice(start, n).select(names).cast(mine.select(names).schema)
                if len(names) < len(mine.column_names) or not theirs.equals(mine.select(names)):
                    yield f"{self.source.uri}: {episode.key} is no longer what was frozen"
            yield from self._unlike_videos(mixture, episode, videos[episode.key])

    def _unlike_videos(
        self, mixture: Mixture, episode: SourceEpisode, videos: Sequence[Mapping[str, Any]]
    ) -> Iterator[str]:
        with tempfile.TemporaryDirectory(prefix="data-engine-video-") as scratch:
            for video in videos:
                held = episode.cameras.get(video["camera"])
                if not isinstance(held, EncodedVideo):
                    continue
                path = local_video(self.source, held.path, Path(scratch))
                with FrameReader(path) as theirs, FrameReader(mixture.local(video["blob"])) as ours:
                    if theirs.digest(held.start_s, held.end_s) != ours.digest(video["start_s"], video["end_s"]):
                        what = f"the frames of {video['camera']!r}"
                        yield f"{self.source.uri}: {episode.key}: {what} are no longer what was frozen"


def origins(mixture: Mixture, formats: Sequence[str], sources: Mapping[str, str], dialect: str) -> dict[str, Origin]:
    """Dataset name -> its source, at ``sources[name]`` or where it was ingested from.

    Raises ``RequestError`` where it is of none of ``formats``, is not there, or holds other values than the mixture,
    whose recipe converts units.
    """
    unknown = sorted(set(sources) - set(mixture.datasets))
    if unknown:
        known = ", ".join(sorted(mixture.datasets))
        raise RequestError(f"no dataset {unknown[0]!r} in the mixture", code="unknown_dataset", fix=f"known: {known}")
    converted = sorted({conversion.dataset for conversion in mixture.document.conversions})
    found: dict[str, Origin] = {}
    for name in sorted(set(mixture.episodes["dataset"].to_pylist())):
        dataset = mixture.datasets[name]
        if dataset.format not in formats:
            raise RequestError(
                f"dataset {name!r} is {dataset.format}, and {dialect} refers to {' or '.join(formats)} sets",
                code="wrong_format",
                fix="export the mixture as such a set instead",
            )
        if name in converted:
            raise RequestError(
                f"the mixture converts {name!r}, and {dialect} refers to the unconverted source",
                code="converted",
                fix="export the mixture as a set of its own instead",
            )
        source = Source(sources.get(name, dataset.origin))
        form: Format = registry.make("formats", dataset.format)
        try:
            probe = form.probe(source) if source.exists() else None
        except EngineError as error:
            raise RequestError(f"the source of {name!r} cannot be read: {error}", code="no_source") from error
        if probe is None:
            raise RequestError(
                f"the source of {name!r} is not at {source.uri}",
                code="no_source",
                fix=f"name where it is now: sources: {{{name}: URI}}",
            )
        found[name] = Origin(dataset, source, form, probe)
    return found


class LeRobotSet:
    """A source that is a LeRobot set: its episodes by number, and where each lies among its frames."""

    def __init__(self, origin: Origin) -> None:
        self.origin = origin

    def number(self, key: str) -> int:
        """The episode's ``episode_index``."""
        return int(key.rpartition("_")[2])

    @cached_property
    def lengths(self) -> dict[str, int]:
        """Steps of each episode as the source declares them. Raises ``RequestError`` where one is not declared."""
        found = {ref.key: ref.n_steps for ref in self.origin.probe.episodes}
        unknown = [key for key, length in found.items() if length is None]
        if unknown:
            raise RequestError(f"{self.origin.source.uri} does not say how long {unknown[0]} is", code="no_length")
        return {key: length for key, length in found.items() if length is not None}

    @cached_property
    def firsts(self) -> dict[str, int]:
        """The ``index`` of each episode's first frame: frames are counted through the set in its episodes' order."""
        firsts, total = {}, 0
        places: Mapping[str, Mapping[str, Any]] = self.origin.probe.context.get("places", {})
        for key in sorted(self.lengths, key=self.number):
            told = places[key].get("dataset_from_index") if key in places else None
            firsts[key] = total if told is None else int(told)
            total = firsts[key] + self.lengths[key]
        return firsts

    def check(self, mixture: Mixture) -> None:
        """Raises ``RequestError`` for a row of the mixture that lies outside of its episode here."""
        for name, key, stop in _columns(mixture, "dataset", "source_key", "stop"):
            if name == self.origin.dataset.name and self.lengths.get(key, 0) < stop:
                raise RequestError(
                    f"{self.origin.source.uri} has {self.lengths.get(key, 0)} steps of {key!r}, the mixture takes"
                    f" {stop}",
                    code="changed_source",
                    fix="ingest it again, or name the unchanged source in sources",
                )


def step_rates(mixture: Mixture, split: str) -> dict[tuple[str, str], np.ndarray]:
    """(dataset, source key) -> how often an epoch of ``split`` draws each step of that episode, float64 [last stop].

    Ranges that overlap add up; steps outside of every range have 0. By dataset and key.
    """
    splits, rate = splits_of(mixture), rates(mixture)
    found: dict[tuple[str, str], np.ndarray] = {}
    for i, (name, key, start, stop) in enumerate(_columns(mixture, "dataset", "source_key", "start", "stop")):
        if splits[i] == split:
            held = found.get((name, key), np.zeros(0))
            if len(held) < stop:
                held = np.pad(held, (0, stop - len(held)))
            held[start:stop] += rate[i]
            found[name, key] = held
    return dict(sorted(found.items()))


def stretches(rate: np.ndarray) -> list[tuple[int, int, float]]:
    """The runs of one rate above 0 in ``rate`` [n], in order: (start, stop, rate to nine digits)."""
    told = np.array([float(f"{value:.9g}") for value in rate])
    edges = np.flatnonzero(np.diff(told, prepend=np.nan, append=np.nan) != 0)
    return [(int(a), int(b), float(told[a])) for a, b in itertools.pairwise(edges) if told[a] > 0]


def _columns(mixture: Mixture, *names: str) -> Iterator[tuple[Any, ...]]:
    return zip(*(mixture.episodes[name].to_pylist() for name in names), strict=True)
