"""Freezing: from chosen episodes to a mixture with an identity, and that onto disk.

The identity covers what a trainer sees: contents, ranges, weights, splits, tasks, statistics, seed, and what the choice
rests on. It does not cover where bytes lie (paths, table versions) or what the mixture is called.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import ValidationError

from data_engine import groups, relabelled
from data_engine.canonical import canonical_json, digest, round_significant, seal
from data_engine.conventions.agreement import refuse_unlike
from data_engine.conventions.convert import Conversion, convert_steps, converted
from data_engine.conventions.convert import resolve as resolve_conversions
from data_engine.document import (
    EPISODES,
    FILES,
    Clustering,
    Entry,
    LabelColumn,
    MixtureDocument,
    ScorerLineage,
    group_name,
)
from data_engine.errors import RequestError, SourceError
from data_engine.fs import filesystem, join, resolve, write_atomic
from data_engine.model import Dataset
from data_engine.quotas import check as check_quotas
from data_engine.registry import explain
from data_engine.sampling import Unit, WeightKind
from data_engine.splits import assign
from data_engine.statistics import FeatureStatistics, GroupStatistics

__all__ = ["Frozen", "freeze", "identity", "write"]

_MAY_LACK = ("split", "parent", "provenance", "operator", "success", "language", "task", "videos")
_IDENTITY = (
    "selection", "content_hash", "start", "stop", "weight", "split", "dataset", "embodiment", "control_mode", "fps",
    "task", "language",
)  # fmt: skip


@dataclass(frozen=True)
class Frozen:
    """A mixture that lies nowhere yet: the document and its tables; ``labels`` where annotations give columns,
    ``clusters`` where episodes were grouped."""

    document: MixtureDocument
    episodes: pa.Table
    files: pa.Table
    labels: pa.Table | None = None
    clusters: pa.Table | None = None

    @property
    def mixture_id(self) -> str:
        """The content-hashed identity."""
        return self.document.mixture_id


def freeze(
    *,
    name: str,
    episodes: pa.Table,
    files: pa.Table,
    datasets: Mapping[str, Dataset],
    entries: Sequence[Any],
    steps: Callable[[int], pa.Table],
    weight_kind: WeightKind = "probability",
    unit: Unit = "step",
    epoch_size: int | None = None,
    seed: int = 0,
    splits: Mapping[str, float] | None = None,
    quotas: Mapping[str, float] | None = None,
    scorers: Sequence[Any] = (),
    conversions: Sequence[Any] = (),
    columns: Sequence[LabelColumn] = (),
    labels: pa.Table | None = None,
    clusterings: Sequence[Clustering] = (),
    clusters: pa.Table | None = None,
    recorded: Mapping[str, Any] | None = None,
) -> Frozen:
    """Freeze a mixture. Pure; reads every step once, through ``steps``, for the statistics.

    ``episodes``: :data:`EPISODES` without ``split`` (and nullable columns may be absent), in any order. ``files``
    names at least every file that the rows lie in. ``entries`` and ``scorers``: mappings or objects with the fields
    of :class:`Entry` and :class:`ScorerLineage`. ``steps(i)``: the steps [start, stop) of row ``i`` of ``episodes``,
    asked in the order of the files. ``splits``: fractions that sum to 1, by default all ``train``. ``quotas``: the
    share of each provenance in what is drawn (:mod:`data_engine.quotas`). ``conversions``:
    :class:`Conversion` or mappings of its fields. ``labels``: the values of ``columns`` that annotations give, a row a
    row of ``episodes`` (:mod:`data_engine.relabelled`). ``clusters``: the group of each row in each of ``clusterings``
    (:mod:`data_engine.groups`). ``recorded``: table versions, recipe hash and the like, kept
    outside the identity.

    Raises ``RequestError`` for weights that are not positive, an entry without episodes, fractions that do not sum to
    1, a conversion that cannot be, a file that is not listed, an ``epoch_size`` where the weights already say it, and
    for datasets of one (embodiment, control mode) whose widths, units or conventions differ without a conversion;
    ``SourceError`` where a row has other steps than it says.
    """
    fractions = {key: float(value) for key, value in (splits or {"train": 1.0}).items()}
    parts = tuple(sorted((_entry(entry) for entry in entries), key=lambda entry: entry.selection))
    given = _conform(episodes)
    _check(given, parts, datasets, fractions, weight_kind, epoch_size)
    quotas = {key: float(value) for key, value in sorted((quotas or {}).items())}
    check_quotas(quotas, given["provenance"].unique().to_pylist())
    weights = pa.array([round_significant(w) for w in given["weight"].to_pylist()], pa.float64())
    given = given.set_column(EPISODES.get_field_index("weight"), "weight", weights)
    ids, parents, contents = (given[key].to_pylist() for key in ("episode_id", "parent", "content_hash"))
    split = assign(ids, parents, contents, fractions)
    given = given.set_column(EPISODES.get_field_index("split"), "split", pa.array(split, pa.string()))
    used = {key: datasets[key] for key in sorted(given["dataset"].unique().to_pylist())}
    resolved = resolve_conversions(conversions, datasets, used)
    used = {key: converted(dataset, resolved) for key, dataset in used.items()}
    if labels is not None:
        relabelled.check(labels, columns, given["row_count"].to_pylist())
        used = {key: relabelled.described(dataset, columns) for key, dataset in used.items()}
    refuse_unlike(used, {key: group_name(dataset.embodiment, dataset.control_mode) for key, dataset in used.items()})
    statistics = _statistics(given, steps, resolved, labels)
    keys = ("selection", "content_hash", "start", "stop", "weight", "split", "dataset", "source_key", "episode_id")
    order = pc.sort_indices(given, sort_keys=[(key, "ascending") for key in keys])
    ordered = given.take(order).combine_chunks()
    labels = None if labels is None else labels.take(order).combine_chunks()
    if clusters is not None:
        groups.check(clusters, clusterings, given.num_rows)
        clusters = groups.renumbered(clusters.take(order))
    document = MixtureDocument(
        mixture_id="",
        name=name,
        weight_kind=weight_kind,
        unit=unit,
        epoch_size=epoch_size,
        seed=seed,
        entries=parts,
        splits=fractions,
        quotas=quotas,
        datasets=used,
        statistics=statistics,
        scorers=tuple(_scorer(scorer) for scorer in scorers),
        conversions=resolved,
        columns=tuple(columns),
        clusters=tuple(clusterings),
        recorded=json.loads(canonical_json(dict(recorded or {}))),
    )
    document = document.model_copy(update={"mixture_id": identity(document, ordered, labels, clusters)})
    return Frozen(document, ordered, _files(ordered, files), labels, clusters)


def identity(
    document: MixtureDocument, episodes: pa.Table, labels: pa.Table | None = None, clusters: pa.Table | None = None
) -> str:
    """sha256 in hex of what the mixture is: see the module's docstring. The tables in frozen order."""
    sha = hashlib.sha256()
    for batch in episodes.select(_IDENTITY).to_batches(max_chunksize=65_536):
        for row in batch.to_pylist():
            sha.update(canonical_json(list(row.values())).encode() + b"\n")
    described = document.model_dump(
        mode="json",
        include={"format_version", "weight_kind", "unit", "epoch_size", "seed", "splits", "conversions", "statistics"},
    )
    scorers = sorted((scorer.model_dump(mode="json") for scorer in document.scorers), key=canonical_json)
    layout = {"name", "dtype", "shape", "components", "unit"}
    features = {
        key: [feature.model_dump(mode="json", include=layout) for feature in dataset.features]
        for key, dataset in document.datasets.items()
    }
    entries = [entry.model_dump(mode="json") for entry in document.entries]
    if document.quotas:
        described["quotas"] = document.quotas
        described["provenances"] = digest(episodes["provenance"].to_pylist())
    if labels is not None:
        described["columns"] = [
            column.model_dump(mode="json", exclude={"of"} if column.of == "number" else None)
            for column in document.columns
        ]
        described["labels"] = relabelled.content(labels)
    if clusters is not None:
        described["clusters"] = [each.model_dump(mode="json") for each in document.clusters]
        described["groups"] = groups.content(clusters)
    return digest(
        {**described, "scorers": scorers, "entries": entries, "features": features, "episodes": sha.hexdigest()}
    )


def write(frozen: Frozen, lake: str, storage_options: Mapping[str, str] | None = None) -> str:
    """Publish under ``<lake>/mixtures/<id>`` and return that URI.

    ``mixture.json`` comes last, so half a mixture is never visible. One that is there already is left as it is, unless
    a takedown broke it: equal ids hold equal mixtures.
    """
    uri = join(resolve(lake), "mixtures", frozen.mixture_id)
    fs, path = filesystem(uri, storage_options)
    if fs.exists(f"{path}/mixture.json") and json.loads(fs.cat_file(f"{path}/mixture.json")).get("status") != "broken":
        return uri
    contents = {}
    tables = {"episodes.parquet": frozen.episodes, "files.parquet": frozen.files}
    if frozen.labels is not None:
        tables[relabelled.LABELS] = frozen.labels
    if frozen.clusters is not None:
        tables[groups.CLUSTERS] = frozen.clusters
    for name, table in tables.items():
        buffer = io.BytesIO()
        pq.write_table(table, buffer, compression="zstd")
        write_atomic(fs, f"{path}/{name}", buffer.getvalue())
        contents[name] = hashlib.sha256(buffer.getvalue()).hexdigest()
    document = frozen.document.model_copy(update={"contents": contents})
    write_atomic(fs, f"{path}/mixture.json", seal(document.model_dump(mode="json", exclude={"seal"})))
    return uri


def _entry(entry: Any) -> Entry:
    get = entry.__getitem__ if isinstance(entry, Mapping) else lambda key: getattr(entry, key)
    try:
        found = Entry(selection=get("selection"), weight=get("weight"))
    except ValidationError as error:
        raise RequestError(f"mixture entry: {explain(error, Entry)}", code="bad_mixture") from error
    return found.model_copy(update={"weight": round_significant(found.weight)})


def _scorer(scorer: Any) -> ScorerLineage:
    return ScorerLineage.model_validate(scorer, from_attributes=not isinstance(scorer, Mapping))


def _conform(episodes: pa.Table) -> pa.Table:
    """``episodes`` with exactly the columns of :data:`EPISODES`."""
    lacking = [key for key in EPISODES.names if key not in episodes.column_names and key not in _MAY_LACK]
    if lacking:
        raise RequestError(f"episodes lack the column {lacking[0]!r}", code="bad_mixture")
    columns = [
        episodes[field.name] if field.name in episodes.column_names else pa.nulls(episodes.num_rows, field.type)
        for field in EPISODES
    ]
    return pa.table(columns, names=EPISODES.names).cast(EPISODES)


def _check(
    episodes: pa.Table,
    entries: Sequence[Entry],
    datasets: Mapping[str, Dataset],
    fractions: Mapping[str, float],
    weight_kind: WeightKind,
    epoch_size: int | None,
) -> None:
    def refuse(message: str, fix: str | None = None) -> None:
        raise RequestError(message, code="bad_mixture", fix=fix)

    if abs(sum(fractions.values()) - 1) > 1e-9 or min(fractions.values()) <= 0:
        refuse(f"splits {fractions} do not share out 1", "give positive fractions that sum to 1")
    if epoch_size is not None and weight_kind != "probability":
        refuse(
            f"epoch_size goes with weight_kind: probability; under {weight_kind!r} the weights say how long an epoch is"
        )
    selected = set(episodes["selection"].to_pylist())
    named = [entry.selection for entry in entries]
    for selection in named:
        if named.count(selection) > 1:
            refuse(f"selection {selection!r} is two entries of the mixture", "add their weights up in one")
        if selection not in selected:
            refuse(f"selection {selection!r} has no episodes")
    for selection in sorted(selected - set(named)):
        refuse(f"episodes of selection {selection!r} are in no entry of the mixture")
    for dataset in sorted(set(episodes["dataset"].to_pylist()) - set(datasets)):
        refuse(f"dataset {dataset!r} is not described")
    columns = (episodes[key].to_pylist() for key in ("episode_id", "weight", "start", "stop", "row_count"))
    for episode, weight, start, stop, count in zip(*columns, strict=True):
        if weight is None or not math.isfinite(weight) or weight <= 0:
            refuse(f"episode {episode} has weight {weight}", "weights are positive; leave out what must not be drawn")
        if not 0 <= start < stop or count != stop - start:
            refuse(f"episode {episode}: steps {start} to {stop} in {count} rows")


def _statistics(
    episodes: pa.Table,
    steps: Callable[[int], pa.Table],
    conversions: Sequence[Conversion],
    labels: pa.Table | None = None,
) -> dict[str, dict[str, FeatureStatistics]]:
    """Of the converted steps, over the train split; a group that has none of it, over what it has. A range in two
    entries counts once.
    """
    owners = episodes["dataset"].to_pylist()
    of = {name: [conversion for conversion in conversions if conversion.dataset == name] for name in set(owners)}
    columns = ("embodiment", "control_mode", "split", "content_hash", "start", "stop", "row_count")
    rows = list(zip(*(episodes[key].to_pylist() for key in columns), strict=True))
    trained = {row[:2] for row in rows if row[2] == "train"}
    order = pc.sort_indices(episodes, sort_keys=[("steps_file", "ascending"), ("row_start", "ascending")]).to_pylist()
    groups: dict[str, GroupStatistics] = {}
    seen = set()
    for i in order:
        embodiment, control_mode, split, content, start, stop, count = rows[i]
        if (content, start, stop) in seen or (split != "train" and (embodiment, control_mode) in trained):
            continue
        seen.add((content, start, stop))
        table = steps(i)
        if table.num_rows != count:
            episode = episodes["episode_id"][i].as_py()
            raise SourceError(f"episode {episode} has {table.num_rows} steps, not {count}", code="wrong_length")
        table = convert_steps(table, of[owners[i]])
        table = table if labels is None else relabelled.labelled(table, labels, i)
        groups.setdefault(group_name(embodiment, control_mode), GroupStatistics()).add(table, content, start)
    return {key: groups[key].result() for key in sorted(groups)}


def _files(episodes: pa.Table, files: pa.Table) -> pa.Table:
    """The rows of ``files`` that ``episodes`` need, sorted."""
    needed = set(episodes["steps_file"].to_pylist())
    needed |= {video["blob"] for videos in episodes["videos"].to_pylist() for video in videos or ()}
    known = {row["path"]: row for row in files.select(FILES.names).to_pylist()}
    for path in sorted(needed):
        if not re.fullmatch(r"[0-9a-f]{64}", str(known.get(path, {}).get("sha256"))):
            raise RequestError(f"file {path!r} of the mixture is not listed with its sha256", code="bad_mixture")
    return pa.Table.from_pylist([known[path] for path in sorted(needed)], schema=FILES)
