"""Reading an export back with the LeRobot reader and holding it against the mixture that it is of."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_engine.arrays import to_array
from data_engine.cache import LRU
from data_engine.errors import EngineError
from data_engine.exports.lerobot_data import TOLERANCE_S, task_text
from data_engine.exports.lerobot_features import Columns, camera_name
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

    Rows of every column and each episode's frames, one a step, are compared; ``order`` are the mixture's rows in the
    export's order; with ``even`` time is steps at the export's fps. Nothing of the writer is used: files, paths and
    values come through the reader of the format.
    """
    source, reader = Source(uri), LeRobotV3()
    try:
        probe = reader.probe(source)
    except EngineError as error:
        return [f"not readable: {error}"]
    if probe is None:
        return [f"{uri} is no LeRobot v3.0 dataset"]
    found = list(probe.notes)
    if len(probe.episodes) != len(order):
        found.append(f"{len(probe.episodes)} episodes, {len(order)} in the mixture")
    traced = _provenance(source)
    if len(traced) != len(order):
        found.append(f"{len(traced)} provenance rows, {len(order)} in the mixture")
    with tempfile.TemporaryDirectory(prefix="data-engine-verify-") as scratch:
        videos: LRU[str, FrameReader] = LRU(4, lambda path: FrameReader(_local(source, path, Path(scratch))))
        episodes = reader.read(source, probe, [ref.key for ref in probe.episodes])
        wanted = traces(mixture, order).to_pylist()
        together = zip(rows_and_steps(mixture, order), episodes, traced, wanted, strict=False)
        for (row, steps), episode, trace, told in together:
            where = f"{episode.key} ({row['dataset']}/{row['source_key']} {row['start']}:{row['stop']})"
            if not isinstance(episode, SourceEpisode):
                found.append(f"{where}: {episode.reason}")
                continue
            wrong = [name for name in PROVENANCE.names[1:] if trace[name] != told[name]]
            found += [f"{where}: provenance has {name} {trace[name]!r}, not {told[name]!r}" for name in wrong]
            text = task_text(row)
            if episode.task != text:
                found.append(f"{where}: task {episode.task!r}, not {text!r}")
            found += [f"{where}: {line}" for line in episode.notes]
            found += [f"{where}: {line}" for line in _rows(columns, steps, episode.steps, even)]
            for camera in columns.cameras:
                found += [f"{where}: {line}" for line in _frames(camera, steps, episode, videos, columns.fps)]
    return found


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


def _frames(camera: Feature, steps: pa.Table, episode: SourceEpisode, videos: Any, fps: float) -> list[str]:
    video = episode.cameras.get(camera_name(camera))
    if not isinstance(video, EncodedVideo):
        return [f"no video of {camera_name(camera)!r}"]
    try:
        count = videos(video.path).count(video.start_s, video.start_s + steps.num_rows / fps)
    except EngineError as error:
        return [f"{camera_name(camera)}: {error}"]
    return [] if count == steps.num_rows else [f"{count} frames of {camera_name(camera)!r} for {steps.num_rows} steps"]


def _provenance(source: Source) -> list[dict[str, Any]]:
    if not source.exists("meta", "provenance.parquet"):
        return []
    try:
        with source.open("meta", "provenance.parquet") as file:
            rows = pq.read_table(pa.BufferReader(file.read())).cast(PROVENANCE).to_pylist()
    except (OSError, ValueError):  # pyarrow's own errors are both
        return []
    return sorted(rows, key=lambda row: row["episode_index"])


def _local(source: Source, path: str, scratch: Path) -> str:
    if source.is_local:
        return source.path(path)
    copy = scratch / path.replace("/", "__")
    if not copy.exists():
        source.fs.get_file(source.path(path), str(copy))
    return str(copy)
