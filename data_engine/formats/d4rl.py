"""D4RL HDF5 (Fu et al. 2020): flat arrays of transitions, cut into episodes at ``terminals`` and ``timeouts``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from data_engine.errors import SourceError
from data_engine.formats import EpisodeRef, Source
from data_engine.formats.arrays import Layout, Spec, free_name
from data_engine.formats.attributes import plain
from data_engine.formats.episode_arrays import EpisodeArrays, Recording, Survey
from data_engine.formats.episode_files import has
from data_engine.formats.hdf5 import Array, is_hdf5, open_file, walk
from data_engine.formats.rows import Kept, Rows, Span, block_rows
from data_engine.model import ACTION, REWARD, STATE, TERMINATED, TRUNCATED

if TYPE_CHECKING:
    import h5py

__all__ = ["D4RL"]

_CORE = ("observations", "actions", "rewards", "terminals")
_NEXT, _TIMEOUTS = "next_observations", "timeouts"
_NAMES = {"rewards": REWARD, "terminals": TERMINATED, _TIMEOUTS: TRUNCATED}
_MOST_ROWS = 1 << 28  # a header can declare any shape
_SMALL = 4096  # numbers: an array up to this long that is no column becomes an attribute


class D4RL(EpisodeArrays):
    """A file of transitions.

    An episode ends with a step whose ``terminals`` (-> ``terminated``) or ``timeouts`` (-> ``truncated``) is set; what
    follows the last one is kept as an episode that is neither, with a note. ``observations`` -> ``observation.state``,
    ``actions`` -> ``action``, ``rewards`` -> ``reward``; ``infos/*`` and the rest are columns by their name.
    ``next_observations`` is ``observations`` one step on: only its last row is new, and is kept as
    ``next_observations.last``. Arrays of another length (``metadata/*``) are attributes where they are short. Keys are
    ``episode_000012``.
    """

    name: ClassVar[str] = "d4rl"

    def survey(self, source: Source) -> Survey | None:
        """See :meth:`EpisodeArrays.survey`."""
        if not is_hdf5(source):
            return None
        with open_file(source) as file:
            if not has(file, *_CORE):
                return None
            return _survey(source, file)

    @contextmanager
    def opened(self, source: Source, context: Mapping[str, Any]) -> Iterator[Callable[[str], Recording]]:
        """See :meth:`EpisodeArrays.opened`."""
        with open_file(source) as file:
            flat = {
                path: Kept(array, block_rows(array.spec, array.chunk))
                for path, array in walk(file).items()
                if array.shape[:1] == context["rows"]
            }
            after = flat.pop(_NEXT, None)

            def recording(key: str) -> Recording:
                start, stop = context["places"][key]
                arrays: dict[str, Rows] = {path: Span(rows, start, stop) for path, rows in flat.items()}
                return Recording(arrays, n_steps=stop - start, beyond=lambda: _last(flat, after, start, stop))

            yield recording

    def layout(self, specs: Mapping[str, Spec]) -> tuple[Layout, list[str]]:
        """See the class."""
        columns: dict[str, tuple[str, ...]] = {STATE: ("observations",), ACTION: ("actions",)}
        cameras = {"observations": "observations"} if specs["observations"].is_rgb else {}
        if cameras:
            del columns[STATE]
        for path in specs:
            if path not in ("observations", "actions"):
                columns[free_name(_NAMES.get(path, path).replace("/", "."), columns)] = (path,)
        return Layout(specs, columns, cameras, frozenset({TERMINATED, TRUNCATED})), []


def _survey(source: Source, file: h5py.File) -> Survey:
    arrays = walk(file)
    lengths = {path: arrays[path].shape[:1] for path in _CORE if path in arrays}
    if len(lengths) < len(_CORE) or len(set(lengths.values())) > 1 or () in lengths.values():
        listed = ", ".join(f"{path} {shape[0] if shape else 'one value'}" for path, shape in lengths.items())
        raise SourceError(f"arrays of {source.uri} differ in length: {listed}", code="lengths_differ")
    n = len(arrays["actions"])
    notes = []
    attributes = {name: plain(value) for name, value in file.attrs.items()}
    for path, array in arrays.items():
        if array.shape[:1] != (n,):
            if array.spec.size * (len(array) if array.shape else 1) <= _SMALL:
                attributes[path] = plain(array.load())
            else:
                notes.append(f"{path} is of shape {list(array.shape)}, not {n} steps long, and is not read")
    ends = _ends(source, arrays, n)
    if _TIMEOUTS not in arrays:
        notes.append(
            "there are no timeouts: episodes are cut at terminals alone, and one cut by time runs into the next"
        )
    if n and (not ends or ends[-1] < n):
        notes.append(f"the last {n - (ends[-1] if ends else 0)} steps end in no terminal and no timeout: kept, open")
        ends.append(n)
    starts = [0, *ends[:-1]]
    spans = set(np.diff([0, *ends]).tolist())
    if len(ends) > 1 and len(spans) == 1 and _TIMEOUTS not in arrays:
        notes.append(f"all episodes end in a terminal after {spans.pop()} steps: those may be time limits")
    file_name = source.relative(source.root)
    places = {f"episode_{index:06d}": span for index, span in enumerate(zip(starts, ends, strict=True))}
    refs = tuple(EpisodeRef(key, stop - start, (file_name,)) for key, (start, stop) in places.items())
    context = {"places": places, "rows": (n,)}
    return Survey(refs, attributes=attributes, notes=tuple(notes), context=context, uniform=True)


def _ends(source: Source, arrays: Mapping[str, Array], n: int) -> list[int]:
    """The row after each flagged step."""
    if n > _MOST_ROWS:
        raise SourceError(f"{source.uri} declares {n} steps, more than {_MOST_ROWS}", code="too_large")
    done = np.zeros(n, bool)
    for path in ("terminals", _TIMEOUTS):
        if path in arrays:
            array = arrays[path]
            if array.spec.size != 1 or array.spec.dtype in ("string", "bytes"):
                raise SourceError(f"{path} of {source.uri} is no list of flags", code="bad_flag")
            done |= array.load().reshape(n) != 0
    ends: list[int] = (np.flatnonzero(done) + 1).tolist()
    return ends


def _last(flat: Mapping[str, Rows], after: Rows | None, start: int, stop: int) -> tuple[dict[str, Any], list[str]]:
    """The observation after an episode's last action, and a note where the others are not the rows one step on."""
    now = flat["observations"]
    if after is None:
        return {}, []
    if after.spec != now.spec:
        return {}, [f"{_NEXT} does not match observations and is not read"]
    notes = []
    if not np.array_equal(
        after.read(start, stop - 1), now.read(start + 1, stop), equal_nan=now.spec.dtype.startswith("float")
    ):
        notes.append(f"{_NEXT} is not observations one step later")
    if not now.spec.is_vector:
        return {}, [*notes, f"the last row of {_NEXT} is no vector and is not kept"]
    return {f"{_NEXT}.last": plain(after.read(stop - 1, stop)[0])}, notes
