"""Frames of real encoded videos through an image-text model, from ingest to rows of a space."""

from __future__ import annotations

import os
from collections import Counter

import numpy as np
import polars as pl
import pytest

from data_engine.errors import RequestError
from data_engine.recipe import LabelRecipe, ScoreRecipe, SourceRecipe, SpaceRecipe
from data_engine.video import FrameReader
from data_engine.video.track import Track
from flows.curate import curate
from flows.index import complete, embed, index, search, vectors
from flows.ingest import ingest
from flows.label import label
from flows.retrieve import parts_like
from flows.score import score
from flows.search import like
from flows.search import seen as seen_in
from scorers.images import ImageEncoder
from scorers.open_clip import OpenClip
from storage.lake import Lake
from tests.api.commands import answer, call, refusal
from tests.scenes import KINDS, TASKS, instruction, scene, write_scenes
from tests.test_every_real_set import pusht

VIEWS = ("front", "side")


@pytest.fixture(scope="module")
def clips():
    """Two clips of each kind, of three tasks."""
    rng = np.random.default_rng(5)
    return [scene(rng, TASKS[number % 3 * 5], kind, 16 + number) for number, kind in enumerate(KINDS * 2)]


@pytest.fixture
def seen(tmp_path, clips, common) -> Lake:
    """A lake with the clips from two cameras."""
    lake = Lake.open(str(tmp_path / "lake"), create=True)
    ingest(lake, SourceRecipe(name="scenes", uri=str(write_scenes(tmp_path / "s.hdf5", clips, VIEWS))), **common)
    return lake


def space(eyes, **params) -> SpaceRecipe:
    return SpaceRecipe(name="frames", encoder="open_clip", params={"checkpoint": str(eyes), **params})


def rows(lake: Lake, name: str = "frames") -> pl.DataFrame:
    return lake.scan(f"embeddings/{name}").collect().sort("episode_id", "camera", "start")


def test_each_step_of_each_camera_gets_the_vector_of_its_frame(seen, eyes, common, clips):
    answer = embed(seen, space(eyes), seen.episodes(), **common)
    assert (answer["embedded"], answer["empty"], answer["failed"]) == (8, [], [])
    found = rows(seen)
    assert len(found) == 2 * sum(len(clip.gripper) for clip in clips)
    assert (found["stop"] - found["start"] == 1).all()
    assert set(found["encoder_version"]) == {answer["encoder_version"]}
    towers = OpenClip(checkpoint=str(eyes))
    episode = seen.episodes().row(3, named=True)
    for video in episode["videos"]:
        camera = video["camera"]
        mine = found.filter((pl.col("episode_id") == episode["episode_id"]) & (pl.col("camera") == camera))
        assert mine["start"].to_list() == list(range(episode["n_steps"]))
        times = video["start_s"] + np.arange(episode["n_steps"]) / episode["fps"]
        wanted = towers.images(FrameReader(seen.local(video["blob"])).at(times))
        np.testing.assert_allclose(np.array(mine["vector"].to_list()), wanted, atol=1e-5)


def test_a_rate_looks_at_fewer_and_their_ranges_cover_the_episode(seen, eyes, common):
    embed(seen, space(eyes, every_s=0.5, cameras=["side_image"]), seen.episodes(), **common)
    for _, mine in rows(seen).group_by("episode_id"):
        starts, stops = mine["start"].to_list(), mine["stop"].to_list()
        assert starts == list(range(0, stops[-1], 5))
        assert stops[:-1] == starts[1:]
    assert set(rows(seen)["camera"]) == {"side_image"}


def test_only_new_episodes_are_encoded(seen, eyes, common, clips, tmp_path, monkeypatch):
    sent = Counter()
    run = ImageEncoder._run
    monkeypatch.setattr(
        ImageEncoder, "_run", lambda self, model, frames, device: (
            sent.update(frames=len(frames)), run(self, model, frames, device))[1]
    )  # fmt: skip
    embed(seen, space(eyes), seen.episodes(), **common)
    assert sent["frames"] == len(rows(seen))
    version = seen.version("embeddings/frames")
    assert embed(seen, space(eyes), seen.episodes(), **common)["embedded"] == 0
    assert seen.version("embeddings/frames") == version
    ingest(seen, SourceRecipe(name="more", uri=str(write_scenes(tmp_path / "m.hdf5", clips[:1]))), **common)
    sent.clear()
    assert complete(seen, space(eyes), seen.episodes(), **common) == rows(seen)["encoder_version"][0]
    assert sent["frames"] == len(clips[0].gripper)


def test_each_video_is_decoded_once(seen, eyes, common, monkeypatch):
    read = Counter()
    packet = Track.packet
    monkeypatch.setattr(Track, "packet", lambda self, i: (read.update([(self.path, i)]), packet(self, i))[1])
    embed(seen, space(eyes), seen.episodes(), **common)
    blobs = {seen.local(video["blob"]) for videos in seen.episodes()["videos"] for video in videos}
    assert {path for path, _ in read} == {str(blob) for blob in blobs}
    assert set(read.values()) == {1}


def test_one_damaged_video_is_a_reason_and_the_rest_goes_in(seen, eyes, common):
    episode = seen.episodes().row(2, named=True)
    blob = next(video["blob"] for video in episode["videos"] if video["camera"] == "side_image")
    shared = [
        row["source_key"] for row in seen.episodes().iter_rows(named=True) if blob in {v["blob"] for v in row["videos"]}
    ]
    path = seen.local(blob)
    data = bytearray(path.read_bytes())
    data[len(data) // 2 :] = os.urandom(len(data) - len(data) // 2)
    path.chmod(0o644)
    path.write_bytes(data)
    answer = embed(seen, space(eyes), seen.episodes(), **common)
    assert {bad["source_key"] for bad in answer["failed"]} <= set(shared)
    assert {bad["camera"] for bad in answer["failed"]} == {"side_image"}
    assert answer["embedded"] == 8
    found = rows(seen)
    lost = {bad["episode_id"] for bad in answer["failed"]}
    assert (
        set(found.filter(pl.col("camera") == "side_image")["episode_id"]) == set(seen.episodes()["episode_id"]) - lost
    )
    assert found.filter(pl.col("camera") == "front_image")["episode_id"].n_unique() == 8
    said = seen.scan("quarantine").collect()
    assert set(said["source_key"]) == {bad["source_key"] for bad in answer["failed"]}
    assert all("camera side_image is not in space frames" in reason for reason in said["reason"])
    embed(seen, space(eyes), seen.episodes(), **common)
    assert len(seen.scan("quarantine").collect()) == len(said)


def test_an_episode_of_frames_is_searched_by_the_mean_of_its_vectors(seen, eyes, common):
    version = embed(seen, space(eyes), seen.episodes(), **common)["encoder_version"]
    found, held = vectors(seen, "frames", seen.episodes())
    assert held == version
    mine = rows(seen).filter(pl.col("episode_id") == found["episode_id"][4])
    np.testing.assert_allclose(found["vector"][4].to_numpy(), np.mean(mine["vector"].to_list(), axis=0), atol=1e-6)
    index(seen, "frames", seen.episodes())
    tasks = dict(zip(seen.episodes()["episode_id"], seen.episodes()["task"], strict=True))
    for episode, task in tasks.items():
        assert search(seen, "frames", episode, k=1)[0]["task"] == task


def test_instructions_have_a_space_of_their_own_that_compares_with_frames(seen, eyes, common):
    recipe = SpaceRecipe(name="text", encoder="open_clip_text", params={"checkpoint": str(eyes)})
    answer = embed(seen, recipe, seen.episodes(), **common)
    found = rows(seen, "text")
    assert len(found) == 8
    assert set(found["camera"]) == {None}
    frames = embed(seen, space(eyes), seen.episodes(), **common)
    assert answer["encoder_version"].partition(".")[0] == frames["encoder_version"].partition(".")[0]


def test_prompts_cost_no_frame(seen, eyes, common, monkeypatch):
    embed(seen, space(eyes), seen.episodes(), **common)
    monkeypatch.setattr(ImageEncoder, "_run", lambda *_: pytest.fail("a frame was encoded"))
    monkeypatch.setattr(FrameReader, "at", lambda *_, **__: pytest.fail("a frame was decoded"))
    red, yellow = TASKS[0]
    params = {
        "space": "frames",
        "checkpoint": str(eyes),
        "camera": "front_image",
        "baseline": ["a gripper and a block"],
    }
    first = LabelRecipe(
        labeller="vlm_reward", params={**params, "goal": [f"the {red} gripper is touching the {yellow} block"]}
    )
    second = LabelRecipe(labeller="vlm_reward", params={**params, "goal": [instruction(TASKS[0])]})
    assert label(seen, first, seen.episodes(), **common)["labelled"] == 8
    assert label(seen, second, seen.episodes(), **common)["labelled"] == 8
    assert label(seen, second, seen.episodes(), **common)["already"] == 8
    said = seen.scan("annotations").filter(pl.col("producer") == "vlm_reward").collect()
    assert len(said) == 16
    lengths = dict(zip(seen.episodes()["episode_id"], seen.episodes()["n_steps"], strict=True))
    for row in said.iter_rows(named=True):
        assert (row["kind"], row["start"], row["stop"]) == ("reward", 0, lengths[row["episode_id"]])
        assert np.isfinite(row["step_values"]).all()
    sums = seen.scan("scores").filter(pl.col("scorer") == "vlm_reward").collect()
    assert Counter(sums["metric"]) == {"final": 16, "gain": 16, "mean": 16}


def test_the_command_line_embeds_with_options(seen, eyes, capsys):
    lake = ("--lake", seen.uri)
    options = ("-o", f"checkpoint={eyes}", "-o", "every_s=1.0")
    (item,) = answer(capsys, "embed", "open_clip", "--space", "cheap", *options, *lake)["items"]
    assert (item["space"], item["embedded"]) == ("cheap", 8)
    other = ("-o", f"checkpoint={eyes}", "-o", "cameras=[wrist]")
    code, out, err = call(capsys, "embed", "open_clip", "--space", "none", *other, *lake)
    counts = dict(zip(*map(str.split, out.splitlines()), strict=True))
    assert (code, counts["embedded"], counts["empty"], counts["failed"]) == (0, "0", "8", "0")
    assert err == "warning: 8 of 8 episodes have nothing that open_clip can embed\n"
    code, _, err = call(capsys, "label", "uvd", "-o", "space=cheap", "-o", "camera=wrist", *lake)
    assert code == 0
    assert err.startswith("warning: uvd has nothing to say of any of 8 episodes: no vectors of camera 'wrist'")
    assert "a model without weights" in refusal(capsys, "embed", "open_clip", *lake)


@pytest.mark.parametrize("name", ["g1_lerobot_v21", "videos", "pusht"])
def test_real_videos_are_embedded(shared_data, tmp_path, eyes, common, name):
    lake = Lake.open(str(tmp_path / "lake"), create=True)
    path = pusht(shared_data, tmp_path).path if name == "pusht" else shared_data / name
    ingest(lake, SourceRecipe(name="real", uri=str(path)), **common)
    episodes = lake.episodes()
    answer = embed(lake, space(eyes, every_s=1.0), episodes, **common)
    assert (answer["embedded"], answer["failed"]) == (len(episodes), [])
    found = rows(lake)
    assert np.isfinite(np.concatenate(found["vector"].to_list())).all()
    for row in episodes.iter_rows(named=True):
        for video in row["videos"]:
            mine = found.filter((pl.col("episode_id") == row["episode_id"]) & (pl.col("camera") == video["camera"]))
            assert abs(len(mine) - row["duration_s"]) <= 1.5
            assert mine["stop"].max() == row["n_steps"]
    assert len(vectors(lake, "frames", episodes)[0]) == len(episodes)
    (steps,) = [entry for entry in index(lake, "frames", episodes) if entry["space"] == "frames/steps"]
    assert (steps["count"], steps["recall"]) == (len(found), 1.0)
    some = found.row(len(found) // 2, named=True)
    (hit, *_) = like(lake, "frames", some["vector"], k=3)  # a frame finds the steps that it is of, or equal ones
    assert hit["similarity"] == pytest.approx(1, abs=1e-5) and hit["start"] < hit["stop"]
    assert len(seen_in(lake, "frames", text="a gripper", k=3)) == min(3, len(episodes))
    near = parts_like(lake, "frames", some["episode_id"], 0, some["stop"], camera=some["camera"], k=2)
    assert len(near["items"]) == min(2, len(episodes) - 1) and near["exact"]
    cut = label(lake, LabelRecipe(labeller="uvd", params={"space": "frames"}), episodes, **common)
    assert (cut["labelled"], cut["errors"]) == (len(episodes), 0)
    segments = lake.scan("annotations").filter(pl.col("kind") == "segment").collect()
    tiled = dict(segments.group_by("episode_id").agg((pl.col("stop") - pl.col("start")).sum()).iter_rows())
    long = episodes.filter(pl.col("duration_s") > 3)
    assert len(long) > 0
    assert {name: tiled[name] for name in long["episode_id"]} == dict(long.select("episode_id", "n_steps").iter_rows())


def test_instructions_and_views_are_scored_from_the_stored_vectors(seen, eyes, common, monkeypatch):
    embed(seen, space(eyes), seen.episodes(), **common)
    monkeypatch.setattr(ImageEncoder, "_run", lambda *_: pytest.fail("a frame was encoded"))
    model = {"space": "frames", "checkpoint": str(eyes)}
    for recipe in (
        ScoreRecipe(scorer="instruction_match", params=model),
        ScoreRecipe(scorer="views", params={"space": "frames"}),
    ):
        answer = score(seen, recipe, seen.episodes(), **common)
        assert (answer["scored"], answer["nulls"], answer["errors"]) == (8, 0, 0)
    found = seen.scan("scores").collect()
    match = found.filter(pl.col("metric") == "match")["value"]
    assert match.min() == 1.0  # three instructions, and each clip is most like its own
    assert set(found.filter(pl.col("scorer") == "views")["metric"]) == {"defect_fraction", "swapped", "frozen", "empty"}


def test_texts_of_another_model_are_refused_before_anything_is_done(seen, eyes, common, tmp_path):
    import shutil

    import torch

    embed(seen, space(eyes, every_s=1.0), seen.episodes(), **common)
    shutil.copy(eyes.with_suffix(".json"), tmp_path / "other.json")
    state = {name: value + 0.01 for name, value in torch.load(eyes, weights_only=True).items()}
    torch.save(state, tmp_path / "other.pt")
    model = {"space": "frames", "checkpoint": str(tmp_path / "other.pt")}
    prompts = {"goal": ["a"], "baseline": ["b"]}
    for ask in (
        lambda: label(seen, LabelRecipe(labeller="vlm_reward", params={**model, **prompts}), seen.episodes(), **common),
        lambda: score(seen, ScoreRecipe(scorer="instruction_match", params=model), seen.episodes(), **common),
    ):
        with pytest.raises(RequestError, match="made by another model") as caught:
            ask()
        assert caught.value.code == "unlike_spaces"
    assert not len(seen.scan("scores").collect())


def test_threads_do_not_change_a_bit(seen, eyes, common, monkeypatch):
    embed(seen, space(eyes), seen.episodes(), **common)
    monkeypatch.setattr("scorers.images.decoders", lambda _: 3)
    again = space(eyes).model_copy(update={"name": "again"})
    embed(seen, again, seen.episodes(), **common)
    assert rows(seen).drop("run_id").equals(rows(seen, "again").drop("run_id"))


def test_a_recipe_sees_rewards_and_selects_by_them(eyes, tmp_path, clips, common):
    from data_engine import mixture, recipe
    from data_engine.loader import MixtureDataset
    from data_engine.windows import Windows

    asked = {
        "source": {"name": "scenes", "uri": str(write_scenes(tmp_path / "s.hdf5", clips))},
        "spaces": [space(eyes).model_dump()],
        "label": [
            {
                "labeller": "vlm_reward",
                "params": {
                    "space": "frames",
                    "checkpoint": str(eyes),
                    "goal": [f"the {a} gripper is touching the {b} block" for a, b in TASKS[::5]],
                    "baseline": [f"the {a} gripper is far from the {b} block" for a, b in TASKS[::5]],
                    "alpha": 1.0,
                },
            }
        ],
        "select": [{"name": "closer", "method": "filter", "where": "vlm_reward.gain > 0.02"}],
        "mixture": {"columns": [{"name": "reward", "producer": "vlm_reward"}]},
    }
    answer = curate(str(tmp_path / "lake"), recipe.validate(asked), progress=common["progress"], workers=1)
    lake = Lake.open(str(tmp_path / "lake"))
    frozen = mixture.open(answer["mixture"])
    chosen = set(frozen.episodes["episode_id"].to_pylist())
    kinds = lake.episodes().filter(pl.col("episode_id").is_in(chosen))["operator"]
    assert "progress" in set(kinds)
    assert "reversed" not in set(kinds)
    sample = MixtureDataset(frozen, Windows(columns=("reward",), cameras=()))[0]
    assert sample["reward"].isfinite().all()
