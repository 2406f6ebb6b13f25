"""The reward of VLM-RM with a real, if small, model: it must rise with progress, and with nothing else."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import spearmanr

from data_engine import registry
from data_engine.errors import RequestError
from data_engine.scoring import Clips
from scorers.kernels.vlm_reward import mean_prompt, reward
from scorers.open_clip import OpenClip
from scorers.vlm_reward import VLMReward
from tests.scenes import KINDS, TASKS, Scene, caption, scenes
from tests.scorers.seen import SPACE, batch_of, fitted

ALPHAS = (0.0, 0.25, 0.5, 0.75, 1.0)


@pytest.fixture(scope="module")
def towers(eyes) -> OpenClip:
    return OpenClip(checkpoint=str(eyes))


def prompts(task: tuple[str, str]) -> dict:
    return {
        "goal": (caption(task, "touching"),),
        "baseline": (caption(task, "far from"),),
        "space": SPACE,
    }


def agreement(clips: list[Scene], towers: OpenClip) -> dict[str, np.ndarray]:
    """By kind, [clips, alphas]: how the reward of a clip's own prompts ranks its frames as true progress does."""
    found: dict[str, list] = {kind: [] for kind in KINDS}
    for clip in clips:
        goal, baseline = (mean_prompt(towers.texts(prompts(clip.task)[name])) for name in ("goal", "baseline"))
        rewards = reward(towers.images(clip.frames()), goal, baseline, ALPHAS)
        found[clip.kind].append([spearmanr(row, clip.progress)[0] for row in rewards])
    return {kind: np.array(rows) for kind, rows in found.items() if rows}


def test_the_reward_follows_true_progress_and_not_the_frame_index(towers, eyes):
    curve = agreement(scenes(7, kinds=("progress", "reversed")), towers)
    alpha = ALPHAS[int(np.concatenate(list(curve.values())).mean(axis=0).argmax())]  # chosen on training scenes
    held = scenes(1000) + scenes(1001, each=2, kinds=("still",))
    progress: dict[str, list[float]] = {kind: [] for kind in KINDS}
    index: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for task in TASKS:
        mine = [clip for clip in held if clip.task == task]
        labeller = VLMReward(checkpoint=str(eyes), alpha=alpha, **prompts(task))
        labels = labeller.label(batch_of(mine, towers), fitted(labeller.fit([]), towers.version()))
        for clip, said in zip(mine, labels, strict=True):
            (annotation,) = said.annotations
            values = annotation.step_values
            progress[clip.kind].append(spearmanr(values, clip.progress)[0])
            index[clip.kind].append(spearmanr(values, np.arange(len(values)))[0])
    for kind in ("progress", "reversed", "regressing"):
        assert np.mean(progress[kind]) >= 0.8, kind
    assert np.mean(index["reversed"]) <= -0.8
    assert abs(np.mean(index["still"])) <= 0.3
    assert abs(np.mean(index["regressing"])) <= 0.35


def test_it_is_the_kernel_on_the_stored_vectors_of_the_camera(towers, eyes):
    (clip,) = scenes(3, kinds=("progress",))[:1]
    batch = batch_of([clip], towers, cameras=("front", "side"))
    labeller = VLMReward(checkpoint=str(eyes), alpha=0.3, camera="side", **prompts(clip.task))
    fit = fitted(labeller.fit([]), towers.version())
    ((said),) = labeller.label(batch, fit)
    vectors = batch.spaces[SPACE][0].of("side").vectors
    wanted = reward(vectors, fit.arrays["goal"], fit.arrays["baseline"], 0.3)
    np.testing.assert_allclose(said.annotations[0].step_values, wanted, atol=1e-6)
    scores = {row.metric: row.value for row in said.scores}
    assert scores["mean"] == pytest.approx(wanted.mean())
    assert scores["final"] == pytest.approx(wanted[-2:].mean())
    assert scores["gain"] == pytest.approx(wanted[-2:].mean() - wanted[:2].mean())
    both = labeller.model_copy(update={"camera": None})
    other = reward(batch.spaces[SPACE][0].of("front").vectors, fit.arrays["goal"], fit.arrays["baseline"], 0.3)
    ((all_cameras),) = both.label(batch, fit)
    np.testing.assert_allclose(all_cameras.annotations[0].step_values, (wanted + other) / 2, atol=1e-6)


def test_a_vector_counts_for_its_range_and_what_was_not_looked_at_is_not_known(towers, eyes):
    (clip,) = scenes(3, kinds=("progress",))[:1]
    batch = batch_of([clip], towers)
    full = batch.spaces[SPACE][0]
    few = Clips(np.array([0, 6]), np.array([4, 12]), ("front",) * 2, full.vectors[[0, 6]])
    labeller = VLMReward(checkpoint=str(eyes), **prompts(clip.task))
    fit = fitted(labeller.fit([]), towers.version())
    batch.spaces[SPACE][0] = few
    ((said),) = labeller.label(batch, fit)
    values = said.annotations[0].step_values
    assert np.isnan(values[4:6]).all()
    assert np.isnan(values[12:]).all()
    assert len(set(values[:4])) == len(set(values[6:12])) == 1
    batch.spaces[SPACE][0] = Clips.none()
    ((said),) = labeller.label(batch, fit)
    assert said.annotations == ()
    assert {row.reason for row in said.scores} == {"no frames in the space"}


def test_several_prompts_are_normalised_each_and_then_averaged(towers, eyes):
    task = TASKS[0]
    goals = (caption(task, "touching"), caption(task, "close to"))
    labeller = VLMReward(checkpoint=str(eyes), **{**prompts(task), "goal": goals})
    np.testing.assert_allclose(labeller.fit([]).arrays["goal"], towers.texts(goals).mean(axis=0), atol=1e-6)


def test_a_prompt_by_itself_is_its_only_phrasing(eyes):
    one, several = (
        registry.make("labellers", "vlm_reward", {"checkpoint": str(eyes), "goal": goal, "baseline": "a block"})
        for goal in ("a red gripper, at rest", ["a red gripper, at rest"])
    )
    assert one == several and one.goal == ("a red gripper, at rest",)


def test_wrong_requests_are_one_line(towers, eyes):
    task = TASKS[0]
    with pytest.raises(RequestError, match="goal and baseline mean the same"):
        VLMReward(checkpoint=str(eyes), goal=("a",), baseline=("a",)).fit([])
    with pytest.raises(RequestError, match=r"labeller 'vlm_reward': an empty prompt"):
        registry.make("labellers", "vlm_reward", {"checkpoint": str(eyes), "goal": [" "], "baseline": ["a"]})
    with pytest.raises(RequestError, match="a model without weights"):
        registry.make("labellers", "vlm_reward", {"goal": ["b"], "baseline": ["a"]})
    labeller = VLMReward(checkpoint=str(eyes), **prompts(task))
    labeller.check({f"space {SPACE}": towers.version()})
    with pytest.raises(RequestError, match="another model") as caught:
        labeller.check({f"space {SPACE}": "0" * 64 + ".12345678"})
    assert caught.value.code == "unlike_spaces"
