"""Bags that tests make, with the writers of ``rosbags`` and ``mcap``: one set of messages in three containers."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from mcap.writer import CompressionType, Writer
from PIL import Image
from rosbags.rosbag1 import Writer as Ros1Writer
from rosbags.rosbag2 import StoragePlugin
from rosbags.rosbag2 import Writer as Ros2Writer
from rosbags.typesys import Stores, get_typestore

KINDS = ("ros1", "mcap", "sqlite")
ROS1, ROS2 = get_typestore(Stores.ROS1_NOETIC), get_typestore(Stores.ROS2_HUMBLE)
SECOND = 1_000_000_000
START = 1_700_000_000 * SECOND

Maker = Callable[[Any], Any]  # store -> message
Topics = Mapping[str, tuple[str, Iterable[tuple[int, Maker]]]]  # topic -> (type, [(log time, message)])


def of(store: Any, kind: str, **fields: Any) -> Any:
    """A message of ``package/msg/Type``; a header's sequence number is filled in where the store has one."""
    return store.types[kind](**fields)


def header(store: Any, stamp: int = 0) -> Any:
    time = of(store, "builtin_interfaces/msg/Time", sec=stamp // SECOND, nanosec=stamp % SECOND)
    more = {"seq": 0} if store is ROS1 else {}
    return of(store, "std_msgs/msg/Header", stamp=time, frame_id="base", **more)


def joints(values: Iterable[float], names: Iterable[str] | None = None, stamp: int = 0) -> Maker:
    position = np.asarray(list(values), np.float64)
    named = [f"joint_{i}" for i in range(len(position))] if names is None else list(names)

    def make(store: Any) -> Any:
        return of(
            store, "sensor_msgs/msg/JointState", header=header(store, stamp), name=named, position=position,
            velocity=position * 2, effort=np.empty(0),
        )  # fmt: skip

    return make


def twist(x: float, turn: float = 0.0) -> Maker:
    def make(store: Any) -> Any:
        linear = of(store, "geometry_msgs/msg/Vector3", x=x, y=0.0, z=0.0)
        return of(
            store, "geometry_msgs/msg/Twist", linear=linear,
            angular=of(store, "geometry_msgs/msg/Vector3", x=0.0, y=0.0, z=turn),
        )  # fmt: skip

    return make


def plain(kind: str, **fields: Any) -> Maker:
    return lambda store: of(store, kind, **fields)


def image(frame: np.ndarray, encoding: str = "rgb8", stamp: int = 0, pad: int = 0) -> Maker:
    """A raw image of ``frame`` [h, w, ...] as it lies in memory, with ``pad`` more bytes at the end of each row."""
    rows = np.ascontiguousarray(frame).view(np.uint8).reshape(len(frame), -1)
    rows = np.concatenate([rows, np.full((len(rows), pad), 7, np.uint8)], axis=1)

    def make(store: Any) -> Any:
        return of(
            store, "sensor_msgs/msg/Image", header=header(store, stamp), height=frame.shape[0], width=frame.shape[1],
            encoding=encoding, is_bigendian=0, step=rows.shape[1], data=rows.reshape(-1),
        )  # fmt: skip

    return make


def coded(frame: np.ndarray, stamp: int = 0, kind: str = "PNG") -> Maker:
    out = io.BytesIO()
    Image.fromarray(frame).save(out, kind)
    data = np.frombuffer(out.getvalue(), np.uint8)
    return lambda store: of(
        store, "sensor_msgs/msg/CompressedImage", header=header(store, stamp), format=kind.lower(), data=data
    )


def frames(n: int, height: int = 16, width: int = 24, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, height, width, 3), dtype=np.uint8)


def write(path: Path, kind: str, topics: Topics, **options: Any) -> Path:
    """Write ``topics`` in order of log time; returns the file, or for ROS 2 kinds the file inside its folder."""
    store = ROS1 if kind == "ros1" else ROS2
    if kind == "ros1":
        writer: Any = Ros1Writer(path.with_suffix(".bag"))
        if options.get("compression"):
            writer.set_compression(getattr(Ros1Writer.CompressionFormat, options["compression"]))
        writer.chunk_threshold = options.get("chunk", 1 << 20)
    else:
        plugin = StoragePlugin.MCAP if kind == "mcap" else StoragePlugin.SQLITE3
        writer = Ros2Writer(path, version=9, storage_plugin=plugin)
        if options.get("compression"):
            writer.set_compression(*options["compression"])
    with writer:
        made = {name: writer.add_connection(name, of_type, typestore=store) for name, (of_type, _) in topics.items()}
        rows = [(time, at, name, make) for name, (_, rows) in topics.items() for at, (time, make) in enumerate(rows)]
        for time, _, name, make in sorted(rows, key=lambda row: row[:3]) if options.get("sort", True) else rows:
            serialise = store.serialize_ros1 if kind == "ros1" else store.serialize_cdr
            writer.write(made[name], time, serialise(make(store), topics[name][0]))
    if kind == "ros1":
        return path.with_suffix(".bag")
    return path / f"{path.name}.{'mcap' if kind == 'mcap' else 'db3'}"


def write_mcap(
    path: Path, topics: Mapping[str, tuple[str, str, str, bytes, Iterable[tuple[int, int, bytes]]]], **options: Any
) -> Path:
    """With mcap's own writer: topic -> (type, encoding, schema encoding, schema, [(log, publish, data)])."""
    options.setdefault("compression", CompressionType.ZSTD)
    with open(path, "wb") as file:
        writer = Writer(file, **options)
        writer.start()
        channels = {}
        for topic, (name, encoding, schema_encoding, schema, _) in topics.items():
            number = writer.register_schema(name, schema_encoding, schema)
            channels[topic] = writer.register_channel(topic, encoding, number)
        rows = [(log, topic, publish, data) for topic, (*_, rows) in topics.items() for log, publish, data in rows]
        for log, topic, publish, data in sorted(rows, key=lambda row: row[:2]):
            writer.add_message(channels[topic], log, data, publish)
        writer.finish()
    return path


def ros2(topics: Topics) -> dict[str, tuple[str, str, str, bytes, list[tuple[int, int, bytes]]]]:
    """``topics`` as :func:`write_mcap` takes them; published a millisecond before they were logged."""
    return {
        name: (
            kind, "cdr", "ros2msg", ROS2.generate_msgdef(kind, ros_version=2)[0].encode(),
            [(time, time - 1_000_000, bytes(ROS2.serialize_cdr(make(ROS2), kind))) for time, make in rows],
        )
        for name, (kind, rows) in topics.items()
    }  # fmt: skip
