from __future__ import annotations

from pathlib import Path

import fsspec
import h5py
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_engine.errors import SourceError
from data_engine.formats import Probe, Source, SourceEpisode, Unreadable, detect
from data_engine.formats.robomimic import Robomimic
from data_engine.formats.robosuite import Robosuite
from data_engine.fs import options

FILES = ("SawyerLift_demo", "lift_panda_demo", "pick-place_panda_demo", "stack_panda_demo")


def read(source: Source, **given) -> tuple[Probe, dict[str, SourceEpisode | Unreadable]]:
    form = Robosuite(**given)
    probe = form.probe(source)
    assert probe is not None
    return probe, {item.key: item for item in form.read(source, probe, [ref.key for ref in probe.episodes])}


def column(episode: SourceEpisode, name: str) -> np.ndarray:
    values = episode.steps[name].combine_chunks()
    if pa.types.is_fixed_size_list(values.type):
        return values.flatten().to_numpy().reshape(len(values), -1)
    return values.to_numpy(zero_copy_only=False)


@pytest.mark.parametrize("name", FILES)
def test_real_files_are_exact(shared_data: Path, name: str) -> None:
    path = shared_data / "robosuite_hdf5" / f"{name}.hdf5"
    source = Source(str(path))
    assert Robomimic().probe(source) is None
    assert detect(source)[0].name == "robosuite"
    probe, episodes = read(source)
    renamed = {"states": "observation.state", "actions": "action"}
    with h5py.File(path) as file:
        assert set(episodes) == set(file["data"])
        for key, episode in episodes.items():
            assert isinstance(episode, SourceEpisode)
            group = file["data"][key]
            if "actions" not in group:
                both = np.hstack([group["joint_velocities"][()], group["gripper_actuations"][()]])
                np.testing.assert_array_equal(column(episode, "action"), both)
            for array in set(group) - {"joint_velocities", "gripper_actuations"}:
                if group[array].shape[1] == 0:
                    assert any(array in note for note in probe.notes)
                    continue
                found = column(episode, renamed.get(array, array))
                assert found.dtype == group[array].dtype
                np.testing.assert_array_equal(found, group[array][()])
            clock = group["states"][:, 0]
            np.testing.assert_array_equal(column(episode, "timestamp"), clock - clock[0])
            assert episode.attributes["model_file"] == group.attrs["model_file"]
            assert episode.task == file["data"].attrs["env"]


def test_what_the_files_say(shared_data: Path) -> None:
    folder = shared_data / "robosuite_hdf5"
    probe, episodes = read(Source(str(folder / "SawyerLift_demo.hdf5")))
    assert (probe.embodiment, probe.control_mode, probe.fps) == ("Sawyer", None, 100.0)
    assert probe.provenance == "sim"
    assert any("uneven: 10 to 24 ms" in note for note in episodes["demo_1"].notes)
    action = next(feature for feature in probe.features if feature.name == "action")
    assert action.components[6:] == ("joint_velocities.6", "gripper_actuations.0")
    probe, _ = read(Source(str(folder / "stack_panda_demo.hdf5")))
    assert (probe.embodiment, probe.control_mode, probe.fps) == ("Panda", "osc_pose_delta", 20.0)
    probe, episodes = read(Source(str(folder / "stack_panda_demo.hdf5")), fps=50, embodiment="arm", control_mode="x")
    assert (probe.embodiment, probe.control_mode, probe.fps) == ("arm", "x", 50.0)
    assert column(episodes["demo_1"], "timestamp")[1] == 0.02


def test_action_keys(shared_data: Path) -> None:
    keys = ("right_dpos", "right_dquat", "gripper_actuations")
    probe, episodes = read(Source(str(shared_data / "robosuite_hdf5" / "SawyerLift_demo.hdf5")), action_keys=keys)
    assert column(episodes["demo_1"], "action").shape == (1058, 8)
    assert {"joint_velocities"} < {feature.name for feature in probe.features}


def write(path: Path, demos: dict[str, dict[str, np.ndarray]]) -> Source:
    with h5py.File(path, "w") as file:
        file.create_group("data").attrs["env"] = "Lift"
        for key, arrays in demos.items():
            group = file.create_group(f"data/{key}")
            for name, values in arrays.items():
                group[name] = values
    return Source(str(path))


@settings(max_examples=20, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    old=st.booleans(),
    dtype=st.sampled_from(["float32", "float64"]),
)
def test_any_file_round_trips(tmp_path_factory, lengths: list[int], old: bool, dtype: str) -> None:
    rng = np.random.default_rng(0)

    def values(n: int, width: int) -> np.ndarray:
        return rng.normal(size=(n, width)).astype(dtype)

    parts = {"joint_velocities": 7, "gripper_actuations": 1} if old else {"actions": 8}
    demos = {
        f"demo_{i + 1}": {
            "states": values(n, 9),
            "left_dpos": values(n, 0),
            **{k: values(n, w) for k, w in parts.items()},
        }
        for i, n in enumerate(lengths)
    }
    _, episodes = read(write(tmp_path_factory.mktemp("robosuite") / "a.hdf5", demos))
    assert list(episodes) == list(demos)
    for key, arrays in demos.items():
        np.testing.assert_array_equal(column(episodes[key], "action"), np.hstack([arrays[name] for name in parts]))
        np.testing.assert_array_equal(column(episodes[key], "observation.state"), arrays["states"])
        assert "left_dpos" not in episodes[key].steps.column_names


def test_bad_demonstrations_and_files(tmp_path: Path) -> None:
    good = {"states": np.ones((4, 5)), "actions": np.ones((4, 2))}
    short = {"states": np.ones((3, 5)), "actions": np.ones((4, 2))}
    source = write(tmp_path / "a.hdf5", {"demo_1": good, "demo_2": short, "demo_3": {}, "demo_10": good})
    probe, episodes = read(source)
    assert list(episodes) == ["demo_1", "demo_2", "demo_3", "demo_10"]
    assert [getattr(item, "code", "ok") for item in episodes.values()] == [
        "ok",
        "lengths_differ",
        "empty_episode",
        "ok",
    ]
    assert probe.fps == 20.0
    assert any("20 is assumed" in note for note in probe.notes)
    with pytest.raises(SourceError, match="no demonstrations"):
        Robosuite().probe(write(tmp_path / "none.hdf5", {}))


def test_over_http(s3: str, shared_data: Path) -> None:
    path = shared_data / "robosuite_hdf5" / "lift_panda_demo.hdf5"
    fsspec.filesystem("s3", **options(s3).fsspec).pipe_file(f"{s3}/lift.hdf5", path.read_bytes())
    probe, episodes = read(Source(f"{s3}/lift.hdf5"))
    here, there = read(Source(str(path)))
    assert probe.features == here.features
    assert episodes["demo_1"].steps.equals(there["demo_1"].steps)
