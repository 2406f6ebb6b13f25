"""Every real recording goes in through the command line and comes back equal to what other people's readers make of it.

What is in a source is read here by h5py, zarr, protobuf, pyarrow, rosbags and PyAV alone. Numbers are held against the
lake and against the mixture bit for bit; kept video by its bytes; encoded images by the PSNR that the receipt states.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import shutil
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import av
import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
import zarr
from PIL import Image
from rosbags.highlevel import AnyReader

from api.cli import main
from data_engine import mixture
from data_engine.loader import MixtureDataset, collate
from data_engine.windows import Windows
from storage.lake import Lake
from tests.data_engine.formats.rlds_sets import proto_values, records

NS = 1e9
Take = Callable[[Any], Any]


@dataclass(frozen=True)
class Truth:
    """One episode as others read it. ``columns``: by the lake's name, [n, ...], or a list with None where missing.

    ``frames``: by camera, uint8 [n, h, w, 3]. ``files``: by camera, the video that shows it. ``facts``: of its row in
    ``episodes``. ``rebuilt``: what the lake holds in another form, by the source's name: how to make it from the stored
    steps and attributes, and what it must be.
    """

    columns: Mapping[str, Any]
    frames: Mapping[str, np.ndarray] = field(default_factory=dict)
    files: Mapping[str, Path] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    rebuilt: Mapping[str, tuple[Callable[[dict[str, Any], dict[str, Any]], Any], Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Original:
    """A source: where it is, what it holds by episode key, and every column that others see in it."""

    path: Path
    episodes: dict[str, Truth]
    columns: set[str]
    guessed: bool = False  # the columns are first proposed by a dry run
    options: tuple[str, ...] = ()


# what others read


def pusht(shared: Path, tmp: Path) -> Original:
    """The first five episodes, cut off by the declared lengths alone: every chunk is as it came."""
    whole = shared / "pusht_zarr" / "pusht_cchi_v7_replay.zarr.zip"
    group = zarr.open_group(zarr.storage.ZipStore(whole, read_only=True), mode="r")
    ends = [0, *(int(end) for end in group["meta/episode_ends"][:5])]
    path = tmp / "pusht.zarr.zip"
    with zipfile.ZipFile(whole) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as new:
        for name in old.namelist():
            data = old.read(name)
            if name.endswith(".zarray"):
                facts = json.loads(data)
                facts["shape"][0] = 5 if "episode_ends" in name else ends[-1]
                data = json.dumps(facts).encode()
            new.writestr(name, data)
    names = {"state": "observation.state", "action": "action", "keypoint": "keypoint", "n_contacts": "n_contacts"}
    episodes = {
        f"episode_{i:06d}": Truth(
            {**{to: group[f"data/{name}"][a:b] for name, to in names.items()}, "timestamp": np.arange(b - a) / 10},
            frames={"img": group["data/img"][a:b].astype(np.uint8)},
        )
        for i, (a, b) in enumerate(pairwise(ends))
    }
    return Original(path, episodes, set(group["data"].array_keys()))


def bridge(shared: Path, tmp: Path) -> Original:
    """The first five records of each split."""
    path = tmp / "bridge_rlds"
    shutil.copytree(shared / "bridge_rlds", path)
    for shard in (path / "1.0.0").glob("*.tfrecord-*"):
        data = shard.read_bytes()
        shard.write_bytes(data[: sum(len(record) + 16 for record in islice(records(data), 5))])
    info = json.loads((path / "1.0.0" / "dataset_info.json").read_text())
    for split in info["splits"]:
        split["shardLengths"] = ["5"]
    (path / "1.0.0" / "dataset_info.json").write_text(json.dumps(info))
    names = {
        "observation/state": "observation.state", "action": "action", "language_embedding": "language_embedding",
        "reward": "reward", "discount": "discount",
    }  # fmt: skip
    episodes, columns = {}, set()
    for split in ("train", "val"):
        data = (path / "1.0.0" / f"bridge_dataset-{split}.tfrecord-00000-of-00001").read_bytes()
        for index, record in enumerate(records(data)):
            held = proto_values(record)
            n = len(held["steps/reward"])
            columns |= {name for name in held if name.startswith("steps/")}
            terminal, last, first = (np.array(held[f"steps/is_{end}"], bool) for end in ("terminal", "last", "first"))
            said = [text.decode() for text in held["steps/language_instruction"]]
            episodes[f"{split}/00000/{index:06d}"] = Truth(
                {
                    **{to: np.array(held[f"steps/{name}"], np.float32).reshape(n, -1) for name, to in names.items()},
                    "terminated": terminal, "truncated": last & ~terminal, "language_instruction": said,
                    "timestamp": np.arange(n) / 5,
                },
                frames={
                    camera: np.stack([decoded(image) for image in held[f"steps/observation/{camera}"]])
                    for camera in ("image_0", "image_1", "image_2", "image_3")
                },
                facts={"language": list(dict.fromkeys(filter(None, said))), "labels": [split]},
                rebuilt={
                    "steps/is_first": (lambda steps, _: np.arange(len(steps["timestamp"])) == 0, first),
                    "steps/is_last": (lambda steps, _: steps["terminated"] | steps["truncated"], last),
                    **{
                        f"episode_metadata/{name}": (lambda _, kept, name=name: kept[name], plain)
                        for name, plain in (
                            ("episode_id", held["episode_metadata/episode_id"][0]),
                            ("file_path", held["episode_metadata/file_path"][0].decode()),
                            *((f"has_image_{i}", bool(held[f"episode_metadata/has_image_{i}"][0])) for i in range(4)),
                            ("has_language", bool(held["episode_metadata/has_language"][0])),
                        )
                    },
                },
            )  # fmt: skip
            columns |= {name for name in held if name.startswith("episode_metadata/")}
    return Original(path, episodes, columns)


def decoded(image: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(image)).convert("RGB"))


def g1(shared: Path, tmp: Path) -> Original:
    path = shared / "g1_lerobot_v21"
    tasks = [json.loads(line)["task"] for line in (path / "meta" / "tasks.jsonl").read_text().splitlines()]
    episodes, columns = {}, set()
    for index in range(6):
        table = pq.read_table(path / "data" / "chunk-000" / f"episode_{index:06d}.parquet")
        columns |= set(table.column_names)
        video = path / "videos" / "chunk-000" / "observation.images.cam_high" / f"episode_{index:06d}.mp4"
        episodes[f"episode_{index:06d}"] = lerobot(
            table, index, tasks, ("observation.state", "action"), files={"cam_high": video}
        )
    return Original(path, episodes, columns)


def metaworld_lerobot(shared: Path, tmp: Path) -> Original:
    path = shared / "metaworld_tiers" / "lerobot_v3"
    listed = pq.read_table(path / "meta" / "tasks.parquet").sort_by("task_index")
    tasks = listed.drop_columns("task_index").column(0).to_pylist()  # the texts are pandas' index
    table = pq.read_table(path / "data" / "chunk-000" / "file-000.parquet")
    numbers = table["episode_index"].to_numpy()
    episodes = {}
    for index in np.unique(numbers).tolist():
        own = table.filter(pa.array(numbers == index))
        names = {"next.reward": "reward"}
        episodes[f"episode_{index:06d}"] = lerobot(
            own, index, tasks, ("observation.state", "action", "next.reward", "next.success"), names
        )
    return Original(path, episodes, set(table.column_names))


def lerobot(
    table: pa.Table, index: int, tasks: list[str], kept: tuple[str, ...], names: Mapping[str, str] | None = None,
    files: Mapping[str, Path] | None = None,
) -> Truth:  # fmt: skip
    """The four columns that only number rows are what the lake's own numbers come to."""
    arrays = {name: flat(table[name]) for name in table.column_names}
    n = len(table)
    return Truth(
        {
            **{(names or {}).get(name, name): arrays[name] for name in kept},
            "timestamp": arrays["timestamp"].astype(np.float64),
        },
        files=files or {},
        facts={"task": tasks[arrays["task_index"][0]]},
        rebuilt={
            "frame_index": (lambda steps, _: np.arange(len(steps["timestamp"])), arrays["frame_index"]),
            "index": (lambda steps, _: arrays["index"][0] + np.arange(len(steps["timestamp"])), arrays["index"]),
            "episode_index": (lambda *_: np.full(n, index), arrays["episode_index"]),
            "task_index": (lambda *_: np.full(n, arrays["task_index"][0]), arrays["task_index"]),
        },
    )


def flat(column: pa.ChunkedArray) -> np.ndarray:
    """[n] or [n, d]"""
    array = column.combine_chunks()
    if not pa.types.is_nested(array.type):
        return array.to_numpy(zero_copy_only=False)
    return array.flatten().to_numpy(zero_copy_only=False).reshape(len(array), -1)


def robosuite(name: str) -> Callable[[Path, Path], Original]:
    def read(shared: Path, tmp: Path) -> Original:
        path = shared / "robosuite_hdf5" / f"{name}.hdf5"
        episodes, columns = {}, set()
        with h5py.File(path) as file:
            for key, demo in file["data"].items():
                arrays = {name: demo[name][()] for name in demo if isinstance(demo[name], h5py.Dataset)}
                columns |= set(arrays)
                if "actions" in arrays:
                    action = arrays.pop("actions")
                else:
                    action = np.hstack([arrays.pop("joint_velocities"), arrays.pop("gripper_actuations")])
                state = arrays.pop("states")
                rest = {name: values for name, values in arrays.items() if values.size}
                episodes[key] = Truth(
                    {"observation.state": state, "action": action, "timestamp": state[:, 0] - state[0, 0], **rest}
                )
        return Original(path, episodes, columns)

    return read


def d4rl(shared: Path, tmp: Path) -> Original:
    path = shared / "d4rl_hdf5" / "push_ball_to_goal_expert.hdf5"
    with h5py.File(path) as file:
        arrays = {name: file[name][()] for name in file}
    ends = [0, *(np.flatnonzero(arrays["terminals"]) + 1).tolist()]
    assert ends[-1] == len(arrays["actions"])
    names = {
        "observations": "observation.state", "actions": "action", "rewards": "reward", "terminals": "terminated",
    }  # fmt: skip
    episodes = {
        f"episode_{i:06d}": Truth(
            {**{to: arrays[name][a:b] for name, to in names.items()}, "timestamp": np.arange(b - a) / 20},
            rebuilt={"next_observations": (after, arrays["next_observations"][a:b])},
        )
        for i, (a, b) in enumerate(pairwise(ends))
    }
    return Original(path, episodes, set(arrays))


def after(steps: dict[str, Any], kept: dict[str, Any]) -> np.ndarray:
    """The observations one step on, whose last is an attribute."""
    last = np.array(kept["next_observations.last"], np.float32)
    return np.concatenate([steps["observation.state"][1:], last[None]])


def metaworld_robomimic(shared: Path, tmp: Path) -> Original:
    path = shared / "metaworld_tiers" / "robomimic.hdf5"
    episodes, columns = {}, set()
    with h5py.File(path) as file:
        tiers = {name.decode(): tier for tier in file["mask"] for name in file["mask"][tier][()]}
        for key, demo in file["data"].items():
            arrays: dict[str, np.ndarray] = {}
            demo.visititems(lambda name, item, found=arrays: found.update(values(name, item)))
            columns |= set(arrays)
            parts = ("obs/robot0_eef_pos", "obs/robot0_gripper_qpos", "obs/object")
            dones = arrays.pop("dones")
            assert set(np.unique(dones)) <= {0, 1}
            episodes[key] = Truth(
                {
                    "observation.state": np.hstack([arrays[part] for part in parts]), "action": arrays["actions"],
                    "terminated": dones.astype(bool), "reward": arrays["rewards"], "states": arrays["states"],
                    "timestamp": np.arange(len(dones)) / 20,
                },
                facts={"labels": [tiers[key]]},
            )  # fmt: skip
    return Original(path, episodes, columns)


def values(name: str, item: Any) -> dict[str, np.ndarray]:
    return {name: item[()]} if isinstance(item, h5py.Dataset) else {}


def turtlesim(shared: Path, tmp: Path) -> Original:
    """Everything numeric that a dry run proposes, taken from the messages one at a time."""
    twist: Take = lambda m: [m.linear.x, m.linear.y, m.linear.z, m.angular.x, m.angular.y, m.angular.z]  # noqa: E731
    pose: Take = lambda m: [m.x, m.y, m.theta, m.linear_velocity, m.angular_velocity]  # noqa: E731
    colour: Take = lambda m: [m.r, m.g, m.b]  # noqa: E731
    fields: dict[str, list[tuple[str, Take]]] = {
        "action": [("/turtle2/cmd_vel", twist), ("/turtle1/cmd_vel", twist)],
        **{f"turtle{i}.pose": [(f"/turtle{i}/pose", pose)] for i in (1, 2)},
        **{f"turtle{i}.color_sensor": [(f"/turtle{i}/color_sensor", colour)] for i in (1, 2)},
    }
    return bag(shared / "bags" / "turtlesim_ros1.bag", fields, "/turtle1/color_sensor")


def ros2(name: str) -> Callable[[Path, Path], Original]:
    def read(shared: Path, tmp: Path) -> Original:
        arm, grip, command = "/joint_states", "/gripper/joint_states", "/joint_command"
        position: Take = lambda m: m.position.tolist()  # noqa: E731
        fields: dict[str, list[tuple[str, Take]]] = {
            "observation.state": [(arm, position), (grip, position)],
            "action": [(command, position)],
        }
        for topic in (arm, grip, command):
            for part in ("velocity", "effort"):
                take: Take = lambda m, part=part: getattr(m, part).tolist()  # noqa: E731
                fields[f"{topic[1:].replace('/', '.')}.{part}"] = [(topic, take)]
        return bag(shared / "bags" / name, fields, arm)

    return read


def bag(path: Path, fields: Mapping[str, list[tuple[str, Take]]], clock: str) -> Original:
    """The newest message at or before each message of ``clock``, and its age: found by looking at all of them."""
    messages: dict[str, list[tuple[int, Any]]] = {}
    topics: set[str] = set()
    with AnyReader([path]) as reader:
        for connection, time, data in reader.messages():
            topics.add(connection.topic)
            if any(connection.topic == topic for parts in fields.values() for topic, _ in parts):
                found = reader.deserialize(data, connection.msgtype)
                messages.setdefault(connection.topic, []).append((time, found))
    steps = sorted({time for time, _ in messages[clock]})
    columns: dict[str, Any] = {"timestamp": (np.array(steps) - steps[0]) / NS}
    for name, parts in fields.items():
        newest = [[latest(messages[topic], step) for step in steps] for topic, _ in parts]
        rows, ages = [], []
        for step, found in zip(steps, zip(*newest, strict=True), strict=True):
            whole = (
                None if None in found else [x for at, (_, take) in zip(found, parts, strict=True) for x in take(at[1])]
            )
            rows.append(whole[0] if whole is not None and len(whole) == 1 else whole)
            ages.append(None if None in found else max((step - at[0]) / NS for at in found))
        columns |= {name: rows, f"{name}.age_s": ages}
    facts = {"n_steps": len(steps)}
    return Original(path, {path.name: Truth(columns, facts=facts)}, topics, guessed=True)


def latest(messages: list[tuple[int, Any]], step: int) -> tuple[int, Any] | None:
    before = [message for message in messages if message[0] <= step]
    return max(before, key=lambda message: message[0]) if before else None


def videos(shared: Path, tmp: Path) -> Original:
    path = shared / "videos"
    episodes = {}
    for file in sorted(path.glob("*.mp4")):
        with av.open(str(file)) as container:
            stream = container.streams.video[0]
            times = sorted(float(packet.pts * stream.time_base) for packet in container.demux(stream) if packet.size)
        episodes[file.name] = Truth({"timestamp": np.array(times) - times[0]}, files={"video": file})
    return Original(path, episodes, set())


SETS: dict[str, Callable[[Path, Path], Original]] = {
    "pusht": pusht,
    "bridge": bridge,
    "g1": g1,
    "metaworld_lerobot": metaworld_lerobot,
    "metaworld_robomimic": metaworld_robomimic,
    **{name: robosuite(name) for name in (
        "SawyerLift_demo", "pick-place_panda_demo", "lift_panda_demo", "stack_panda_demo",
    )},
    "d4rl": d4rl,
    "turtlesim": turtlesim,
    "sample_ros2.mcap": ros2("sample_ros2.mcap"),
    "sample_ros2_sqlite": ros2("sample_ros2_sqlite"),
    "videos": videos,
}  # fmt: skip


# through the command line


@dataclass(frozen=True)
class Brought:
    """A set in a lake of its own, frozen as a mixture of all its episodes."""

    original: Original
    lake: str
    receipt: dict[str, Any]
    proposed: dict[str, Any]
    mixture: str


@pytest.fixture(scope="module", params=SETS)
def brought(request: pytest.FixtureRequest, shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Brought:
    folder = tmp_path_factory.mktemp("real")
    original = SETS[request.param](shared_data, folder)
    lake, more = str(folder / "lake"), []
    proposed = command("ingest", original.path, "--dry-run", "--lake", lake)
    assert not Path(lake).exists()
    if original.guessed:
        (folder / "options.yaml").write_text(yaml.safe_dump(proposed["proposal"]))
        more = ["--options", folder / "options.yaml"]
    receipt = command("ingest", original.path, "--dataset", "it", "--lake", lake, *more)
    command("select", "--method", "filter", "--name", "all", "--lake", lake)
    recipe = {
        "source": {"uri": str(original.path)},
        "select": [{"name": "all", "method": "filter"}],
        "mixture": {"weight_kind": "repeat", "unit": "step", "entries": [{"selection": "all", "weight": 1}]},
    }
    (folder / "mix.yaml").write_text(yaml.safe_dump(recipe))
    frozen = command("mix", folder / "mix.yaml", "--lake", lake)
    return Brought(original, lake, receipt, proposed, f"{lake}/mixtures/{frozen['mixture_id']}")


def command(*arguments: Any) -> Any:
    """The JSON answer of a command that must succeed."""
    out = io.StringIO()
    try:
        with contextlib.redirect_stdout(out):
            main([*(str(argument) for argument in arguments), "--json"])
    except SystemExit as ended:
        assert not ended.code, out.getvalue()
    return json.loads(out.getvalue())


def steps_of(lake: Lake) -> Iterator[tuple[dict[str, Any], pa.Table]]:
    return lake.steps(lake.episodes())


def same(column: pa.ChunkedArray, expected: Any, name: str) -> None:
    """Bit for bit, NaN and sign of zero included; a wider type may hold the same values."""
    if isinstance(expected, list):
        assert column.to_pylist() == expected, name
        return
    assert column.null_count == 0, name
    found = flat(column)
    wanted = expected.reshape(len(expected), -1)
    found = found.reshape(len(found), -1)
    assert found.shape == wanted.shape, name
    cast = wanted.astype(found.dtype)
    assert np.can_cast(wanted.dtype, found.dtype) or wanted.dtype == np.bool_, name
    assert found.tobytes() == cast.tobytes(), name


def test_every_step_of_the_lake_is_what_others_read(brought: Brought) -> None:
    assert command("check", "--lake", brought.lake)["sound"]
    receipt, truths = brought.receipt, brought.original.episodes
    n_steps = {key: len(truth.columns["timestamp"]) for key, truth in truths.items()}
    assert (receipt["stored"]["episodes"], receipt["quarantined"]) == (len(truths), [])
    assert receipt["stored"]["steps"] == sum(n_steps.values())
    lake = Lake.open(brought.lake)
    seen = set()
    for row, steps in steps_of(lake):
        truth = truths[row["source_key"]]
        seen.add(row["source_key"])
        assert set(steps.column_names) - {"episode_id", "step"} == set(truth.columns)
        for name, expected in truth.columns.items():
            same(steps[name], expected, f"{row['source_key']} {name}")
        assert {name: row[name] for name in truth.facts} == dict(truth.facts)
    assert seen == set(truths)
    rows = command("query", "--where", "n_steps > 0", "--columns", "source_key,n_steps", "--lake", brought.lake)
    assert {row["source_key"]: row["n_steps"] for row in rows["items"]} == n_steps


def test_every_column_of_the_source_is_in_the_lake_or_named_in_the_receipt(brought: Brought) -> None:
    receipt = brought.receipt
    told = " ".join(
        [*(column["source"] for column in receipt["columns"]), *receipt["notes"], *brought.proposed["notes"]]
    )
    rebuilt = {name for truth in brought.original.episodes.values() for name in truth.rebuilt}
    lost = {name for name in brought.original.columns - rebuilt if name not in told}
    assert not lost
    for row, steps in steps_of(Lake.open(brought.lake)):
        truth = brought.original.episodes[row["source_key"]]
        arrays = {name: flat(steps[name]) for name in steps.column_names if truth.rebuilt}
        for name, (make, expected) in truth.rebuilt.items():
            np.testing.assert_array_equal(make(arrays, json.loads(row["attributes"])), expected, name)


def test_every_camera_shows_what_the_source_shows(brought: Brought) -> None:
    lake, streams = Lake.open(brought.lake), brought.receipt["streams"]
    for row, _ in steps_of(lake):
        truth = brought.original.episodes[row["source_key"]]
        assert {video["camera"] for video in row["videos"]} == {*truth.frames, *truth.files}
        for video in row["videos"]:
            camera, blob = video["camera"], Path(lake.local(video["blob"]))
            if camera in truth.files:
                source = truth.files[camera].read_bytes()
                assert blob.read_bytes() == source
                assert blob.stem == hashlib.sha256(source).hexdigest()
                continue
            stated = streams[f"{row['source_key']}/{camera}"]
            shown = frames_of(blob)
            assert shown.shape == truth.frames[camera].shape
            psnr = [db(shown[i], truth.frames[camera][i]) for i in range(len(shown))]
            assert stated["psnr_db"] == pytest.approx(min(psnr[0], psnr[-1]), abs=0.02)
            assert min(psnr) >= 30
    kept = [truth.files for truth in brought.original.episodes.values() if truth.files]
    assert {stream["kept"] for stream in streams.values()} <= {"byte for byte" if kept else "encoded once"}


def frames_of(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def db(found: np.ndarray, expected: np.ndarray) -> float:
    error = float(np.mean((found.astype(float) - expected) ** 2))
    return min(99.0, 10 * np.log10(255**2 / error)) if error else 99.0


def test_the_mixture_and_its_loader_give_the_same(brought: Brought) -> None:
    frozen = mixture.open(brought.mixture)
    lake = Lake.open(brought.lake)
    keys = {row["episode_id"]: row["source_key"] for row in lake.episodes().iter_rows(named=True)}
    truths = brought.original.episodes
    assert len(frozen) == len(truths)
    for i, row in enumerate(frozen.episodes.to_pylist()):
        steps = frozen.steps(i)
        for name, expected in truths[keys[row["episode_id"]]].columns.items():
            same(steps[name], expected, name)
    numeric = [
        feature.name for feature in frozen.datasets["it"].features
        if not feature.is_camera and feature.dtype != "string" and feature.name != "timestamp"
    ]  # fmt: skip
    windows = Windows(history=2, action_horizon=5, columns=tuple(numeric))
    dataset = MixtureDataset(frozen, windows)
    assert len(dataset) == sum(len(truth.columns["timestamp"]) for truth in truths.values())
    picked = np.random.default_rng(0).choice(len(dataset), 12, replace=False).tolist()
    for k in picked:
        sample = dataset[k]
        truth, t = truths[keys[sample["episode_id"]]], int(sample["step"])
        n = len(truth.columns["timestamp"])
        assert float(sample["timestamp"]) == truth.columns["timestamp"][t]
        for name in numeric:
            wanted = windowed(truth.columns[name], t, n, name)
            found = sample[name].numpy()
            if f"{name}_is_missing" in sample:
                found = np.where(sample[f"{name}_is_missing"].numpy(), np.nan, found)
            np.testing.assert_array_equal(found.reshape(wanted.shape), wanted, name)
        assert sample["action_is_pad"].tolist() == [t + i >= n for i in range(5)] or "action" not in numeric
        for camera in {*truth.frames, *truth.files}:
            shown = sample[f"observation.images.{camera}"].numpy().transpose(0, 2, 3, 1)
            for at, frame in zip((max(t - 1, 0), t), shown, strict=True):
                assert db(frame, shown_by_source(truth, camera, at)) >= (30 if camera in truth.frames else 99)
    if len({truth.files["video"] for truth in truths.values() if "video" in truth.files}) < 2:  # of one size
        batch = collate(dataset.__getitems__(picked[:4]))
        assert batch["index"].tolist() == picked[:4]


def windowed(column: Any, t: int, n: int, name: str) -> np.ndarray:
    """The steps that a window shows, the edge repeated; a missing value is NaN, a float is a float32."""
    at = [t]
    if name.startswith("observation."):
        at = [max(t - 1, 0), t]
    elif name == "action" or name.startswith("action."):
        at = [min(t + i, n - 1) for i in range(5)]
    if isinstance(column, list):
        width = next(len(row) if isinstance(row, list) else 1 for row in column if row is not None)
        rows = [np.full(width, np.nan) if column[i] is None else np.atleast_1d(column[i]) for i in at]
        return np.stack(rows).astype(np.float32)
    rows = column[at].reshape(len(at), -1)
    return rows.astype(np.float32) if rows.dtype.kind == "f" else rows


def shown_by_source(truth: Truth, camera: str, t: int) -> np.ndarray:
    if camera in truth.frames:
        return truth.frames[camera][t]
    time = truth.columns["timestamp"][t]
    with av.open(str(truth.files[camera])) as container:
        stream = container.streams.video[0]
        container.seek(int(time / stream.time_base), stream=stream)
        return next(
            frame.to_ndarray(format="rgb24") for frame in container.decode(stream)
            if abs(float(frame.pts * stream.time_base) - time) < 0.5 / float(stream.average_rate)
        )  # fmt: skip


def test_there_is_a_reader_for_every_set(shared_data: Path) -> None:
    """A set that joins the folder joins this test."""
    held = {path.name for path in shared_data.iterdir()} - {"README.md", "so101_community_mixture.json"}
    assert held == {
        "pusht_zarr", "bridge_rlds", "g1_lerobot_v21", "robosuite_hdf5", "d4rl_hdf5", "bags", "videos",
        "metaworld_tiers",
    }  # fmt: skip
    assert {path.stem for path in (shared_data / "robosuite_hdf5").iterdir()} <= set(SETS)
