from __future__ import annotations

from pathlib import Path

import fsspec
import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_engine.errors import SourceError
from data_engine.formats import Source, SourceEpisode, Unreadable, detect
from data_engine.formats.aloha import Aloha
from data_engine.fs import options
from tests.data_engine.formats.reading import coded, column, decoded, frames, read, scene, stored, through


def write(path: Path, n: int = 12, seed: int = 0, joints: int = 14, compress: bool = False, **attrs) -> dict:
    """An episode as ACT's recorder lays it out; compressed images are JPEG rows padded with zeros."""
    rng = np.random.default_rng(seed)
    arrays = {
        "observations/qpos": rng.normal(size=(n, joints)),
        "observations/qvel": rng.normal(size=(n, joints)),
        "observations/effort": rng.normal(size=(n, joints)).astype(np.float32),
        "action": rng.normal(size=(n, joints)),
        "base_action": rng.normal(size=(n, 2)),
    }
    views = {"cam_high": scene(n, seed=seed), "cam_left_wrist": scene(n, seed=seed + 50)}
    files: dict[str, list[bytes]] = {name: [coded(frame) for frame in view] for name, view in views.items()}
    with h5py.File(path, "w") as file:
        file.attrs.update({"sim": False, "compress": compress, **attrs})
        for name, values in arrays.items():
            file[name] = values
        longest = max(len(data) for view in files.values() for data in view)
        for name, view in views.items():
            rows = np.stack([np.frombuffer(data.ljust(longest, b"\0"), np.uint8) for data in files[name]])
            file.create_dataset(
                f"observations/images/{name}",
                data=rows if compress else view,
                chunks=(1, *rows.shape[1:]) if compress else (1, *view.shape[1:]),
            )
        if compress:
            file["compress_len"] = np.array([[len(data) for data in view] for view in files.values()], np.float32)
    expected = {name: np.stack([decoded(data) for data in files[name]]) for name in views} if compress else views
    return {**arrays, **expected}


@pytest.mark.parametrize("compress", [False, True])
def test_a_folder_of_episodes(tmp_path: Path, compress: bool) -> None:
    written = {
        f"episode_{i}": write(tmp_path / f"episode_{i}.hdf5", 8 + i, i, compress=compress) for i in (0, 1, 2, 10)
    }
    name, probe, episodes = read(tmp_path)
    assert (name, probe.fps, probe.embodiment, probe.provenance) == ("aloha", 50.0, "aloha", "real")
    assert list(episodes) == list(written)
    state = next(feature for feature in probe.features if feature.name == "observation.state")
    assert (state.components[0], state.components[6], state.components[13]) == (
        "left_waist", "left_gripper", "right_gripper"
    )  # fmt: skip
    names = {"observation.state": "observations/qpos", "observation.qvel": "observations/qvel", "action": "action",
             "observation.effort": "observations/effort", "base_action": "base_action"}  # fmt: skip
    for key, arrays in written.items():
        for ours, theirs in names.items():
            found = column(episodes[key], ours)
            assert found.dtype == arrays[theirs].dtype
            np.testing.assert_array_equal(found, arrays[theirs])
        for camera in ("cam_high", "cam_left_wrist"):
            np.testing.assert_array_equal(frames(episodes[key], camera), arrays[camera])
    assert any("swapped" in note for note in probe.notes) == compress
    if compress:
        assert any("JPEG files" in note for note in episodes["episode_0"].notes)
        assert len(episodes["episode_0"].attributes["compress_len"]) == 2


def test_one_file_and_the_channel_order(tmp_path: Path) -> None:
    arrays = write(tmp_path / "episode_3.hdf5", compress=True)
    _, probe, episodes = read(tmp_path / "episode_3.hdf5", channel_order="bgr", action_keys=("action", "base_action"))
    assert list(episodes) == ["episode_3"]
    assert not any("swapped" in note for note in probe.notes)
    np.testing.assert_array_equal(frames(episodes["episode_3"], "cam_high"), arrays["cam_high"][..., ::-1])
    both = np.hstack([arrays["action"], arrays["base_action"]])
    np.testing.assert_array_equal(column(episodes["episode_3"], "action"), both)


@settings(max_examples=10, deadline=None)
@given(lengths=st.lists(st.integers(1, 6), min_size=1, max_size=3), joints=st.integers(1, 16), compress=st.booleans())
def test_any_folder_round_trips(tmp_path_factory, lengths: list[int], joints: int, compress: bool) -> None:
    folder = tmp_path_factory.mktemp("aloha")
    for i, n in enumerate(lengths):
        write(folder / f"episode_{i}.hdf5", n, i, joints, compress)
    _, probe, episodes = read(folder)
    for i, n in enumerate(lengths):
        with h5py.File(folder / f"episode_{i}.hdf5") as file:
            np.testing.assert_array_equal(column(episodes[f"episode_{i}"], "action"), file["action"][()])
        assert episodes[f"episode_{i}"].steps.num_rows == n
    assert any("named in ALOHA's order" in note for note in probe.notes) == (joints == 14)


def _short(file: h5py.File) -> None:
    del file["observations/qvel"]
    file["observations/qvel"] = np.zeros((3, 14))


def _no_picture(file: h5py.File) -> None:
    file["observations/images/cam_high"][4] = 7


def _link(file: h5py.File) -> None:
    file["out"] = h5py.ExternalLink("/etc/passwd", "/")


def _other(file: h5py.File) -> None:
    del file["action"]


def _narrow(file: h5py.File) -> None:
    del file["action"]
    file["action"] = np.zeros((12, 7))


@pytest.mark.parametrize(
    ("damage", "code"),
    [(_short, "lengths_differ"), (_link, "link"), (_other, "layout_differs"), (_narrow, "layout_differs")],
)
def test_one_bad_file_leaves_the_rest(tmp_path: Path, damage, code: str) -> None:
    for i in range(3):
        write(tmp_path / f"episode_{i}.hdf5", compress=True, seed=i)
    with h5py.File(tmp_path / "episode_1.hdf5", "a") as file:
        damage(file)
    _, _, episodes = read(tmp_path)
    bad = episodes["episode_1"]
    assert isinstance(bad, Unreadable)
    assert (bad.code, "\n" in bad.reason) == (code, False)
    assert isinstance(episodes["episode_0"], SourceEpisode)
    assert isinstance(episodes["episode_2"], SourceEpisode)


def test_damaged_frames_and_files(tmp_path: Path) -> None:
    for i in range(3):
        write(tmp_path / f"episode_{i}.hdf5", compress=True, seed=i)
    with h5py.File(tmp_path / "episode_1.hdf5", "a") as file:
        _no_picture(file)
    whole = (tmp_path / "episode_2.hdf5").read_bytes()
    (tmp_path / "episode_2.hdf5").write_bytes(whole[: len(whole) // 2])
    _, _, episodes = read(tmp_path)
    with pytest.raises(SourceError, match=r"cam_high, step 4: an image is not decodable"):
        frames(episodes["episode_1"], "cam_high")
    assert isinstance(episodes["episode_2"], Unreadable)
    secret = tmp_path.parent / "secret.hdf5"
    (tmp_path / "episode_0.hdf5").rename(secret)
    (tmp_path / "episode_0.hdf5").symlink_to(secret)
    _, _, episodes = read(tmp_path)
    assert (episodes["episode_0"].code, "leaves" in episodes["episode_0"].reason) == ("bad_path", True)


def test_a_picture_bomb_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "episode_0.hdf5", compress=True)
    with h5py.File(tmp_path / "episode_0.hdf5", "a") as file:
        data = bytearray(file["observations/images/cam_high"][0].tobytes())
        at = data.index(b"\xff\xc0")
        data[at + 5 : at + 9] = b"\xff\xff\xff\xff"  # 65,535 x 65,535 pixels
        file["observations/images/cam_high"][0] = np.frombuffer(bytes(data), np.uint8)
    with pytest.raises(SourceError, match="pixels"):
        Aloha().probe(Source(str(tmp_path)))


def test_over_http(s3: str, tmp_path: Path) -> None:
    arrays = write(tmp_path / "episode_0.hdf5", compress=True)
    fs = fsspec.filesystem("s3", **options(s3).fsspec)
    fs.pipe_file(f"{s3}/aloha/episode_0.hdf5", (tmp_path / "episode_0.hdf5").read_bytes())
    name, _, episodes = read(f"{s3}/aloha")
    assert name == "aloha"
    np.testing.assert_array_equal(column(episodes["episode_0"], "action"), arrays["action"])
    np.testing.assert_array_equal(frames(episodes["episode_0"], "cam_high"), arrays["cam_high"])


def test_through_the_lake(tmp_path: Path) -> None:
    folder = tmp_path / "sets"
    folder.mkdir()
    arrays = write(folder / "episode_0.hdf5", compress=True)
    write(folder / "episode_1.hdf5", compress=True, seed=1)
    receipt, rows = through(tmp_path / "lake", folder)
    assert receipt["stored"]["frames"] == {"cam_high": 24, "cam_left_wrist": 24}
    assert all(stream["psnr_db"] > 30 for stream in receipt["streams"].values())
    assert any("JPEG" in note for note in receipt["notes"])
    np.testing.assert_array_equal(stored(rows["episode_0"], "observation.state"), arrays["observations/qpos"])
    assert rows["episode_0"]["provenance"] == "real"


def test_other_folders_are_not_claimed(tmp_path: Path, shared_data: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    for path in (tmp_path, shared_data / "g1_lerobot_v21", shared_data / "robosuite_hdf5"):
        assert Aloha().probe(Source(str(path))) is None
    assert detect(Source(str(shared_data / "robosuite_hdf5" / "lift_panda_demo.hdf5")))[0].name == "robosuite"
