"""The three generic formats over one set of episodes, which each holds in its own way."""

from __future__ import annotations

from pathlib import Path

import fsspec
import h5py
import numpy as np
import pytest
import yaml
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from data_engine.errors import RequestError, SourceError
from data_engine.formats import Source, SourceEpisode, Unreadable, detect
from data_engine.fs import options
from tests.api.commands import call, refusal
from tests.data_engine.formats.reading import coded, column, decoded, frames, read, scene, stored, through

MAP = {
    "columns": {"observation.state": ["arm/q", "arm/tool[0:3]"], "action": "cmd", "force": "arm/force"},
    "cameras": {"top": "view"},
    "episode": {"task": "=stack", "success": "good", "language": "said"},
}


def episode(n: int, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "arm/q": rng.normal(size=(n, 6)).astype(np.float32),
        "arm/tool": rng.normal(size=(n, 7)).astype(np.float32),
        "arm/force": rng.normal(size=(n, 2, 3)),
        "cmd": rng.normal(size=(n, 6)),
        "view": scene(n, 64, 64, seed),
        "said": np.array(["stack them"]),
        "good": np.array(seed % 2 == 0),
        "spare": rng.normal(size=(n, 2)),
    }


def put(group: h5py.Group | zarr.Group, arrays: dict[str, np.ndarray]) -> None:
    for name, values in arrays.items():
        text = values.dtype.kind == "U"
        if isinstance(group, h5py.Group):
            group.create_dataset(name, data=values.astype("S") if text else values)
        else:
            group.create_array(name, data=values.astype("S20") if text else values)


def write(folder: Path, kind: str, lengths: list[int]) -> tuple[Path, str, list[dict[str, np.ndarray]]]:
    """Episodes in one container of ``kind``; the source, the option ``episodes`` that fits it, and the episodes."""
    episodes = [episode(n, seed) for seed, n in enumerate(lengths)]
    folder.mkdir(parents=True, exist_ok=True)
    if kind == "hdf5 groups":
        with h5py.File(folder / "a.h5", "w") as file:
            for i, arrays in enumerate(episodes):
                put(file.create_group(f"runs/run_{i}"), arrays)
        return folder / "a.h5", "runs/*", episodes
    if kind == "hdf5 files":
        for i, arrays in enumerate(episodes):
            with h5py.File(folder / f"run_{i}.h5", "w") as file:
                put(file, arrays)
        return folder, ".", episodes
    if kind == "npz files":
        for i, arrays in enumerate(episodes):
            np.savez_compressed(folder / f"run_{i}.npz", **arrays)
        return folder, ".", episodes
    if kind == "zarr groups":
        root = zarr.open_group(str(folder / "a.zarr"), mode="w", zarr_format=2)
        for i, arrays in enumerate(episodes):
            put(root.create_group(f"runs/run_{i}"), arrays)
        return folder / "a.zarr", "runs/*", episodes
    flat = {
        name: np.concatenate([arrays[name] for arrays in episodes])
        for name in ("arm/q", "arm/tool", "arm/force", "cmd", "view", "spare")
    }
    ends = np.cumsum(lengths)
    if kind == "hdf5 ends":
        with h5py.File(folder / "a.h5", "w") as file:
            put(file, flat)
            file["meta/ends"] = ends
        return folder / "a.h5", "meta/ends", episodes
    root = zarr.open_group(str(folder / "a.zarr"), mode="w", zarr_format=2)
    put(root, flat)
    root.create_array("meta/ends", data=ends)
    return folder / "a.zarr", "meta/ends", episodes


KINDS = ("hdf5 groups", "hdf5 files", "hdf5 ends", "npz files", "zarr groups", "zarr ends")


def fitting(kind: str) -> dict:
    return {**MAP, "episode": {"task": "=stack"}} if kind.endswith("ends") else MAP


@pytest.mark.parametrize("kind", KINDS)
def test_a_map_reads_every_container_the_same(tmp_path: Path, kind: str) -> None:
    path, how, episodes = write(tmp_path / "set", kind, [5, 3, 8])
    name, probe, found = read(path, map=fitting(kind), episodes=how, fps=10)
    assert name == kind.split()[0]
    assert any("not in the map and left out" in note and "spare" in note for note in probe.notes)
    for i, (arrays, ours) in enumerate(zip(episodes, found.values(), strict=True)):
        assert isinstance(ours, SourceEpisode)
        n = len(arrays["cmd"])
        state = column(ours, "observation.state")
        assert state.dtype == np.float32
        np.testing.assert_array_equal(state, np.hstack([arrays["arm/q"], arrays["arm/tool"][:, :3]]))
        np.testing.assert_array_equal(column(ours, "action"), arrays["cmd"])
        np.testing.assert_array_equal(column(ours, "force").reshape(n, 2, 3), arrays["arm/force"])
        np.testing.assert_array_equal(frames(ours, "top"), arrays["view"])
        np.testing.assert_array_equal(column(ours, "timestamp"), np.arange(n) / 10)
        assert ours.task == "stack"
        assert set(ours.steps.column_names) == {"timestamp", "observation.state", "action", "force"}
        if not kind.endswith("ends"):
            assert (ours.success, ours.language) == (i % 2 == 0, ("stack them",))


@pytest.mark.parametrize("kind", KINDS)
def test_without_a_map_a_proposal_that_works(tmp_path: Path, kind: str) -> None:
    path, how, episodes = write(tmp_path / "set", kind, [5, 3])
    form, probe = detect(Source(str(path)))
    assert form.name == kind.split()[0]
    proposal = probe.proposal
    assert proposal is not None
    if kind != "hdf5 ends" and kind != "zarr ends":
        assert proposal["episodes"] == how
    else:
        assert proposal["episodes"] == "meta/ends"
    assert proposal["map"]["columns"]["action"] == "cmd"
    assert proposal["map"]["cameras"] == {"view": "view"}
    confirmed = yaml.safe_load(yaml.safe_dump(dict(proposal), sort_keys=False))
    _, again, found = read(path, **confirmed)
    assert again.features == probe.features
    for arrays, ours in zip(episodes, found.values(), strict=True):
        np.testing.assert_array_equal(column(ours, "action"), arrays["cmd"])
        np.testing.assert_array_equal(column(ours, "spare"), arrays["spare"])


@settings(max_examples=12, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    dtype=st.sampled_from(["float16", "float32", ">f8", "int16", "uint8", "bool"]),
)
def test_any_type_round_trips(tmp_path_factory, kind: str, lengths: list[int], dtype: str) -> None:
    if kind.startswith("zarr") and dtype == ">f8":
        dtype = "float64"
    path = tmp_path_factory.mktemp("mapped")
    rng = np.random.default_rng(0)
    given_ = [(rng.normal(size=(n, 3)) * 50).astype(dtype) for n in lengths]
    if kind.startswith("npz"):
        for i, values in enumerate(given_):
            np.savez(path / f"e{i}.npz", a=values, b=values[:, 0])
        how = "."
    elif kind.startswith("hdf5"):
        with h5py.File(path / "a.h5", "w") as file:
            for i, values in enumerate(given_):
                put(file.create_group(f"e{i}"), {"a": values, "b": values[:, 0]})
        path, how = path / "a.h5", "*"
    else:
        root = zarr.open_group(str(path / "a.zarr"), mode="w")
        for i, values in enumerate(given_):
            put(root.create_group(f"e{i}"), {"a": values, "b": values[:, 0]})
        path, how = path / "a.zarr", "*"
    known = {"columns": {"action": "a", "observation.state": ["a[1:3]", "a[:1]"], "b": "b"}}
    _, probe, found = read(path, map=known, episodes=how, fps=10)
    assert {feature.dtype for feature in probe.features} == {np.dtype(dtype).name}
    for values, ours in zip(given_, found.values(), strict=True):
        np.testing.assert_array_equal(column(ours, "action"), values)
        np.testing.assert_array_equal(column(ours, "observation.state"), values[:, [1, 2, 0]])
        np.testing.assert_array_equal(column(ours, "b"), values[:, 0])


def test_the_map_s_clock_is_the_time(tmp_path: Path) -> None:
    ticks = np.array([5_000_000_000_000_000_001, 5_000_000_000_050_000_001, 5_000_000_000_100_000_003])
    np.savez(tmp_path / "run.npz", cmd=np.zeros((3, 2)), t=ticks)
    known = {"columns": {"action": "cmd"}, "clock": "t", "clock_unit": "ns"}
    _, probe, episodes = read(tmp_path / "run.npz", map=known, episodes=".")
    assert probe.fps == 20.0
    assert column(episodes["run"], "timestamp").tolist() == [0.0, 0.05, 0.100000002]
    assert not any("fps" in note for note in probe.notes)


@pytest.mark.parametrize("top", [1, 255])
def test_float_frames_need_their_range(tmp_path: Path, top: int) -> None:
    view = scene(4, 16, 16)
    np.savez(tmp_path / "run.npz", cmd=np.zeros((4, 2)), view=(view / (255 / top)).astype(np.float32))
    known = {"columns": {"action": "cmd"}, "cameras": {"top": "view"}}
    assert detect(Source(str(tmp_path)))[1].proposal["image_range"] == top
    with pytest.raises(RequestError, match="state image_range"):
        detect(Source(str(tmp_path)), options={"map": known, "episodes": "."})
    _, _, episodes = read(tmp_path, map=known, episodes=".", image_range=top)
    np.testing.assert_array_equal(frames(episodes["run"], "top"), view)


def test_pictures_in_hdf5_are_decoded(tmp_path: Path) -> None:
    files = [coded(frame) for frame in scene(4)]
    with h5py.File(tmp_path / "run.h5", "w") as file:
        file["joint_action/vector"] = np.zeros((4, 14))
        file["observation/head/rgb"] = np.array(files, "S")
    proposal = detect(Source(str(tmp_path)))[1].proposal
    assert proposal["map"]["cameras"] == {"rgb": "observation/head/rgb"}
    _, _, episodes = read(tmp_path, **proposal)
    np.testing.assert_array_equal(frames(episodes["run"], "rgb"), np.stack([decoded(data) for data in files]))


@pytest.mark.parametrize(
    ("given_", "message"),
    [
        ({"map": {"columns": {"action": "comand"}}, "episodes": "."}, "makes action of 'comand'"),
        ({"map": {"columns": {"action": "cmd[3:9]"}}, "episodes": "."}, "leaves its 6 entries"),
        ({"map": {"columns": {}, "cameras": {"top": "cmd"}}, "episodes": "."}, "no RGB frames"),
        ({"map": {"columns": {"action": "cmd"}}, "episodes": "runs/*"}, "no episodes 'runs/\\*'"),
        ({"map": {"columns": {"action": "cmd"}}, "episodes": "ends"}, "no array 'ends'"),
        ({"map": {"columns": {"action": "cmd"}}, "episodes": "cmd"}, "no list of whole numbers"),
        ({"map": {"colums": {"action": "cmd"}}, "episodes": "."}, "colums"),
    ],
)
def test_wrong_options_are_one_line(tmp_path: Path, given_: dict, message: str) -> None:
    path, _, _ = write(tmp_path / "set", "hdf5 files", [5])
    with pytest.raises((RequestError, SourceError), match=message) as raised:
        detect(Source(str(path / "run_0.h5")), "hdf5", given_)
    assert "\n" not in str(raised.value)


def test_broken_episodes_leave_the_rest(tmp_path: Path) -> None:
    path, how, _ = write(tmp_path / "set", "npz files", [5, 5, 5, 5])
    np.savez(path / "run_1.npz", **{**episode(5, 1), "cmd": np.array([{}] * 5, object)})
    (path / "run_2.npz").write_bytes((path / "run_2.npz").read_bytes()[:300])
    _, _, found = read(path, map=MAP, episodes=how)
    codes = [getattr(item, "code", "ok") for item in found.values()]
    assert codes == ["ok", "bad_dtype", "damaged_file", "ok"]
    assert isinstance(found["run_1"], Unreadable)
    path, how, _ = write(tmp_path / "groups", "hdf5 groups", [5, 5, 5])
    with h5py.File(path, "a") as file:
        file["runs/run_1/out"] = h5py.ExternalLink("secret.h5", "/")
        del file["runs/run_2/cmd"]
        file["runs/run_2"].create_dataset("cmd", (10**10, 6), "f8", chunks=(1024, 6))
    _, _, found = read(path, map=MAP, episodes=how)
    assert [getattr(item, "code", "ok") for item in found.values()] == ["ok", "link", "lengths_differ"]


def test_links_among_groups_are_not_followed(tmp_path: Path) -> None:
    path, _, _ = write(tmp_path / "set", "hdf5 groups", [5])
    with h5py.File(path, "a") as file:
        file["runs/run_7"] = h5py.SoftLink("/runs/run_0")
    _, _, found = read(path, map=MAP, episodes="runs/*")
    assert list(found) == ["runs/run_0"]


def test_a_specific_layout_is_never_a_proposal(shared_data: Path) -> None:
    for path, name in {
        "pusht_zarr/pusht_cchi_v7_replay.zarr.zip": "zarr_replay",
        "d4rl_hdf5/push_ball_to_goal_expert.hdf5": "d4rl",
        "robosuite_hdf5/lift_panda_demo.hdf5": "robosuite",
        "metaworld_tiers/robomimic.hdf5": "robomimic",
    }.items():
        form, probe = detect(Source(str(shared_data / path)))
        assert (form.name, probe.proposal) == (name, None)


def test_a_real_store_by_a_map_reads_as_its_own_format(shared_data: Path) -> None:
    path = shared_data / "pusht_zarr" / "pusht_cchi_v7_replay.zarr.zip"
    known = {"columns": {"observation.state": "data/state", "action": "data/action"}}
    _, _, mapped = read(path, map=known, episodes="meta/episode_ends", fps=10)
    _, _, own = read(path)
    assert list(mapped) == list(own)
    for key, ours in own.items():
        assert isinstance(ours, SourceEpisode)
        assert mapped[key].steps.equals(ours.steps.select(["timestamp", "observation.state", "action"]))


def test_over_http(s3: str, tmp_path: Path) -> None:
    path, how, episodes = write(tmp_path / "set", "npz files", [5, 3])
    fs = fsspec.filesystem("s3", **options(s3).fsspec)
    for file in path.iterdir():
        fs.pipe_file(f"{s3}/runs/{file.name}", file.read_bytes())
    _, _, found = read(f"{s3}/runs", map=MAP, episodes=how)
    for arrays, ours in zip(episodes, found.values(), strict=True):
        np.testing.assert_array_equal(column(ours, "action"), arrays["cmd"])
        np.testing.assert_array_equal(frames(ours, "top"), arrays["view"])


@pytest.mark.parametrize("kind", ["hdf5 groups", "npz files", "zarr ends"])
def test_from_dry_run_to_the_lake(tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    path, _, episodes = write(tmp_path / "set", kind, [6, 4])
    arguments = ["ingest", str(path), "--dataset", "set", "--lake", str(tmp_path / "lake")]
    assert "only a guess" in refusal(capsys, *arguments)
    code, shown, _ = call(capsys, *arguments, "--dry-run")
    assert code == 0
    given_ = yaml.safe_load(shown)
    receipt, rows = through(tmp_path / "lake", path, **given_)
    assert receipt["stored"]["frames"] == {"view": 10}
    assert all(stream["psnr_db"] > 30 for stream in receipt["streams"].values())
    for arrays, row in zip(episodes, rows.values(), strict=True):
        np.testing.assert_array_equal(stored(row, "action"), arrays["cmd"])
