"""HDF5 files of one episode each, alone or in a folder: what ALOHA's and RoboMIND's layouts share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from data_engine.errors import EngineError, SourceError
from data_engine.formats import EpisodeRef, Source
from data_engine.formats.attributes import plain
from data_engine.formats.episode_arrays import EpisodeArrays, Recording, Survey
from data_engine.formats.files import below, member
from data_engine.formats.hdf5 import SUFFIXES, child, is_hdf5, open_file, split, walk
from data_engine.formats.rows import FAULTS

if TYPE_CHECKING:
    import h5py

__all__ = ["EpisodeFiles", "has"]

_TRIES = 8  # files looked at for one that opens


class EpisodeFiles(EpisodeArrays):
    """Base of these layouts. An episode's key is its file's path without the suffix; the whole file is the episode."""

    @abstractmethod
    def claims(self, file: h5py.File) -> bool:
        """Whether ``file`` is of this layout."""

    @abstractmethod
    def described(self, file: h5py.File, survey: Survey) -> Survey:
        """``survey`` with what the first file that opens says of the whole source."""

    def recorded(self, path: str, file: h5py.File) -> dict[str, Any]:
        """Plain values of the episode in ``file`` at ``path`` that are not in its arrays; its attributes, usually."""
        return {name: plain(value) for name, value in file.attrs.items()}

    def survey(self, source: Source) -> Survey | None:
        """See :meth:`EpisodeArrays.survey`. A folder is judged by its first file that opens."""
        if source.is_file:
            paths = [source.relative(source.root)] if is_hdf5(source) else []
        else:
            paths = below(source, SUFFIXES)
        for path in paths[:_TRIES]:
            try:
                with open_file(member(source, path)) as file:
                    if not self.claims(file):
                        return None
                    keys = _keys(paths)
                    refs = tuple(EpisodeRef(key, files=(path,)) for key, path in keys.items())
                    return self.described(file, Survey(refs, context={"places": keys}))
            except (EngineError, *FAULTS):
                if len(paths) == 1:
                    raise
        return None

    @contextmanager
    def opened(self, source: Source, context: Mapping[str, Any]) -> Iterator[Callable[[str], Recording]]:
        """See :meth:`EpisodeArrays.opened`."""
        with ExitStack() as stack:

            def recording(key: str) -> Recording:
                stack.close()
                path = context["places"][key]
                file = stack.enter_context(open_file(member(source, path)))
                if not self.claims(file):
                    raise SourceError(f"{path} is of another layout than the rest", code="layout_differs")
                arrays, values = split(walk(file, leave_out=self.leave_out))
                return Recording(arrays, {**values, **self.recorded(path, file)})

            yield recording


def _keys(paths: list[str]) -> dict[str, str]:
    """Key -> path: without the suffix, unless two files differ only in it."""
    short = {path.rsplit(".", 1)[0]: path for path in paths}
    return short if len(short) == len(paths) else {path: path for path in paths}


def has(file: h5py.File, *paths: str) -> bool:
    """Whether every path is in the file itself; links are not followed."""
    for path in paths:
        try:
            child(file, path)
        except SourceError:
            return False
    return True
