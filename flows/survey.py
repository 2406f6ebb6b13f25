"""``survey``: many sources at once, without copying any of them: what is there, what it is worth looking at first.

Counts come from what the sources declare; a few episodes of each are really read, checked for defects, hashed and used
to estimate what an ingest would take. Everything estimated says so by its name.
"""

from __future__ import annotations

import hashlib
import io
import os
import posixpath
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from data_engine import registry
from data_engine.conventions.cameras import camera_class
from data_engine.defects import Defect, of_features, of_frames, of_times
from data_engine.errors import EngineError
from data_engine.formats import EncodedVideo, Format, Probe, RawFrames, Source, Unreadable, detect
from data_engine.formats.video_folder import SUFFIXES, local_video
from data_engine.fragile import avoiding
from data_engine.model import ACTION, IMAGES, STATE, TIMESTAMP, Dataset, Feature
from data_engine.scoring import EpisodeBatch
from data_engine.steps import canonical, hashes
from data_engine.video import FrameReader, encode
from flows.apart import watched
from flows.ingest_conventions import conventions
from flows.ingest_probe import sparing
from flows.ingest_runs import moves
from flows.progress import Progress
from storage.lake import Lake

__all__ = ["held", "survey"]

_DEPTH = 3  # folders below a given one in which sources are looked for
_FOLDERS = 2_000
_LOOKS = 5  # frames of an episode looked at
_ENCODED = 48  # raw frames encoded to learn what they would take
_TWINS = 4  # episodes read of another source because one of its lengths is ours


def survey(uris: Sequence[str], *, sample: int = 3, lake: Lake | None = None, progress: Progress) -> dict[str, Any]:
    """``{"items", "duplicates", "total"}`` of the sources at ``uris``; a folder of sources stands for those in it.

    An item: ``uri``, ``format``, ``episodes``, ``steps``, ``hours``, ``bytes``, ``files``, ``licence``, ``embodiment``,
    ``control_mode``, ``fps``, ``provenance``, ``cameras``, ``units``, ``defects`` (of ``sampled`` episodes), ``notes``,
    ``ingest`` (estimated bytes in the lake and seconds on one core); or ``uri`` and ``error``. ``duplicates`` are pairs
    of sources that share recordings among those compared, and episodes that ``lake`` holds already. Nothing is written.
    """
    found = [place for uri in uris for place in _sources(uri)]
    looks: list[_Look] = []
    items: list[dict[str, Any]] = []
    with progress.stage("survey", len(found)) as advance:
        for place in found:
            if isinstance(place, _Broken):
                items.append({"uri": place.uri, "error": place.error.as_dict()})
            else:
                look = _Look(*place, sample=sample)
                try:
                    items.append(look.item())
                    looks.append(look)
                except EngineError as error:
                    items.append({"uri": look.source.uri, "format": look.fmt.name, "error": error.as_dict()})
            advance(1)
    sound = [item for item in items if "error" not in item]
    known = ("episodes", "steps", "hours", "bytes")
    total = {"sources": len(items), **{name: sum(item[name] or 0 for item in sound) for name in known}}
    total["ingest"] = {name: sum(item["ingest"][name] for item in sound) for name in ("bytes", "seconds")}
    return {"items": items, "duplicates": [*_twins(looks), *_held(looks, lake)], "total": total}


def held(uri: str) -> list[tuple[str, str]]:
    """(URI, format) of the sources of known layouts below ``uri``, where what ``uri`` is itself is only guessed."""
    known = [place for place in _sources(uri) if not isinstance(place, _Broken) and _is_known(place)]
    return [(source.uri, fmt.name) for source, fmt, _ in known if source.uri != Source(uri).uri]


@dataclass(frozen=True)
class _Broken:
    uri: str
    error: EngineError


_Place = tuple[Source, Format, Probe]


def _sources(uri: str) -> Iterator[_Place | _Broken]:
    """What a URI stands for: itself where a format knows it, else the sources below it."""
    try:
        source = Source(uri)
        fmt, probe = _detect(source)
        yield from _specific((source, fmt, probe), 0, [0]) or [(source, fmt, probe)]
    except EngineError as error:
        below = _below(source, 0, [0]) if error.code in ("unknown_format", "no_episodes") and not source.is_file else []
        yield from below or [_Broken(uri, error)]


def _below(source: Source, depth: int, seen: list[int]) -> list[_Place | _Broken]:
    """Sources that a format with a layout of its own knows in the folders below, and files of one where none does."""
    found: list[_Place | _Broken] = []
    if depth >= _DEPTH:
        return found
    for entry in sorted(source.fs.ls(source.root, detail=True), key=lambda entry: entry["name"]):
        seen[0] += 1
        name = posixpath.basename(entry["name"].rstrip("/"))
        if seen[0] > _FOLDERS or name.startswith("."):
            continue
        child = Source(f"{source.uri}/{name}")
        try:
            fmt, probe = _detect(child)
        except EngineError as error:
            if entry["type"] == "directory" and error.code == "unknown_format":
                found += _below(child, depth + 1, seen)
            elif error.code != "unknown_format":
                found.append(_Broken(child.uri, error))
            continue
        found += _specific((child, fmt, probe), depth + 1, seen) or [(child, fmt, probe)]
    return found


def _specific(place: _Place, depth: int, seen: list[int]) -> list[_Place | _Broken]:
    """The sources below a folder of which a format only guesses what it is, where one of them is of a known layout."""
    below = _below(place[0], depth, seen) if not _is_known(place) and not place[0].is_file else []
    return below if any(not isinstance(found, _Broken) and _is_known(found) for found in below) else []


def _is_known(place: _Place) -> bool:
    """Whether a format with a layout of its own reads the source as it is."""
    return not place[1].generic and place[2].proposal is None


def _detect(source: Source) -> tuple[Format, Probe]:
    return sparing(source.uri, _detected, source)[0]


def _detected(source: Source, without: Sequence[str]) -> tuple[Format, Probe]:
    with avoiding(without):
        return detect(source)


@dataclass
class _Look:
    """One source being looked at; the episodes that were read of it are read once."""

    source: Source
    fmt: Format
    probe: Probe
    sample: int
    tables: dict[str, pa.Table] = field(default_factory=dict)
    unreadable: dict[str, Unreadable] = field(default_factory=dict)

    def item(self) -> dict[str, Any]:
        """The source's row."""
        probe, fmt = self.probe, self.fmt
        keys = [ref.key for ref in probe.episodes]
        picked = [keys[i] for i in np.unique(np.linspace(0, len(keys) - 1, min(self.sample, len(keys))).astype(int))]
        seen = self.read(picked if probe.proposal is None else ())
        read = seen.tables
        lengths = [ref.n_steps for ref in probe.episodes]
        sampled_steps = sum(map(len, read.values()))
        steps = sum(n or 0 for n in lengths) if None not in lengths else None
        if steps is None and read:
            steps = round(sampled_steps / len(read) * len(keys))
        sizes = self.sizes()
        known = None
        if probe.proposal is None:
            known, _ = sparing(self.source.uri, conventions, fmt, probe, self.source, fmt.fps or probe.fps)
        features = known.features if known else probe.features
        filmed = sum(size for path, size in sizes.items() if path.lower().endswith(SUFFIXES))
        per_step = _parquet_bytes(list(read.values())) / sampled_steps if sampled_steps else 0.0
        read_s = seen.seconds / sampled_steps if sampled_steps else 0.0
        frames_s, frames_bytes = seen.cameras.encoding
        return {
            "uri": self.source.uri,
            "format": fmt.name,
            "episodes": probe.n_episodes,
            "steps": steps,
            "steps_estimated": None in lengths,
            "hours": round((steps or 0) / probe.fps / 3600, 4) if probe.fps else None,
            "bytes": sum(sizes.values()),
            "files": len(sizes),
            "licence": fmt.licence or probe.licence,
            "embodiment": fmt.embodiment or probe.embodiment,
            "control_mode": known.control_mode if known else None,
            "fps": fmt.fps or probe.fps,
            "provenance": fmt.provenance or probe.provenance,
            "cameras": [
                {"name": (name := f.name.removeprefix(IMAGES)), "class": camera_class(name), "shape": list(f.shape)}
                for f in features
                if f.is_camera
            ],
            "units": {f.name: unit for f in features if (unit := _unit(f))},
            "guessed": probe.proposal is not None,
            "sampled": len(picked) if probe.proposal is None else 0,
            "defects": self.defects(seen, features),
            "notes": list(probe.notes),
            "ingest": {
                "bytes": round((steps or 0) * (per_step + frames_bytes) + filmed),
                "seconds": round((steps or 0) * (read_s + frames_s) + sum(sizes.values()) / _hash_rate(), 1),
            },
        }

    def read(self, keys: Sequence[str], filmed: bool = True) -> _Seen:
        """Read and keep the episodes of ``keys`` that were not read yet; ``filmed``: look at their cameras too."""
        wanted = [key for key in keys if key not in self.tables and key not in self.unreadable]
        seen, crashed = sparing(self.source.uri, _see, self.source, self.fmt, self.probe, wanted, filmed)
        self.tables |= seen.tables
        self.unreadable |= seen.unreadable | crashed
        return seen

    def sizes(self) -> dict[str, int]:
        """Bytes of each file that an episode lies in; an absent one counts for nothing."""
        if self.source.is_file:
            return {self.source.relative(self.source.root): self.source.stamp()[0]}
        there = self.source.fs.find(self.source.root, detail=True)
        known = {self.source.relative(path): int(info.get("size") or 0) for path, info in there.items()}
        return {path: known[path] for ref in self.probe.episodes for path in ref.files if path in known}

    def defects(self, seen: _Seen, features: Sequence[Feature]) -> list[dict[str, Any]]:
        """``[{"code", "what", "episodes"}]`` of the source as a whole and of the sampled episodes."""
        found: Counter[tuple[str, str]] = Counter()
        for defect in (*self.probe.defects, *of_features(features)):
            found[defect] = 0
        found.update(seen.cameras.defects)
        found.update((bad.code, bad.reason) for bad in (*self.probe.unreadable, *self.unreadable.values()))
        found.update((defect.code, defect.what) for defect in seen.defects)
        found.update(_integrity(self, seen.tables))
        return [{"code": code, "what": what, "episodes": count} for (code, what), count in found.items()]

    def signature(self, key: str) -> str | None:
        """Hash of the actions (states where there are none) of a read episode as float32, whatever their names."""
        table = self.tables.get(key)
        for name in (ACTION, STATE):
            if table is not None and name in table.column_names and not table.column(name).null_count:
                column = table.column(name).combine_chunks()
                values = column.flatten() if pa.types.is_list(column.type) else column
                data = np.ascontiguousarray(values.to_numpy(zero_copy_only=False).astype(np.float32))
                return hashlib.sha256(f"{name} {len(table)} ".encode() + data.tobytes()).hexdigest()
        return None


@dataclass
class _Seen:
    """What reading some episodes showed: their steps as stored, what is wrong with them, and how long it took."""

    tables: dict[str, pa.Table] = field(default_factory=dict)
    unreadable: dict[str, Unreadable] = field(default_factory=dict)
    defects: list[Defect] = field(default_factory=list)
    cameras: _Cameras = field(default_factory=lambda: _Cameras())
    seconds: float = 0.0


def _see(
    source: Source, fmt: Format, probe: Probe, wanted: Sequence[str], filmed: bool, without: Sequence[str]
) -> _Seen:
    """Read the episodes ``wanted`` but those ``without``, and look at their cameras where they are ``filmed``."""
    seen, keys = _Seen(), [key for key in wanted if key not in without]
    began = time.perf_counter()
    for item in watched(fmt.read(source, probe, keys), keys) if keys else ():
        if isinstance(item, Unreadable):
            seen.unreadable[item.key] = item
            continue
        try:
            table = canonical(item.steps, probe.features, fmt.fps or probe.fps)
        except EngineError as error:
            seen.unreadable[item.key] = Unreadable(item.key, error.code, error.message)
            continue
        seen.tables[item.key] = table
        times = table.column(TIMESTAMP).to_numpy()
        seen.defects += [*item.defects, *of_times(times, np.array([0, len(times)]), fmt.fps or probe.fps)[0]]
        read = time.perf_counter()
        for name, camera in item.cameras.items() if filmed else ():
            try:
                seen.cameras.look(source, name, camera, table, probe.fps)
            except (EngineError, OSError) as error:
                seen.cameras.defects[getattr(error, "code", "unreadable_video"), f"camera {name!r}: {error}"] += 1
        began += time.perf_counter() - read
    seen.seconds = time.perf_counter() - began
    return seen


class _Cameras:
    """Defects of sampled cameras, and what encoding their raw frames takes a step."""

    def __init__(self) -> None:
        self.defects: Counter[tuple[str, str]] = Counter()
        self._cost: dict[str, tuple[float, float]] = {}

    @property
    def encoding(self) -> tuple[float, float]:
        """(seconds, bytes) a step over all cameras."""
        return sum(s for s, _ in self._cost.values()), sum(b for _, b in self._cost.values())

    def look(self, source: Source, name: str, camera: RawFrames | EncodedVideo, steps: pa.Table, fps: float) -> None:
        """Look at a few frames of one camera of one episode; raw ones are encoded to learn the cost."""
        moving = moves(steps)
        if isinstance(camera, EncodedVideo):
            times = steps.column(TIMESTAMP).to_numpy() + camera.start_s
            with local_video(source, camera.path) as path, FrameReader(path) as reader:
                count = reader.count(camera.start_s, camera.end_s)
                if count != len(times):
                    code = "video_longer" if count > len(times) else "frame_missing"
                    self.defects[code, f"camera {name!r}: {count} frames for {len(times)} steps"] += 1
                for key, declared in camera.declared.items():
                    probed = getattr(reader.info, key, None)
                    close = isinstance(probed, float) and abs(declared - probed) <= 1e-3 * abs(probed)
                    if probed is not None and declared != probed and not close:
                        what = f"camera {name!r}: declared {key} {declared}, in the file {probed}"
                        self.defects["declared_differs", what] += 1
                looked = times[np.unique(np.linspace(0, len(times) - 1, _LOOKS).round().astype(int))]
                frames = reader.at(looked, tolerance_s=1 / reader.info.fps)
        else:
            head = [np.array(frame) for frame in islice(camera.frames(), _ENCODED)]
            frames = np.stack(head[:: max(len(head) // _LOOKS, 1)])
            moving = moves(steps.slice(0, len(head)))
            if name not in self._cost:
                self._cost[name] = _encoding(head, fps)
        seen = of_frames(frames, moving)
        if seen:
            self.defects[seen, f"camera {name!r}"] += 1


def _encoding(frames: Sequence[np.ndarray], fps: float) -> tuple[float, float]:
    """(seconds, bytes) a frame of encoding ``frames`` as an ingest would."""
    with tempfile.TemporaryDirectory(prefix="data-engine-") as folder:
        path = os.path.join(folder, "sample.mp4")
        began = time.perf_counter()
        encode(frames, path, fps)
        return (time.perf_counter() - began) / len(frames), os.path.getsize(path) / len(frames)


def _integrity(look: _Look, read: Mapping[str, pa.Table]) -> Counter[tuple[str, str]]:
    """Reason codes of the integrity scorer, on the sampled episodes among themselves."""
    found: Counter[tuple[str, str]] = Counter()
    tables = [table for table in read.values() if {STATE, ACTION} & set(table.column_names)]
    if not tables:
        return found
    offsets = np.cumsum([0, *map(len, tables)])
    rows = pa.table(
        {
            "episode_id": [str(i) for i in range(len(tables))],
            "task": pa.nulls(len(tables), pa.string()),
            "content_hash": [hashes(table)[0] for table in tables],
            "n_steps": [len(table) for table in tables],
            "embodiment": ["unknown"] * len(tables),
            "control_mode": ["unspecified"] * len(tables),
        }
    )
    fps = look.fmt.fps or look.probe.fps
    dataset = Dataset(
        name="sample", fps=fps, features=look.probe.features, origin=look.source.uri, format=look.fmt.name
    )
    batch = EpisodeBatch(dataset, rows, pa.concat_tables(tables), offsets)
    scorer = registry.make("scorers", "integrity", {"frames": 0})
    for scores in scorer.score(batch, scorer.fit([batch])):
        reasons = {span.reason for row in scores for span in row.spans}
        found.update((reason, "seen by the integrity scorer") for reason in reasons)
    return found


def _twins(looks: Sequence[_Look]) -> list[dict[str, Any]]:
    """Pairs of sources that hold the same recording: sampled episodes, and those of the same length in the other."""
    pairs = []
    for i, first in enumerate(looks):
        for second in looks[i + 1 :]:
            shared = _shared(first, second) + [(a, b) for b, a in _shared(second, first)]
            if shared:
                both = list(dict.fromkeys(shared))
                pairs.append(
                    {"first": first.source.uri, "second": second.source.uri, "episodes": [list(pair) for pair in both]}
                )
    return pairs


def _shared(first: _Look, second: _Look) -> list[tuple[str, str]]:
    theirs = {mark: key for key in second.tables if (mark := second.signature(key))}
    found = []
    by_length: dict[int | None, list[str]] = {}
    for ref in second.probe.episodes:
        by_length.setdefault(ref.n_steps, []).append(ref.key)
    for key in list(first.tables):
        mine = first.signature(key)
        if mine is None:
            continue
        if mine not in theirs and second.probe.proposal is None and _alike(first, second):
            twins = by_length.get(len(first.tables[key]), [])[:_TWINS]
            second.read(twins, filmed=False)
            theirs |= {mark: twin for twin in twins if (mark := second.signature(twin))}
        if mine in theirs:
            found.append((key, theirs[mine]))
    return found


def _alike(first: _Look, second: _Look) -> bool:
    """Whether both have actions (or states) of one width: else no recording is in both."""
    for name in (ACTION, STATE):
        sizes = [next((f.size for f in look.probe.features if f.name == name), None) for look in (first, second)]
        if None not in sizes:
            return sizes[0] == sizes[1]
    return False


def _held(looks: Sequence[_Look], lake: Lake | None) -> list[dict[str, Any]]:
    """Sampled episodes whose steps the lake holds."""
    if lake is None:
        return []
    rows = lake.episodes().select("steps_hash", pl.format("{}/{}", "dataset", "source_key").alias("of"))
    there = dict(rows.rows())
    found = []
    for look in looks:
        shared = [[key, there[mark]] for key, table in look.tables.items() if (mark := hashes(table)[1]) in there]
        if shared:
            found.append({"first": look.source.uri, "second": lake.uri, "episodes": shared})
    return found


def _unit(feature: Feature) -> str | None:
    """The unit of a column, or the units of its components where they differ."""
    if feature.unit:
        return feature.unit
    values = Counter(f.value for f in feature.findings if f.kind == "unit" and f.value != "unknown")
    return " + ".join(sorted(values)) or None


def _parquet_bytes(tables: Iterable[pa.Table]) -> int:
    """Bytes of ``tables`` as the lake writes them."""
    whole = pa.concat_tables(tables)
    sink = io.BytesIO()
    texts = [f.name for f in whole.schema if pa.types.is_string(f.type)]
    pq.write_table(whole, sink, compression="zstd", use_dictionary=texts)
    return sink.tell()


def _hash_rate() -> float:
    """Bytes a second that this machine hashes, measured on 8 MiB."""
    data = bytes(8 << 20)
    began = time.perf_counter()
    hashlib.sha256(data).digest()
    return len(data) / (time.perf_counter() - began)
