"""Containers of arrays in any layout, read by a column map: what the generic formats share."""

from __future__ import annotations

import posixpath
import re
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any, ClassVar, Literal, Protocol

import numpy as np

from data_engine.errors import EngineError, RequestError, SourceError
from data_engine.formats import EpisodeRef, Probe, Source
from data_engine.formats.arrays import Layout, Spec, natural
from data_engine.formats.attributes import plain
from data_engine.formats.column_map import ColumnMap, Part, guess
from data_engine.formats.episode_arrays import EpisodeArrays, Recording, Survey
from data_engine.formats.rows import FAULTS, Entries, Rows, Span
from data_engine.model import TERMINATED, TRUNCATED

__all__ = ["MappedArrays", "Tree"]

_ENDS = ("episode_ends", "ends", "episode_end_idx")
_TRIES = 8  # files looked at for one that opens
_SMALL = 4096  # numbers of a field that an episode holds once


class Tree(Protocol):
    """An open container: arrays in groups."""

    def groups(self, group: str) -> list[str]:
        """Names of the groups directly in ``group`` (empty: the root), in natural order."""

    def arrays(self, group: str) -> dict[str, Rows]:
        """Every array below ``group`` that has rows, by its path in it."""

    def values(self, group: str) -> dict[str, Any]:
        """Attributes and single values of ``group``, plain."""


class MappedArrays(EpisodeArrays):
    """Base of the generic formats.

    ``map`` says which arrays become which columns (:class:`ColumnMap`), ``episodes`` what an episode is: ``.`` a file,
    ``data/*`` each group of that name, ``meta/episode_ends`` rows of flat arrays up to each number in that array.
    Without either, the probe answers a proposal of both. ``image_range`` says whether float frames span 0 to 1 or 255;
    they must be whole numbers out of 255 unless ``image_rounding``. What the map does not name is left out, with a
    note.
    """

    generic: ClassVar[bool] = True
    length_from: ClassVar[tuple[str, ...]] = ()

    map: ColumnMap | None = None
    episodes: str | None = None
    image_range: Literal[1, 255] | None = None
    image_rounding: bool = False

    @abstractmethod
    def files(self, source: Source) -> list[str]:
        """The containers of ``source`` relative to it; empty, quickly, where it has none of this kind."""

    @abstractmethod
    def tree(self, source: Source, path: str) -> AbstractContextManager[Tree]:
        """The container at ``path`` of ``source``."""

    def survey(self, source: Source) -> Survey | None:
        """See :meth:`EpisodeArrays.survey`."""
        files = self.files(source)
        if not files:
            return None
        how = self.episodes or self._structure(source, files)
        places, notes = self._places(source, files, how)
        refs = tuple(
            EpisodeRef(key, None if start is None else stop - start, (path,))
            for key, (path, _, start, stop) in places.items()
        )
        flat = any(start is not None for _, _, start, _ in places.values())
        survey = Survey(
            refs, notes=tuple(notes), context={"places": places, "how": how}, uniform=flat and len(files) == 1
        )
        return replace(survey, fps=self._rate(source, survey))

    def examined(self, source: Source) -> Probe | None:
        """See :meth:`EpisodeArrays.examined`. A proposal unless both ``map`` and ``episodes`` are given."""
        survey = self.survey(source)
        if survey is None:
            return None
        if self.map is not None and self.episodes is not None:
            return self.probed(source, replace(survey, notes=(*survey.notes, *self._unnamed(source, survey))))
        specs, _, _ = self.model_copy(update={"map": None})._scan(source, survey)
        known = self.map or self.guessed({path: spec for path, spec in specs.items() if spec.size})
        options: dict[str, Any] = {"episodes": survey.context["how"], "map": known.as_options()}
        floats = [path for path in known.cameras.values() if path in specs and specs[path].dtype != "uint8"]
        if floats:
            options["image_range"] = self.image_range or self._range(source, survey, floats[0])
        if self.fps is None and known.clock is None:
            options["fps"] = self.usual_fps
        sure = self.model_copy(update={**options, "map": known})
        return replace(
            sure.probed(source, survey), proposal={**self.model_dump(mode="json", exclude_unset=True), **options}
        )

    def guessed(self, specs: Mapping[str, Spec]) -> ColumnMap:
        """The map to propose for fields of ``specs``."""
        return guess(specs)

    @contextmanager
    def opened(self, source: Source, context: Mapping[str, Any]) -> Iterator[Callable[[str], Recording]]:
        """See :meth:`EpisodeArrays.opened`. The last file stays open."""
        with ExitStack() as stack:
            last: dict[str, Tree] = {}

            def recording(key: str) -> Recording:
                path, group, start, stop = context["places"][key]
                if path not in last:
                    last.clear()
                    stack.close()
                    last[path] = stack.enter_context(self.tree(source, path))
                arrays, values = last[path].arrays(group), last[path].values(group)
                if start is not None:
                    ends = context["how"]
                    flat = {name: rows for name, rows in arrays.items() if name != ends and len(rows) >= stop}
                    arrays = {name: Span(rows, start, stop) for name, rows in flat.items()}
                return self._named(arrays, values)

            yield recording

    def arrays(self, recording: Recording) -> dict[str, Rows]:
        """The fields that the map names, under the names it gives them; every array where there is no map."""
        found = super().arrays(recording)
        if self.map is None:
            return found
        fields = {field for column in self.map.columns.values() for field in column} | set(self.map.cameras.values())
        parts = {field: Part.parse(field) for field in fields}
        return {field: _part(found[part.path], part) for field, part in sorted(parts.items()) if part.path in found}

    def layout(self, specs: Mapping[str, Spec]) -> tuple[Layout, list[str]]:
        """The columns and cameras of the map. Raises ``RequestError`` for a field that no episode has."""
        known = self.map or ColumnMap()
        for name, fields in [*known.columns.items(), *((name, (path,)) for name, path in known.cameras.items())]:
            for field in fields:
                if field not in specs:
                    raise RequestError(
                        f"the map makes {name} of {field!r}, which no episode has a row a step of",
                        code="bad_map",
                        fix="`data-engine ingest URI --dry-run` without the map lists the fields",
                    )
        for name, path in known.cameras.items():
            if not specs[path].is_rgb:
                raise RequestError(
                    f"the map makes the camera {name} of {path!r}, which holds no RGB frames", code="bad_map"
                )
            if specs[path].dtype != "uint8" and self.image_range is None:
                raise RequestError(
                    f"frames of {path!r} are floats", code="bad_option", fix="state image_range, 1 or 255"
                )
        flags = frozenset({TERMINATED, TRUNCATED} & known.columns.keys())
        return Layout(specs, dict(known.columns), dict(known.cameras), flags), []

    def is_column(self, path: str, fits: int, misfits: int) -> bool:
        """See :meth:`EpisodeArrays.is_column`: what the map names is meant."""
        return fits > misfits or self.map is not None

    def frame_top(self, spec: Spec) -> float:
        """See :meth:`EpisodeArrays.frame_top`."""
        return 255.0 if spec.dtype == "uint8" else float(self.image_range or 255)

    def _structure(self, source: Source, files: list[str]) -> str:
        """What an episode seems to be, by the first file that opens."""
        for path in files[:_TRIES]:
            try:
                with self.tree(source, path) as tree:
                    return _structure(tree)
            except (EngineError, *FAULTS):
                if len(files) == 1:
                    raise
        return "."

    def _places(
        self, source: Source, files: list[str], how: str
    ) -> tuple[dict[str, tuple[str, str, int | None, int]], list[str]]:
        """Key -> (file, group, first row, row after the last) of every episode, rows None where not cut; and notes."""
        alone = len(files) == 1
        places: dict[str, tuple[str, str, int | None, int]] = {}
        notes = []
        for path in files:
            stem = posixpath.splitext(path)[0] if path.count(".") else path
            if how == ".":
                places[stem if stem not in places else path] = (path, "", None, 0)
                continue
            prefix = "" if alone else f"{stem}/"
            try:
                with self.tree(source, path) as tree:
                    if any(mark in how for mark in "*?["):
                        places |= {prefix + group: (path, group, None, 0) for group in _matches(tree, how)}
                        continue
                    ends = _ends(tree, how)
            except (EngineError, *FAULTS) as error:
                if alone:
                    raise
                notes.append(f"{path} cannot be read: {error}")
                continue
            starts = [0, *ends[:-1]]
            for index, (start, stop) in enumerate(zip(starts, ends, strict=True)):
                places[f"{prefix}episode_{index:06d}"] = (path, "", start, stop)
        if not places:
            raise SourceError(
                f"{source.uri} has no episodes {how!r}", code="no_episodes", fix="check the option episodes"
            )
        return places, notes

    def _named(self, arrays: dict[str, Rows], values: dict[str, Any]) -> Recording:
        """The recording, with what the map says an episode holds once, and its clock."""
        if self.map is None:
            return Recording(arrays)
        notes, stated = [], {}
        for name, path in self.map.episode.items():
            value = path[1:] if path.startswith("=") else values.get(path)
            if value is None and path in arrays and len(arrays[path]) * arrays[path].spec.size <= _SMALL:
                value = plain(arrays[path].load())
            stated[name] = value[0] if isinstance(value, list) and len(value) == 1 else value
            if value is None:
                notes.append(f"no {path}: {name} is null")
        clock, scale = self.map.clock, self.map.clock_scale

        def time() -> np.ndarray | None:
            if clock is None:
                return None
            if clock not in arrays:
                raise SourceError(f"no {clock}, which is the clock", code="missing_column")
            ticks = arrays[clock].load().reshape(-1)
            seconds: np.ndarray = (ticks - ticks[:1]).astype(np.float64) * scale  # whole ticks are exact
            return seconds

        return Recording(arrays, {**values, **stated}, clock=time, notes=tuple(notes))

    def _rate(self, source: Source, survey: Survey) -> float | None:
        """The median rate of the first recorded clock that can be read."""
        if self.fps is not None or self.map is None or self.map.clock is None:
            return None
        with self.opened(source, survey.context) as recording:
            for ref in survey.episodes[:_TRIES]:
                try:
                    clock = recording(ref.key).clock()
                except (EngineError, *FAULTS):
                    continue
                if clock is not None and len(clock) > 1 and (gap := float(np.median(np.diff(clock)))) > 0:
                    return float(f"{1 / gap:.4g}")
        return None

    def _unnamed(self, source: Source, survey: Survey) -> list[str]:
        """A note on the arrays of the first episode that the map does not name."""
        fields = self.map.fields if self.map else frozenset()
        used = {Part.parse(field).path for field in fields}
        with self.opened(source, survey.context) as recording:
            for ref in survey.episodes[:_TRIES]:
                try:
                    left = sorted(set(recording(ref.key).arrays) - used, key=natural)
                except (EngineError, *FAULTS):
                    continue
                if used.isdisjoint(recording(ref.key).arrays):
                    self.layout({})  # says which field is not there
                return [f"not in the map and left out: {', '.join(left)}"] if left else []
        return []

    def _range(self, source: Source, survey: Survey, path: str) -> int:
        with self.opened(source, survey.context) as recording:
            rows = recording(survey.episodes[0].key).arrays[path]
            return 1 if float(rows.read(0, 1).max()) <= 1 else 255


def _part(rows: Rows, part: Part) -> Rows:
    whole = part.start == 0 and part.stop is None
    return rows if whole else Entries(rows, part.start, rows.spec.size if part.stop is None else part.stop)


def _structure(tree: Tree) -> str:
    """``meta/episode_ends`` or the like; numbered groups at the root or one below it; else the whole container."""
    groups = tree.groups("")
    for group in groups:
        if re.fullmatch(r"meta(data)?", group):
            names = tree.arrays(group)
            found = next((name for name in _ENDS if name in names), None)
            if found:
                return f"{group}/{found}"
    if groups and all(re.search(r"\d$", name) for name in groups):
        return "*"
    for group in groups:
        inner = tree.groups(group)
        if inner and all(re.search(r"\d$", name) for name in inner):
            return f"{group}/*"
    if not groups or len(groups) < 8:
        names = tree.arrays("")
        return next((name for name in _ENDS if name in names), ".")
    return "."


def _matches(tree: Tree, pattern: str) -> list[str]:
    """Groups whose path fits ``pattern``, part by part."""
    found = [""]
    for part in pattern.strip("/").split("/"):
        found = [
            posixpath.join(group, name) for group in found for name in tree.groups(group) if fnmatchcase(name, part)
        ]
    return found


def _ends(tree: Tree, path: str) -> list[int]:
    """The row after each episode's last. Raises ``SourceError`` where they cannot be."""
    folder, name = posixpath.split(path)
    rows = tree.arrays(folder).get(name)
    if rows is None:
        raise SourceError(f"there is no array {path!r}", code="no_episode_ends", fix="check the option episodes")
    if rows.spec.shape or "int" not in rows.spec.dtype or not len(rows):
        raise SourceError(f"{path} is no list of whole numbers", code="bad_episode_ends")
    ends = rows.load().astype(np.int64)
    if ends[0] < 0 or (np.diff(ends) < 0).any():
        raise SourceError(f"{path} does not rise", code="bad_episode_ends")
    return [int(end) for end in ends]
