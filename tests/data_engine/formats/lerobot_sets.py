"""Small LeRobot v3.0 and v2.1 sets, written plainly, for tests to bend and break."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_engine.video import encode

FPS = 10


def image(number: int, size: tuple[int, int] = (64, 80)) -> np.ndarray:
    """uint8 [h, w, 3]: a frame whose brightness tells its number."""
    return np.full((*size, 3), 20 + number * 7 % 200, np.uint8)


def png(frame: np.ndarray) -> bytes:
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(frame).save(out, "PNG")
    return out.getvalue()


def info(version: str, lengths: Sequence[int], features: dict[str, Any]) -> dict[str, Any]:
    per_episode = version != "v3.0"
    return {
        "codebase_version": version,
        "robot_type": "so100",
        "total_episodes": len(lengths),
        "total_frames": sum(lengths),
        "total_tasks": 1,
        "chunks_size": 1000,
        "fps": FPS,
        "splits": {"train": f"0:{len(lengths)}"},
        "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
        if per_episode
        else "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"
        if per_episode
        else "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
        "features": features,
    }


def columns(lengths: Sequence[int], *, images: bool, wide: bool) -> tuple[dict[str, Any], pa.Table]:
    """Features and rows of episodes of ``lengths``."""
    n = sum(lengths)
    row = np.arange(n)
    frame = np.concatenate([np.arange(length) for length in lengths])
    state = np.stack([row, row * 0.5, np.sin(row)], axis=1).astype(np.float32)
    found = {
        "observation.state": pa.FixedSizeListArray.from_arrays(pa.array(state.reshape(-1)), 3),
        "action": pa.FixedSizeListArray.from_arrays(pa.array((state[:, :2] + 1).reshape(-1)), 2),
        "next.reward": pa.array((row / 10).astype(np.float32)),
        "next.done": pa.array(np.concatenate([np.arange(length) == length - 1 for length in lengths])),
        "timestamp": pa.array((frame / FPS).astype(np.float32)),
        "frame_index": pa.array(frame),
        "episode_index": pa.array(np.repeat(np.arange(len(lengths)), lengths)),
        "index": pa.array(row),
        "task_index": pa.array(np.zeros(n, np.int64)),
    }
    features: dict[str, Any] = {
        "observation.state": {"dtype": "float32", "shape": [3], "names": {"motors": ["pan", "lift", "roll"]}},
        "action": {"dtype": "float32", "shape": [2], "names": ["pan", "lift"]},
        "next.reward": {"dtype": "float32", "shape": [1], "names": None},
        "next.done": {"dtype": "bool", "shape": [1], "names": None},
    }
    if wide:
        points = np.arange(n * 6, dtype=np.float32).reshape(n, 3, 2)
        found["keypoints"] = pa.array(points.tolist(), pa.list_(pa.list_(pa.float32())))
        found["counter"] = pa.array((row % 256).astype(np.uint8))
        found["half"] = pa.FixedSizeListArray.from_arrays(pa.array(np.arange(n * 2).astype(np.float16)), 2)
        features["keypoints"] = {"dtype": "float32", "shape": [3, 2], "names": None}
        features["counter"] = {"dtype": "uint8", "shape": [1], "names": None}
        features["half"] = {"dtype": "float16", "shape": [2], "names": None}
    if images:
        cells = [{"bytes": png(image(i)), "path": None} for i in row.tolist()]
        found["observation.image"] = pa.array(cells, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
        names = ["height", "width", "channels"]
        features["observation.image"] = {"dtype": "image", "shape": [64, 80, 3], "names": names}
    for name, dtype in (
        ("timestamp", "float32"),
        *((n, "int64") for n in ("frame_index", "episode_index", "index", "task_index")),
    ):
        features[name] = {"dtype": dtype, "shape": [1], "names": None}
    return features, pa.table(found)


def video_feature() -> dict[str, Any]:
    return {
        "dtype": "video",
        "shape": [3, 64, 80],
        "names": ["channels", "height", "width"],
        "info": {"video.codec": "av1", "video.fps": FPS, "video.height": 64, "video.width": 80},
    }


def write_v3(
    root: Path,
    lengths: Sequence[int],
    *,
    images: bool = False,
    video: bool = False,
    wide: bool = False,
    extra: dict[str, list[Any]] | None = None,
) -> dict[str, Any]:
    """Write a v3.0 set with one data file (a row group an episode) and one video a camera; answers its info."""
    features, table = columns(lengths, images=images, wide=wide)
    ends = np.cumsum(lengths)
    starts = ends - lengths
    episodes: dict[str, Any] = {
        "episode_index": list(range(len(lengths))),
        "tasks": [["push"]] * len(lengths),
        "length": list(lengths),
        "data/chunk_index": [0] * len(lengths),
        "data/file_index": [0] * len(lengths),
        "dataset_from_index": starts.tolist(),
        "dataset_to_index": ends.tolist(),
        "stats/action/mean": [[0.0, 0.0]] * len(lengths),
        "meta/episodes/chunk_index": [0] * len(lengths),
        "meta/episodes/file_index": [0] * len(lengths),
        **(extra or {}),
    }
    if video:
        key = "observation.images.top"
        features[key] = video_feature()
        path = root / "videos" / key / "chunk-000" / "file-000.mp4"
        path.parent.mkdir(parents=True)
        encode((image(i) for i in range(sum(lengths))), path, FPS)
        episodes |= {f"videos/{key}/chunk_index": [0] * len(lengths), f"videos/{key}/file_index": [0] * len(lengths)}
        episodes |= {f"videos/{key}/from_timestamp": (starts / FPS).tolist()}
        episodes |= {f"videos/{key}/to_timestamp": (ends / FPS).tolist()}
    (root / "meta" / "episodes" / "chunk-000").mkdir(parents=True)
    (root / "data" / "chunk-000").mkdir(parents=True)
    with pq.ParquetWriter(root / "data" / "chunk-000" / "file-000.parquet", table.schema) as writer:
        for start, length in zip(starts.tolist(), lengths, strict=True):
            writer.write_table(table.slice(start, length))
    pq.write_table(pa.table(episodes), root / "meta" / "episodes" / "chunk-000" / "file-000.parquet")
    pq.write_table(pa.table({"task_index": [0], "__index_level_0__": ["push"]}), root / "meta" / "tasks.parquet")
    return rewrite_info(root, info("v3.0", lengths, features))


def write_v2(
    root: Path,
    lengths: Sequence[int],
    *,
    images: bool = False,
    video: bool = False,
    extra: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Write a v2.1 set, a data file and a video an episode; answers its info."""
    features, table = columns(lengths, images=images, wide=False)
    (root / "meta").mkdir(parents=True)
    (root / "data" / "chunk-000").mkdir(parents=True)
    start = 0
    lines = []
    for number, length in enumerate(lengths):
        name = f"episode_{number:06d}"
        pq.write_table(table.slice(start, length), root / "data" / "chunk-000" / f"{name}.parquet")
        if video:
            features["observation.images.top"] = video_feature()
            path = root / "videos" / "chunk-000" / "observation.images.top" / f"{name}.mp4"
            path.parent.mkdir(parents=True, exist_ok=True)
            encode((image(i) for i in range(start, start + length)), path, FPS)
        lines.append({"episode_index": number, "tasks": ["push"], "length": length, **(extra or {})})
        start += length
    write_lines(root / "meta" / "episodes.jsonl", lines)
    write_lines(root / "meta" / "tasks.jsonl", [{"task_index": 0, "task": "push"}])
    return rewrite_info(root, info("v2.1", lengths, features))


def write_lines(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def rewrite_info(root: Path, value: dict[str, Any]) -> dict[str, Any]:
    (root / "meta" / "info.json").write_text(json.dumps(value))
    return value
