from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from data_engine.errors import EngineError, RequestError, SourceError
from data_engine.formats import Probe, Source, SourceEpisode, Unreadable, detect
from data_engine.formats.zarr_replay import ZarrReplay
from data_engine.formats.zarr_store import Rows
from data_engine.fs import options


def write(path: Path, arrays: dict[str, np.ndarray], ends: list[int] | None, version: int = 2, chunk: int = 7, **meta):
    group = zarr.open_group(str(path), mode="w", zarr_format=version)
    data = group.create_group("data")
    for name, values in arrays.items():
        chunks = (min(chunk, max(len(values), 1)), *values.shape[1:])
        data.create_array(name, data=np.ascontiguousarray(values), chunks=chunks, config={"write_empty_chunks": True})
    group.create_group("meta")
    if ends is not None:
        group["meta"].create_array("episode_ends", data=np.asarray(ends))
    for name, values in meta.items():
        group["meta"].create_array(name, data=values)
    return Source(str(path))


def pack(folder: str | Path, path: Path, prefix: str = "") -> Source:
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(Path(folder).rglob("*")):
            if file.is_file():
                archive.write(file, prefix + file.relative_to(folder).as_posix())
    return Source(str(path))


def buffer(n: int = 20) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "state": rng.normal(size=(n, 5)).astype(np.float32),
        "action": rng.normal(size=(n, 2)).astype(np.float32),
        "keypoint": rng.normal(size=(n, 9, 2)),
        "img": rng.integers(0, 256, (n, 16, 24, 3), dtype=np.uint8),
    }


def read(source: Source, **given) -> tuple[Probe, dict[str, SourceEpisode | Unreadable]]:
    form = ZarrReplay(**given)
    probe = form.probe(source)
    assert probe is not None
    return probe, {item.key: item for item in form.read(source, probe, [ref.key for ref in probe.episodes])}


def column(episode: SourceEpisode, name: str) -> np.ndarray:
    values = episode.steps[name].combine_chunks()
    if pa.types.is_fixed_size_list(values.type):
        return values.flatten().to_numpy().reshape(len(values), -1)
    return values.to_numpy(zero_copy_only=False)


def test_real_set_is_exact(shared_data: Path) -> None:
    path = shared_data / "pusht_zarr" / "pusht_cchi_v7_replay.zarr.zip"
    form, probe = detect(Source(str(path)))
    assert form.name == "zarr_replay"
    episodes = list(form.read(Source(str(path)), probe, [ref.key for ref in probe.episodes]))
    assert (len(episodes), probe.fps) == (206, 10.0)
    assert any("10 is assumed" in note for note in probe.notes)
    with zarr.storage.ZipStore(path, mode="r") as store:
        data = zarr.open_group(store, mode="r")
        ends = data["meta/episode_ends"][:]
        arrays = {name: data[f"data/{name}"][:] for name in ("state", "action", "keypoint", "n_contacts")}
        for index, episode in enumerate(episodes):
            start, stop = (ends[index - 1] if index else 0), ends[index]
            assert episode.key == f"episode_{index:06d}"
            for name, values in arrays.items():
                found = column(episode, {"state": "observation.state"}.get(name, name))
                assert found.dtype == values.dtype
                np.testing.assert_array_equal(found, values[start:stop].reshape(stop - start, -1))
        for index in (0, 205):
            start, stop = (ends[index - 1] if index else 0), ends[index]
            frames = np.stack(list(episodes[index].cameras["img"].frames()))
            assert frames.dtype == np.uint8
            np.testing.assert_array_equal(frames, data["data/img"][start:stop])
    assert ends[-1] == sum(ref.n_steps for ref in probe.episodes) == 25650
    assert any("float32 frames in 0 to 255" in note for note in episodes[0].notes)


@settings(max_examples=20, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=5),
    dtype=st.sampled_from(["float16", "float32", "float64", "int16", "uint8", "bool"]),
    version=st.sampled_from([2, 3]),
    chunk=st.integers(1, 12),
    zipped=st.booleans(),
)
def test_any_buffer_round_trips(tmp_path_factory, lengths, dtype, version, chunk, zipped) -> None:
    folder = tmp_path_factory.mktemp("zarr")
    n = sum(lengths)
    arrays = {**buffer(n), "extra": (np.random.default_rng(1).normal(size=n) * 9).astype(dtype)}
    source = write(folder / "a.zarr", arrays, np.cumsum(lengths).tolist(), version, chunk)
    if zipped:
        source = pack(source.root, folder / "a.zarr.zip")
    probe, episodes = read(source)
    assert {f.name: f.dtype for f in probe.features}["extra"] == dtype
    stop = 0
    for length, episode in zip(lengths, episodes.values(), strict=True):
        start, stop = stop, stop + length
        np.testing.assert_array_equal(column(episode, "observation.state"), arrays["state"][start:stop])
        np.testing.assert_array_equal(column(episode, "action"), arrays["action"][start:stop])
        np.testing.assert_array_equal(column(episode, "extra"), arrays["extra"][start:stop])
        np.testing.assert_array_equal(column(episode, "keypoint"), arrays["keypoint"][start:stop].reshape(length, -1))
        np.testing.assert_array_equal(np.stack(list(episode.cameras["img"].frames())), arrays["img"][start:stop])
        np.testing.assert_array_equal(column(episode, "timestamp"), np.arange(length) / 10)


def test_channels_first_and_floats_in_zero_to_one(tmp_path: Path) -> None:
    frames = buffer()["img"]
    for version, name, dtype, values in (
        (2, "first", np.uint8, frames.transpose(0, 3, 1, 2)),
        (3, "unit", np.float32, frames.astype(np.float32) / 255),
        (3, "half", np.float16, frames.astype(np.float16) / 255),
        (3, "wide", np.float64, frames.astype(np.float64)),
    ):
        arrays = {"action": buffer()["action"], "camera0_rgb": values.astype(dtype)}
        probe, episodes = read(write(tmp_path / name, arrays, [5, 20], version))
        assert probe.features[-1].shape == (16, 24, 3)
        found = np.concatenate([np.stack(list(item.cameras["camera0_rgb"].frames())) for item in episodes.values()])
        np.testing.assert_array_equal(found, frames)


def test_a_lossy_frame_is_refused_unless_rounding_is_asked_for(tmp_path: Path) -> None:
    frames = buffer()["img"].astype(np.float32)
    frames[12, 3, 3, 1] = 7.4
    source = write(tmp_path / "a", {**buffer(), "img": frames}, [10, 20])
    _, episodes = read(source)
    assert len(list(episodes["episode_000000"].cameras["img"].frames())) == 10
    with pytest.raises(SourceError, match="not whole numbers"):
        list(episodes["episode_000001"].cameras["img"].frames())
    _, episodes = read(source, image_rounding=True)
    assert list(episodes["episode_000001"].cameras["img"].frames())[2][3, 3, 1] == 7
    assert any("rounded" in note for note in episodes["episode_000001"].notes)
    frames[12, 3, 3, 1] = np.nan
    _, episodes = read(write(tmp_path / "b", {**buffer(), "img": frames}, [10, 20]), image_rounding=True)
    with pytest.raises(SourceError, match="leave the range"):
        list(episodes["episode_000001"].cameras["img"].frames())


def test_keys_are_named(tmp_path: Path) -> None:
    arrays = buffer()
    arrays["robot0_pos"], arrays["robot0_width"] = arrays.pop("state").astype(np.float64), np.ones((20, 1), np.float32)
    source = write(tmp_path / "a", arrays, [8, 20])
    probe, _ = read(source)
    assert any("state_key" in note for note in probe.notes)
    probe, episodes = read(source, state_key=("robot0_pos", "robot0_width"), action_key="action", fps=4, task="push")
    assert probe.features[0].components[-2:] == ("robot0_pos.4", "robot0_width.0")
    assert (probe.features[0].dtype, episodes["episode_000000"].task) == ("float64", "push")
    assert column(episodes["episode_000000"], "timestamp")[1] == 0.25
    with pytest.raises(RequestError, match="state_key names 'nothing'"):
        ZarrReplay(state_key="nothing").probe(source)


def test_a_name_that_is_taken_gets_a_prefix(tmp_path: Path) -> None:
    arrays = {**buffer(), "timestamp": np.arange(20) * 1e9}
    _, episodes = read(write(tmp_path / "a", arrays, [20]))
    np.testing.assert_array_equal(column(episodes["episode_000000"], "source.timestamp"), arrays["timestamp"])
    np.testing.assert_array_equal(column(episodes["episode_000000"], "timestamp"), np.arange(20) / 10)


def test_episode_values_attributes_and_leftovers(tmp_path: Path) -> None:
    source = write(tmp_path / "a", buffer(), [8, 8, 18], success=np.array([True, False, False]), score=np.arange(3.0))
    zarr.open_group(source.root, mode="a").attrs["fps"] = 30
    probe, episodes = read(source)
    assert probe.fps == 30.0
    assert any("2 steps after the last episode" in note for note in probe.notes)
    first, empty, last = episodes.values()
    assert (first.success, last.success, last.attributes["score"]) == (True, False, 2.0)
    assert (empty.key, empty.code) == ("episode_000001", "empty_episode")


def test_episodes_that_share_a_chunk_decode_it_once(tmp_path: Path) -> None:
    source = write(tmp_path / "a", {"action": np.arange(4_000_000.0).reshape(-1, 20)}, [1], chunk=60_000)
    array = zarr.open_group(source.root, mode="r")["data/action"]
    decoded = []

    class Counting:
        shape, dtype, chunks = array.shape, array.dtype, array.chunks

        def __getitem__(self, rows: slice) -> np.ndarray:
            decoded.append(rows)
            return array[rows]

    rows = Rows(Counting(), "action")
    found = np.concatenate([rows.read(start, start + 1000) for start in range(0, 200_000, 1000)])
    np.testing.assert_array_equal(found, array[:])
    assert len(decoded) == -(-200_000 // 60_000)


def test_absent_chunks_are_noted(tmp_path: Path) -> None:
    source = write(tmp_path / "a", buffer(), [20])
    os.remove(Path(source.root) / "data" / "action" / "1.0")
    probe, _ = read(source)
    assert any("1 of 3 chunks of action" in note for note in probe.notes)


def test_a_damaged_chunk_is_one_bad_episode(tmp_path: Path) -> None:
    source = write(
        tmp_path / "a", {"action": np.random.default_rng(0).normal(size=(300_000, 10))}, [1, 2], chunk=100_000
    )
    zarr.open_group(source.root, mode="a")["meta"].create_array(
        "episode_ends", data=np.array([100_000, 200_000, 300_000]), overwrite=True
    )
    (Path(source.root) / "data" / "action" / "1.0").write_bytes(b"damage")
    _, episodes = read(source)
    assert [getattr(item, "code", "ok") for item in episodes.values()] == ["ok", "damaged_chunk", "ok"]


def _v2(folder: Path, name: str, dtype: str, **more) -> None:
    array = {"zarr_format": 2, "shape": [20], "chunks": [20], "dtype": dtype, "compressor": None, "fill_value": None}
    (folder / "data" / name).mkdir()
    (folder / "data" / name / ".zarray").write_text(json.dumps({**array, "filters": None, "order": "C", **more}))
    (folder / "data" / name / "0").write_bytes(b"cos\nsystem\n(S'touch /tmp/never'\ntR.")


PICKLE = {"id": "pickle", "protocol": 4}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: _v2(folder, "bad", "|O"), "data/bad .*cannot be opened"),
        (lambda folder: _v2(folder, "bad", "|O", filters=[PICKLE]), "data/bad .*cannot be opened"),
        (lambda folder: _v2(folder, "bad", "<f4", filters=[PICKLE]), "data/bad"),
        (lambda folder: _v2(folder, "bad", "<f4", compressor=PICKLE), "data/bad"),
        (lambda folder: _v2(folder, "bad", "<c8"), "data/bad .*complex64"),
        (lambda folder: _v2(folder, "bad", "<f4", shape=[19]), "differ in length"),
        (lambda folder: (folder / "data" / "action" / ".zarray").write_text("{"), "data/action .*cannot be opened"),
        (lambda folder: write(folder, buffer(), [9, 5, 20]), "does not rise"),
        (lambda folder: write(folder, buffer(), [-1, 20]), "does not rise"),
        (lambda folder: write(folder, buffer(), [9, 21]), "ends at 21, the arrays at 20"),
        (lambda folder: write(folder, buffer(), [9.0, 20.0]), "no list of whole numbers"),
        (lambda folder: write(folder, {}, [20]), "no arrays under data"),
    ],
)
def test_broken_buffers_say_so_in_one_line(tmp_path: Path, damage, message: str) -> None:
    source = write(tmp_path / "a", buffer(), [9, 20])
    damage(tmp_path / "a")
    for broken in (source, pack(tmp_path / "a", tmp_path / "a.zip")):
        with pytest.raises(SourceError, match=message) as raised:
            ZarrReplay().probe(broken)
        assert "\n" not in str(raised.value)


def test_a_zip_with_a_folder_inside_is_read(tmp_path: Path) -> None:
    source = write(tmp_path / "a", buffer(), [9, 20])
    _, here = read(source)
    _, there = read(pack(source.root, tmp_path / "a.zip", prefix="pusht/replay.zarr/"))
    assert [item.steps for item in there.values()] == [item.steps for item in here.values()]


def test_damaged_and_leaving_stores_are_refused(tmp_path: Path) -> None:
    source = write(tmp_path / "a", buffer(), [9, 20])
    whole = pack(source.root, tmp_path / "whole.zarr.zip")
    content = Path(whole.root).read_bytes()
    for name, data in {"cut.zarr.zip": content[:-200], "empty.zarr.zip": b""}.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(SourceError, match="zip"):
            detect(Source(str(tmp_path / name)))
    with zipfile.ZipFile(tmp_path / "whole.zarr.zip", "a") as archive:
        archive.writestr("../outside", b"x")
    with pytest.raises(SourceError, match="leaves it"):
        ZarrReplay().probe(whole)
    (tmp_path / "secret").write_bytes(b"secret")
    chunk = tmp_path / "a" / "data" / "action" / "0.0"
    chunk.unlink()
    chunk.symlink_to(tmp_path / "secret")
    with pytest.raises(EngineError, match="leaves"):
        ZarrReplay().probe(source)


def test_other_sources_are_not_claimed(tmp_path: Path, shared_data: Path) -> None:
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("notes.txt", "hello")
    write(tmp_path / "endless", buffer(), None)
    for path in (
        tmp_path,
        tmp_path / "endless",
        tmp_path / "other.zip",
        shared_data / "g1_lerobot_v21",
        shared_data / "README.md",
    ):
        assert ZarrReplay().probe(Source(str(path))) is None


@pytest.mark.parametrize("zipped", [False, True])
def test_over_http(s3: str, tmp_path: Path, zipped: bool) -> None:
    local = write(tmp_path / "a.zarr", buffer(), [9, 20])
    fs = fsspec.filesystem("s3", **options(s3).fsspec)
    if zipped:
        uri = f"{s3}/a.zarr.zip"
        fs.pipe_file(uri, Path(pack(local.root, tmp_path / "a.zarr.zip").root).read_bytes())
    else:
        uri = f"{s3}/a.zarr"
        for file in Path(local.root).rglob("*"):
            if file.is_file():
                fs.pipe_file(f"{uri}/{file.relative_to(local.root).as_posix()}", file.read_bytes())
    (_, here), (_, there) = read(local), read(Source(uri))
    for key, episode in there.items():
        assert episode.steps.equals(here[key].steps)
        for ours, theirs in zip(here[key].cameras["img"].frames(), episode.cameras["img"].frames(), strict=True):
            np.testing.assert_array_equal(ours, theirs)
