"""The metadata of a LeRobot v3.0 dataset: info, tasks, episodes, statistics, and beside them where it all came from."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_engine.exports.lerobot_data import CHUNKS_SIZE, DATA_PATH, DataFiles, place, task_text
from data_engine.exports.lerobot_features import DEFAULTS, Columns, lerobot_name
from data_engine.exports.lerobot_stats import NAMES, aggregate
from data_engine.exports.lerobot_videos import CameraFiles
from data_engine.exports.traces import traces
from data_engine.mixture import Mixture
from data_engine.model import Feature

__all__ = ["write_meta"]

_VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"

Cameras = Mapping[Feature, CameraFiles]


def write_meta(
    mixture: Mixture,
    order: Sequence[int],
    columns: Columns,
    data: DataFiles,
    cameras: Cameras,
    folder: Path,
    sizes: Mapping[str, int],
    options: Mapping[str, Any],
    weights: str,
) -> None:
    """Write ``folder/meta`` of the rows ``order`` of ``mixture``, as ``data`` has them.

    ``sizes``: LeRobot's file size settings. ``options``: the exporter's. ``weights``: a line on what became of them.
    """
    episodes = folder / "meta" / "episodes" / "chunk-000" / "file-000.parquet"
    episodes.parent.mkdir(parents=True)
    pq.write_table(_episodes(columns, data, cameras), episodes, compression="snappy")
    pq.write_table(_tasks(data), folder / "meta" / "tasks.parquet", compression="snappy")
    pq.write_table(traces(mixture, order), folder / "meta" / "provenance.parquet", compression="snappy")
    _write_json(folder / "meta" / "stats.json", _stats(columns, data, cameras))
    origin = {
        "mixture_id": mixture.id,
        "name": mixture.name,
        "options": dict(options),
        "weight_kind": mixture.document.weight_kind,
        "unit": mixture.document.unit,
        "weights": weights,
        "entries": [entry.model_dump(mode="json") for entry in mixture.document.entries],
        "columns": {lerobot_name(feature.name): feature.name for feature in columns.features},
        "left_out": list(columns.left_out),
        "retimed": {str(number): seconds for number, seconds in sorted(data.retimed.items())},
        "transcoded": {
            lerobot_name(camera.name): {str(number): why for number, why in sorted(files.transcoded.items())}
            for camera, files in cameras.items()
            if files.transcoded
        },
    }
    _write_json(folder / "meta" / "mixture.json", origin)
    _write_json(folder / "meta" / "info.json", _info(columns, data, cameras, sizes))


def _info(columns: Columns, data: DataFiles, cameras: Cameras, sizes: Mapping[str, int]) -> dict[str, Any]:
    features: dict[str, Any] = {}
    for feature in columns.features:
        spec: dict[str, Any] = {
            "dtype": "video" if feature.is_camera else feature.dtype,
            "shape": list(feature.shape) or [1],
            "names": list(feature.components) if feature.components else None,
        }
        if feature.is_camera:
            probed = cameras[feature].info
            spec["shape"], spec["names"] = [probed.height, probed.width, 3], ["height", "width", "channels"]
            spec["info"] = {
                "video.height": probed.height,
                "video.width": probed.width,
                "video.codec": probed.codec,
                "video.pix_fmt": probed.pix_fmt,
                "video.is_depth_map": False,
                "video.fps": _whole(columns.fps),
                "video.channels": 3,
                "has_audio": False,
            }
        features[lerobot_name(feature.name)] = spec
    splits: dict[str, str] = {}
    start = 0
    for split, members in groupby(row["split"] for row in data.rows):
        stop = start + len(list(members))
        splits[split or "train"] = f"{start}:{stop}"
        start = stop
    return {
        "codebase_version": "v3.0",
        "robot_type": columns.embodiment,
        "total_episodes": len(data.rows),
        "total_frames": data.written,
        "total_tasks": len(data.tasks),
        "chunks_size": CHUNKS_SIZE,
        **sizes,
        "fps": _whole(columns.fps),
        "splits": splits,
        "data_path": DATA_PATH,
        "video_path": _VIDEO_PATH if cameras else None,
        "features": {**features, **DEFAULTS},
    }


def _episodes(columns: Columns, data: DataFiles, cameras: Cameras) -> pa.Table:
    n = len(data.rows)
    lengths = [stop - first for _, first, stop in data.places]
    found: dict[str, Any] = {
        "episode_index": pa.array(range(n), pa.int64()),
        "tasks": pa.array([[task_text(row)] for row in data.rows], pa.list_(pa.string())),
        "length": pa.array(lengths, pa.int64()),
    }
    for name in ("chunk_index", "file_index"):
        found[f"data/{name}"] = pa.array([place(file)[name] for file, _, _ in data.places], pa.int64())
    found["dataset_from_index"] = pa.array([first for _, first, _ in data.places], pa.int64())
    found["dataset_to_index"] = pa.array([stop for _, _, stop in data.places], pa.int64())
    for camera, files in cameras.items():
        key = f"videos/{lerobot_name(camera.name)}"
        for name in ("chunk_index", "file_index"):
            found[f"{key}/{name}"] = pa.array([place(where.file)[name] for where in files.places], pa.int64())
        found[f"{key}/from_timestamp"] = pa.array([where.from_s for where in files.places], pa.float64())
        found[f"{key}/to_timestamp"] = pa.array([where.to_s for where in files.places], pa.float64())
    for name, kind in (("success", pa.bool_()), ("operator", pa.string())):
        if any(row[name] is not None for row in data.rows):
            found[name] = pa.array([row[name] for row in data.rows], kind)
    for name, stats, counts in _every_feature(columns, data, cameras, lengths):
        image = name in {lerobot_name(camera.name) for camera in cameras}
        for at, statistic in enumerate(NAMES):
            values = stats[:, at]
            found[f"stats/{name}/{statistic}"] = _lists(values[..., None, None] if image else values)
        found[f"stats/{name}/count"] = _lists(np.asarray(counts, np.int64)[:, None])
    for name in ("chunk_index", "file_index"):
        found[f"meta/episodes/{name}"] = pa.array([0] * n, pa.int64())
    return pa.table(found)


def _stats(columns: Columns, data: DataFiles, cameras: Cameras) -> dict[str, Any]:
    found: dict[str, Any] = {}
    images = {lerobot_name(camera.name) for camera in cameras}
    lengths = [stop - first for _, first, stop in data.places]
    for name, stats, counts in _every_feature(columns, data, cameras, lengths):
        whole = aggregate(stats, counts)
        shaped = {k: (v[:, None, None] if name in images else v).tolist() for k, v in whole.items()}
        found[name] = {**shaped, "count": [int(sum(counts))]}
    return found


def _every_feature(
    columns: Columns, data: DataFiles, cameras: Cameras, lengths: Sequence[int]
) -> Iterator[tuple[str, np.ndarray, Sequence[int]]]:
    """(LeRobot's name, statistics [episodes, 9, d], counts [episodes]) of every feature that has any."""
    stats = np.stack(data.stats)
    at = 0
    widths = [(lerobot_name(feature.name), feature.size) for feature in columns.steps if feature.dtype != "string"]
    for name, width in [*widths, *((name, 1) for name in DEFAULTS)]:
        yield name, stats[:, :, at : at + width], lengths
        at += width
    for camera, files in cameras.items():
        yield lerobot_name(camera.name), files.stats, files.counts


def _lists(values: np.ndarray) -> pa.Array:
    """``values`` [n, a, b, ...] as a list (of lists) column of n rows."""
    flat: pa.Array = pa.array(np.ascontiguousarray(values).reshape(-1))
    for side in reversed(values.shape[1:]):
        flat = pa.ListArray.from_arrays(pa.array(np.arange(len(flat) // side + 1, dtype=np.int32) * side), flat)
    return flat


def _tasks(data: DataFiles) -> pa.Table:
    """task_index, with the task text as the pandas index, which is how LeRobot looks it up."""
    index = "__index_level_0__"
    table = pa.table({"task_index": pa.array(range(len(data.tasks)), pa.int64()), index: pa.array(list(data.tasks))})
    described = {
        "index_columns": [index],
        "column_indexes": [
            {"name": None, "field_name": None, "pandas_type": "unicode", "numpy_type": "object", "metadata": None}
        ],
        "columns": [
            {
                "name": "task_index",
                "field_name": "task_index",
                "pandas_type": "int64",
                "numpy_type": "int64",
                "metadata": None,
            },
            {"name": None, "field_name": index, "pandas_type": "unicode", "numpy_type": "object", "metadata": None},
        ],
        "pandas_version": "2.2.0",
    }
    return table.replace_schema_metadata({"pandas": json.dumps(described)})


def _whole(fps: float) -> int | float:
    return int(fps) if float(fps).is_integer() else fps


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=4, ensure_ascii=False) + "\n", encoding="utf-8")
