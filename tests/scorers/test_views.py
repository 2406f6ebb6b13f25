from __future__ import annotations

import numpy as np
import pytest

from scorers.open_clip import OpenClip
from scorers.views import Views
from tests.scenes import scenes
from tests.scorers.seen import SPACE, batch_of

CAMERAS = ("front", "side")


@pytest.fixture(scope="module")
def towers(eyes) -> OpenClip:
    return OpenClip(checkpoint=str(eyes))


def test_swapped_frozen_and_black_views_are_found_in_their_places(towers):
    clips = scenes(60, kinds=("progress",))
    front = [clip.frames("front") for clip in clips]
    side = [clip.frames("side") for clip in clips]
    late = np.concatenate([front[2][:12], side[2][12:]])
    views = {
        0: {"front": side[0], "side": front[0]},
        1: {"front": np.zeros_like(front[1])},
        2: {"front": late},
        3: {"side": np.concatenate([side[3][:8], np.repeat(side[3][8:9], 16, axis=0)])},
    }
    batch = batch_of(clips, towers, views=views, cameras=CAMERAS)
    scorer = Views(space=SPACE)
    rows = [{row.metric: row for row in found} for found in scorer.score(batch, scorer.fit([batch]))]
    value = lambda number, metric: rows[number][metric].value  # noqa: E731
    assert value(0, "swapped") >= 0.9
    assert {span.reason for span in rows[0]["defect_fraction"].spans} >= {"swapped_camera front", "swapped_camera side"}
    assert value(1, "frozen") == value(1, "empty") == 1
    assert value(2, "swapped") == pytest.approx(0.5, abs=0.1)
    flagged = rows[2]["defect_fraction"].step_values.astype(bool)
    assert flagged[12:].mean() >= 0.9
    assert flagged[:12].mean() <= 0.1
    assert value(3, "frozen") == pytest.approx(16 / 24)
    assert value(3, "empty") == 0
    assert rows[3]["defect_fraction"].reason == "frozen_view side"
    clean = [value(number, "defect_fraction") for number in range(4, len(clips))]
    assert np.mean(clean) <= 0.05
    for span in rows[2]["defect_fraction"].spans:
        assert flagged[span.start : span.stop].all()


def test_a_scene_at_rest_is_not_a_frozen_view(towers):
    clips = scenes(61, kinds=("progress",))[:6]
    still = [
        clip.__class__(clip.task, clip.kind, np.repeat(clip.gripper[:1], 24, 0), clip.block, 100) for clip in clips
    ]
    batch = batch_of(still, towers)
    scorer = Views(space=SPACE)
    for found in scorer.score(batch, scorer.fit([batch])):
        assert {row.value for row in found} == {0.0}


def test_no_frames_is_undefined(towers):
    from data_engine.scoring import Clips

    batch = batch_of(scenes(62, kinds=("progress",))[:2], towers)
    batch.spaces[SPACE][1] = Clips.none()
    scorer = Views(space=SPACE)
    good, bad = scorer.score(batch, scorer.fit([batch]))
    assert {row.value for row in bad} == {None}
    assert {row.reason for row in bad} == {"no frames in the space"}
    assert all(row.value is not None for row in good)
