"""Minari datasets (Farama Foundation): one group or folder an episode, as HDF5, Arrow or Parquet."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, ClassVar

from data_engine.errors import SourceError
from data_engine.formats import EpisodeRef, Source, json_text
from data_engine.formats.arrays import Layout, Spec, free_name, natural
from data_engine.formats.attributes import parse, plain
from data_engine.formats.episode_arrays import EpisodeArrays, Recording, Survey
from data_engine.formats.files import member
from data_engine.formats.hdf5 import child, is_hdf5, members, open_file, split, walk
from data_engine.formats.minari_arrow import arrow_arrays, arrow_episodes
from data_engine.formats.rows import Rows, Span
from data_engine.model import ACTION, REWARD, STATE, TERMINATED, TRUNCATED

__all__ = ["Minari"]

_MAIN, _METADATA = "main_data.hdf5", "metadata.json"
_EPISODE = re.compile(r"episode_\d+")
_MEMBERS = frozenset({"observations", "actions", "rewards", "terminations", "truncations"})
_NAMES = {"rewards": REWARD, "terminations": TERMINATED, "truncations": TRUNCATED}
_OBSERVATION = "observations/"
_STATE_KEYS = ("observation", "state", "proprio")
_COUNTS = ("observation_space", "action_space", "total_steps", "total_episodes", "dataset_size", "data_format",
           "jpeg_encoding")  # fmt: skip
_LARGE = 64 << 20  # bytes of a metadata.json


class Minari(EpisodeArrays):
    """A dataset's folder, its ``data`` folder, or its ``main_data.hdf5``.

    A vector observation is ``observation.state``; of a dictionary it is the vector ``observation`` (else ``state``,
    ``proprio``, else all its vectors by name); ``state_keys`` names others, below ``observations``. Actions of several
    parts are joined by name, or as ``action_keys`` says. ``terminations`` and ``truncations`` keep apart. Members of a
    tuple are called by their number, in either backend. There is one observation more than actions: the last is kept
    as the attribute ``next_obs.last``, and so is the last of ``infos``. Images are JPEG files unless the metadata says
    otherwise. Keys are ``episode_12``.
    """

    name: ClassVar[str] = "minari"
    length_from: ClassVar[tuple[str, ...]] = ("rewards",)

    state_keys: tuple[str, ...] | None = None
    action_keys: tuple[str, ...] | None = None

    def survey(self, source: Source) -> Survey | None:
        """See :meth:`EpisodeArrays.survey`."""
        if source.is_file:
            return self._file(source, source.relative(source.root), {}) if is_hdf5(source) else None
        for prefix in ("data/", ""):
            if source.exists(prefix + _METADATA):
                metadata = _metadata(source, prefix + _METADATA)
                kind = metadata.get("data_format") or ("hdf5" if source.exists(prefix + _MAIN) else None)
                if "total_episodes" not in metadata or kind is None:
                    continue
                if kind in ("arrow", "parquet"):
                    return self._arrow(source, prefix, kind, metadata)
                if kind != "hdf5" or not source.exists(prefix + _MAIN):
                    raise SourceError(f"{source.uri} is Minari of {kind!r} without such data", code="no_episodes")
                found = self._file(source, prefix + _MAIN, metadata)
                if found is None:
                    raise SourceError(f"{prefix}{_MAIN} of {source.uri} holds no Minari episodes", code="no_episodes")
                return found
        return None

    def _file(self, source: Source, path: str, metadata: Mapping[str, Any]) -> Survey | None:
        with open_file(member(source, path)) as file:
            keys = sorted(members(file), key=natural)
            if not keys or not all(_EPISODE.fullmatch(key) for key in keys):
                return None
            if not any(set(child(file, key)) >= _MEMBERS for key in keys[:8]):
                return None
        refs = tuple(EpisodeRef(key, files=(path,)) for key in keys)
        return _survey(refs, metadata, {"kind": "hdf5", "path": path})

    def _arrow(self, source: Source, prefix: str, kind: str, metadata: Mapping[str, Any]) -> Survey:
        files = arrow_episodes(source, prefix, kind)
        refs = tuple(EpisodeRef(key, files=paths) for key, paths in files.items())
        spaces = {name: parse(metadata.get(f"{name[:-1]}_space")) for name in ("observations", "actions")}
        return _survey(refs, metadata, {"kind": kind, "prefix": prefix, "places": files, "spaces": spaces})

    def opened(self, source: Source, context: Mapping[str, Any]) -> AbstractContextManager[Callable[[str], Recording]]:
        """See :meth:`EpisodeArrays.opened`."""
        return _opened_file(source, context) if context["kind"] == "hdf5" else _opened_folders(source, context)

    def layout(self, specs: Mapping[str, Spec]) -> tuple[Layout, list[str]]:
        """See the class."""
        vectors = [path for path, spec in specs.items() if spec.is_vector]
        state = self.chosen("state_keys", _OBSERVATION, specs) or _state(vectors)
        action = self.chosen("action_keys", "actions/", specs) or tuple(
            path for path in vectors if path == "actions" or path.startswith("actions/")
        )
        cameras = {
            path.removeprefix(_OBSERVATION).replace("/", "."): path
            for path, spec in specs.items()
            if path.startswith("observations") and spec.is_rgb and spec.dtype == "uint8"
        }
        columns = {name: keys for name, keys in ((STATE, state), (ACTION, action)) if keys}
        taken = {*state, *action, *cameras.values()}
        for path in specs:
            if path not in taken:
                name = _NAMES.get(path, path).replace(_OBSERVATION, "observation.", 1).replace("/", ".")
                columns[free_name(name, columns)] = (path,)
        notes = [f"no arrays for {name}" for name in (STATE, ACTION) if name not in columns]
        return Layout(specs, columns, cameras, frozenset({TERMINATED, TRUNCATED})), notes


def _metadata(source: Source, path: str) -> dict[str, Any]:
    if source.stamp(path)[0] > _LARGE:
        return {}
    try:
        found = json_text.loads(source.fs.cat_file(source.path(path)))
        return plain(found) if isinstance(found, dict) else {}
    except ValueError:
        return {}


def _survey(refs: tuple[EpisodeRef, ...], metadata: Mapping[str, Any], context: Mapping[str, Any]) -> Survey:
    declared = metadata.get("total_episodes")
    notes = []
    if isinstance(declared, int) and declared != len(refs):
        notes.append(f"{declared} episodes are declared, {len(refs)} are there")
    task = parse(metadata.get("env_spec")).get("id") or metadata.get("dataset_id")
    return Survey(
        refs,
        provenance="sim" if "env_spec" in metadata else None,
        task=task if isinstance(task, str) else None,
        attributes={name: value for name, value in metadata.items() if name not in _COUNTS},
        notes=tuple(notes),
        context=context,
    )


def _state(vectors: list[str]) -> tuple[str, ...]:
    if "observations" in vectors:
        return ("observations",)
    usual = (_OBSERVATION + key for key in _STATE_KEYS)
    found = next((path for path in usual if path in vectors), None)
    return (found,) if found else tuple(path for path in vectors if path.startswith(_OBSERVATION))


@contextmanager
def _opened_file(source: Source, context: Mapping[str, Any]) -> Iterator[Callable[[str], Recording]]:
    with open_file(member(source, context["path"])) as file:

        def recording(key: str) -> Recording:
            group = child(file, key)
            arrays, values = split(walk(group))
            own = {name: plain(value) for name, value in group.attrs.items()}
            return _recording({_plainly(path): rows for path, rows in arrays.items()}, {**values, **own})

        yield recording


@contextmanager
def _opened_folders(source: Source, context: Mapping[str, Any]) -> Iterator[Callable[[str], Recording]]:
    def recording(key: str) -> Recording:
        arrays = arrow_arrays(source, context["places"][key], context["kind"], context["spaces"])
        path = f"{context['prefix']}{key.removeprefix('episode_')}/{_METADATA}"
        return _recording(arrays, _metadata(source, path) if source.exists(path) else {})

    yield recording


def _recording(arrays: Mapping[str, Rows], values: dict[str, Any]) -> Recording:
    """The arrays without the row after the last action, which is an attribute."""
    declared = values.pop("total_steps", None)
    values.pop("id", None)
    n = declared if isinstance(declared, int) else len(arrays["rewards"]) if "rewards" in arrays else None
    longer = {path: rows for path, rows in arrays.items() if n is not None and len(rows) == n + 1}
    ends = {path: rows for path, rows in longer.items() if path.startswith(("observations", "infos"))}

    def beyond() -> tuple[dict[str, Any], list[str]]:
        kept = {
            path.removeprefix(_OBSERVATION): plain(rows.read(len(rows) - 1, len(rows))[0])
            for path, rows in ends.items()
            if rows.spec.is_vector and rows.spec.size <= _MOST
        }
        left = [path for path, rows in ends.items() if not rows.spec.is_vector or rows.spec.size > _MOST]
        return (
            {"next_obs.last": kept} if kept else {},
            [f"the last row of {path}, after the last action, is not kept" for path in left],
        )

    cut = {path: Span(rows, 0, len(rows) - 1) if path in longer else rows for path, rows in arrays.items()}
    return Recording(cut, values, n_steps=n, beyond=beyond)


_MOST = 4096  # numbers of a last row that is kept


def _plainly(path: str) -> str:
    return re.sub(r"(?<=/)_index_(\d+)(?=/|$)", r"\1", path)
