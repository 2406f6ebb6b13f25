from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import zarr
from scipy.stats import spearmanr

from data_engine.scoring import Clips, EpisodeBatch
from scorers.uvd import UVD


def clips(vectors: np.ndarray, every: int = 1, total: int | None = None, camera: str | None = "front") -> Clips:
    starts = np.arange(0, len(vectors) * every, every)
    stops = np.minimum(starts + every, total or len(vectors) * every)
    return Clips(starts, stops, (camera,) * len(starts), vectors.astype(np.float32))


def batch_with(batch_of, found: list[Clips], lengths: list[int], fps: float = 20.0) -> EpisodeBatch:
    still = [np.zeros((n, 1)) for n in lengths]
    return replace(batch_of(still, still, fps=fps), spaces={"open_clip": found})


def legs(*corners: tuple[float, float], n: int = 40) -> np.ndarray:
    points = [np.array(corners[0], float)[None]]
    for a, b in pairwise(corners):
        ramp = (1 - np.cos(np.pi * np.arange(1, n + 1) / n)) / 2
        points.append(np.array(a) + ramp[:, None] * (np.array(b) - np.array(a)))
    return np.concatenate(points)


def said(labels, kind: str) -> list[tuple[int, int]]:
    return sorted((item.start, item.stop) for item in labels.annotations if item.kind == kind)


def values(labels, kind: str) -> np.ndarray:
    (found,) = [item for item in labels.annotations if item.kind == kind]
    return found.step_values


def sums(labels) -> dict:
    return {row.metric: row.value for row in labels.scores}


WAY = legs((0, 0), (4, 0), (0, 1), (4, 2))


def label(batch: EpisodeBatch, **params):
    labeller = UVD(**params)
    return labeller.label(batch, labeller.fit([]))


def test_segments_end_at_subgoals_and_rewards_are_differences_of_distance(batch_of):
    (found,) = label(batch_with(batch_of, [clips(WAY)], [len(WAY)]))
    goals = [start for start, _ in said(found, "subgoal")]
    assert np.abs(np.array(goals) - [40, 80, 120]).max() <= 2
    assert said(found, "segment") == list(zip([0, *(g + 1 for g in goals[:-1])], [g + 1 for g in goals], strict=True))
    reward, expected = values(found, "reward"), []
    for t in range(len(WAY) - 1):
        goal = WAY[min(g for g in goals if g >= t + 1)]
        expected.append(np.linalg.norm(WAY[t] - goal) - np.linalg.norm(WAY[t + 1] - goal))
    assert reward[:-1] == pytest.approx(expected, abs=1e-5)
    assert np.isnan(reward[-1])  # nobody saw what the last action led to
    distance = np.linalg.norm(WAY - WAY[-1], axis=1)
    assert values(found, "progress") == pytest.approx(1 - distance / distance[0], abs=1e-5)
    assert sums(found)["subgoals"] == 3
    assert sums(found)["segment_s"] == pytest.approx(2.0, abs=0.1)
    assert sums(found)["order"] == pytest.approx(spearmanr(distance, -np.arange(len(WAY))).statistic)


def test_frames_sampled_at_a_rate_stand_for_their_steps(batch_of):
    sparse = clips(WAY[::5], every=5, total=len(WAY))
    dense, rare = label(batch_with(batch_of, [clips(WAY), sparse], [len(WAY)] * 2))
    assert np.abs(np.array(said(dense, "subgoal")) - said(rare, "subgoal")).max() <= 5
    assert said(rare, "segment")[-1][1] == len(WAY)
    progress, reward = values(rare, "progress"), values(rare, "reward")
    assert len(progress) == len(reward) == len(WAY)
    assert (progress.reshape(-1)[:120].reshape(-1, 5) == progress[:120:5, None]).all()
    moves = np.flatnonzero(np.nan_to_num(reward) != 0)
    assert set(moves) <= set(range(4, 120, 5))  # a frame is followed by the next where that begins
    whole = [np.nansum(values(each, "reward")) for each in (dense, rare)]
    assert whole[1] == pytest.approx(whole[0], rel=0.05)


def test_what_cannot_be_told_says_why_and_changes_nobody(batch_of):
    there_and_back = np.concatenate([WAY, WAY[::-1]])
    two = clips(WAY)
    two = replace(two, cameras=("front", "side") * 60 + ("front",))
    found = label(batch_with(
        batch_of, [clips(WAY), clips(WAY[:2]), clips(there_and_back), two, clips(np.ones((50, 2)))],
        [len(WAY), 2, len(there_and_back), len(WAY), 50],
    ))  # fmt: skip
    assert sums(found[0])["subgoals"] == 3
    reasons = [{row.metric: row.reason for row in labels.scores} for labels in found]
    assert reasons[1]["subgoals"] == "2 frames in space 'open_clip', of 3 at least"
    assert "the first frame is the last one again" in reasons[2]["order"]
    assert sums(found[2])["subgoals"] >= 3
    assert not [item for item in found[2].annotations if item.kind == "progress"]
    assert reasons[3]["subgoals"] == "cameras front, side show unlike steps; name one as camera"
    assert sums(found[4]) == {"subgoals": 1.0, "order": None, "segment_s": pytest.approx(2.45), "length": 50.0}
    named = label(batch_with(batch_of, [two], [len(WAY)]), camera="side")[0]
    assert sums(named)["subgoals"] >= 1
    missing = label(batch_with(batch_of, [two], [len(WAY)]), camera="top")[0]
    assert missing.scores[0].reason == "no vectors of camera 'top'; there are: front, side"


def test_cameras_count_together_where_none_is_named(batch_of):
    front, side = clips(WAY), clips(WAY[:, ::-1] * 3, camera="side")
    both = Clips(
        np.r_[front.starts, side.starts], np.r_[front.stops, side.stops], front.cameras + side.cameras,
        np.concatenate([front.vectors, side.vectors]),
    )  # fmt: skip
    together, alone = label(batch_with(batch_of, [both, front], [len(WAY)] * 2))
    assert said(together, "segment") == said(alone, "segment")
    assert values(together, "reward") == pytest.approx(values(alone, "reward") * 10**0.5, abs=1e-5, nan_ok=True)


@pytest.fixture(scope="module")
def real(shared_data) -> list[np.ndarray]:
    """The frames of some PushT episodes, each 12 x 12 grey values."""
    path = shared_data / "pusht_zarr/pusht_cchi_v7_replay.zarr.zip"
    with zarr.storage.ZipStore(path, mode="r") as store:
        root = zarr.open_group(store, mode="r")
        root = root if "data" in root else root[next(iter(root.keys()))]
        ends = root["meta/episode_ends"][:12]
        frames = root["data/img"][: ends[-1]].astype(np.float32).mean(axis=3)
        small = frames.reshape(len(frames), 12, 8, 12, 8).mean(axis=(2, 4)).reshape(len(frames), -1)
        return np.split(small / np.linalg.norm(small, axis=1, keepdims=True), ends[:-1])


def test_real_recordings_are_cut_and_progress_rises_but_not_backwards(real, batch_of):
    lengths = [len(frames) for frames in real]
    found = label(batch_with(batch_of, [clips(frames) for frames in real], lengths, fps=10.0))
    orders = np.array([sums(labels)["order"] for labels in found])
    assert np.median(orders) > 0.5
    for labels, count in zip(found, lengths, strict=True):
        segments = said(labels, "segment")
        assert segments[0][0] == 0
        assert segments[-1][1] == count
        assert all(a[1] == b[0] for a, b in pairwise(segments))
        assert all(stop - start >= 9 for start, stop in segments[:-1])  # 0.9 s at 10 Hz
    assert np.median([sums(labels)["subgoals"] for labels in found]) >= 2
