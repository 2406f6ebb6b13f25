from __future__ import annotations

import numpy as np
import pytest

from scorers.instruction_match import InstructionMatch
from scorers.open_clip import OpenClip
from tests.scenes import TASKS, instruction, scenes
from tests.scorers.seen import SPACE, batch_of, fitted


@pytest.fixture(scope="module")
def towers(eyes) -> OpenClip:
    return OpenClip(checkpoint=str(eyes))


def scored(scorer: InstructionMatch, batch, towers) -> dict[str, np.ndarray]:
    found = scorer.score(batch, fitted(scorer.fit([batch]), towers.version()))
    return {
        name: np.array([next(row.value for row in rows if row.metric == name) for rows in found], object)
        for name in ("match", "margin")
    }


def test_a_wrong_instruction_shows_and_the_better_one_is_named(towers, eyes, auc):
    clips = scenes(50, kinds=("progress", "regressing"))
    rng = np.random.default_rng(0)
    wrong = rng.random(len(clips)) < 0.2
    told = [
        instruction(TASKS[(TASKS.index(clip.task) + 1 + rng.integers(15)) % 16]) if bad else instruction(clip.task)
        for clip, bad in zip(clips, wrong, strict=True)
    ]
    scorer = InstructionMatch(checkpoint=str(eyes), space=SPACE)
    batch = batch_of(clips, towers, told)
    fit = fitted(scorer.fit([batch]), towers.version())
    rows = [{row.metric: row for row in found} for found in scorer.score(batch, fit)]
    for metric in ("match", "margin"):
        values = np.array([row[metric].value for row in rows])
        assert auc(values[~wrong], values[wrong]) >= 0.95, metric
    named = [
        row["match"].reason == f"it looks more like: {instruction(clip.task)}"
        for row, clip in zip(rows, clips, strict=True)
    ]
    assert np.mean(np.array(named)[wrong]) >= 0.9


def test_scores_depend_on_no_order_and_what_cannot_be_known_is_said(towers, eyes):
    clips = scenes(51, kinds=("progress",))[:6]
    scorer = InstructionMatch(checkpoint=str(eyes), space=SPACE)
    batch, turned = batch_of(clips, towers), batch_of(clips[::-1], towers)
    there, back = scored(scorer, batch, towers), scored(scorer, turned, towers)
    np.testing.assert_allclose(there["margin"].astype(float), back["margin"][::-1].astype(float), atol=1e-9)
    alone = batch_of(clips[:3], towers, ["reach"] * 3)
    untold = batch_of(clips[:3], towers, [None, "", "  "])
    for told, reason in ((alone, "no other instruction"), (untold, "no instruction")):
        fit = fitted(scorer.fit([told]), towers.version())
        assert {row.reason for rows in scorer.score(told, fit) for row in rows} == {reason}
        assert {row.value for rows in scorer.score(told, fit) for row in rows} == {None}
