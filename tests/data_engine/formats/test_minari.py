from __future__ import annotations

import json
import shutil
from pathlib import Path

import fsspec
import gymnasium as gym
import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from minari.data_collector import EpisodeBuffer
from minari.dataset.minari_storage import MinariStorage

from data_engine.errors import SourceError
from data_engine.formats import Source, SourceEpisode, Unreadable, detect
from data_engine.fs import options
from tests.data_engine.formats.reading import column, frames, read, scene, stored, through

BACKENDS = ("hdf5", "arrow", "parquet")
FLAT = gym.spaces.Box(-10, 10, (3,), np.float64)
NESTED = gym.spaces.Dict({
    "observation": gym.spaces.Box(-10, 10, (5,), np.float64),
    "desired_goal": gym.spaces.Box(-10, 10, (2, 2), np.float32),
    "pair": gym.spaces.Tuple((gym.spaces.Discrete(4), gym.spaces.Box(-10, 10, (2,), np.float32))),
    "camera": gym.spaces.Box(0, 255, (64, 80, 3), np.uint8),
    "text": gym.spaces.Text(20),
})  # fmt: skip
HAND = gym.spaces.Dict({"arm": gym.spaces.Box(-1, 1, (2,), np.float32), "grip": gym.spaces.Discrete(2)})


def nested(n: int, seed: int) -> dict:
    rng = np.random.default_rng(seed)
    return {
        "observation": list(rng.normal(size=(n, 5))),
        "desired_goal": list(rng.normal(size=(n, 2, 2)).astype(np.float32)),
        "pair": ([np.int64(i) for i in rng.integers(0, 4, n)], list(rng.normal(size=(n, 2)).astype(np.float32))),
        "camera": list(scene(n, seed=seed)),
        "text": [f"at {i}" for i in range(n)],
    }


def buffer(n: int, seed: int, flat: bool) -> EpisodeBuffer:
    rng = np.random.default_rng(seed)
    hand = {"arm": list(rng.normal(size=(n, 2)).astype(np.float32)), "grip": [np.int64(i % 2) for i in range(n)]}
    return EpisodeBuffer(
        observations=list(rng.normal(size=(n + 1, 3))) if flat else nested(n + 1, seed),
        actions=list(rng.normal(size=(n, 2)).astype(np.float32)) if flat else hand,
        rewards=list(rng.normal(size=n)),
        terminations=[i == n - 1 and seed % 2 == 0 for i in range(n)],
        truncations=[i == n - 1 and seed % 2 == 1 for i in range(n)],
        infos={"energy": [np.float64(i) for i in range(n + 1)]},
        seed=seed,
        options={"start": "left"},
    )


def write(folder: Path, kind: str, lengths: list[int], flat: bool = True) -> list[EpisodeBuffer]:
    """A dataset as Minari itself stores it."""
    (folder / "data").mkdir(parents=True)
    spaces = (FLAT, gym.spaces.Box(-1, 1, (2,), np.float32)) if flat else (NESTED, HAND)
    storage = MinariStorage.new(folder / "data", *spaces, data_format=kind)
    buffers = [buffer(n, seed, flat) for seed, n in enumerate(lengths)]
    storage.update_episodes(buffers)
    storage.update_metadata({"dataset_id": "arm/reach-v0", "algorithm_name": "human", "author": {"ann"}})
    return buffers


def theirs(folder: Path) -> list[dict]:
    return list(MinariStorage.read(folder / "data").get_episodes(range(_count(folder))))


def _count(folder: Path) -> int:
    return json.loads((folder / "data" / "metadata.json").read_text())["total_episodes"]


@pytest.mark.parametrize("kind", BACKENDS)
def test_flat_spaces_read_as_minari_reads_them(tmp_path: Path, kind: str) -> None:
    write(tmp_path / "reach-v0", kind, [4, 1, 7])
    name, probe, episodes = read(tmp_path / "reach-v0")
    assert name == "minari"
    assert [ref.n_steps for ref in probe.episodes] == [4, 1, 7]
    for number, wanted in enumerate(theirs(tmp_path / "reach-v0")):
        episode = episodes[f"episode_{number}"]
        assert isinstance(episode, SourceEpisode)
        np.testing.assert_array_equal(column(episode, "observation.state"), wanted["observations"][:-1])
        np.testing.assert_array_equal(column(episode, "action"), wanted["actions"])
        np.testing.assert_array_equal(column(episode, "reward"), wanted["rewards"])
        np.testing.assert_array_equal(column(episode, "terminated"), wanted["terminations"])
        np.testing.assert_array_equal(column(episode, "truncated"), wanted["truncations"])
        np.testing.assert_array_equal(column(episode, "infos.energy"), wanted["infos"]["energy"][:-1])
        last = episode.attributes["next_obs.last"]
        np.testing.assert_array_equal(last["observations"], wanted["observations"][-1])
        assert last["infos/energy"] == wanted["infos"]["energy"][-1]
        assert (episode.attributes["seed"], episode.attributes["dataset_id"]) == (number, "arm/reach-v0")
        assert episode.task == "arm/reach-v0"


@pytest.mark.parametrize("kind", BACKENDS)
def test_nested_spaces_and_pictures(tmp_path: Path, kind: str) -> None:
    write(tmp_path / "set", kind, [5, 3], flat=False)
    _, probe, episodes = read(tmp_path / "set" / "data")
    action = next(feature for feature in probe.features if feature.name == "action")
    assert action.components == ("arm.0", "arm.1", "grip.0")
    for number, wanted in enumerate(theirs(tmp_path / "set")):
        episode, n = episodes[f"episode_{number}"], len(wanted["rewards"])
        seen = wanted["observations"]
        np.testing.assert_array_equal(column(episode, "observation.state"), seen["observation"][:-1])
        goal = column(episode, "observation.desired_goal").reshape(n, 2, 2)
        np.testing.assert_array_equal(goal, seen["desired_goal"][:-1])
        np.testing.assert_array_equal(column(episode, "observation.pair.0"), seen["pair"][0][:-1])
        np.testing.assert_array_equal(column(episode, "observation.pair.1"), seen["pair"][1][:-1])
        assert episode.steps["observation.text"].to_pylist() == list(seen["text"])[:-1]
        np.testing.assert_array_equal(frames(episode, "camera"), seen["camera"][:-1])
        joined = np.hstack([wanted["actions"]["arm"], np.reshape(wanted["actions"]["grip"], (n, 1))])
        np.testing.assert_array_equal(column(episode, "action"), joined)
        assert any("last row of observations/camera" in note for note in episode.notes)


def test_backends_read_the_same(tmp_path: Path) -> None:
    found = []
    for kind in BACKENDS:
        write(tmp_path / kind, kind, [4, 2], flat=False)
        found.append(read(tmp_path / kind)[1:])
    for probe, episodes in found[1:]:
        assert probe.features == found[0][0].features
        for key, episode in episodes.items():
            assert isinstance(episode, SourceEpisode)
            assert episode.steps.equals(found[0][1][key].steps)


@settings(max_examples=8, deadline=None)
@given(lengths=st.lists(st.integers(1, 6), min_size=1, max_size=3), kind=st.sampled_from(BACKENDS), flat=st.booleans())
def test_any_dataset_round_trips(tmp_path_factory, lengths: list[int], kind: str, flat: bool) -> None:
    folder = tmp_path_factory.mktemp("minari") / "set"
    buffers = write(folder, kind, lengths, flat)
    _, _, episodes = read(folder)
    for number, given_ in enumerate(buffers):
        observations = given_.observations if flat else given_.observations["observation"]
        np.testing.assert_array_equal(
            column(episodes[f"episode_{number}"], "observation.state"), np.stack(observations)[:-1]
        )


def test_the_file_alone_and_other_keys(tmp_path: Path) -> None:
    write(tmp_path / "set", "hdf5", [5], flat=False)
    shutil.move(tmp_path / "set" / "data" / "main_data.hdf5", tmp_path / "main_data.hdf5")
    name, _, episodes = read(
        tmp_path / "main_data.hdf5", state_keys=["desired_goal", "observation"][1:], action_keys=["grip"]
    )
    assert name == "minari"
    assert column(episodes["episode_0"], "action").tolist() == [0, 1, 0, 1, 0]
    assert column(episodes["episode_0"], "actions.arm").shape == (5, 2)


@pytest.mark.parametrize("kind", BACKENDS)
def test_a_broken_episode_leaves_the_rest(tmp_path: Path, kind: str) -> None:
    write(tmp_path / "set", kind, [4, 4, 4])
    data = tmp_path / "set" / "data"
    if kind == "hdf5":
        with h5py.File(data / "main_data.hdf5", "a") as file:
            del file["episode_1/actions"]
            file["episode_1/actions"] = h5py.ExternalLink("secret.hdf5", "/a")
    else:
        (part,) = (data / "1").glob(f"*.{kind}")
        part.write_bytes(part.read_bytes()[:200])
    _, _, episodes = read(tmp_path / "set")
    bad = episodes["episode_1"]
    assert isinstance(bad, Unreadable)
    assert bad.code == ("link" if kind == "hdf5" else "damaged_file")
    assert isinstance(episodes["episode_2"], SourceEpisode)


def test_lies_about_counts_are_noted(tmp_path: Path) -> None:
    write(tmp_path / "set", "arrow", [4, 4])
    shutil.rmtree(tmp_path / "set" / "data" / "0")
    _, probe, episodes = read(tmp_path / "set")
    assert list(episodes) == ["episode_1"]
    assert any("2 episodes are declared, 1 are there" in note for note in probe.notes)
    (tmp_path / "set" / "data" / "1" / "metadata.json").write_text('{"total_steps": 99}')
    _, _, episodes = read(tmp_path / "set")
    assert episodes["episode_1"].code == "lengths_differ"
    metadata = tmp_path / "set" / "data" / "metadata.json"
    metadata.write_text(metadata.read_text().replace('"arrow"', '"hdf5"'))
    with pytest.raises(SourceError, match="without such data"):
        detect(Source(str(tmp_path / "set")))


@pytest.mark.parametrize("kind", BACKENDS)
def test_over_http(s3: str, tmp_path: Path, kind: str) -> None:
    write(tmp_path / "set", kind, [4, 2], flat=False)
    fs = fsspec.filesystem("s3", **options(s3).fsspec)
    for file in (tmp_path / "set").rglob("*.*"):
        fs.pipe_file(f"{s3}/set/{file.relative_to(tmp_path / 'set').as_posix()}", file.read_bytes())
    (_, _, here), (_, _, there) = read(tmp_path / "set"), read(f"{s3}/set")
    for key, episode in there.items():
        assert isinstance(episode, SourceEpisode)
        assert episode.steps.equals(here[key].steps)


@pytest.mark.parametrize("kind", BACKENDS)
def test_through_the_lake(tmp_path: Path, kind: str) -> None:
    buffers = write(tmp_path / "set", kind, [6, 5], flat=False)
    receipt, rows = through(tmp_path / "lake", tmp_path / "set", fps=25)
    assert receipt["stored"]["frames"] == {"camera": 11}
    assert all(stream["psnr_db"] > 30 for stream in receipt["streams"].values())
    state = stored(rows["episode_1"], "observation.state")
    np.testing.assert_array_equal(state, np.stack(buffers[1].observations["observation"])[:-1])
