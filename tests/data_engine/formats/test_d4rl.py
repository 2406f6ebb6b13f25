from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_engine.errors import SourceError
from data_engine.formats import Source, Unreadable, detect
from tests.data_engine.formats.reading import column, read, stored, through


def write(path: Path, n: int, terminals: list[int], timeouts: list[int] | None, **extra: np.ndarray) -> dict:
    rng = np.random.default_rng(0)
    observations = rng.normal(size=(n, 4)).astype(np.float32)
    arrays = {
        "observations": observations,
        "actions": rng.normal(size=(n, 2)).astype(np.float32),
        "rewards": rng.normal(size=n),
        "terminals": np.isin(np.arange(n), terminals),
        "infos/qpos": rng.normal(size=(n, 3)),
        **extra,
    }
    if timeouts is not None:
        arrays["timeouts"] = np.isin(np.arange(n), timeouts)
    with h5py.File(path, "w") as file:
        for name, values in arrays.items():
            file.create_dataset(
                name, data=values, chunks=(min(7, n), *values.shape[1:]) if values.shape[:1] == (n,) else None
            )
    return arrays


def test_the_real_file_is_exact(shared_data: Path) -> None:
    path = shared_data / "d4rl_hdf5" / "push_ball_to_goal_expert.hdf5"
    name, probe, episodes = read(path)
    assert name == "d4rl"
    assert len(episodes) == 200
    with h5py.File(path) as file:
        arrays = {key: file[key][()] for key in file}
    ends = np.flatnonzero(arrays["terminals"]) + 1
    for index, (start, stop) in enumerate(zip([0, *ends[:-1]], ends, strict=True)):
        episode = episodes[f"episode_{index:06d}"]
        for ours, theirs in {"observation.state": "observations", "action": "actions", "reward": "rewards"}.items():
            found = column(episode, ours)
            assert found.dtype == arrays[theirs].dtype
            np.testing.assert_array_equal(found, arrays[theirs][start:stop])
        np.testing.assert_array_equal(column(episode, "terminated"), arrays["terminals"][start:stop])
        assert episode.attributes["next_observations.last"] == arrays["next_observations"][stop - 1].tolist()
    assert any("no timeouts" in note for note in probe.notes)
    assert any("after 500 steps" in note for note in probe.notes)


@settings(max_examples=15, deadline=None)
@given(data=st.data(), n=st.integers(1, 60))
def test_any_file_is_cut_at_its_flags(tmp_path_factory, data, n: int) -> None:
    flags = st.lists(st.integers(0, n - 1), unique=True, max_size=8)
    terminals, timeouts = data.draw(flags), data.draw(flags)
    path = tmp_path_factory.mktemp("d4rl") / "a.hdf5"
    arrays = write(path, n, terminals, timeouts)
    _, probe, episodes = read(path)
    ends = sorted({at + 1 for at in (*terminals, *timeouts)} | {n})
    assert [ref.n_steps for ref in probe.episodes] == np.diff([0, *ends]).tolist()
    names = {"observation.state": "observations", "action": "actions", "infos.qpos": "infos/qpos",
             "terminated": "terminals", "truncated": "timeouts"}  # fmt: skip
    for ours, theirs in names.items():
        joined = np.concatenate([column(episode, ours) for episode in episodes.values()])
        np.testing.assert_array_equal(joined, arrays[theirs])
    is_open = n - 1 not in (*terminals, *timeouts)
    assert any("kept, open" in note for note in probe.notes) == is_open


def test_what_is_beside_the_steps(tmp_path: Path) -> None:
    path = tmp_path / "a.hdf5"
    after = np.full((10, 4), 9, np.float32)
    extra = {
        "metadata/algorithm": np.array("SAC", "S3"),
        "metadata/weight": np.zeros((400, 300)),
        "next_observations": after,
    }
    write(path, 10, [4], [9], **extra)
    _, probe, episodes = read(path)
    first = episodes["episode_000000"]
    assert first.attributes["metadata/algorithm"] == "SAC"
    assert first.attributes["next_observations.last"] == [9, 9, 9, 9]
    assert any("not observations one step later" in note for note in first.notes)
    assert any("metadata/weight is of shape [400, 300]" in note for note in probe.notes)
    assert column(first, "terminated").tolist() == [False] * 4 + [True]
    assert column(episodes["episode_000001"], "truncated").tolist() == [False] * 4 + [True]


def test_broken_files(tmp_path: Path) -> None:
    path = tmp_path / "a.hdf5"
    write(path, 10, [4], [9])
    with h5py.File(path, "a") as file:
        del file["rewards"]
        file["rewards"] = np.zeros(9)
    with pytest.raises(SourceError, match="differ in length"):
        detect(Source(str(path)))
    write(path, 10, [4], [9])
    with h5py.File(path, "a") as file:
        del file["terminals"]
        file["terminals"] = np.array([0, 0, 0, 0, 2, 0, 0, 0, 0, 1])
    _, _, episodes = read(path)
    assert isinstance(episodes["episode_000000"], Unreadable)
    assert episodes["episode_000000"].code == "bad_flag"
    write(path, 10, [4], [9])
    with h5py.File(path, "a") as file:
        file["elsewhere"] = h5py.ExternalLink("secret.hdf5", "/secret")
    with pytest.raises(SourceError, match="is a link"):
        detect(Source(str(path)))
    with h5py.File(path, "w") as file:
        for name in ("observations", "actions", "rewards"):
            file.create_dataset(name, (10**12,), "f4", chunks=(1024,))
        file.create_dataset("terminals", (10**12,), "?", chunks=(1024,))
    with pytest.raises(SourceError, match="more than 268435456"):
        detect(Source(str(path)))


def test_through_the_lake(tmp_path: Path) -> None:
    arrays = write(tmp_path / "a.hdf5", 40, [9, 29], [19])
    receipt, rows = through(tmp_path / "lake", tmp_path / "a.hdf5", fps=50)
    assert receipt["stored"]["episodes"] == 4
    np.testing.assert_array_equal(stored(rows["episode_000001"], "action"), arrays["actions"][10:20])
    assert rows["episode_000001"]["steps"]["truncated"].to_list()[-1]
