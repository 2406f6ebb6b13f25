"""Long synthetic sets for measuring what an ingest needs: as large, or of as many episodes, as asked for.

Values are noise, so that nothing is small by compression. Files are laid out as the formats' own writers do it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

__all__ = ["Shape", "clip", "lerobot", "robomimic"]

FPS = 20
CAMERA = "observation.images.top"


@dataclass(frozen=True)
class Shape:
    """How many episodes of how many steps of ``width`` float32 numbers, a quarter of them the action.

    ``noisy``: how many of the steps are noise, all if None; the rest are zeros that robomimic files leave as holes.
    """

    episodes: int
    steps: int
    width: int
    noisy: int | None = None

    @property
    def sizes(self) -> dict[str, int]:
        """Column -> numbers a step."""
        return {"observation.state": self.width - self.width // 4, "action": self.width // 4}


def robomimic(path: Path, shape: Shape, seed: int = 0) -> Path:
    """One HDF5 file of a group a demonstration."""
    rng = np.random.default_rng(seed)
    with h5py.File(path, "w", libver="latest") as file:
        data = file.create_group("data", track_order=False)
        data.attrs["env_args"] = json.dumps({"env_name": "Long", "env_kwargs": {"control_freq": FPS}})
        for number in range(shape.episodes):
            demo = data.create_group(f"demo_{number}")
            demo.attrs["num_samples"] = shape.steps
            for name, column in (("actions", "action"), ("obs/robot0_joint_pos", "observation.state")):
                width = shape.sizes[column]
                values = demo.create_dataset(name, (shape.steps, width), np.float32)
                values[: shape.noisy] = rng.standard_normal((shape.noisy or shape.steps, width), np.float32)
    return path


def lerobot(
    root: Path, shape: Shape, *, file_bytes: int = 100_000_000, video: Path | None = None, seed: int = 0
) -> Path:
    """A LeRobot v3.0 set: data files of at most ``file_bytes``, a row group an episode; metadata ten rows a group.

    With ``video``, a data file is as long as that clip, which every video file holds, under a name of its own: equal
    packets, and other bytes.
    """
    rng = np.random.default_rng(seed)
    per_file = max(1, file_bytes // (shape.steps * shape.width * 4))
    if video is not None:
        with av.open(str(video)) as clip:
            per_file = max(1, clip.streams.video[0].frames // shape.steps)
    (root / "meta/episodes/chunk-000").mkdir(parents=True)
    rows = _Rows(root / "meta/episodes/chunk-000/file-000.parquet", shape, video is not None)
    for file, first in enumerate(range(0, shape.episodes, per_file)):
        numbers = range(first, min(first + per_file, shape.episodes))
        place = file // 1000, file % 1000
        _data_file(root / "data" / _name(place, "parquet"), shape, numbers, rng)
        if video is not None:
            _video_file(video, root / "videos" / CAMERA / _name(place, "mp4"), f"file {file}")
        rows.add(numbers, place)
    rows.close()
    pq.write_table(pa.table({"task_index": [0], "__index_level_0__": ["push"]}), root / "meta/tasks.parquet")
    (root / "meta/info.json").write_text(json.dumps(_info(shape, video)))
    return root


def clip(path: Path, frames: int, size: int = 480) -> Path:
    """H.264 of noise, a key frame every other frame as LeRobot has it: about 100 kB a frame."""
    rng = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", FPS, options={"preset": "ultrafast", "qp": "20", "g": "2"})
        stream.width = stream.height = size
        stream.pix_fmt = "yuv420p"
        for _ in range(frames):
            noise = rng.integers(0, 256, (size, size, 3), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(noise, "rgb24")))
        container.mux(stream.encode())
    return path


def _name(place: tuple[int, int], suffix: str) -> str:
    return f"chunk-{place[0]:03d}/file-{place[1]:03d}.{suffix}"


def _data_file(path: Path, shape: Shape, numbers: range, rng: np.random.Generator) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    frame = np.arange(shape.steps)
    writer = None
    for number in numbers:
        columns: dict[str, Any] = {
            name: pa.FixedSizeListArray.from_arrays(pa.array(rng.standard_normal(shape.steps * size, np.float32)), size)
            for name, size in shape.sizes.items()
        }
        columns |= {
            "timestamp": (frame / FPS).astype(np.float32),
            "frame_index": frame,
            "episode_index": np.full(shape.steps, number),
            "index": frame + number * shape.steps,
            "task_index": np.zeros(shape.steps, np.int64),
        }
        table = pa.table(columns)
        writer = writer or pq.ParquetWriter(path, table.schema, use_dictionary=False)
        writer.write_table(table)
    if writer is not None:
        writer.close()


def _video_file(clip: Path, path: Path, comment: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(clip)) as source, av.open(str(path), "w") as target:
        target.metadata["comment"] = comment
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)


class _Rows:
    """The metadata file: a row an episode, ten a row group, with statistics as LeRobot keeps them."""

    def __init__(self, path: Path, shape: Shape, video: bool) -> None:
        self.path, self.shape, self.video = path, shape, video
        self.rows: list[dict[str, Any]] = []
        self.writer: pq.ParquetWriter | None = None

    def add(self, numbers: range, place: tuple[int, int]) -> None:
        steps = self.shape.steps
        for at, number in enumerate(numbers):
            row: dict[str, Any] = {
                "episode_index": number, "tasks": ["push"], "length": steps,
                "data/chunk_index": place[0], "data/file_index": place[1],
                "dataset_from_index": number * steps, "dataset_to_index": (number + 1) * steps,
                "meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0,
            }  # fmt: skip
            if self.video:
                row |= {f"videos/{CAMERA}/chunk_index": place[0], f"videos/{CAMERA}/file_index": place[1],
                        f"videos/{CAMERA}/from_timestamp": at * steps / FPS,
                        f"videos/{CAMERA}/to_timestamp": (at + 1) * steps / FPS}  # fmt: skip
            for name, size in self.shape.sizes.items():
                kinds = ("min", "max", "mean", "std", "q01", "q10", "q50", "q90", "q99")
                row |= {f"stats/{name}/{kind}": [float(number)] * size for kind in kinds}
                row[f"stats/{name}/count"] = [steps]
            self.rows.append(row)
            if len(self.rows) == 10:
                self._flush()

    def _flush(self) -> None:
        table = pa.Table.from_pylist(self.rows)
        self.writer = self.writer or pq.ParquetWriter(self.path, table.schema)
        self.writer.write_table(table)
        self.rows = []

    def close(self) -> None:
        if self.rows:
            self._flush()
        if self.writer is not None:
            self.writer.close()


def _info(shape: Shape, video: Path | None) -> dict[str, Any]:
    features: dict[str, Any] = {
        name: {"dtype": "float32", "shape": [size], "names": None} for name, size in shape.sizes.items()
    }
    if video is not None:
        with av.open(str(video)) as found:
            stream = found.streams.video[0]
            features[CAMERA] = {
                "dtype": "video", "shape": [stream.height, stream.width, 3],
                "names": ["height", "width", "channels"], "info": {"video.codec": "h264", "video.fps": FPS},
            }  # fmt: skip
    kinds = {
        "timestamp": "float32",
        "frame_index": "int64",
        "episode_index": "int64",
        "index": "int64",
        "task_index": "int64",
    }
    features |= {name: {"dtype": dtype, "shape": [1], "names": None} for name, dtype in kinds.items()}
    return {
        "codebase_version": "v3.0", "robot_type": "long", "total_episodes": shape.episodes,
        "total_frames": shape.episodes * shape.steps, "total_tasks": 1, "chunks_size": 1000, "fps": FPS,
        "splits": {"train": f"0:{shape.episodes}"},
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4" if video else None,
        "features": features,
    }  # fmt: skip
