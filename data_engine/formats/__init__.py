"""The formats that episodes arrive in: one file each, behind the same two functions, ``probe`` and ``read``.

This is the only place that imports container libraries (h5py, zarr, ...), and each file imports its own inside its
functions, so that a machine without one of them still reads the others.

``probe`` looks at a source without reading its steps: what it declares, which episodes it has and in which files.
``read`` streams named episodes one at a time; memory does not grow with the dataset. What cannot be read as what it
claims to be comes out as ``Unreadable`` with a reason, and the rest goes on.
"""

from __future__ import annotations

import os
import posixpath
import re
import stat
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
from fsspec import AbstractFileSystem

from data_engine import registry
from data_engine.defects import Defect
from data_engine.errors import EngineError, RequestError, SourceError
from data_engine.formats import json_text
from data_engine.formats.episode_rows import EpisodeRows
from data_engine.formats.halves import is_text, spelt
from data_engine.fs import filesystem, is_local, join, resolve, stamp
from data_engine.model import Feature
from data_engine.registry import Plugin

__all__ = [
    "LAKE", "EncodedVideo", "EpisodeRef", "Format", "Probe", "RawFrames", "Source", "SourceEpisode", "Unreadable",
    "detect", "is_lake",
]  # fmt: skip

LAKE = "lake.json"  # the file in a lake's folder that says it is one
_CACHED_REPO = re.compile(r"(datasets|models|spaces)--.+")


@dataclass(frozen=True)
class Source:
    """A place to read from: a local path or a URI, and the file system that serves it."""

    uri: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "uri", resolve(self.uri))

    @cached_property
    def _located(self) -> tuple[AbstractFileSystem, str]:
        return filesystem(self.uri)

    @property
    def fs(self) -> AbstractFileSystem:
        """The fsspec file system."""
        return self._located[0]

    @property
    def root(self) -> str:
        """The source's path inside ``fs``."""
        return self._located[1]

    @property
    def is_local(self) -> bool:
        """Whether plain file paths work."""
        return is_local(self.uri)

    @cached_property
    def is_file(self) -> bool:
        """Whether the source is one file and not a folder."""
        return bool(self.fs.isfile(self.root))

    def exists(self, *parts: str) -> bool:
        """Whether the source, or a path below it, is there."""
        return bool(self.fs.exists(self.path(*parts)))

    def path(self, *parts: str) -> str:
        """The path inside ``fs`` of ``parts`` below the source. Raises ``RequestError`` where it would leave it.

        Locally a symbolic link that leads out of the source is refused too: a declared path never reads another
        file of the machine. The Hugging Face cache alone keeps a snapshot's files as links into its own blobs. So is
        what is neither file nor folder: a pipe would be waited for without an end.
        """
        path = join(self.root, *parts)
        if parts and self.is_local:
            named = repr("/".join(parts))
            if "\0" in path:
                raise RequestError(f"path {named} is no path", code="bad_path")
            real, root = os.path.realpath(path), os.path.realpath(self.root)
            if real != root and not _inside(real, root) and not _cached_blob(path, real, root):
                raise RequestError(f"path {named} leaves {self.uri!r}", code="bad_path")
            if _is_special(real):
                raise RequestError(f"path {named} is a pipe, a device or a link to itself", code="bad_path")
        return path

    def open(self, *parts: str) -> Any:
        """A binary file object at ``parts`` below the source (the source itself without any)."""
        return self.fs.open(self.path(*parts), "rb")

    def stamp(self, *parts: str) -> tuple[int, str]:
        """(size in bytes, change stamp) of one file: modification time locally, ETag or blob id on a store."""
        return stamp(self.fs, self.path(*parts))

    def relative(self, path: str) -> str:
        """``path`` (inside ``fs``) relative to the source; the file's own name where the source is that file."""
        return posixpath.relpath(path, self.root) if path != self.root else posixpath.basename(path)


def is_lake(source: Source, folder: str = ".") -> bool:
    """Whether ``folder`` of ``source`` is a lake of this engine, whose files are no recordings."""
    try:
        return bool(set(json_text.loads(source.fs.cat_file(source.path(folder, LAKE)))) == {"version"})
    except (FileNotFoundError, NotADirectoryError, ValueError, TypeError):
        return False


def _is_special(path: str) -> bool:
    """Whether what lies at a local ``path`` without links is neither file nor folder."""
    try:
        mode = os.lstat(path).st_mode
    except OSError:
        return False  # not there: whoever opens it says so
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def _inside(path: str, folder: str) -> bool:
    return path.startswith(folder.rstrip("/") + "/")


def _cached_blob(path: str, real: str, root: str) -> bool:
    """Whether ``path`` is a link from ``<repo>/snapshots/<rev>/...`` to a file of that same repo's ``blobs`` folder."""
    folder = os.path.realpath(os.path.dirname(path))
    repo, _, revision = root.partition("/snapshots/")
    return (
        bool(revision)
        and _CACHED_REPO.fullmatch(os.path.basename(repo)) is not None
        and (folder == root or _inside(folder, root))
        and os.path.dirname(real) == f"{repo}/blobs"
    )


@dataclass(frozen=True)
class RawFrames:
    """A camera whose source held raw frames: they are encoded once, at ingest.

    ``frames`` makes a fresh iterator of uint8 arrays (h, w, 3), one a step, so that nothing holds a whole episode.
    """

    frames: Callable[[], Iterator[np.ndarray]]
    height: int
    width: int


@dataclass(frozen=True)
class EncodedVideo:
    """A camera whose source held an encoded file, which is kept byte for byte.

    ``path`` is relative to the source; the episode's frames lie between ``start_s`` and ``end_s`` in it (``end_s``
    None: to the file's end). ``declared`` is what the source says of it (codec, width, height, fps), to be held against
    the file; a key that the source does not state is absent. ``local`` is a file with the same bytes, where the format
    had to fetch or unpack one: it is there until the next episode is asked for.
    """

    path: str
    start_s: float = 0.0
    end_s: float | None = None
    declared: Mapping[str, Any] = field(default_factory=dict)
    local: str | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class EpisodeRef:
    """One episode as a probe sees it: its key in the source, its length where declared, and the files it lies in.

    ``key`` is stable under re-ingest and unique in the source. ``files`` are relative to the source.
    """

    key: str
    n_steps: int | None = None
    files: tuple[str, ...] = ()


@dataclass(frozen=True)
class Probe:
    """What a source declares, read without its steps.

    ``notes`` are lies and oddities of the dataset as a whole (declared 105 episodes, 19 present); ``context`` is
    whatever ``read`` needs again (plain picklable values; what it needs of each episode, by key under ``places``);
    ``defects`` are lies that have a code. ``proposal`` is set where the columns are only guessed: the options that
    would confirm the guess. Such a source is shown, not ingested. ``unreadable`` are episodes of which the probe knows
    already that they cannot be read; they are not among ``episodes``, and nobody asks for them.
    """

    format: str
    fps: float
    features: tuple[Feature, ...]
    episodes: tuple[EpisodeRef, ...]
    embodiment: str = "unknown"
    control_mode: str | None = None
    licence: str | None = None
    provenance: str | None = None
    notes: tuple[str, ...] = ()
    defects: tuple[Defect, ...] = ()
    context: Mapping[str, Any] = field(default_factory=dict)
    proposal: Mapping[str, Any] | None = None
    unreadable: tuple[Unreadable, ...] = ()

    @property
    def n_episodes(self) -> int:
        """How many episodes the source has, those that cannot be read included."""
        return len(self.episodes) + len(self.unreadable)

    def cut(self, episodes: Sequence[EpisodeRef]) -> Probe:
        """The probe of ``episodes`` alone. ``context["places"]``, by episode key, is cut to theirs."""
        context = dict(self.context)
        if "places" in context:
            places, keys = context["places"], [ref.key for ref in episodes]
            context["places"] = places.cut(keys) if isinstance(places, EpisodeRows) else {k: places[k] for k in keys}
        return replace(self, episodes=tuple(episodes), context=context, unreadable=())


@dataclass(frozen=True)
class SourceEpisode:
    """One episode as read.

    ``steps`` has canonical column names and the source's own types: scalars as columns, everything wider as a list or
    fixed-size list of the flattened step in C order (shapes are in the features), ``timestamp`` in float64 seconds from
    0. Missing values are null. Cameras are keyed by name without the ``observation.images.`` prefix. ``attributes`` are
    the source's other per-episode values, plain JSON. ``notes`` are lies that did not keep it from being read,
    ``defects`` those that have a code.
    """

    key: str
    steps: pa.Table
    cameras: Mapping[str, RawFrames | EncodedVideo] = field(default_factory=dict)
    task: str | None = None
    language: tuple[str, ...] = ()
    success: bool | None = None
    operator: str | None = None
    scene: str | None = None
    objects: tuple[str, ...] = ()
    provenance: str | None = None
    labels: tuple[str, ...] = ()
    parent: str | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    defects: tuple[Defect, ...] = ()


@dataclass(frozen=True)
class Unreadable:
    """An episode that cannot be read as what it claims to be: quarantined with ``code`` and ``reason``."""

    key: str
    code: str
    reason: str


class Format(Plugin):
    """A container format. Its fields are the options a recipe may give for the source.

    The common options below state what a source does not say of itself; each wins over what the source says.
    """

    name: ClassVar[str]
    generic: ClassVar[bool] = False  # any layout in some container: asked only where no format knows the layout

    embodiment: str | None = None
    control_mode: str | None = None
    fps: float | None = None
    task: str | None = None
    operator: str | None = None
    licence: str | None = None
    provenance: Literal["real", "sim", "synthetic", "human_video"] | None = None
    units: dict[str, str] | None = None  # column -> unit, e.g. {action: deg}
    conventions: dict[str, dict[str, str]] | None = None  # column -> kind -> value, e.g. {action: {quaternion: wxyz}}

    @abstractmethod
    def probe(self, source: Source) -> Probe | None:
        """What ``source`` declares, or None (quickly) where it is not of this format.

        Raises ``SourceError`` where it clearly is but is broken as a whole (no episode_ends, truncated file).
        """

    @abstractmethod
    def read(self, source: Source, probe: Probe, keys: Sequence[str]) -> Iterator[SourceEpisode | Unreadable]:
        """The episodes of ``keys`` in that order, one at a time. Never raises for one bad episode.

        ``probe`` may have been cut to these episodes: what else there is costs a part of a source nothing.
        """


def _reached(source: Source) -> bool:
    """Whether the source is there. Raises ``RequestError`` where its store cannot be asked."""
    try:
        if source.is_local and _is_special(os.path.realpath(source.root)):
            raise RequestError(f"{source.uri} is neither a file nor a folder", code="bad_path")
        if source.uri.startswith("hf://"):  # whose own `exists` takes a hub out of reach for an absent file
            return bool(source.fs.info(source.root))
        return source.exists()
    except FileNotFoundError:
        return False
    except EngineError:
        raise
    except Exception as error:  # each store has its own: no route, no credentials, a wrong name
        raise RequestError(
            f"cannot reach {source.uri}: {error}", code="unreachable", fix="check the network, the name and credentials"
        ) from error


def _probed(form: Format, source: Source) -> Probe | None:
    """``form.probe``, where a number, a nesting or a size that no machine can hold is a ``SourceError`` too."""
    try:
        probe = form.probe(source)
    except (OverflowError, MemoryError, RecursionError) as error:
        what = " ".join(str(error).split())[:200] or type(error).__name__
        raise SourceError(
            f"{source.uri} declares more than can be held, read as {form.name}: {what}", code="too_large"
        ) from error
    if probe is None:
        return None
    if not probe.episodes:
        raise SourceError(f"{source.uri} holds no episodes", code="no_episodes")
    return _named(source, probe)


def _named(source: Source, probe: Probe) -> Probe:
    """``probe`` with every name in it Unicode, as nothing else can be stored: an episode without is unreadable.

    Raises ``SourceError`` where a column is, or no episode is left.
    """
    bad = [ref for ref in probe.episodes if not is_text(ref.key, *ref.files)]
    nameless = [name for name in (feature.name for feature in probe.features) if not is_text(name)]
    if nameless or len(bad) == len(probe.episodes):
        name = nameless[0] if nameless else _nameless(bad[0])
        raise SourceError(
            f"{source.uri} holds a name that is no UTF-8: {spelt(name)}", code="bad_name", fix="rename it"
        )
    unreadable = tuple(
        Unreadable(spelt(ref.key), "bad_name", f"its name is no UTF-8: {spelt(_nameless(ref))} (rename it)")
        for ref in bad
    )
    return replace(
        probe,
        episodes=tuple(ref for ref in probe.episodes if is_text(ref.key, *ref.files)) if bad else probe.episodes,
        unreadable=(*probe.unreadable, *unreadable),
        notes=tuple(map(spelt, probe.notes)),
        defects=tuple(Defect(defect.code, spelt(defect.what)) for defect in probe.defects),
    )


def _nameless(ref: EpisodeRef) -> str:
    return next(name for name in (ref.key, *ref.files) if not is_text(name))


def detect(source: Source, name: str = "auto", options: Mapping[str, Any] | None = None) -> tuple[Format, Probe]:
    """The format of ``source`` and its probe. ``auto`` asks every registered format, generic ones last.

    Raises ``RequestError`` for a missing path and for a source that no format, or more than one, recognises.
    """
    if not _reached(source):
        raise RequestError(f"no such source: {source.uri}", code="no_source", fix="check the path or URI")
    if not source.is_file and is_lake(source):
        raise RequestError(
            f"{source.uri} is a lake and no recording",
            code="is_lake",
            fix="export a mixture of it, or name what is in it",
        )
    if name != "auto":
        chosen = registry.make("formats", name, options)
        probe = _probed(chosen, source)
        if probe is None:
            raise RequestError(f"{source.uri} is not of format {name!r}", code="wrong_format", fix="use --format auto")
        return chosen, probe
    others: list[str] = []  # that do not take these options
    found: list[tuple[Format, Probe]] = []
    for generic in (False, True):
        for candidate in registry.names("formats"):
            kind = registry.load("formats", candidate)
            if kind.generic != generic or (found and generic):
                continue
            try:
                chosen = registry.make("formats", candidate, options)
            except RequestError:  # said below, if this is the source's format
                others.append(candidate)
                continue
            probe = _probed(chosen, source)
            if probe is not None:
                found.append((chosen, probe))
    known = ", ".join(registry.names("formats"))
    if not found:
        for candidate in others:
            if _probed(registry.make("formats", candidate), source) is not None:
                registry.make("formats", candidate, options)  # says which option is wrong
        raise RequestError(
            f"no format recognises {source.uri}", code="unknown_format", fix=f"name it with --format; known: {known}"
        )
    if len(found) > 1:
        claims = ", ".join(chosen.name for chosen, _ in found)
        raise RequestError(f"{source.uri} reads as {claims}", code="ambiguous_format", fix="name one with --format")
    return found[0]
