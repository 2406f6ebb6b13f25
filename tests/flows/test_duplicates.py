from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

from flows.duplicates import duplicates
from tests.flows.test_ingest import bring
from tests.recordings import write_robomimic


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
