"""Hostile and broken sources, one function each, made on the spot. None may crash, hang, read or run anything else.

Each function writes its source at ``at`` and may return what to ingest instead. ``outside`` is the folder beside the
sources whose files nobody may see: every number in them is ``SECRET``, every frame magenta, every text ``WORD``.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import sqlite3
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import av
import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import zarr
import zstandard
from mcap.writer import CompressionType
from PIL import Image

from data_engine.video import encode
from tests.data_engine.formats import lerobot_sets, rlds_sets
from tests.data_engine.formats.bag import bag_sets
from tests.recordings import write_robomimic

SECRET = 777.125
WORD = "wintergreen"
MAGENTA = (255, 0, 255)

Build = Callable[[Path, Path], Any]
SOURCES: dict[str, tuple[Build, int]] = {}
"""By name: the function, and how many episodes of its source are sound and must come in."""


def source(stored: int, **several: Any) -> Callable[[Build], Build]:
    """Enter a function, or one for each of ``several`` values of its third argument."""

    def enter(build: Build) -> Build:
        for name, value in several.items():
            SOURCES[f"{build.__name__}_{name}"] = (lambda at, outside, value=value: build(at, outside, value), stored)
        if not several:
            SOURCES[build.__name__] = (build, stored)
        return build

    return enter


def write_outside(folder: Path) -> None:
    """The files that nobody may see, and none yet that only a payload would make."""
    folder.mkdir()
    numbers = np.full((40, 3), SECRET)
    with h5py.File(folder / "secret.hdf5", "w") as file:
        demonstration(file.create_group("data/demo_0"), np.full((10, 3), SECRET), np.full((10, 3), SECRET))
        file["numbers"] = numbers
    (folder / "secret.raw").write_bytes(numbers.tobytes())
    (folder / "secret.txt").write_text(WORD)
    (folder / "secret.json").write_text(json.dumps({"word": WORD}))
    np.save(folder / "secret.npy", numbers)
    np.savez(folder / "secret.npz", actions=numbers, observations=numbers)
    frames = [np.full((64, 80, 3), MAGENTA, np.uint8)] * 10
    encode(frames, folder / "secret.mp4", 10)
    Image.fromarray(frames[0]).save(folder / "secret.png")
    lerobot_sets.write_v2(folder / "set", [4, 4])
    table = pq.read_table(folder / "set" / "data" / "chunk-000" / "episode_000000.parquet")
    for name in ("observation.state", "action"):
        width = table.schema.field(name).type.list_size
        hidden = pa.FixedSizeListArray.from_arrays(pa.array(np.full(len(table) * width, SECRET, np.float32)), width)
        table = table.set_column(table.column_names.index(name), name, hidden)
    pq.write_table(table, folder / "secret.parquet")
    shutil.rmtree(folder / "set")
    with tarfile.open(folder / "secret.tar", "w") as archive:
        archive.add(folder / "secret.npy", "000.state.npy")
    bag_sets.write(folder / "bag", "sqlite", arm(20, SECRET))
    (folder / "bag" / "bag.db3").rename(folder / "secret.db3")
    shutil.rmtree(folder / "bag")


class Payload:
    """What unpickling would run: it makes a file."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.canary,)


def canary(outside: Path) -> Path:
    return outside / "canary"


def payload(outside: Path) -> bytes:
    return pickle.dumps(Payload(canary(outside)))


def demonstration(group: h5py.Group, states: np.ndarray, actions: np.ndarray) -> None:
    group["obs/object"] = states
    group["obs/robot0_eef_pos"] = states
    group["actions"] = actions
    group["rewards"] = np.zeros(len(actions), np.float32)
    group["dones"] = np.zeros(len(actions), np.int64)


def robomimic(at: Path, episodes: int = 3) -> Path:
    at.mkdir(exist_ok=True)
    return write_robomimic(at / "demos.hdf5", episodes)


def arm(n: int, value: float = 1.0) -> dict[str, Any]:
    """A bag's topics: a joint state and a command."""
    rows = [(bag_sets.START + i * 50_000_000, bag_sets.joints([value, value])) for i in range(n)]
    return {
        "/joint_states": ("sensor_msgs/msg/JointState", rows),
        "/joint_command": ("sensor_msgs/msg/JointState", rows),
    }


def cut(path: Path, share: float = 0.6) -> Path:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path


def png(width: int, height: int, data: bytes | None = None) -> bytes:
    """A PNG that declares any size; by default of one row's worth of zeros, well compressed."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data or zeros(1 << 20)) + chunk(b"IEND", b"")


def jpeg(width: int, height: int) -> bytes:
    """A JPEG whose header declares any size."""
    out = io.BytesIO()
    Image.new("RGB", (16, 16)).save(out, "JPEG")
    data = bytearray(out.getvalue())
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def zeros(size: int, raw: bool = False) -> bytes:
    """``size`` zeros deflated: the same flushed megabyte again and again, so that this costs nothing."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
    body = block * (size >> 20) + packer.flush()
    return body if raw else b"\x78\x9c" + body + b"\0\0\0\0"


BOMB = 12 << 30  # bytes; twice what the process may have


def npy(values: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.save(out, values)
    return out.getvalue()


def npy_header(shape: tuple[int, ...], descr: str = "<f8") -> bytes:
    text = repr({"descr": descr, "fortran_order": False, "shape": shape}).encode()
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


def zarr_store(at: Path, n: int = 20) -> Path:
    """A replay buffer of two episodes as a folder."""
    group = zarr.open_group(str(at), mode="w", zarr_format=2)
    for name, values in (("state", np.ones((n, 3), np.float32)), ("action", np.ones((n, 2), np.float32))):
        group.create_array(f"data/{name}", data=values, chunks=(n, values.shape[1]), compressors=None)
    group.create_array("meta/episode_ends", data=np.array([n // 2, n]), compressors=None)
    return at


def edited(path: Path, **changes: Any) -> None:
    """``path``, a JSON object, with ``changes``; as text, so that a value may be anything."""
    value = json.loads(path.read_text())
    path.write_text(json.dumps({**value, **changes}))


def rlds(at: Path, examples: list[Any], spec: Any = None, **info: Any) -> Path:
    rlds_sets.write_set(at, spec or SPEC, {"train": [examples]}, **info)
    return at


SPEC = rlds_sets.steps(
    {
        "observation": {"state": rlds_sets.Tensor("float32", (3,)), "image": rlds_sets.Image((64, 64, 3))},
        "action": rlds_sets.Tensor("float32", (2,)),
        "is_first": rlds_sets.Tensor("bool"), "is_last": rlds_sets.Tensor("bool"),
        "is_terminal": rlds_sets.Tensor("bool"),
    }
)  # fmt: skip


def example(n: int = 4) -> dict[str, Any]:
    return {
        "steps": [
            {
                "observation": {
                    "state": np.full(3, t, np.float32), "image": np.full((64, 64, 3), 20 * t, np.uint8),
                },
                "action": np.full(2, t, np.float32),
                "is_first": t == 0, "is_last": t == n - 1, "is_terminal": False,
            }
            for t in range(n)
        ]
    }  # fmt: skip


def tar(path: Path, *members: tuple[tarfile.TarInfo | str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, data in members:
            info = tarfile.TarInfo(name) if isinstance(name, str) else name
            if info.type == tarfile.REGTYPE:
                info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def sample(step: int) -> list[tuple[str, bytes]]:
    """A step of a WebDataset."""
    key = f"ep0/{step:04d}"
    return [(f"{key}.state.npy", npy(np.ones(3, np.float32))), (f"{key}.action.npy", npy(np.ones(2, np.float32)))]


def film(path: Path, n: int = 6) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    encode((lerobot_sets.image(i) for i in range(n)), path, 10)
    return path


# truncated


@source(0)
def hdf5_cut(at: Path, outside: Path) -> Path:
    return cut(robomimic(at))


@source(0)
def zarr_zip_cut(at: Path, outside: Path) -> Path:
    return cut(zarr_zip(at))


def zarr_zip(at: Path) -> Path:
    folder = zarr_store(at.with_name(at.name + "_folder"))
    path = at.with_suffix(".zarr.zip")
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                archive.write(file, file.relative_to(folder))
    shutil.rmtree(folder)
    return path


@source(1)
def lerobot_cut_parquet(at: Path, outside: Path) -> None:
    lerobot_sets.write_v2(at, [4, 5])
    cut(at / "data" / "chunk-000" / "episode_000001.parquet")


@source(0)
def lerobot_v3_cut_parquet(at: Path, outside: Path) -> None:
    lerobot_sets.write_v3(at, [4, 5])
    cut(at / "data" / "chunk-000" / "file-000.parquet")


@source(1)
def lerobot_cut_video(at: Path, outside: Path) -> None:
    lerobot_sets.write_v2(at, [8, 8], video=True)
    cut(at / "videos" / "chunk-000" / "observation.images.top" / "episode_000001.mp4")


@source(1)
def videos_cut(at: Path, outside: Path) -> None:
    film(at / "good.mp4")
    cut(film(at / "bad.mp4"))


@source(1)
def rlds_cut(at: Path, outside: Path) -> None:
    rlds(at, [example(), example()])
    cut(next(at.glob("*.tfrecord*")), 0.9)


@source(1, ros1="ros1", mcap="mcap", sqlite="sqlite")
def bag_cut(at: Path, outside: Path, kind: str) -> Path:
    at.mkdir()
    path = bag_sets.write(at / "a", kind, arm(400), **({"chunk": 1000} if kind == "ros1" else {}))
    if kind == "sqlite":
        return cut(path, 0.98).parent
    return cut(path, 0.9)


@source(1)
def tar_cut(at: Path, outside: Path) -> Path:
    return cut(tar(at / "a.tar", *(member for t in range(6) for member in sample(t))), 0.3)


@source(0)
def npz_cut(at: Path, outside: Path) -> Path:
    at.mkdir()
    np.savez(at / "a.npz", observations=np.ones((9, 3)), actions=np.ones((9, 2)))
    return cut(at / "a.npz")


@source(0, **{name.lstrip("."): name for name in (
    ".hdf5", ".parquet", ".arrow", ".feather", ".mp4", ".mcap", ".bag", ".db3", ".tar", ".npz", ".zarr.zip",
)})  # fmt: skip
def empty_file(at: Path, outside: Path, suffix: str) -> Path:
    path = at.with_suffix(suffix)
    path.touch()
    return path


# shuffled, mistyped, empty


@source(1)
def lerobot_rows_shuffled(at: Path, outside: Path) -> None:
    lerobot_sets.write_v2(at, [6, 6])
    path = at / "data" / "chunk-000" / "episode_000001.parquet"
    pq.write_table(pq.read_table(path).take([3, 1, 5, 0, 4, 2]), path)


@source(2)
def lerobot_v3_ranges_shuffled(at: Path, outside: Path) -> None:
    lerobot_sets.write_v3(at, [4, 5], extra={"dataset_from_index": [4, 0], "dataset_to_index": [9, 4]})


@source(0)
def zarr_ends_shuffled(at: Path, outside: Path) -> None:
    zarr.open_group(str(zarr_store(at)))["meta/episode_ends"][:] = [20, 10]


@source(0)
def zarr_ends_negative(at: Path, outside: Path) -> None:
    zarr.open_group(str(zarr_store(at)))["meta/episode_ends"][:] = [-5, 1 << 62]


@source(2)
def hdf5_text_for_actions(at: Path, outside: Path) -> Path:
    path = robomimic(at)
    with h5py.File(path, "r+") as file:
        n = len(file["data/demo_1/actions"])
        del file["data/demo_1/actions"]
        file["data/demo_1/actions"] = np.array([b"up"] * n)
    return path


@source(2)
def hdf5_complex_actions(at: Path, outside: Path) -> Path:
    path = robomimic(at)
    with h5py.File(path, "r+") as file:
        values = file["data/demo_1/actions"][()]
        del file["data/demo_1/actions"]
        file["data/demo_1/actions"] = values.astype(np.complex64)
    return path


@source(2)
def hdf5_lies_of_length(at: Path, outside: Path) -> Path:
    path = robomimic(at)
    with h5py.File(path, "r+") as file:
        file["data/demo_1"].attrs["num_samples"] = 10**18
        file["data"].attrs["total"] = -1
    return path


@source(1)
def lerobot_text_for_actions(at: Path, outside: Path) -> None:
    lerobot_sets.write_v2(at, [4, 5])
    path = at / "data" / "chunk-000" / "episode_000001.parquet"
    table = pq.read_table(path)
    table = table.set_column(table.column_names.index("action"), "action", pa.array(["up"] * len(table)))
    pq.write_table(table, path)


@source(2, null=[0, None, 0, 0], endless=[0.0, float("inf"), 0.0, 0.0], text=["a"] * 4)
def lerobot_task_index(at: Path, outside: Path, index: list[Any]) -> None:
    lerobot_sets.write_v2(at, [4, 5])
    path = at / "data" / "chunk-000" / "episode_000000.parquet"
    table = pq.read_table(path)
    pq.write_table(table.set_column(table.column_names.index("task_index"), "task_index", pa.array(index)), path)


@source(2, list=[{"task_index": [0], "task": "x"}],
        twice=[{"task_index": 0, "task": "x"}, {"task_index": 0, "task": "y"}],
        null=[{"task_index": 0, "task": None}, {"task_index": None, "task": "x"}])  # fmt: skip
def lerobot_tasks(at: Path, outside: Path, rows: list[Any]) -> None:
    lerobot_sets.write_v2(at, [4, 5])
    lerobot_sets.write_lines(at / "meta" / "tasks.jsonl", rows)


@source(2, case="Action", identity="episode_id", step="Step", none="", odd="a,b;{}()\n\t= x", long="x" * 5000)
def lerobot_feature_called(at: Path, outside: Path, name: str) -> None:
    info = lerobot_sets.write_v2(at, [4, 5])
    info["features"][name] = {"dtype": "float32", "shape": [1], "names": None}
    lerobot_sets.rewrite_info(at, info)
    for path in (at / "data" / "chunk-000").iterdir():
        table = pq.read_table(path)
        pq.write_table(table.append_column(name, pa.array(np.ones(len(table), np.float32))), path)


@source(0, struct="f4,f4", wide="(99999,99999)f4", dates="M8[s]", long="longdouble", zero_byte="a\0")
def lerobot_dtype(at: Path, outside: Path, dtype: str) -> None:
    info = lerobot_sets.write_v2(at, [4])
    info["features"]["action"]["dtype"] = dtype
    lerobot_sets.rewrite_info(at, info)


@source(1, text="mp4", types={"video.codec": ["av1"], "video.fps": "x", "video.height": {}, "video.width": None})
def lerobot_video_info(at: Path, outside: Path, told: Any) -> None:
    info = lerobot_sets.write_v2(at, [10], video=True)
    info["features"]["observation.images.top"]["info"] = told
    lerobot_sets.rewrite_info(at, info)


@source(1, null=[0.0, None], nan=[0.0, float("nan")], back=[0.0, -1.0])
def lerobot_v3_video_from(at: Path, outside: Path, times: list[Any]) -> None:
    lerobot_sets.write_v3(at, [4, 5], video=True)
    path = at / "meta" / "episodes" / "chunk-000" / "file-000.parquet"
    table = pq.read_table(path)
    name = "videos/observation.images.top/from_timestamp"
    pq.write_table(table.set_column(table.column_names.index(name), name, pa.array(times)), path)


@source(0)
def lerobot_v3_video_from_text(at: Path, outside: Path) -> None:
    lerobot_v3_video_from(at, outside, ["0.0", "soon"])


@source(1)
def lake_among_videos(at: Path, outside: Path) -> None:
    """The lake lies in the folder that it is filled from, as it does by default for who stands in it."""
    from storage.lake import Lake

    film(at / "good.mp4")
    lake = Lake.open(str(at / "lake"), create=True)
    film(Path(lake.root) / "videos" / f"{'0' * 64}.mp4")
    lake.append_rows("runs", [{"run_id": "run"}], transaction="run")


@source(0)
def lake_itself(at: Path, outside: Path) -> Path:
    lake_among_videos(at, outside)
    return at / "lake"


@source(0, none=None, nan=float("nan"), zero=0, endless=float("inf"), text="fast", list=[10], huge=10**400)
def lerobot_fps(at: Path, outside: Path, fps: Any) -> None:
    lerobot_sets.write_v2(at, [4])
    edited(at / "meta" / "info.json", fps=fps)


@source(3)
def unicode_paths(at: Path, outside: Path) -> Path:
    folder = at / "机器人 ünï\u202ecødé" / "a\nb {0.__class__} %s"
    folder.mkdir(parents=True)
    return write_robomimic(folder / "démo #1?*.hdf5", 3)


@source(1)
def names_that_are_no_unicode(at: Path, outside: Path) -> None:
    at.mkdir()
    film(at / "sound.mp4")
    (at / os.fsdecode(b"\xff\xfe.mp4")).write_bytes((at / "sound.mp4").read_bytes())


@source(2)
def hdf5_name_that_is_no_unicode(at: Path, outside: Path) -> Path:
    path = robomimic(at)
    with h5py.File(path, "r+") as file:
        file.move("data/demo_1", "data/demo_X")
    path.write_bytes(path.read_bytes().replace(b"demo_X", b"demo_\xe9"))
    return path


@source(1)
def unicode_names(at: Path, outside: Path) -> None:
    lerobot_sets.write_v2(at, [4])
    edited(at / "meta" / "info.json", robot_type="机器人\n\x1b[31m\u202e")


@source(0)
def hdf5_no_episodes(at: Path, outside: Path) -> Path:
    path = at.with_suffix(".hdf5")
    with h5py.File(path, "w") as file:
        file.create_group("data").attrs["env_args"] = "{}"
        file["mask/train"] = np.array([b"demo_0"])
    return path


@source(0)
def lerobot_no_episodes(at: Path, outside: Path) -> None:
    lerobot_sets.write_v2(at, [4])
    (at / "meta" / "episodes.jsonl").write_text("")
    shutil.rmtree(at / "data")


@source(0)
def zarr_no_episodes(at: Path, outside: Path) -> None:
    group = zarr.open_group(str(at), mode="w", zarr_format=2)
    group.create_array("data/action", shape=(0, 2), dtype="f4", chunks=(1, 2))
    group.create_array("meta/episode_ends", shape=(0,), dtype="i8", chunks=(1,))


@source(0)
def rlds_no_episodes(at: Path, outside: Path) -> None:
    rlds(at, [])


@source(0)
def empty_folder(at: Path, outside: Path) -> None:
    at.mkdir()


# sizes that are only declared


@source(2)
def hdf5_declared_size(at: Path, outside: Path) -> Path:
    path = robomimic(at)
    with h5py.File(path, "r+") as file:
        del file["data/demo_1/actions"]
        file.create_dataset("data/demo_1/actions", shape=(1 << 45, 3), dtype="f4", chunks=(1 << 20, 3))
    return path


@source(0)
def d4rl_declared_size(at: Path, outside: Path) -> Path:
    path = at.with_suffix(".hdf5")
    with h5py.File(path, "w") as file:
        for name, row in (("observations", (3,)), ("actions", (2,)), ("rewards", ()), ("terminals", ())):
            file.create_dataset(name, shape=(1 << 40, *row), dtype="f4", chunks=(1 << 20, *row))
    return path


@source(0, rows=[1 << 50, 3], width=[20, 1 << 40], negative=[-20, 3], text=["many", 3], deep=[1] * 40)
def zarr_declared_shape(at: Path, outside: Path, shape: Any) -> None:
    zarr_store(at)
    edited(at / "data" / "state" / ".zarray", shape=shape)


@source(0)
def zarr_most_chunks(at: Path, outside: Path) -> None:
    metadata = zarr_store(at) / "data" / "action" / ".zarray"
    edited(metadata, shape=[20, 1 << 26], chunks=[1, 1], dtype="|b1")


@source(0)
def zarr_declared_chunks(at: Path, outside: Path) -> None:
    zarr_store(at)
    edited(at / "data" / "state" / ".zarray", chunks=[1 << 40, 3])


@source(0, shape=(1 << 50, 3), negative=(-1, 3), overflow=(1 << 62, 1 << 62))
def npz_declared_shape(at: Path, outside: Path, shape: Any) -> Path:
    at.mkdir()
    with zipfile.ZipFile(at / "a.npz", "w") as archive:
        archive.writestr("observations.npy", npy_header(shape) + bytes(240))
        archive.writestr("actions.npy", npy(np.ones((10, 2))))
    return at / "a.npz"


@source(0)
def npz_header_evaluated(at: Path, outside: Path) -> Path:
    at.mkdir()
    text = f"__import__('pathlib').Path({str(canary(outside))!r}).touch()".encode()
    with zipfile.ZipFile(at / "a.npz", "w") as archive:
        archive.writestr("observations.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text) + 1) + text + b"\n")
        archive.writestr("actions.npy", npy(np.ones((10, 2))))
    return at / "a.npz"


@source(1, episodes={"total_episodes": 10**18, "total_frames": 10**30}, chunks={"chunks_size": 0},
        minus={"chunks_size": -1, "total_episodes": -5}, digits={"total_episodes": "9" * 10_000})  # fmt: skip
def lerobot_declared(at: Path, outside: Path, changes: dict[str, Any]) -> None:
    lerobot_sets.write_v2(at, [4])
    edited(at / "meta" / "info.json", **changes)


@source(0)
def lerobot_declared_width(at: Path, outside: Path) -> None:
    value = lerobot_sets.write_v2(at, [4])
    value["features"]["observation.state"] = {"dtype": "float32", "shape": [1 << 60, 1 << 60], "names": None}
    lerobot_sets.rewrite_info(at, value)


@source(2)
def lerobot_declared_length(at: Path, outside: Path) -> None:
    lerobot_sets.write_v2(at, [4, 5])
    path = at / "meta" / "episodes.jsonl"
    path.write_text(path.read_text().replace('"length": 5', '"length": 1000000000000000'))


@source(0)
def rlds_declared_shape(at: Path, outside: Path) -> None:
    rlds(at, [example()])
    path = at / "features.json"
    path.write_text(path.read_text().replace('"3"', '"99999999999999"', 1))


@source(1)
def rlds_undeclared_lengths(at: Path, outside: Path) -> None:
    rlds_declared_lengths(at, outside, None)


@source(0, many=["1000000000000000000"], minus=["-1"], text=["x"])
def rlds_declared_lengths(at: Path, outside: Path, lengths: Any) -> None:
    rlds(at, [example()])
    path = at / "dataset_info.json"
    info = json.loads(path.read_text())
    info["splits"][0]["shardLengths"] = lengths
    path.write_text(json.dumps(info))


@source(1)
def rlds_record_length(at: Path, outside: Path) -> None:
    rlds(at, [example(), example()])
    path = next(at.glob("*.tfrecord*"))
    first = next(rlds_sets.records(path.read_bytes()))
    data = bytearray(path.read_bytes())
    data[len(first) + 16 : len(first) + 24] = struct.pack("<Q", 1 << 62)
    path.write_bytes(bytes(data))


@source(0, length=(1 << 31) - 1, negative=0xFFFFFFFF, small=8)
def parquet_footer_length(at: Path, outside: Path, length: int) -> Path:
    path = table(at)
    data = bytearray(path.read_bytes())
    data[-8:-4] = struct.pack("<I", length)
    path.write_bytes(bytes(data))
    return path


def table(at: Path) -> Path:
    path = at.with_suffix(".parquet")
    rows = {"episode": [0] * 6, "t": np.arange(6) / 10, "state": [[1.0, 2.0]] * 6, "action": [[1.0]] * 6}
    pq.write_table(pa.table(rows), path, compression="none")
    return path


@source(0)
def parquet_footer_rows(at: Path, outside: Path) -> Path:
    """Every zigzag 6 of the footer says 2^62: rows, values, row groups."""
    path = table(at)
    data = path.read_bytes()
    length = struct.unpack("<I", data[-8:-4])[0]
    start = len(data) - 8 - length
    footer = data[start:-8].replace(b"\x16\x0c", b"\x16\xfe\xff\xff\xff\xff\xff\xff\xff\x7f")
    path.write_bytes(data[:start] + footer + struct.pack("<I", len(footer)) + b"PAR1")
    return path


# bombs


@source(0, honest=BOMB, lying=1000)
def zarr_zip_bomb(at: Path, outside: Path, declared: int) -> Path:
    path = zarr_zip(at)
    members = {}
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            if name != "data/state/0.0":
                archive.writestr(name, data)
    appended(path, "data/state/0.0", declared)
    return path


def appended(path: Path, name: str, declared: int) -> None:
    """A deflated member of ``BOMB`` zeros in a zip, whatever size it declares."""
    body = zeros(BOMB, raw=True)
    with zipfile.ZipFile(path, "a") as archive:
        info = zipfile.ZipInfo(name)
        info.compress_type = zipfile.ZIP_DEFLATED
        info.compress_size, info.file_size, info.CRC = len(body), declared, 0
        info.header_offset = archive.fp.tell()
        archive.fp.write(info.FileHeader(zip64=True))
        archive.fp.write(body)
        archive.start_dir = archive.fp.tell()
        archive.filelist.append(info)
        archive.NameToInfo[name] = info
        archive._didModify = True


@source(0, honest=BOMB, lying=10_000)
def npz_bomb(at: Path, outside: Path, declared: int) -> Path:
    at.mkdir()
    with zipfile.ZipFile(at / "a.npz", "w") as archive:
        archive.writestr("actions.npy", npy(np.ones((10, 2))))
    appended(at / "a.npz", "observations.npy", declared)
    return at / "a.npz"


@source(0)
def hdf5_chunk_bomb(at: Path, outside: Path) -> Path:
    """A gzip chunk of 240 bytes that unpacks to 12 GiB."""
    path = at.with_suffix(".hdf5")
    with h5py.File(path, "w") as file:
        demo = file.create_group("data/demo_0")
        demonstration(demo, np.ones((10, 3)), np.ones((10, 3)))
        del demo["actions"]
        made = demo.create_dataset("actions", (10, 3), "f8", chunks=(10, 3), compression="gzip")
        made.id.write_direct_chunk((0, 0), zeros(BOMB))
    return path


@source(0)
def zarr_chunk_bomb(at: Path, outside: Path) -> None:
    zarr_store(at)
    edited(at / "data" / "state" / ".zarray", compressor={"id": "zlib", "level": 1})
    (at / "data" / "state" / "0.0").write_bytes(zeros(BOMB))


@source(0)
def zarr_blosc_bomb(at: Path, outside: Path) -> None:
    """A blosc header that declares 2 GiB for a chunk of 240 bytes."""
    zarr_store(at)
    compressor = {"id": "blosc", "cname": "lz4", "clevel": 5, "shuffle": 1, "blocksize": 0}
    edited(at / "data" / "state" / ".zarray", compressor=compressor)
    (at / "data" / "state" / "0.0").write_bytes(struct.pack("<BBBBIII", 2, 1, 0x22, 4, (1 << 31) - 17, 1 << 20, 240))


@source(0)
def tar_gz_bomb(at: Path, outside: Path) -> Path:
    info = tarfile.TarInfo("ep0/0000.state.npy")
    info.size = BOMB
    at.mkdir()
    body = info.tobuf() + bytes((1 << 20) - 512)
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    head = packer.compress(body) + packer.flush(zlib.Z_FULL_FLUSH)
    path = at / "a.tar.gz"
    path.write_bytes(b"\x1f\x8b\x08\0\0\0\0\0\0\x03" + head + zeros(BOMB, raw=True) + bytes(8))
    return path


@source(0, honest=BOMB, lying=2000, absurd=1 << 62)
def mcap_chunk_bomb(at: Path, outside: Path, declared: int) -> Path:
    """A chunk whose zstd frames unpack to 12 GiB."""
    at.mkdir()
    path = bag_sets.write_mcap(at / "a.mcap", bag_sets.ros2(arm(20)), compression=CompressionType.NONE)
    packed = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(64 << 20)) * (BOMB >> 26)
    start = bag_sets.START
    chunk = struct.pack("<QQQI", start, start + 10**9, declared, 0) + struct.pack("<I", 4) + b"zstd"
    chunk += struct.pack("<Q", len(packed)) + packed
    data = path.read_bytes()
    at_chunk = first_record(data, 6)
    length = struct.unpack_from("<Q", data, at_chunk + 1)[0]
    rest = data[at_chunk + 9 + length :]
    path.write_bytes(data[:at_chunk] + b"\x06" + struct.pack("<Q", len(chunk)) + chunk + rest)
    return path


def first_record(data: bytes, kind: int) -> int:
    at = 8
    while data[at] != kind:
        at += 9 + struct.unpack_from("<Q", data, at + 1)[0]
    return at


@source(0)
def ros1_bz2_bomb(at: Path, outside: Path) -> Path:
    """A chunk that declares 4 GiB."""
    at.mkdir()
    path = bag_sets.write(at / "a", "ros1", arm(40), compression="BZ2", chunk=100_000)
    data = path.read_bytes()
    where = data.index(b"size=") + 5
    path.write_bytes(data[:where] + struct.pack("<I", 0xFFFFFFFF) + data[where + 4 :])
    return path


PICTURES = {"png": png(65_000, 65_000), "jpeg": jpeg(65_500, 65_500), "deep": png(1 << 31 - 1, 1 << 30)}


@source(0, **PICTURES)
def aloha_picture_bomb(at: Path, outside: Path, data: bytes) -> None:
    at.mkdir()
    with h5py.File(at / "episode_0.hdf5", "w") as file:
        file.attrs.update({"sim": False, "compress": True})
        for name in ("observations/qpos", "observations/qvel", "action"):
            file[name] = np.ones((4, 14))
        rows = np.frombuffer(data, np.uint8)
        file["observations/images/cam_high"] = np.stack([rows] * 4)


@source(1, **PICTURES)
def rlds_picture_bomb(at: Path, outside: Path, data: bytes) -> None:
    bad = rlds_sets.ProtoExample.FromString(rlds_sets.serialise(SPEC, example()))
    values = bad.features.feature["steps/observation/image"].bytes_list.value
    for i in range(len(values)):
        values[i] = data
    rlds(at, [example(), bad.SerializeToString()])


@source(0, **PICTURES)
def parquet_picture_bomb(at: Path, outside: Path, data: bytes) -> None:
    lerobot_sets.write_v2(at, [4], images=True)
    path = at / "data" / "chunk-000" / "episode_000000.parquet"
    held = pq.read_table(path)
    name = "observation.image"
    cells = pa.array([{"bytes": data, "path": None}] * len(held), held.schema.field(name).type)
    pq.write_table(held.set_column(held.column_names.index(name), name, cells), path)


@source(0, **PICTURES)
def tar_picture_bomb(at: Path, outside: Path, data: bytes) -> Path:
    members = [member for t in range(3) for member in [*sample(t), (f"ep0/{t:04d}.front.png", data)]]
    return tar(at / "a.tar", *members)


@source(1, **PICTURES)
def bag_picture_bomb(at: Path, outside: Path, data: bytes) -> Path:
    at.mkdir()
    image = np.frombuffer(data, np.uint8)

    def make(store: Any) -> Any:
        kind = "sensor_msgs/msg/CompressedImage"
        return bag_sets.of(store, kind, header=bag_sets.header(store), format="png", data=image)

    rows = [(bag_sets.START + i * 50_000_000, make) for i in range(20)]
    return bag_sets.write(at / "a", "mcap", {**arm(20), "/camera": ("sensor_msgs/msg/CompressedImage", rows)})


@source(1, avi="avi", mkv="mkv", mp4="mp4")
def video_absurd_size(at: Path, outside: Path, suffix: str) -> None:
    """65,535 x 65,535 in the header."""
    film(at / "good.mp4")
    path = at / f"bad.{suffix}"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("rawvideo" if suffix == "avi" else "mjpeg", rate=10)
        stream.width = stream.height = 320
        stream.pix_fmt = "yuv420p" if suffix == "avi" else "yuvj420p"
        for _ in range(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((320, 320, 3), np.uint8), format="rgb24")))
        container.mux(stream.encode(None))
    data, changed = path.read_bytes(), 0
    for form in ("<II", ">HH"):  # AVI; MP4, and each JPEG
        changed += data.count(struct.pack(form, 320, 320))
        data = data.replace(struct.pack(form, 320, 320), struct.pack(form, 65_535, 65_535))
    for element in (b"\xb0\x82", b"\xba\x82"):  # Matroska's PixelWidth and PixelHeight, of two bytes
        changed += data.count(element + b"\x01\x40")
        data = data.replace(element + b"\x01\x40", element + b"\xff\xff")
    assert changed >= 2
    path.write_bytes(data)


@source(1)
def video_of_large_frames(at: Path, outside: Path) -> None:
    """Sound, 10,000 x 8,000, and a few kilobytes."""
    film(at / "good.mp4")
    with av.open(str(at / "bad.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"preset": "ultrafast", "crf": "50"})
        stream.width, stream.height, stream.pix_fmt = 10_000, 8_000, "yuv420p"
        frame = av.VideoFrame(10_000, 8_000, "yuv420p")
        for plane in frame.planes:
            plane.update(bytes(plane.buffer_size))
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


# paths that leave


@source(0, up="../outside/secret.parquet", template="../outside/secret.parquet#{episode_index}",
        deep="data/../../outside/secret.parquet")  # fmt: skip
def lerobot_data_path(at: Path, outside: Path, path: str) -> None:
    lerobot_sets.write_v2(at, [4])
    edited(at / "meta" / "info.json", data_path=path)


@source(0)
def lerobot_absolute_data_path(at: Path, outside: Path) -> None:
    lerobot_sets.write_v2(at, [4])
    edited(at / "meta" / "info.json", data_path=str(outside / "secret.parquet"))


@source(1)
def lerobot_video_protocol(at: Path, outside: Path) -> None:
    """A name that a demuxer would take for a list of files: there is none of that name."""
    lerobot_video_path(at, outside, "concat:../outside/secret.mp4")


@source(0, up="../outside/secret.mp4", url="file:///secret.mp4", chained="zip://a.mp4::file:///a.zip", absolute=None)
def lerobot_video_path(at: Path, outside: Path, path: str | None) -> None:
    lerobot_sets.write_v2(at, [10], video=True)
    edited(at / "meta" / "info.json", video_path=path or str(outside / "secret.mp4"))


@source(0, attribute="data/{episode_chunk.__class__}/{episode_index}.parquet",
        item="data/{episode_chunk[0]}/{episode_index}.parquet", position="data/{0}/{1.__init__.__globals__}",
        wide="data/{episode_index:999999999999d}.parquet", wider="data/{episode_index:{episode_chunk}99999999999d}",
        unclosed="data/{episode_index", unknown="data/{secret}.parquet")  # fmt: skip
def lerobot_template(at: Path, outside: Path, path: str) -> None:
    lerobot_sets.write_v2(at, [4])
    edited(at / "meta" / "info.json", data_path=path)


@source(0)
def rlds_template(at: Path, outside: Path) -> None:
    rlds(at, [example()])
    path = at / "dataset_info.json"
    info = json.loads(path.read_text())
    info["splits"][0]["filepathTemplate"] = "../outside/secret.{DATASET.__class__}{SHARD_X_OF_Y:999999999999}"
    path.write_text(json.dumps(info))


@source(0, up="../outside/secret.db3", absolute="")
def bag_metadata_path(at: Path, outside: Path, path: str) -> None:
    bag_sets.write(at, "sqlite", arm(20))
    meta = at / "metadata.yaml"
    meta.write_text(meta.read_text().replace(f"{at.name}.db3", path or str(outside / "secret.db3")))
    (at / f"{at.name}.db3").unlink()


@source(1)
def video_sidecar_paths(at: Path, outside: Path) -> None:
    film(at / "good.mp4")
    paths = ["good.mp4", "../outside/secret.mp4", str(outside / "secret.mp4"), f"file://{outside}/secret.mp4",
             "concat:good.mp4|../outside/secret.mp4", "subfile,,start,0,end,0,,:../outside/secret.mp4",
             "http://127.0.0.1:9/secret.mp4", "zip://secret.mp4::file:///a.zip", "good.mp4\0../outside/secret.mp4",
             "../" * 50 + "etc/passwd", "//127.0.0.1/share/secret.mp4", "~/secret.mp4", "pipe:0"]  # fmt: skip
    (at / "about.json").write_text(json.dumps([{"file": path} for path in paths]))


@source(0)
def parquet_image_paths(at: Path, outside: Path) -> None:
    lerobot_sets.write_v2(at, [4], images=True)
    path = at / "data" / "chunk-000" / "episode_000000.parquet"
    held = pq.read_table(path)
    name = "observation.image"
    paths = ["../outside/secret.png", str(outside / "secret.png"), f"file://{outside}/secret.png", "secret.png"]
    cells = pa.array([{"bytes": None, "path": path} for path in paths], held.schema.field(name).type)
    pq.write_table(held.set_column(held.column_names.index(name), name, cells), path)


@source(0)
def zarr_zip_members(at: Path, outside: Path) -> Path:
    path = at.with_suffix(".zarr.zip")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("../outside/planted", WORD)
        archive.writestr("/tmp/planted", WORD)
        archive.writestr(".zgroup", '{"zarr_format": 2}')
    return path


@source(2)
def hdf5_external_link(at: Path, outside: Path) -> Path:
    path = robomimic(at)
    with h5py.File(path, "r+") as file:
        del file["data/demo_1"]
        file["data/demo_1"] = h5py.ExternalLink(str(outside / "secret.hdf5"), "/data/demo_0")
    return path


@source(2)
def hdf5_external_member(at: Path, outside: Path) -> Path:
    path = robomimic(at)
    with h5py.File(path, "r+") as file:
        del file["data/demo_1/actions"]
        file["data/demo_1/actions"] = h5py.ExternalLink("../outside/secret.hdf5", "/data/demo_0/actions")
    return path


@source(2)
def hdf5_external_storage(at: Path, outside: Path) -> Path:
    path = robomimic(at)
    with h5py.File(path, "r+") as file:
        n = len(file["data/demo_1/actions"])
        del file["data/demo_1/actions"]
        raw = [(str(outside / "secret.raw"), 0, n * 24)]
        file["data/demo_1"].create_dataset("actions", (n, 3), "f8", external=raw)
    return path


@source(2)
def hdf5_virtual(at: Path, outside: Path) -> Path:
    path = robomimic(at)
    with h5py.File(path, "r+") as file:
        n = len(file["data/demo_1/actions"])
        del file["data/demo_1/actions"]
        layout = h5py.VirtualLayout((n, 3), "f8")
        layout[:] = h5py.VirtualSource(str(outside / "secret.hdf5"), "numbers", (40, 3))[:n]
        file.create_virtual_dataset("data/demo_1/actions", layout)
    return path


@source(2)
def hdf5_circular_links(at: Path, outside: Path) -> Path:
    path = robomimic(at)
    with h5py.File(path, "r+") as file:
        file["data/demo_1/obs/again"] = file["data/demo_1"]
        file["data/demo_1/obs/soft"] = h5py.SoftLink("/data/demo_1/obs/soft")
        file["data/demo_1/obs/gone"] = h5py.SoftLink("/nowhere")
    return path


@source(0)
def d4rl_external_storage(at: Path, outside: Path) -> Path:
    path = at.with_suffix(".hdf5")
    raw = [(str(outside / "secret.raw"), 0, 960)]
    with h5py.File(path, "w") as file:
        file.create_dataset("observations", (40, 3), "f8", external=raw)
        file["actions"], file["rewards"] = np.ones((40, 2)), np.zeros(40)
        file["terminals"] = np.arange(40) % 10 == 9
    return path


@source(0)
def hdf5_external_mask(at: Path, outside: Path) -> Path:
    path = robomimic(at)
    with h5py.File(path, "r+") as file:
        del file["data"]
        file["data"] = h5py.ExternalLink(str(outside / "secret.hdf5"), "/data")
    return path


@source(1)
def symlinks(at: Path, outside: Path) -> None:
    film(at / "good.mp4")
    (at / "link.mp4").symlink_to(outside / "secret.mp4")
    (at / "folder").symlink_to(outside)
    (at / "loop").symlink_to(at)
    (at / "self.mp4").symlink_to(at / "self.mp4")
    (at / "zero.mp4").symlink_to("/dev/zero")


@source(1)
def lerobot_symlinks(at: Path, outside: Path) -> None:
    lerobot_sets.write_v2(at, [4, 4])
    path = at / "data" / "chunk-000" / "episode_000001.parquet"
    path.unlink()
    path.symlink_to(outside / "secret.parquet")


@source(0)
def lerobot_symlinked_folder(at: Path, outside: Path) -> None:
    lerobot_sets.write_v2(at, [4])
    shutil.move(at / "data", outside.parent / "moved")
    (at / "data").symlink_to(outside.parent / "moved")


@source(0)
def hdf5_symlink_in_folder(at: Path, outside: Path) -> None:
    at.mkdir()
    (at / "a.hdf5").symlink_to(outside / "secret.hdf5")


@source(0)
def zarr_symlinked_chunk(at: Path, outside: Path) -> None:
    zarr_store(at)
    chunk = at / "data" / "state" / "0.0"
    chunk.unlink()
    chunk.symlink_to(outside / "secret.raw")


@source(0, hdf5="a.hdf5", mp4="a.mp4", parquet="a.parquet", tar="a.tar", bag="a.bag", npz="a.npz", mcap="a.mcap",
        info="meta/info.json", features="features.json", db3="a.db3", sidecar="about.csv", zarr=".zgroup")  # fmt: skip
def pipe(at: Path, outside: Path, name: str) -> None:
    """A named pipe, which whoever opens it waits for without an end."""
    path = at / name
    path.parent.mkdir(parents=True)
    os.mkfifo(path)


@source(0)
def pipe_beside_videos(at: Path, outside: Path) -> None:
    film(at / "good.mp4")
    os.mkfifo(at / "bad.mp4")
    os.mkfifo(at / "about.csv")


@source(0)
def folders_named_as_files(at: Path, outside: Path) -> None:
    for name in ("a.hdf5", "a.mp4", "a.parquet", "a.tar", "a.bag", "a.npz", "a.mcap", "a.db3", "about.csv"):
        (at / name).mkdir(parents=True)


# programs in disguise


@source(1)
def playlists(at: Path, outside: Path) -> None:
    secret = outside / "secret.mp4"
    film(at / "good.mp4")
    (at / "concat.mp4").write_text(f"ffconcat version 1.0\nfile {secret}\n")
    (at / "list.mp4").write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nfile://{secret}\n#EXT-X-ENDLIST\n")
    (at / "list.mkv").write_text(f"#EXTM3U\n#EXTINF:10,\n{secret}\n")
    (at / "session.mov").write_text("v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\n")
    (at / "dash.webm").write_text(
        f'<?xml version="1.0"?><MPD type="static"><Period><BaseURL>{secret}</BaseURL></Period></MPD>'
    )
    (at / "reference.mp4").write_bytes(quicktime_reference(str(secret)))


def quicktime_reference(path: str) -> bytes:
    """A reference movie: an MP4 that holds only the place of another."""

    def box(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body) + 8) + kind + body

    place = path.encode() + b"\0"
    rdrf = box(b"rdrf", bytes(4) + b"url " + struct.pack(">I", len(place)) + place)
    return box(b"ftyp", b"qt  \0\0\0\0qt  ") + box(b"moov", box(b"rmra", box(b"rmda", rdrf)))


@source(0)
def lerobot_playlist(at: Path, outside: Path) -> None:
    lerobot_sets.write_v2(at, [10], video=True)
    path = at / "videos" / "chunk-000" / "observation.images.top" / "episode_000000.mp4"
    path.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:1,\n{outside / 'secret.mp4'}\n#EXT-X-ENDLIST\n")


@source(1)
def mp4_data_reference(at: Path, outside: Path) -> None:
    """A sound MP4 whose data reference names another file."""
    film(at / "good.mp4")
    path = film(at / "bad.mp4")
    data = path.read_bytes()
    where = data.index(b"dref")
    url = b"file://" + str(outside / "secret.mp4").encode() + b"\0"
    data = data[: where + 12] + struct.pack(">I", 12 + len(url)) + b"url " + bytes(4) + url + data[where + 24 :]
    path.write_bytes(data)


@source(0)
def npz_pickle(at: Path, outside: Path) -> Path:
    at.mkdir()
    np.savez(at / "a.npz", observations=np.array([Payload(canary(outside))] * 5, object), actions=np.ones((5, 2)))
    return at / "a.npz"


@source(0)
def npz_raw_pickle(at: Path, outside: Path) -> Path:
    at.mkdir()
    with zipfile.ZipFile(at / "a.npz", "w") as archive:
        archive.writestr("observations.npy", payload(outside))
        archive.writestr("actions.npy", npy(np.ones((10, 2))))
    return at / "a.npz"


@source(0)
def pickles_by_other_names(at: Path, outside: Path) -> None:
    at.mkdir()
    for name in ("a.hdf5", "a.parquet", "a.mp4", "a.tar", "a.bag", "a.npz", "a.mcap", "a.db3", "a.json", "a.npy",
                 "a.pkl", "a.pt", "a.csv"):  # fmt: skip
        (at / name).write_bytes(payload(outside))


@source(0)
def calvin_pickle(at: Path, outside: Path) -> None:
    at.mkdir()
    objects = np.array([[Payload(canary(outside))] * 2], object)
    np.save(at / "ep_start_end_ids.npy", objects, allow_pickle=True)
    np.savez(at / "episode_0000000.npz", actions=np.ones(7), robot_obs=np.ones(15))


@source(0)
def zarr_pickle(at: Path, outside: Path) -> None:
    zarr_store(at)
    edited(at / "data" / "state" / ".zarray", dtype="|O", filters=[{"id": "pickle", "protocol": 5}], fill_value=None)
    (at / "data" / "state" / "0.0").write_bytes(payload(outside))


@source(0)
def tar_pickles(at: Path, outside: Path) -> Path:
    members = []
    for t in range(4):
        members += [(f"ep0/{t:04d}.state.npy", payload(outside)), (f"ep0/{t:04d}.action.pyd", payload(outside))]
        members += [(f"ep0/{t:04d}.more.pkl", payload(outside)), (f"ep0/{t:04d}.net.pth", payload(outside))]
        members += [(f"ep0/{t:04d}.objects.npy", npy_header((2,), "|O") + payload(outside))]
    return tar(at / "a.tar", *members)


LAUGHS = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{','.join(['*' + chr(97 + i)] * 9)}]\n" for i in range(9)
)
"""YAML of ten lines that comes to 9^10 values."""


@source(0, tag="!!python/object/apply:os.system ['touch {canary}']",
        laughs="1\n" + LAUGHS + "rosbag2_bagfile_information: *j",
        deep="[" * 100_000, binary="\0\1\2")  # fmt: skip
def bag_metadata(at: Path, outside: Path, text: str) -> None:
    bag_sets.write(at, "sqlite", arm(20))
    (at / "metadata.yaml").write_text("rosbag2_bagfile_information: " + text.replace("{canary}", str(canary(outside))))


@source(0)
def sqlite_endless_view(at: Path, outside: Path) -> Path:
    """``messages`` is a view that never ends."""
    path = bag_sets.write(at, "sqlite", arm(20))
    with sqlite3.connect(path) as base:
        base.execute("ALTER TABLE messages RENAME TO held")
        base.execute(
            "CREATE VIEW messages AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) "
            "SELECT i AS id, 1 AS topic_id, i AS timestamp, zeroblob(100) AS data FROM n"
        )
    base.close()
    return path.parent


@source(0)
def sqlite_huge_blob(at: Path, outside: Path) -> Path:
    """A view whose messages are of 900 MB each."""
    path = bag_sets.write(at, "sqlite", arm(20))
    with sqlite3.connect(path) as base:
        base.execute("ALTER TABLE messages RENAME TO held")
        base.execute("CREATE VIEW messages AS SELECT id, topic_id, timestamp, zeroblob(900000000) AS data FROM held")
    base.close()
    return path.parent


@source(0)
def tar_members(at: Path, outside: Path) -> Path:
    members: list[tuple[tarfile.TarInfo | str, bytes]] = []
    for name, kind, to in (
        ("ep0/0000.state.npy", tarfile.SYMTYPE, str(outside / "secret.npy")),
        ("ep0/0000.action.npy", tarfile.LNKTYPE, str(outside / "secret.npy")),
        ("ep0/0001.state.npy", tarfile.CHRTYPE, ""),
        ("ep0/0001.action.npy", tarfile.FIFOTYPE, ""),
    ):
        info = tarfile.TarInfo(name)
        info.type, info.linkname, info.devmajor, info.devminor = kind, to, 1, 5
        members.append((info, b""))
    values = npy(np.ones(3, np.float32))
    members += [(str(outside / "planted.state.npy"), values), ("../outside/planted.action.npy", values)]
    return tar(at / "a.tar", *members)


@source(0)
def tar_declared_size(at: Path, outside: Path) -> Path:
    at.mkdir()
    info = tarfile.TarInfo("ep0/0000.state.npy")
    info.size = 1 << 60
    (at / "a.tar").write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(4096))
    return at / "a.tar"


# depth


DEEP = "[" * 100_000 + "]" * 100_000


@source(0, info="meta/info.json", episodes="meta/episodes.jsonl", tasks="meta/tasks.jsonl")
def lerobot_deep_json(at: Path, outside: Path, name: str) -> None:
    lerobot_sets.write_v2(at, [4])
    (at / name).write_text(DEEP)


@source(0, features="features.json", info="dataset_info.json")
def rlds_deep_json(at: Path, outside: Path, name: str) -> None:
    rlds(at, [example()])
    (at / name).write_text(DEEP)


@source(0)
def rlds_deep_features(at: Path, outside: Path) -> None:
    """Sequences in sequences, as deep as JSON goes."""
    rlds(at, [example()])
    inner = '{"pythonClassName": "x.Sequence", "sequence": {"feature": '
    (at / "features.json").write_text(inner * 900 + '{"tensor": {}}' + "}}" * 900)


@source(3)
def hdf5_deep_json(at: Path, outside: Path) -> Path:
    path = robomimic(at)
    with h5py.File(path, "r+") as file:
        file["data"].attrs["env_args"] = DEEP[:60_000]
    return path


@source(0)
def hdf5_deep_groups(at: Path, outside: Path) -> Path:
    path = robomimic(at, 1)
    with h5py.File(path, "r+") as file:
        group = file["data/demo_0/obs"]
        for _ in range(3000):
            group = group.create_group("g")
        group["x"] = np.ones(3)
    return path


@source(0, zattrs=".zattrs", zgroup=".zgroup", zarray="data/state/.zarray")
def zarr_deep_json(at: Path, outside: Path, name: str) -> None:
    zarr_store(at)
    (at / name).write_text(DEEP)


@source(0)
def tar_deep_json(at: Path, outside: Path) -> Path:
    members = [member for t in range(4) for member in [*sample(t), (f"ep0/{t:04d}.json", DEEP.encode())]]
    return tar(at / "a.tar", *members)


@source(1)
def rlds_deep_message(at: Path, outside: Path) -> None:
    """A protobuf message in a message, 100,000 times."""
    data = b""
    for _ in range(2000):
        data = b"\x0a" + varint(len(data)) + data
    rlds(at, [example(), data])


def varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


@source(0)
def mcap_deep_protobuf(at: Path, outside: Path) -> Path:
    """A schema of a message that holds itself, and a value of it 20,000 deep."""
    from google.protobuf import descriptor_pb2

    at.mkdir()
    held = descriptor_pb2.FileDescriptorSet()
    file = held.file.add(name="a.proto", package="a", syntax="proto3")
    message = file.message_type.add(name="Node")
    field = descriptor_pb2.FieldDescriptorProto
    message.field.add(name="value", number=2, type=field.TYPE_DOUBLE, label=field.LABEL_OPTIONAL)
    message.field.add(name="inner", number=1, type=field.TYPE_MESSAGE, type_name=".a.Node", label=field.LABEL_OPTIONAL)
    data = b""
    for _ in range(20_000):
        data = b"\x0a" + varint(len(data)) + data
    rows = [(bag_sets.START + i * 50_000_000, bag_sets.START, data) for i in range(5)]
    topics = {"/state": ("a.Node", "protobuf", "protobuf", held.SerializeToString(), rows)}
    return bag_sets.write_mcap(at / "a.mcap", topics)


@source(0)
def mcap_deep_definition(at: Path, outside: Path) -> Path:
    """Message types that hold twice the one below, 60 levels deep: 2^60 numbers a message."""
    at.mkdir()
    parts = ["a/L0 x\na/L0 y\n"]
    parts += [f"MSG: a/L{i}\na/L{i + 1} x\na/L{i + 1} y\n" for i in range(60)]
    parts += ["MSG: a/L60\nfloat64 value\n"]
    text = ("=" * 80 + "\n").join(parts)
    rows = [(bag_sets.START + i * 50_000_000, bag_sets.START, b"\0\1\0\0" + bytes(64)) for i in range(5)]
    return bag_sets.write_mcap(at / "a.mcap", {"/state": ("a/msg/Top", "cdr", "ros2msg", text.encode(), rows)})


@source(0)
def mcap_declared_sequence(at: Path, outside: Path) -> Path:
    """Sequences that declare 2^31 numbers, and an array of 10^12."""
    at.mkdir()
    rows = [(bag_sets.START + i * 50_000_000, 0, b"\0\1\0\0" + b"\xff\xff\xff\x7f" + bytes(64)) for i in range(5)]
    topics = {
        "/joint_states": ("a/msg/Top", "cdr", "ros2msg", b"float64[] position\n", rows),
        "/joint_command": ("a/msg/Fix", "cdr", "ros2msg", b"float64[1000000000000] position\n", rows),
    }
    return bag_sets.write_mcap(at / "a.mcap", topics)


OPTIONS: Mapping[str, str] = {
    "tag": "!!python/object/apply:os.system ['touch {canary}']\n",
    "module": "fps: !!python/name:os.system ''\n",
    "laughs": LAUGHS,
    "deep": "fps: " + "[" * 100_000,
    "digits": "fps: " + "9" * 100_000 + "\n",
    "binary": "\x00\x01",
    "list": "- 1\n",
    "unknown": "no_such_option: 1\n",
    "path": "state_keys: ['../../outside/secret']\n",
}  # fmt: skip
"""Option files that are given with a sound source."""

URIS = (
    "zip://a.hdf5::file://{outside}/secret.zip", "simplecache::file://{outside}/secret.hdf5",
    "filecache::file://{outside}/secret.hdf5", "reference://x", "memory://x", "data:text/plain,x",
    "file://{outside}/../outside/nothing", "nosuch://x", "github://a:b@c/d", "jar://a!/b", "s3://", "s3:///x",
    "://", "\n", "~nobody/x", "-", "a" * 5000, "{outside}/secret.hdf5/inner", "{outside}/secret.hdf5\u0000",
)  # fmt: skip
"""URIs that are no source; the last two stand on a sound one."""
