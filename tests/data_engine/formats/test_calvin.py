from __future__ import annotations

import json
from pathlib import Path

import fsspec
import numpy as np
import pytest

from data_engine.errors import SourceError
from data_engine.formats import Source, SourceEpisode, Unreadable, detect
from data_engine.fs import options
from tests.data_engine.formats.reading import column, frames, read, scene, stored, through

NUMBERS = {"actions": 7, "rel_actions": 7, "robot_obs": 15, "scene_obs": 24}
RANGES = [(0, 4), (10, 12), (20, 20)]


def write(folder: Path, ranges: list[tuple[int, int]] = RANGES, language: str | None = None) -> dict[int, dict]:
    """A split as CALVIN stores it; ``language`` is ``json`` or ``npy`` (a pickle)."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    np.save(folder / "ep_start_end_ids.npy", np.array(ranges))
    steps = {}
    for first, last in ranges:
        views = scene(last - first + 1, 64, 64, first)
        for number in range(first, last + 1):
            steps[number] = {
                **{name: rng.normal(size=width) for name, width in NUMBERS.items()},
                "rgb_static": views[number - first],
                "depth_static": rng.normal(size=(20, 30)).astype(np.float32),
            }
            np.savez_compressed(folder / f"episode_{number:07d}.npz", **steps[number])
    if language:
        (folder / "lang_annotations").mkdir()
        said = {"language": {"ann": ["lift the block", "push it"], "task": ["lift", "push"]},
                "info": {"indx": [[1, 3], [10, 12]]}}  # fmt: skip
        if language == "json":
            (folder / "lang_annotations" / "auto_lang_ann.json").write_text(json.dumps(said))
        else:
            np.save(folder / "lang_annotations" / "auto_lang_ann.npy", np.array(said, object), allow_pickle=True)
    return steps


def test_steps_are_exact(tmp_path: Path) -> None:
    steps = write(tmp_path, language="json")
    name, probe, episodes = read(tmp_path)
    assert (name, probe.fps, probe.provenance) == ("calvin", 30.0, "sim")
    assert list(episodes) == ["episode_0000000", "episode_0000010", "episode_0000020"]
    state = next(feature for feature in probe.features if feature.name == "observation.state")
    assert (state.components[6], state.components[7], state.components[14]) == (
        "gripper_width", "joint_1", "gripper_action"
    )  # fmt: skip
    names = {"observation.state": "robot_obs", "action": "actions", "rel_actions": "rel_actions",
             "scene_obs": "scene_obs", "depth_static": "depth_static"}  # fmt: skip
    for (first, last), episode in zip(RANGES, episodes.values(), strict=True):
        assert isinstance(episode, SourceEpisode)
        for ours, theirs in names.items():
            wanted = np.stack([steps[number][theirs].reshape(-1) for number in range(first, last + 1)])
            np.testing.assert_array_equal(column(episode, ours), wanted)
        wanted = np.stack([steps[number]["rgb_static"] for number in range(first, last + 1)])
        np.testing.assert_array_equal(frames(episode, "rgb_static"), wanted)
    assert episodes["episode_0000000"].language == ("lift the block",)
    assert episodes["episode_0000000"].attributes["language_spans"] == [
        {"start": 1, "stop": 4, "language": "lift the block", "task": "lift"}
    ]
    assert episodes["episode_0000020"].language == ()


def test_pickled_language_is_refused_and_the_fix_named(tmp_path: Path) -> None:
    write(tmp_path, language="npy")
    _, probe, episodes = read(tmp_path)
    assert any("is a pickle" in note and "auto_lang_ann.json" in note for note in probe.notes)
    assert all(episode.language == () for episode in episodes.values())


def test_both_splits_and_relative_actions(tmp_path: Path) -> None:
    steps = write(tmp_path / "training")
    write(tmp_path / "validation", [(5, 6)])
    _, _, episodes = read(tmp_path, action_keys=["rel_actions"], leave_out=["depth_*"])
    assert [episode.labels for episode in episodes.values()] == [("training",)] * 3 + [("validation",)]
    np.testing.assert_array_equal(
        column(episodes["training/episode_0000020"], "action"), steps[20]["rel_actions"][None]
    )
    assert "depth_static" not in episodes["validation/episode_0000005"].steps.column_names


def test_broken_steps(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "episode_0000002.npz").unlink()
    np.savez(tmp_path / "episode_0000011.npz", **{name: np.zeros(width) for name, width in NUMBERS.items()})
    _, _, episodes = read(tmp_path)
    bad = episodes["episode_0000000"]
    assert isinstance(bad, Unreadable)
    assert (bad.code, "episode_0000002.npz is missing" in bad.reason) == ("missing", True)
    assert [getattr(item, "code", "ok") for item in episodes.values()][1:] == ["missing", "ok"]
    np.savez(tmp_path / "episode_0000020.npz", actions=np.array([{}], object))
    (tmp_path / "episode_0000010.npz").write_bytes(b"PK\x03\x04nonsense")
    (tmp_path / "episode_0000000.npz").write_bytes(b"")
    with pytest.raises(SourceError, match="no episode of"):
        detect(Source(str(tmp_path)))


@pytest.mark.parametrize(
    "ids", [np.zeros(3), np.array([[4, 2]]), np.array([[-1, 2]]), np.array([[0, 2**40]]), np.array([[{}, 1]], object)]
)
def test_broken_ids(tmp_path: Path, ids: np.ndarray) -> None:
    write(tmp_path)
    np.save(tmp_path / "ep_start_end_ids.npy", ids, allow_pickle=True)
    with pytest.raises(SourceError, match=r"ep_start_end_ids.npy") as raised:
        detect(Source(str(tmp_path)))
    assert "\n" not in str(raised.value)


def test_over_http(s3: str, tmp_path: Path) -> None:
    write(tmp_path, [(0, 3)])
    fs = fsspec.filesystem("s3", **options(s3).fsspec)
    for file in tmp_path.glob("*.np*"):
        fs.pipe_file(f"{s3}/calvin/{file.name}", file.read_bytes())
    (_, _, here), (_, _, there) = read(tmp_path), read(f"{s3}/calvin")
    assert there["episode_0000000"].steps.equals(here["episode_0000000"].steps)
    np.testing.assert_array_equal(
        frames(there["episode_0000000"], "rgb_static"), frames(here["episode_0000000"], "rgb_static")
    )


def test_through_the_lake(tmp_path: Path) -> None:
    steps = write(tmp_path / "set", language="json")
    receipt, rows = through(tmp_path / "lake", tmp_path / "set")
    assert receipt["stored"]["frames"] == {"rgb_static": 9}
    assert all(stream["psnr_db"] > 30 for stream in receipt["streams"].values())
    np.testing.assert_array_equal(stored(rows["episode_0000020"], "action"), steps[20]["actions"][None])
    assert rows["episode_0000010"]["language"] == ["push it"]
