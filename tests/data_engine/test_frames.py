from __future__ import annotations

import hashlib
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from torch.utils.data import DataLoader

from data_engine.errors import RequestError, SourceError
from data_engine.loader import MixtureDataset, MixtureSampler, collate
from data_engine.model import Feature
from data_engine.video import FrameReader, encode
from data_engine.windows import Windows

FPS = 10


def video(lake: Path, number: int, frames: int, size: int = 64) -> str:
    """A video whose frame i has brightness 2 i."""
    (lake / "videos").mkdir(exist_ok=True)
    path = lake / "videos" / f"{number}.mp4"
    encode((np.full((size, size, 3), 2 * i, np.uint8) for i in range(frames)), path, Fraction(FPS))
    return f"videos/{number}.mp4"


def filmed(toy, lengths: dict[str, list[int]], sizes: dict[str, int] | None = None):
    """A toy whose episodes of one dataset lie back to back in one video, camera `top`."""
    made = toy(lengths)
    lake = Path(made.lake)
    for number, (name, dataset) in enumerate(made.datasets.items()):
        size = (sizes or {}).get(name, 64)
        blob = video(lake, number, sum(lengths[name]), size)
        data = (lake / blob).read_bytes()
        made.files.append({"path": blob, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()})
        camera = Feature(name="observation.images.top", dtype="video", shape=(size, size, 3))
        made.datasets[name] = dataset.model_copy(update={"features": (*dataset.features, camera)})
        start = 0.0
        for row in (row for row in made.rows if row["dataset"] == name):
            row["videos"] = [{"camera": "top", "blob": blob, "start_s": start, "end_s": start + row["stop"] / FPS}]
            start += row["stop"] / FPS
    return made


def test_a_sample_has_the_frames_of_its_steps(toy, tmp_path) -> None:
    lengths = {"a": [12, 5, 9], "b": [20, 8]}
    mixture = filmed(toy, lengths).mixture(tmp_path / "cache", weight_kind="repeat")
    dataset = MixtureDataset(mixture, Windows(history=3, action_horizon=2))
    loader = DataLoader(
        dataset, batch_size=18, sampler=MixtureSampler(dataset), collate_fn=collate, num_workers=1,
        multiprocessing_context="fork",
    )  # fmt: skip
    dataset[0]  # readers opened before the fork are not used after it
    seen = 0
    for batch in loader:
        images = batch["observation.images.top"]
        assert images.shape[1:] == (3, 3, 64, 64)
        for i, (name, episode, step) in enumerate(
            zip(batch["dataset"], batch["episode_id"], batch["step"], strict=True)
        ):
            before = sum(lengths[name][: int(episode.rsplit("_", 1)[1])])
            wanted = 2 * (before + np.arange(int(step) - 2, int(step) + 1).clip(0))
            assert images[i].float().mean((1, 2, 3)).numpy() == pytest.approx(wanted, abs=4)
            seen += 1
    assert seen == 54


def test_no_cameras_decode_nothing(toy, tmp_path) -> None:
    mixture = filmed(toy, {"a": [12]}).mixture(tmp_path / "cache")
    (Path(mixture.root) / "videos/0.mp4").unlink()
    assert "observation.images.top" not in next(mixture.samples(Windows(cameras=())))
    with pytest.raises(SourceError, match=r"lacks its file videos/0\.mp4"):
        next(mixture.samples())


def test_cameras_of_unlike_size_are_refused_in_a_batch(toy, tmp_path) -> None:
    mixture = filmed(toy, {"a": [6], "b": [6]}, {"b": 96}).mixture(tmp_path / "cache")
    assert {sample["observation.images.top"].shape[-1] for sample in mixture.samples()} == {64, 96}
    with pytest.raises(RequestError, match=r"whose observation\.images\.top is .*cameras that all have"):
        MixtureDataset(mixture).__getitems__(list(range(12)))


def test_an_episode_without_the_camera_or_the_frame_gets_one_line(toy, tmp_path) -> None:
    made = filmed(toy, {"a": [6, 6]})
    rows = [made.rows[0] | {"videos": []}, made.rows[1]]
    with pytest.raises(SourceError, match="episode ep_a_0 has no camera 'top'"):
        list(made.mixture(tmp_path / "cache", rows=rows, weight_kind="repeat").samples())
    late = [dict(made.rows[1]["videos"][0], start_s=9.0)]
    mixture = made.mixture(tmp_path / "cache", rows=[made.rows[1] | {"videos": late}], seed=1)
    with pytest.raises(SourceError, match="has no frame within"):
        list(mixture.samples())


def test_frames_equal_those_of_the_reader_for_any_number_of_threads(toy, tmp_path) -> None:
    mixture = filmed(toy, {"a": [60]}).mixture(tmp_path / "cache", weight_kind="repeat")
    samples = MixtureDataset(mixture).samples
    whole = FrameReader(mixture.local("videos/0.mp4")).at(np.arange(60) / FPS)
    for threads in (1, 3):
        samples._frames.threads = threads
        batch = samples.read(0, np.arange(60))
        found = batch["observation.images.top"][:, 0].transpose(0, 2, 3, 1)
        assert np.array_equal(found, whole[batch["step"]])


def test_frames_of_unlike_cameras_share_a_batch_when_scaled(toy, tmp_path) -> None:
    made = filmed(toy, {"a": [12, 5], "b": [9]}, {"a": 64, "b": 32})
    mixture = made.mixture(tmp_path / "cache", weight_kind="repeat")
    with pytest.raises(RequestError, match=r"whose observation\.images\.top is"):
        MixtureDataset(mixture).__getitems__(range(26))
    batch = MixtureDataset(mixture, Windows(frame_size=(48, 40))).__getitems__(range(26)).tensors
    images = batch["observation.images.top"]
    assert images.shape == (26, 1, 3, 48, 40)
    starts = {row["episode_id"]: round(row["videos"][0]["start_s"] * FPS) for row in made.rows}
    wanted = [2 * (starts[episode] + step) for episode, step in zip(batch["episode_id"], batch["step"], strict=True)]
    assert np.abs(images.numpy().mean(axis=(1, 2, 3, 4)) - wanted).max() < 3
    for wrong in ((0, 40), 96, (96,), (96.0, 96.0), "96"):
        with pytest.raises(RequestError, match=r"frame_size .*is no size .*height, width"):
            Windows(frame_size=wrong)
