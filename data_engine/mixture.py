"""The mixture: selections with sampling weights, frozen. What it is on disk, and how a trainer opens it.

``mixtures/<id>/`` in a lake holds three files: ``mixture.json`` (the document), ``episodes.parquet`` (a row a range
of steps, :data:`EPISODES`) and ``files.parquet`` (every file that the rows lie in, with its sha256, :data:`FILES`).
Loader, exporters and vacuum read these and the files they name, nothing else. ``data_engine.freezing`` makes them.
"""

from __future__ import annotations

import hashlib
import json
import re
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import ValidationError

from data_engine import groups, references, relabelled
from data_engine.cache import DEFAULT_BYTES, LRU, Cache
from data_engine.coded import Coded, coded, decode
from data_engine.conventions.convert import Conversion, convert_steps
from data_engine.document import EPISODES, FILES, FORMAT_VERSION, Entry, MixtureDocument, ScorerLineage, group_name
from data_engine.errors import EngineError, RequestError, SourceError
from data_engine.freezing import Frozen, freeze, identity, write
from data_engine.fs import filesystem, is_local, join, resolve
from data_engine.model import Dataset
from data_engine.registry import explain
from data_engine.steps import EPISODE_ID, STEP

if TYPE_CHECKING:
    from data_engine.windows import Windows

__all__ = [
    "EPISODES", "FILES", "Entry", "Frozen", "Mixture", "MixtureDocument", "ScorerLineage", "freeze", "group_name",
    "identity", "open", "write",
]  # fmt: skip


_MAPPED_BYTES = 1 << 20  # a table of this size is decoded once a machine and mapped
_MOST_PATHS = 65_536  # paths that a process remembers having looked at


class _Files(Mapping[str, tuple[int, str]]):
    """Bytes and sha256 of each file by its path: a sorted table, searched, as there may be as many as episodes."""

    def __init__(self, table: pa.Table) -> None:
        if not table.num_rows or not pc.all(pc.less(table["path"][:-1], table["path"][1:])).as_py():
            table = table.sort_by("path")
        self._paths, self._bytes, self._sha256 = (table[name].combine_chunks() for name in FILES.names)

    def __getitem__(self, path: str) -> tuple[int, str]:
        at = bisect_left(range(len(self)), path, key=lambda i: str(self._paths[i]))
        if at == len(self) or str(self._paths[at]) != path:
            raise KeyError(path)
        return self._bytes[at].as_py(), self._sha256[at].as_py()

    def __iter__(self) -> Iterator[str]:
        return iter(self._paths.to_pylist())

    def __len__(self) -> int:
        return len(self._paths)


class Mixture:
    """A frozen mixture, opened. Cheap to open and to pickle: steps and videos are read when they are asked for."""

    def __init__(
        self,
        uri: str,
        document: MixtureDocument,
        rows: Coded,
        files: pa.Table,
        storage_options: Mapping[str, str] | None = None,
        cache: Cache | None = None,
        labels: pa.Table | None = None,
        clusters: pa.Table | None = None,
    ) -> None:
        self.uri, self.root = uri, uri.rsplit("/", 2)[0]
        self.document, self.coded, self.labels, self._clusters = document, rows, labels, clusters
        self.storage_options, self.cache = storage_options, cache or Cache()
        self._files: Mapping[str, tuple[int, str]] = _Files(files)
        self._reset()

    def _reset(self) -> None:
        self._opened: LRU[str, pq.ParquetFile] = LRU(16, lambda path: pq.ParquetFile(self.local(path)))
        self._arrays: LRU[tuple[str, str, bool], np.ndarray] = LRU(4096, self._decoded)
        self._texts: LRU[tuple[str, str], pa.DictionaryArray] = LRU(64, self._read_texts)
        self._local: dict[str, Path] = {}

    @cached_property
    def episodes(self) -> pa.Table:
        """A row a range of steps (:data:`EPISODES`), with all that is known of each. Read when first asked for."""
        return _decode(_verified(self.uri, "episodes.parquet", self.document, self.storage_options), EPISODES)

    def _decoded(self, key: tuple[str, str, bool]) -> np.ndarray:
        path, column, fill = key
        if self.labels is not None and column in self.labels.column_names:
            rows = np.flatnonzero(self._in_file(path))
            count = self._opened(path).metadata.num_rows
            return relabelled.values_of(self.labels, column, rows, self.rows["row_start"][rows], count)
        mine = [conversion for conversion in self._conversions.get(path, ()) if conversion.column == column]
        return self.cache.column(self.local(path), self._files[path][1], column, mine, fill=fill)

    def __reduce__(self) -> tuple[Any, ...]:
        """A process that it is sent to opens it again: large tables lie in the cache and are mapped, not sent."""
        return open, (self.uri, self.storage_options, self.cache.folder, self.cache.max_bytes)

    def __len__(self) -> int:
        """Ranges of steps: the rows of ``episodes``."""
        return len(self.coded)

    def __repr__(self) -> str:
        return f"Mixture({self.name!r}, {len(self)} episodes, {self.id[:12]})"

    @property
    def id(self) -> str:
        """The content-hashed identity."""
        return self.document.mixture_id

    @property
    def name(self) -> str:
        """What people call it."""
        return self.document.name

    @property
    def datasets(self) -> dict[str, Dataset]:
        """The datasets that its episodes are of, by name."""
        return self.document.datasets

    @property
    def files(self) -> list[str]:
        """Every file that the mixture needs, as paths inside the lake, sorted."""
        return list(self._files)

    @property
    def rows(self) -> dict[str, np.ndarray]:
        """The integer columns and the weight of ``episodes`` as arrays [R]."""
        return self.coded.numbers

    def _in_file(self, path: str) -> np.ndarray:
        files, code = self.coded.codes("steps_file")
        return code == files.index(path).as_py()

    @cached_property
    def _conversions(self) -> dict[str, list[Conversion]]:
        """The conversions of each steps file, which is one dataset's; files without any are absent."""
        found: dict[str, list[Conversion]] = {}
        if self.document.conversions:
            files, file = self.coded.codes("steps_file")
            names, dataset = self.coded.codes("dataset")
            for i in np.unique(file, return_index=True)[1].tolist():
                name = names[dataset[i]].as_py()
                found[files[file[i]].as_py()] = [c for c in self.document.conversions if c.dataset == name]
        return found

    def clusters(self, name: str) -> np.ndarray:
        """int32 [R]: the group of each row in the clustering ``name``, frozen with the mixture.

        Raises ``RequestError`` where it has none of that name.
        """
        if self._clusters is None or name not in self._clusters.column_names:
            known = ", ".join(each.name for each in self.document.clusters) or "none"
            raise RequestError(
                f"mixture {self.name!r} holds no clusters {name!r}",
                code="unknown_clusters",
                fix=f"there are: {known}; name them in the mixture's recipe: clusters: [{{space: {name}}}]",
            )
        return self._clusters[name].to_numpy()

    def labelled(self, i: int, steps: pa.Table) -> pa.Table:
        """``steps`` of row ``i`` with the columns that annotations give."""
        return steps if self.labels is None else relabelled.labelled(steps, self.labels, i)

    def converted(self, path: str, steps: pa.Table) -> pa.Table:
        """``steps`` of the steps file ``path`` after the mixture's conversions."""
        return convert_steps(steps, self._conversions.get(path, ()))

    def sha256(self, path: str) -> str:
        """That of a file of the mixture, when it was frozen."""
        return self._files[path][1]

    def local(self, path: str) -> Path:
        """A local file with the bytes of ``path`` (inside the lake): itself, or a cached copy, verified when fetched.

        Raises ``SourceError`` where the file is missing or not the one that was frozen, ``RequestError`` for a path
        that is no part of the mixture.
        """
        if path not in self._local:
            if path not in self._files:
                raise RequestError(f"{path!r} is no file of mixture {self.name!r}", code="unknown_file")
            size, sha256 = self._files[path]
            uri = join(self.root, path)
            found = Path(uri)
            if not is_local(uri) or not found.is_file():
                return self._fetched(path, sha256)  # asked again each time: it may have changed or been evicted
            if found.stat().st_size != size:
                raise SourceError(
                    f"{path} has {found.stat().st_size} bytes, {size} when it was frozen", code="changed_file"
                )
            if len(self._local) >= _MOST_PATHS:
                self._local.clear()
            self._local[path] = found
        return self._local[path]

    def _fetched(self, path: str, sha256: str) -> Path:
        """A copy of a file on an object store, or the file that the lake refers to; either is hashed before use."""
        fs, root = filesystem(self.root, self.storage_options)
        if not is_local(self.root):
            try:
                return self.cache.copy(fs, join(root, path), sha256)
            except SourceError as error:
                if error.code != "missing_file":
                    raise
        reference = references.find(fs, root, path)
        if reference is None:
            raise SourceError(f"mixture {self.name!r} lacks its file {path}", code="missing_file")
        return reference.local(sha256, self.cache, trusted=False, storage_options=self.storage_options)

    def array(self, path: str, column: str, *, fill: bool = False) -> np.ndarray:
        """A numeric column of a whole steps file, converted, mapped from the cache: [N] or [N, d], NaN where null.

        ``fill``: integers and booleans keep their dtype and every digit, 0 where null.
        """
        return self._arrays((path, column, fill))

    def texts(self, path: str, column: str) -> pa.DictionaryArray:
        """A text column of a whole steps file, [N], null where it is missing."""
        return self._texts((path, column))

    def _read_texts(self, key: tuple[str, str]) -> pa.DictionaryArray:
        path, column = key
        if self.labels is not None and column in self.labels.column_names:
            rows = np.flatnonzero(self._in_file(path))
            count = self._opened(path).metadata.num_rows
            found = relabelled.texts_of(self.labels, column, rows, self.rows["row_start"][rows], count)
        else:
            self.cache.verify(self.local(path), self._files[path][1])
            found = self._opened(path).read(columns=[column])[column].cast(pa.string()).combine_chunks()
        return found.dictionary_encode()

    def steps(self, i: int, columns: list[str] | None = None) -> pa.Table:
        """The steps [start, stop) of row ``i`` of ``episodes``, converted, without ``episode_id`` and ``step``.

        Raises ``RequestError`` for a column that is not there, ``SourceError`` where the file does not hold the range.
        """
        files, code = self.coded.codes("steps_file")
        path, episode = files[code[i]].as_py(), str(self.coded.ids[i])
        file = self._opened(path)
        held = [name for name in file.schema_arrow.names if name not in (EPISODE_ID, STEP)]
        names = list(dict.fromkeys((*held, *(self.labels.column_names if self.labels is not None else ()))))
        unknown = [name for name in columns or () if name not in names]
        if unknown:
            raise RequestError(f"no column {unknown[0]!r}", code="unknown_column", fix=f"known: {', '.join(names)}")
        wanted = names if columns is None else columns
        first, count = int(self.rows["row_start"][i]), int(self.rows["row_count"][i])
        last = first + count
        edges = np.cumsum([0] + [file.metadata.row_group(g).num_rows for g in range(file.num_row_groups)])
        groups = np.flatnonzero((edges[:-1] < last) & (edges[1:] > first)).tolist()
        try:
            table = file.read_row_groups(groups, columns=[EPISODE_ID, *(name for name in wanted if name in held)])
        except (OSError, ValueError) as error:
            raise SourceError(f"cannot read {path}: {error}", code="bad_steps_file") from error
        table = table.slice(first - int(edges[groups[0]]) if groups else 0, count)
        if table.num_rows != count or table[EPISODE_ID].unique().to_pylist() != [episode]:
            raise SourceError(f"rows {first} to {last} of {path} are not episode {episode}", code="changed_file")
        steps = self.converted(path, table.drop_columns(EPISODE_ID))
        return self.labelled(i, steps).select(wanted)

    def statistics(self, group: str) -> dict[str, dict[str, np.ndarray]]:
        """The statistics of a group (``"embodiment/control_mode"``): feature -> name -> float64 [d], NaN where
        undefined.
        """
        found = self.document.statistics.get(group)
        if found is None:
            known = ", ".join(sorted(self.document.statistics))
            raise RequestError(f"no statistics of {group!r}", code="unknown_group", fix=f"known: {known}")
        return {
            feature: {name: np.array(values, np.float64) for name, values in statistics.items()}
            for feature, statistics in found.items()
        }

    def samples(
        self, windows: Windows | None = None, *, split: str = "train", epoch: int = 0, start: int = 0
    ) -> Iterator[dict[str, Any]]:
        """The samples of an epoch from ``start`` on, as numpy arrays, in the order every loader has. Needs no torch."""
        from data_engine.samples import samples_of

        return samples_of(self, windows, split=split).iterate(epoch, start)


def open(
    uri: str,
    storage_options: Mapping[str, str] | None = None,
    cache_dir: str | Path | None = None,
    cache_bytes: int = DEFAULT_BYTES,
) -> Mixture:
    """The mixture at ``<lake>/mixtures/<id>``, local or on an object store.

    ``storage_options``: credentials and endpoint in the ``AWS_*`` spelling, over the environment's. ``cache_dir``
    (default: ``DATA_ENGINE_CACHE``, else ``~/.cache/data-engine``) keeps at most ``cache_bytes``. Raises
    ``RequestError`` where it is missing, broken, of a later format, or not whole.
    """
    uri = resolve(uri)
    if not re.search(r"/mixtures/[0-9a-z_]+$", uri):
        raise RequestError(f"{uri!r} is no mixture", code="bad_uri", fix="name <lake>/mixtures/<id>")
    document = _document(uri, _read(uri, "mixture.json", storage_options))
    cache = Cache(cache_dir, cache_bytes)
    small: dict[str, pa.Table] = {}

    def table(name: str, schema: pa.Schema, large: Callable[[bytes], pa.Table] | None = None) -> pa.Table:
        """A table of the mixture; a large one (as ``large`` makes it) mapped from the cache, made once a machine."""

        def make() -> pa.Table | None:
            data = _verified(uri, name, document, storage_options)
            if len(data) >= _MAPPED_BYTES:
                return large(data) if large else _decode(data, schema)
            small[name] = _decode(data, schema)
            return None

        found = cache.table(_sha256(uri, name, document), make)
        return small[name] if found is None else found

    rows = table("episodes.parquet", EPISODES, lambda data: coded(decode(data)))
    rows = coded(rows) if "episodes.parquet" in small else rows
    files = table("files.parquet", FILES)
    labels = None
    if document.columns:
        labels = table(relabelled.LABELS, relabelled.schema(document.columns))
    clusters = None
    if document.clusters:
        clusters = table(groups.CLUSTERS, groups.schema(document.clusters))
    mixture = Mixture(uri, document, Coded(rows), files, storage_options, cache, labels, clusters)
    if "episodes.parquet" in small:
        mixture.episodes = small["episodes.parquet"]
    return mixture


def _verified(uri: str, name: str, document: MixtureDocument, storage_options: Mapping[str, str] | None) -> bytes:
    """The bytes of a table of the mixture. Raises ``RequestError`` where they are not those that were frozen."""
    data = _read(uri, name, storage_options)
    if hashlib.sha256(data).hexdigest() != _sha256(uri, name, document):
        raise RequestError(f"mixture {uri!r}: {name} is not what was frozen", code="broken_mixture")
    return data


def _sha256(uri: str, name: str, document: MixtureDocument) -> str:
    if name not in document.contents:
        raise RequestError(f"mixture {uri!r}: mixture.json does not name {name}", code="broken_mixture")
    return document.contents[name]


def _decode(data: bytes, schema: pa.Schema) -> pa.Table:
    return pq.read_table(pa.BufferReader(data)).cast(schema)


def _document(uri: str, data: bytes) -> MixtureDocument:
    try:
        raw = json.loads(data)
        version = raw["format_version"]
    except (ValueError, KeyError, TypeError) as error:
        raise RequestError(f"mixture {uri!r}: mixture.json is no mixture document", code="broken_mixture") from error
    if version != FORMAT_VERSION:
        raise RequestError(
            f"mixture {uri!r} is of format {version}, this program reads {FORMAT_VERSION}",
            code="wrong_version",
            fix="update data-engine",
        )
    try:
        document = MixtureDocument.model_validate(raw)
    except ValidationError as error:
        raise RequestError(
            f"mixture {uri!r}: mixture.json: {explain(error, MixtureDocument)}", code="broken_mixture"
        ) from error
    if document.status == "broken":
        reason = document.reason or "it was withdrawn"
        raise RequestError(f"mixture {document.name!r} is broken: {reason}", code="broken_mixture", fix="mix it again")
    return document


def _read(uri: str, name: str, storage_options: Mapping[str, str] | None) -> bytes:
    try:
        fs, path = filesystem(uri, storage_options)
        return fs.cat_file(f"{path}/{name}")
    except EngineError:
        raise
    except FileNotFoundError as error:
        raise RequestError(
            f"no mixture at {uri!r}: {name} is missing", code="no_mixture", fix="see `data-engine mixtures`"
        ) from error
    except Exception as error:  # each store has its own: no credentials, no route, no such bucket
        raise RequestError(f"cannot read {uri!r}: {error}", code="unreadable_mixture") from error
