"""Reading an export back with the LeRobot reader and holding it against the mixture that it is of."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_engine.arrays import to_array
from data_engine.cache import LRU
from data_engine.errors import EngineError
from data_engine.exports.films import LEAST_DB, likeness, local_video
from data_engine.exports.lerobot_data import TOLERANCE_S, task_text
from data_engine.exports.lerobot_features import Columns, camera_name, lerobot_name
from data_engine.exports.lerobot_stats import aggregate, vector_stats
from data_engine.exports.pictures import video_of
from data_engine.exports.rows import rows_and_steps
from data_engine.exports.traces import PROVENANCE, traces
from data_engine.formats import EncodedVideo, Source, SourceEpisode
from data_engine.formats.lerobot_v3 import LeRobotV3
from data_engine.mixture import Mixture
from data_engine.model import TIMESTAMP, Feature
from data_engine.video import FrameReader

__all__ = ["differences"]


def differences(mixture: Mixture, columns: Columns, order: Sequence[int], uri: str, even: bool = False) -> list[str]:
    """One line for each way in which the LeRobot v3.0 dataset at ``uri`` is not ``mixture``; none is good.

    Rows of every column and each episode's frames, one a step, are compared: packet by packet, or by their pictures
    where they were encoded again. So are the statistics of ``stats.json`` but for images. ``order`` are the mixture's
    rows in the export's order; with ``even`` time is steps at the export's fps. Files, paths and values come through
    the reader of the format.
    """
    source, reader = Source(uri), LeRobotV3()
    try:
        probe = reader.probe(source)
    except EngineError as error:
        return [f"not readable: {error}"]
    if probe is None:
        return [f"{uri} is no LeRobot v3.0 dataset"]
    told = _told(source)
    found = [*probe.notes, *_facts(mixture, told)]
    stats: dict[str, list[np.ndarray]] = {}
    if len(probe.episodes) != len(order):
        found.append(f"{len(probe.episodes)} episodes, {len(order)} in the mixture")
    traced = _provenance(source)
    if len(traced) != len(order):
        found.append(f"{len(traced)} provenance rows, {len(order)} in the mixture")
    with tempfile.TemporaryDirectory(prefix="data-engine-verify-") as scratch:
        videos: LRU[str, FrameReader] = LRU(4, lambda path: FrameReader(local_video(source, path, Path(scratch))))
        films: LRU[str, FrameReader] = LRU(4, lambda blob: FrameReader(mixture.local(blob)))
        episodes = reader.read(source, probe, [ref.key for ref in probe.episodes])
        wanted = traces(mixture, order).to_pylist()
        together = zip(rows_and_steps(mixture, order), episodes, traced, wanted, strict=False)
        for number, ((row, steps), episode, trace, meant) in enumerate(together):
            for feature in columns.steps:
                if feature.dtype != "string":
                    values = to_array(steps[feature.name]).astype(np.float64).reshape(steps.num_rows, -1)
                    stats.setdefault(lerobot_name(feature.name), []).append(vector_stats(values))
            where = f"{episode.key} ({row['dataset']}/{row['source_key']} {row['start']}:{row['stop']})"
            if not isinstance(episode, SourceEpisode):
                found.append(f"{where}: {episode.reason}")
                continue
            wrong = [name for name in PROVENANCE.names[1:] if trace[name] != meant[name]]
            found += [f"{where}: provenance has {name} {trace[name]!r}, not {meant[name]!r}" for name in wrong]
            text = task_text(row)
            if episode.task != text:
                found.append(f"{where}: task {episode.task!r}, not {text!r}")
            found += [f"{where}: {line}" for line in episode.notes]
            found += [f"{where}: {line}" for line in _rows(columns, steps, episode.steps, even)]
            for camera in columns.cameras:
                again = str(number) in told.get("transcoded", {}).get(lerobot_name(camera.name), ())
                line = _frames(camera, row, steps, episode, videos, films, columns.fps, again)
                found += [f"{where}: {line}"] * (line is not None)
    return found + _unlike_stats(source, stats, [int(mixture.rows["row_count"][i]) for i in order])


def _rows(columns: Columns, steps: pa.Table, written: pa.Table, even: bool) -> list[str]:
    if written.num_rows != steps.num_rows:
        return [f"{written.num_rows} steps, {steps.num_rows} in the mixture"]
    found = []
    for feature in columns.steps:
        if feature.name not in written.column_names:
            found.append(f"no column {feature.name!r}")
        elif feature.dtype in ("string", "uint64"):
            if written[feature.name].cast(pa.string()).to_pylist() != steps[feature.name].cast(pa.string()).to_pylist():
                found.append(f"{feature.name!r} differs")
        else:
            mine, theirs = to_array(steps[feature.name]), to_array(written[feature.name])
            mine, theirs = mine.reshape(len(mine), -1), theirs.reshape(len(theirs), -1)
            if mine.shape != theirs.shape or not np.array_equal(mine.astype(theirs.dtype), theirs, equal_nan=True):
                found.append(f"{feature.name!r} differs")
    times, told = to_array(steps[TIMESTAMP]), to_array(written[TIMESTAMP])
    times = np.arange(len(times)) / columns.fps if even else times
    if not (np.abs(times - times[:1] - told) <= 2 * TOLERANCE_S).all():
        found.append("timestamps differ")
    return found


def _frames(
    camera: Feature,
    row: Mapping[str, Any],
    steps: pa.Table,
    episode: SourceEpisode,
    videos: LRU[str, FrameReader],
    films: LRU[str, FrameReader],
    fps: float,
    again: bool,
) -> str | None:
    """How an episode's frames are not the mixture's. ``again``: whether they are said to be encoded again."""
    name, n = camera_name(camera), steps.num_rows
    video = episode.cameras.get(name)
    if not isinstance(video, EncodedVideo):
        return f"no video of {name!r}"
    try:
        mine, ours, theirs = video_of(row, name), films(video_of(row, name)["blob"]), videos(video.path)
        start = mine["start_s"] + float(to_array(steps[TIMESTAMP])[0])
        count = theirs.count(video.start_s, video.start_s + n / fps)
        if count != n:
            return f"{count} frames of {name!r} for {n} steps"
        if ours.digest(start, start + n / fps) == theirs.digest(video.start_s, video.start_s + n / fps):
            return None
        if not again:
            return f"the coded frames of {name!r} are not the mixture's"
        found = likeness(ours, start + np.arange(n) / fps, theirs, video.start_s + np.arange(n) / fps)
    except EngineError as error:
        return f"{name}: {error}"
    if found is None:
        return f"frames of {name!r} have another size"
    return f"frames of {name!r} are at {found:.1f} dB of the mixture's" if found < LEAST_DB else None


def _told(source: Source) -> dict[str, Any]:
    """``meta/mixture.json``; empty where it is none."""
    try:
        with source.open("meta", "mixture.json") as file:
            told = json.loads(file.read())
    except (EngineError, OSError, ValueError):
        return {}
    return told if isinstance(told, dict) else {}


def _facts(mixture: Mixture, told: Mapping[str, Any]) -> list[str]:
    document = mixture.document
    facts = {
        "mixture_id": mixture.id,
        "weight_kind": document.weight_kind,
        "unit": document.unit,
        "entries": [entry.model_dump(mode="json") for entry in document.entries],
    }
    return [
        f"meta/mixture.json has {key} {told.get(key)!r}, not {value!r}"
        for key, value in facts.items()
        if told.get(key) != value
    ]


def _unlike_stats(source: Source, stats: Mapping[str, list[np.ndarray]], lengths: Sequence[int]) -> list[str]:
    """A line for each column whose statistics in ``stats.json``, which trainers normalise by, are not its values'."""
    try:
        with source.open("meta", "stats.json") as file:
            told = json.loads(file.read())
        return [
            f"stats.json: {statistic} of {name!r} is not that of its values"
            for name, each in stats.items()
            if len(each) == len(lengths)
            for statistic, values in aggregate(np.stack(each), lengths).items()
            if not np.allclose(values, np.array(told[name][statistic], np.float64), 1e-6, 1e-6, equal_nan=True)
        ]
    except (EngineError, OSError, ValueError, KeyError, TypeError) as error:
        return [f"stats.json is not readable: {' '.join(str(error).split())[:200]}"]


def _provenance(source: Source) -> list[dict[str, Any]]:
    if not source.exists("meta", "provenance.parquet"):
        return []
    try:
        with source.open("meta", "provenance.parquet") as file:
            rows = pq.read_table(pa.BufferReader(file.read())).cast(PROVENANCE).to_pylist()
    except (OSError, ValueError):  # pyarrow's own errors are both
        return []
    return sorted(rows, key=lambda row: row["episode_index"])
