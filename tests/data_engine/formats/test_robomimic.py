from __future__ import annotations

import json
from pathlib import Path

import fsspec
import h5py
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_engine.errors import RequestError, SourceError
from data_engine.formats import Probe, Source, SourceEpisode, Unreadable, detect
from data_engine.formats.robomimic import Robomimic
from data_engine.formats.robosuite import Robosuite
from data_engine.fs import options
from tests.recordings import write_robomimic


def demo(n: int, seed: int = 0, **extra: np.ndarray) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    arrays = {
        "actions": rng.normal(size=(n, 7)).astype(np.float32),
        "rewards": rng.normal(size=n),
        "dones": (np.arange(n) == n - 1).astype(np.int64),
        "states": rng.normal(size=(n, 5)),
        "obs/object": rng.normal(size=(n, 4)),
        "obs/robot0_gripper_qpos": rng.normal(size=(n, 2)),
        "obs/robot0_eef_quat": rng.normal(size=(n, 4)),
        "obs/robot0_eef_pos": rng.normal(size=(n, 3)),
        "obs/robot0_joint_vel": rng.normal(size=(n, 7)),
        "obs/agentview_image": rng.integers(0, 256, (n, 16, 24, 3), dtype=np.uint8),
    }
    return {**arrays, **extra}


def write(path: Path, demos: dict[str, dict[str, np.ndarray]], env: dict | None = None, **masks: list[str]) -> Source:
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["total"] = 1
        data.attrs["env_args"] = json.dumps(env or {"env_name": "Lift", "type": 1, "env_kwargs": {}})
        for key, arrays in demos.items():
            group = data.create_group(key)
            for name, values in arrays.items():
                group.create_dataset(name, data=values)
            if "actions" in arrays:
                group.attrs["num_samples"] = len(arrays["actions"])
        for name, keys in masks.items():
            file.create_dataset(f"mask/{name}", data=np.array(keys, dtype="S"))
    return Source(str(path))


def read(source: Source, **given) -> tuple[Probe, dict[str, SourceEpisode | Unreadable]]:
    form = Robomimic(**given)
    probe = form.probe(source)
    assert probe is not None
    return probe, {item.key: item for item in form.read(source, probe, [ref.key for ref in probe.episodes])}


def column(episode: SourceEpisode, name: str) -> np.ndarray:
    values = episode.steps[name].combine_chunks()
    if pa.types.is_fixed_size_list(values.type):
        return values.flatten().to_numpy().reshape(len(values), -1)
    return values.to_numpy(zero_copy_only=False)


def test_real_set_is_exact(shared_data: Path) -> None:
    path = shared_data / "metaworld_tiers" / "robomimic.hdf5"
    probe, episodes = read(Source(str(path)))
    (state,) = (feature for feature in probe.features if feature.name == "observation.state")
    assert state.shape == (39,)
    assert [state.components[i] for i in (0, 3, 4, 38)] == [
        "robot0_eef_pos.0", "robot0_gripper_qpos.0", "object.0", "object.34"
    ]  # fmt: skip
    assert (probe.fps, probe.embodiment) == (20.0, "unknown")
    assert any("20 is assumed" in note for note in probe.notes)
    steps = 0
    with h5py.File(path) as file:
        assert len(episodes) == len(file["data"])
        assert list(episodes) == [f"demo_{i}" for i in range(len(episodes))]
        for key, episode in episodes.items():
            group = file["data"][key]
            parts = [group["obs"][name][()] for name in ("robot0_eef_pos", "robot0_gripper_qpos", "object")]
            np.testing.assert_array_equal(column(episode, "observation.state"), np.concatenate(parts, axis=1))
            for name, source in {"action": "actions", "reward": "rewards", "states": "states"}.items():
                assert column(episode, name).dtype == group[source].dtype
                np.testing.assert_array_equal(column(episode, name), group[source][()])
            np.testing.assert_array_equal(column(episode, "terminated"), group["dones"][()].astype(bool))
            np.testing.assert_array_equal(column(episode, "timestamp"), np.arange(len(parts[0])) / 20)
            assert episode.labels == tuple(m for m in sorted(file["mask"]) if key.encode() in file["mask"][m][()])
            assert episode.task == "metaworld"
            steps += len(parts[0])
    assert steps == 30568


def test_auto_detects_it(shared_data: Path) -> None:
    source = Source(str(shared_data / "metaworld_tiers" / "robomimic.hdf5"))
    assert detect(source)[0].name == "robomimic"
    assert Robosuite().probe(source) is None


@settings(max_examples=20, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    dtype=st.sampled_from(["float16", "float32", "float64", ">f8", "int16", "uint8"]),
    width=st.integers(1, 5),
    chunked=st.booleans(),
)
def test_any_file_round_trips(tmp_path_factory, lengths, dtype, width, chunked) -> None:
    path = tmp_path_factory.mktemp("robomimic") / "set.hdf5"
    rng = np.random.default_rng(0)
    demos = {
        f"demo_{i}": {
            "actions": (rng.normal(size=(n, width)) * 50).astype(dtype),
            "obs/pose": (rng.normal(size=(n, 2, width)) * 50).astype(dtype),
            "obs/wrist": rng.normal(size=(n, 3)),
            "note": np.array([b"text"] * n, dtype="S"),
        }
        for i, n in enumerate(lengths)
    }
    with h5py.File(path, "w") as file:
        for key, arrays in demos.items():
            for name, values in arrays.items():
                file.create_dataset(f"data/{key}/{name}", data=values, chunks=True if chunked else None)
    probe, episodes = read(Source(str(path)))
    dtypes = {feature.name: feature.dtype for feature in probe.features}
    assert dtypes == {
        "observation.state": "float64", "action": np.dtype(dtype).name, "observation.pose": np.dtype(dtype).name,
        "note": "string",
    }  # fmt: skip
    for key, arrays in demos.items():
        episode, n = episodes[key], len(arrays["actions"])
        np.testing.assert_array_equal(column(episode, "action"), arrays["actions"])
        np.testing.assert_array_equal(column(episode, "observation.pose"), arrays["obs/pose"].reshape(n, -1))
        np.testing.assert_array_equal(column(episode, "observation.state"), arrays["obs/wrist"])
        assert episode.steps["note"].to_pylist() == ["text"] * n


def test_state_order_columns_and_cameras(tmp_path: Path) -> None:
    arrays = demo(70)
    probe, episodes = read(write(tmp_path / "a.hdf5", {"demo_0": arrays}))
    episode = episodes["demo_0"]
    order = ("obs/robot0_eef_pos", "obs/robot0_eef_quat", "obs/robot0_gripper_qpos", "obs/object")
    np.testing.assert_array_equal(column(episode, "observation.state"), np.hstack([arrays[name] for name in order]))
    np.testing.assert_array_equal(column(episode, "observation.robot0_joint_vel"), arrays["obs/robot0_joint_vel"])
    assert [f.name for f in probe.features if f.is_camera] == ["observation.images.agentview_image"]
    camera = episode.cameras["agentview_image"]
    assert (camera.height, camera.width) == (16, 24)
    for _ in range(2):
        np.testing.assert_array_equal(np.stack(list(camera.frames())), arrays["obs/agentview_image"])


def test_state_keys_and_action_keys(tmp_path: Path) -> None:
    arrays = demo(5, actions_abs=np.ones((5, 7)))
    source = write(tmp_path / "a.hdf5", {"demo_0": arrays})
    _, episodes = read(source, state_keys=("object", "robot0_joint_vel"), action_keys=("actions_abs",))
    both = np.hstack([arrays["obs/object"], arrays["obs/robot0_joint_vel"]])
    np.testing.assert_array_equal(column(episodes["demo_0"], "observation.state"), both)
    np.testing.assert_array_equal(column(episodes["demo_0"], "action"), np.ones((5, 7)))
    np.testing.assert_array_equal(column(episodes["demo_0"], "actions"), arrays["actions"])
    with pytest.raises(RequestError, match=r"state_keys names 'objects'.*known: object"):
        Robomimic(state_keys=("objects",)).probe(source)


def test_a_name_that_is_taken_gets_a_prefix(tmp_path: Path) -> None:
    arrays = demo(5, timestamp=np.arange(5) * 1e9, flag=np.arange(5) > 2, **{"obs/state": np.ones((5, 2))})
    _, episodes = read(write(tmp_path / "a.hdf5", {"demo_0": arrays}))
    for name in ("timestamp", "observation.state"):
        source = arrays["timestamp"][:, None] if name == "timestamp" else arrays["obs/state"]
        np.testing.assert_array_equal(column(episodes["demo_0"], f"source.{name}").reshape(5, -1), source)
    assert column(episodes["demo_0"], "observation.state").shape == (5, 13)
    assert episodes["demo_0"].steps["flag"].to_pylist() == [False, False, False, True, True]


def test_what_the_file_says(tmp_path: Path) -> None:
    env = {
        "env_name": "Lift",
        "env_kwargs": {
            "robots": ["Panda"],
            "control_freq": 50,
            "controller_configs": {"type": "OSC_POSE", "control_delta": True},
        },
    }
    arrays = demo(6, src_demo_inds=np.array([3, 1]), seed_used=np.array(4))
    for name in ("object", "robot0_eef_pos", "agentview_image"):
        arrays[f"next_obs/{name}"] = np.concatenate([arrays[f"obs/{name}"][1:], arrays[f"obs/{name}"][-1:] + 1])
    source = write(tmp_path / "a.hdf5", {"demo_0": arrays, "demo_1": demo(4)}, env, train=["demo_0", "demo_9"])
    with h5py.File(source.root, "a") as file:
        file["data/demo_0"].attrs.update(
            {"task": "lift the cube", "operator": "ann", "success": True, "language": "lift", "model_file": "<xml/>"}
        )
    probe, episodes = read(source)
    first, second = episodes["demo_0"], episodes["demo_1"]
    assert (probe.fps, probe.embodiment, probe.control_mode) == (50.0, "Panda", "osc_pose_delta")
    assert (first.task, first.operator, first.success, first.language) == ("lift the cube", "ann", True, ("lift",))
    assert (second.task, second.success, second.labels, first.labels) == ("Lift", None, (), ("train",))
    assert any("demo_9" in note for note in probe.notes)
    assert first.attributes["model_file"] == "<xml/>"
    assert (first.attributes["src_demo_inds"], first.attributes["seed_used"]) == ([3, 1], 4)
    assert json.loads(first.attributes["env_args"]) == env
    assert first.attributes["next_obs.last"]["object"] == (arrays["obs/object"][-1] + 1).tolist()
    assert first.notes == ()
    _, named = read(source, task="other", operator="bob", fps=5)
    assert (named["demo_0"].task, named["demo_0"].operator) == ("other", "bob")
    assert named["demo_0"].steps["timestamp"].to_pylist()[1] == 0.2


def test_next_obs_that_is_not_shifted_is_noted(tmp_path: Path) -> None:
    arrays = demo(6)
    arrays["next_obs/object"] = arrays["obs/object"]
    _, episodes = read(write(tmp_path / "a.hdf5", {"demo_0": arrays}))
    assert any("next_obs/object is not" in note for note in episodes["demo_0"].notes)


def test_nan_stays_nan_and_a_missing_column_is_null(tmp_path: Path) -> None:
    holed, bare = demo(5), demo(4)
    holed["obs/object"][2, 1] = np.nan
    del bare["rewards"]
    _, episodes = read(write(tmp_path / "a.hdf5", {"demo_0": holed, "demo_1": demo(3), "demo_2": bare}))
    assert np.isnan(column(episodes["demo_0"], "observation.state")[2]).sum() == 1
    assert episodes["demo_0"].steps["observation.state"].null_count == 0
    assert episodes["demo_2"].steps["reward"].null_count == 4
    assert any("rewards" in note for note in episodes["demo_2"].notes)


def _num_samples(group: h5py.Group) -> None:
    group.attrs["num_samples"] = 99


def _short(group: h5py.Group) -> None:
    del group["obs/object"]
    group["obs/object"] = np.zeros((3, 4))


def _empty(group: h5py.Group) -> None:
    for name in list(group):
        del group[name]


def _no_steps(group: h5py.Group) -> None:
    _empty(group)
    group["actions"] = np.zeros((0, 7), np.float32)


def _other_type(group: h5py.Group) -> None:
    group["actions64"] = group["actions"][()].astype(np.float64)
    group.move("actions", "old")
    group.move("actions64", "actions")
    del group["old"]


def _external_link(group: h5py.Group) -> None:
    del group["rewards"]
    group["rewards"] = h5py.ExternalLink("elsewhere.hdf5", "/secret")


def _soft_link(group: h5py.Group) -> None:
    group["alias"] = h5py.SoftLink("/data/demo_0/rewards")


def _external_storage(group: h5py.Group) -> None:
    del group["rewards"]
    group.create_dataset("rewards", (5,), "f8", external=[("elsewhere.bin", 0, 40)])


def _virtual(group: h5py.Group) -> None:
    del group["rewards"]
    layout = h5py.VirtualLayout((5,), "f8")
    layout[:] = h5py.VirtualSource("elsewhere.hdf5", "secret", (5,))
    group.create_virtual_dataset("rewards", layout)


def _objects(group: h5py.Group) -> None:
    group.create_dataset("ragged", (5,), h5py.vlen_dtype(np.float32))


def _compound(group: h5py.Group) -> None:
    group["pairs"] = np.zeros(5, [("a", "f4"), ("b", "i4")])


def _no_actions(group: h5py.Group) -> None:
    del group["actions"]


def _odd_dones(group: h5py.Group) -> None:
    group["dones"][1] = 7


def _huge(group: h5py.Group) -> None:
    _empty(group)
    for name, shape in {"actions": (10**9, 7)}.items():
        group.create_dataset(name, shape, "f4", chunks=(1024, 7))
    del group.attrs["num_samples"]


@pytest.mark.parametrize(
    ("damage", "code"),
    [
        (_num_samples, "lengths_differ"),
        (_short, "lengths_differ"),
        (_empty, "empty_episode"),
        (_no_steps, "empty_episode"),
        (_other_type, "layout_differs"),
        (_external_link, "link"),
        (_soft_link, "link"),
        (_external_storage, "link"),
        (_virtual, "link"),
        (_objects, "bad_dtype"),
        (_compound, "bad_dtype"),
        (_no_actions, "missing_column"),
        (_odd_dones, "bad_flag"),
        (_huge, "too_large"),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_one_bad_demonstration_leaves_the_rest(tmp_path: Path, damage, code: str) -> None:
    with h5py.File(tmp_path / "elsewhere.hdf5", "w") as file:
        file["secret"] = np.arange(5.0)
    (tmp_path / "elsewhere.bin").write_bytes(bytes(40))
    source = write(tmp_path / "a.hdf5", {f"demo_{i}": demo(5, i) for i in range(3)})
    with h5py.File(source.root, "a") as file:
        damage(file["data/demo_1"])
    _, episodes = read(source)
    bad = episodes["demo_1"]
    assert isinstance(bad, Unreadable)
    assert (bad.code, "\n" in bad.reason) == (code, False)
    assert isinstance(episodes["demo_0"], SourceEpisode)
    assert isinstance(episodes["demo_2"], SourceEpisode)


def test_what_has_no_column_form_can_be_left_out(tmp_path: Path) -> None:
    source = write(tmp_path / "a.hdf5", {f"demo_{i}": demo(5, i) for i in range(2)})
    with h5py.File(source.root, "a") as file:
        for group in file["data"].values():
            group["obs/nothing"] = h5py.Empty("f4")
            group.create_dataset("obs/ragged", (5,), h5py.vlen_dtype(np.float32))
    with pytest.raises(SourceError, match=r"leave_out: \['obs/nothing'\]"):
        read(source)
    _, episodes = read(source, leave_out=("obs/nothing", "obs/rag*"))
    assert all(isinstance(episode, SourceEpisode) for episode in episodes.values())


def test_a_damaged_chunk_is_one_bad_demonstration(tmp_path: Path) -> None:
    source = write(tmp_path / "a.hdf5", {"demo_0": demo(5), "demo_2": demo(5)})
    with h5py.File(source.root, "a") as file:
        values = np.full((5, 7), 1.5, np.float32)
        kept = file["data"].create_group("demo_1")
        for name, array in demo(5).items():
            if name != "actions":
                kept[name] = array
        kept.create_dataset("actions", data=values, chunks=(5, 7), fletcher32=True)
        place = kept["actions"].id.get_chunk_info(0).byte_offset
    with open(source.root, "r+b") as file:
        file.seek(place)
        file.write(b"\xff\xff\xff")
    _, episodes = read(source)
    assert isinstance(episodes["demo_1"], Unreadable)
    assert isinstance(episodes["demo_2"], SourceEpisode)


def test_broken_files_say_so_in_one_line(tmp_path: Path) -> None:
    whole = Path(write(tmp_path / "a.hdf5", {"demo_0": demo(50)}).root).read_bytes()
    for name, content in {
        "cut.hdf5": whole[: len(whole) // 2],
        "empty.hdf5": b"",
        "text.h5": b"not HDF5 at all",
    }.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(SourceError) as raised:
            detect(Source(str(tmp_path / name)))
        assert "\n" not in str(raised.value)
    with h5py.File(tmp_path / "linked.hdf5", "w") as file:
        file["data"] = h5py.ExternalLink("a.hdf5", "/data")
    with pytest.raises(SourceError, match="is a link"):
        Robomimic().probe(Source(str(tmp_path / "linked.hdf5")))


def test_other_sources_are_not_claimed(tmp_path: Path, shared_data: Path) -> None:
    with h5py.File(tmp_path / "flat.hdf5", "w") as file:
        file["observations"] = np.zeros((3, 2))
    (tmp_path / "notes.txt").write_text("hello")
    for path in (tmp_path / "flat.hdf5", tmp_path / "notes.txt", tmp_path, shared_data / "g1_lerobot_v21"):
        assert Robomimic().probe(Source(str(path))) is None
        assert Robosuite().probe(Source(str(path))) is None


def test_over_http(s3: str, tmp_path: Path) -> None:
    arrays = demo(12)
    local = write(tmp_path / "a.hdf5", {"demo_0": arrays, "demo_1": demo(3, 1)})
    fs = fsspec.filesystem("s3", **options(s3).fsspec)
    fs.pipe_file(f"{s3}/sets/a.hdf5", Path(local.root).read_bytes())
    probe, episodes = read(Source(f"{s3}/sets/a.hdf5"))
    here, there = read(local)
    assert probe.features == here.features
    assert [ref.files for ref in probe.episodes] == [("a.hdf5",)] * 2
    for key, episode in episodes.items():
        assert episode.steps.equals(there[key].steps)
    frames = np.stack(list(episodes["demo_0"].cameras["agentview_image"].frames()))
    np.testing.assert_array_equal(frames, arrays["obs/agentview_image"])


def test_values_that_nobody_wrote_are_noted(tmp_path: Path) -> None:
    path = write_robomimic(tmp_path / "demos.hdf5", 3)
    with h5py.File(path, "r+") as file:
        for number, (chunks, written) in enumerate((((5, 3), 7), (None, 0), ((5, 3), 99))):
            demo = file[f"data/demo_{number}"]
            actions = demo["actions"][()]
            del demo["actions"]
            stored = demo.create_dataset("actions", actions.shape, actions.dtype, chunks=chunks)
            if written:
                stored[:written] = actions[:written]
    probe = Robomimic().probe(Source(str(path)))
    notes = [episode.notes for episode in Robomimic().read(Source(str(path)), probe, [r.key for r in probe.episodes])]
    assert [[note for note in found if "fill value" in note] for found in notes] == [
        ["4 of 6 chunks of actions are not stored and read as its fill value"],
        ["actions was never written and reads as its fill value"],
        [],
    ]
