from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import polars as pl

from data_engine.recipe import SourceRecipe, SpaceRecipe
from flows.duplicates import alike, duplicates
from flows.index import embed
from flows.ingest import ingest
from storage.lake import Lake
from tests.api.commands import answer, refusal
from tests.flows.test_ingest import bring
from tests.recordings import write_robomimic
from tests.scenes import scenes, write_scenes


def found(lake) -> list[tuple[str, set[str]]]:
    return [
        (group["how"], {f"{row['dataset']}/{row['source_key']}" for row in group["episodes"]})
        for group in duplicates(lake, lake.episodes())
    ]


def test_different_recordings_are_no_duplicates(lake, recording):
    bring(lake, recording)
    assert found(lake) == []


def test_copies_within_and_across_datasets(lake, tmp_path):
    source = write_robomimic(tmp_path / "a.hdf5", episodes=6)
    bring(lake, source, name="first")
    with h5py.File(source, "r+") as file:
        file.copy("data/demo_1", file["data"], "demo_7")
        for key in ("demo_0", "demo_2", "demo_3", "demo_4", "demo_5"):
            del file["data"][key]
    bring(lake, source, name="second")
    assert found(lake) == [("content", {"first/demo_1", "second/demo_1", "second/demo_7"})]


def rewritten(source: Path, target: Path, change) -> Path:
    """``source`` with other columns, so that no hash is equal, and ``change`` made to its actions and positions."""
    with h5py.File(source) as old, h5py.File(target, "w") as new:
        new.create_group("data").attrs.update(old["data"].attrs)
        for key, demo in old["data"].items():
            made = new["data"].create_group(key)
            made["actions"] = change(demo["actions"][:])
            made["obs/position"] = change(demo["obs/robot0_eef_pos"][:])
            made.attrs.update({**demo.attrs, "num_samples": len(made["actions"])})
    return target


def test_other_columns_and_a_little_noise_are_seen_through(lake, tmp_path):
    source = write_robomimic(tmp_path / "a.hdf5", episodes=12)
    rng = np.random.default_rng(0)
    noisy = rewritten(source, tmp_path / "b.hdf5", lambda a: (a + rng.normal(0, 1e-5, a.shape)).astype(np.float16))
    bring(lake, source, name="first")
    bring(lake, noisy, name="second")
    expected = [("actions", {f"first/demo_{i}", f"second/demo_{i}"}) for i in range(12)]
    assert sorted(found(lake), key=str) == sorted(expected, key=str)


def test_a_resampled_copy_is_near(lake, tmp_path):
    source = write_robomimic(tmp_path / "a.hdf5", episodes=4)
    with h5py.File(source, "r+") as file:  # a motion that can be resampled at all
        for i, demo in enumerate(file["data"].values()):
            at = np.linspace(0, 3 + i, len(demo["actions"]))[:, None] + np.arange(3)
            demo["actions"][...] = np.sin(at)
            demo["obs/robot0_eef_pos"][...] = np.cos(at)

    def twice(values):
        at = np.linspace(0, len(values) - 1, 2 * len(values))
        return np.stack([np.interp(at, np.arange(len(values)), column) for column in values.T], 1).astype(np.float32)

    bring(lake, source, name="first")
    bring(lake, rewritten(source, tmp_path / "twice.hdf5", twice), name="second")
    expected = [("course", {f"first/demo_{i}", f"second/demo_{i}"}) for i in range(4)]
    assert sorted(found(lake), key=str) == sorted(expected, key=str)


def test_the_same_actions_in_another_place_are_another_recording(lake, tmp_path):
    source = write_robomimic(tmp_path / "a.hdf5", episodes=4)
    bring(lake, source, name="first")
    with h5py.File(source, "r+") as file:
        for demo in file["data"].values():
            demo["obs/robot0_eef_pos"][...] += 0.5
    bring(lake, source, name="second")
    assert found(lake) == []


def test_the_same_set_in_two_formats(lake, shared_data):
    tiers = shared_data / "metaworld_tiers"
    bring(lake, tiers / "lerobot_v3", name="v3")
    bring(lake, tiers / "robomimic.hdf5", name="hdf5")
    twins = {frozenset({f"v3/episode_{i:06d}", f"hdf5/demo_{i}"}) for i in range(180)}
    assert {frozenset(names) for _, names in found(lake)} == twins


def test_what_looks_alike_in_a_space_is_told_by_an_absolute_cosine(tmp_path, eyes, common, capsys):
    """Some clips are there again: lighter, slower, and with actions of their own, so that no other check finds them."""
    clips = scenes(77, kinds=("progress", "still"))[:24]
    again = [clips[3], clips[9], clips[20]]
    slow = [np.linspace(0, 23, 34).round().astype(int)] * 3
    again = [
        replace(clip, gripper=clip.gripper[at], shade=clip.shade + 6) for clip, at in zip(again, slow, strict=True)
    ]
    lake = Lake.open(str(tmp_path / "lake"), create=True)
    source = SourceRecipe(name="scenes", uri=str(write_scenes(tmp_path / "s.hdf5", [*clips, *again])))
    ingest(lake, source, **common)
    frames = SpaceRecipe(name="frames", encoder="open_clip", params={"checkpoint": str(eyes), "every_s": 0.2})
    embed(lake, frames, lake.episodes(), **common)
    twins = [{"demo_3", "demo_24"}, {"demo_9", "demo_25"}, {"demo_20", "demo_26"}]

    def keys(groups):
        return sorted(sorted(row["source_key"] for row in group["episodes"]) for group in groups)

    groups = alike(lake, "frames", lake.episodes(), 0.97)
    assert keys(groups) == sorted(map(sorted, twins))
    assert all(0.97 <= group["cosine"] <= 1 for group in groups)
    once = lake.episodes().filter(~pl.col("source_key").is_in(["demo_24", "demo_25", "demo_26"]))
    assert alike(lake, "frames", once, 0.97) == []
    (everyone,) = alike(lake, "frames", lake.episodes(), 1e-6)
    assert len(everyone["episodes"]) == 27
    told = answer(capsys, "duplicates", "--space", "frames", "--threshold", "0.97", "--lake", lake.uri)["items"]
    assert told == groups
    assert "--threshold goes with --space" in refusal(capsys, "duplicates", "--threshold", "0.9", "--lake", lake.uri)
    assert "there is no space 'none'" in refusal(capsys, "duplicates", "--space", "none", "--lake", lake.uri)
