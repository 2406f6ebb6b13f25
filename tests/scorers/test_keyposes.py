from __future__ import annotations

import numpy as np
import pytest

from data_engine.model import ACTION, STATE, Finding
from scorers.keyposes import Keyposes


def reach(rate: float = 20.0, *, scale: float = 1.0, seconds: float = 6.0) -> tuple[np.ndarray, np.ndarray]:
    """States (x, y, gripper) and actions (dx, dy, gripper): moves, rests at 1.5 to 2.5 s, moves, grips at 4 s."""
    clock = np.arange(round(seconds * rate)) / rate
    speed = np.where(clock < 1.5, 0.2, np.where(clock < 2.5, 0.0, np.where(clock < 3.9, 0.15, 0.1)))
    x = np.concatenate([[0.0], np.cumsum(speed[:-1]) / rate]) * scale
    grip = np.where(clock < 4.0, 1.0, -1.0)
    wobble = 1e-4 * scale * np.sin(40 * clock)
    state = np.stack([x, x / 2 + wobble, np.where(clock < 4.1, 0.08, 0.0)], axis=1)
    return state, np.stack([speed, speed / 2, grip], axis=1)


def labelled(
    batch_of,
    rate: float = 20.0,
    unit: str | None = None,
    scale: float = 1.0,
    named: bool = True,
    column: str = STATE,
    **params,
):
    """Four like episodes, labelled by a fit on them."""
    pairs = [reach(rate, scale=scale * f) for f in (1.0, 0.95, 1.05, 0.9)]
    batch = batch_of([s for s, _ in pairs], [a for _, a in pairs], fps=rate)
    features = []
    for feature in batch.dataset.features:
        names = ("eef_x", "eef_y", "gripper" if feature.name == column else "lamp")
        facts: dict = {"components": names} if named else {}
        if feature.name == STATE and unit:
            found = Finding(column=STATE, components=(0, 1), kind="unit", value=unit, confidence=0.95, evidence="-")
            facts["findings"] = (found,)
        if feature.name == column and named:
            facts["findings"] = (
                *facts.get("findings", ()),
                Finding(column=column, components=(2,), kind="gripper_polarity", value="larger_opens", confidence=0.9,
                        evidence="-"),
            )  # fmt: skip
        features.append(feature.model_copy(update=facts))
    object.__setattr__(batch, "dataset", batch.dataset.model_copy(update={"features": tuple(features)}))
    labeller = Keyposes(**params)
    return batch, labeller.label(batch, labeller.fit([batch]))


def poses(labels) -> list[tuple[int, str]]:
    return sorted((item.start, item.label) for item in labels.annotations if item.kind == "keypose")


@pytest.mark.parametrize(("unit", "scale"), [("m", 1.0), ("mm", 1000.0), (None, 1.0), (None, 1000.0)])
def test_a_rest_a_grip_and_the_end_whatever_the_unit(batch_of, unit, scale):
    _, found = labelled(batch_of, unit=unit, scale=scale)
    for labels in found:
        assert poses(labels) == [(30, "stop"), (82, "gripper_closes"), (119, "end")]
        scores = {row.metric: row.value for row in labels.scores}
        assert scores == {
            "count": 3.0,
            "stops": 1.0,
            "gripper_changes": 1.0,
            "segment_s": pytest.approx(1.85),
            "length": 120.0,
        }


@pytest.mark.parametrize("rate", [10.0, 50.0])
def test_a_limit_in_metres_a_second_does_not_hang_on_the_rate(batch_of, rate):
    _, found = labelled(batch_of, rate=rate, unit="m")
    assert [label for _, label in poses(found[0])] == ["stop", "gripper_closes", "end"]
    assert np.array([step for step, _ in poses(found[0])[:2]]) / rate == pytest.approx([1.5, 4.1], abs=1.01 / rate)


def test_the_limit_is_in_the_unit(batch_of):
    fast = [label for _, label in poses(labelled(batch_of, unit="m", still_m_s=0.18)[1][0])]
    assert fast.count("stop") == 1  # the slow half of the way is a rest, too, and goes on from the one before
    none = [label for _, label in poses(labelled(batch_of, unit="m", still_m_s=1e-5)[1][0])]
    assert none == ["gripper_closes", "end"]


def test_the_command_tells_where_the_state_does_not(batch_of):
    _, found = labelled(batch_of, unit="m", column=ACTION)
    assert poses(found[0]) == [(30, "stop"), (80, "gripper_closes"), (119, "end")]


def test_without_names_there_is_no_gripper_and_that_is_said(batch_of):
    _, found = labelled(batch_of, named=False)
    row = next(row for row in found[0].scores if row.metric == "gripper_changes")
    assert (row.value, row.status, row.reason) == (None, "undefined", "no dimension is known as a gripper")


def test_an_angle_that_wraps_stands_still(batch_of):
    clock = np.arange(100) / 20
    turn = np.where(clock < 2, clock * 1.5, 3.0) + 1e-9
    turn = np.where((np.arange(100) % 2 == 0) & (clock >= 2.5), turn - 2 * np.pi, turn)  # two names of one angle
    states = [np.stack([turn, turn * f], axis=1) for f in (1.0, 1.0, 1.0, 1.0)]
    batch = batch_of(states, [s + 0.01 for s in states])
    unit = Finding(column=STATE, components=(0, 1), kind="unit", value="rad", confidence=0.95, evidence="-")
    features = tuple(
        f.model_copy(update={"findings": (unit,)}) if f.name == STATE else f for f in batch.dataset.features
    )
    object.__setattr__(batch, "dataset", batch.dataset.model_copy(update={"features": features}))
    labeller = Keyposes()
    assert poses(labeller.label(batch, labeller.fit([batch]))[0]) == [(40, "stop"), (99, "end")]


def test_segments_tile_every_episode_and_missing_steps_are_no_keyposes(tiers, batch_of):
    states, actions, tasks, _ = tiers
    states = [s.copy() for s in states[:40]]
    states[3][:] = np.nan
    states[5][-4:] = np.nan
    states[7][10:13] = np.nan
    batch = batch_of(states, actions[:40], tasks[:40])
    labeller = Keyposes()
    fit = labeller.fit([batch])
    found = labeller.label(batch, fit)
    assert {row.status for row in found[3].scores if row.metric != "length"} == {"undefined"}
    assert found[3].annotations == ()
    for number, (labels, state) in enumerate(zip(found, states, strict=True)):
        if number == 3:
            continue
        segments = sorted((item.start, item.stop) for item in labels.annotations if item.kind == "segment")
        assert segments[0][0] == 0
        assert segments[-1][1] == len(state)
        assert [stop for _, stop in segments[:-1]] == [start for start, _ in segments[1:]]
        assert all(np.isfinite(state[step]).all() for step, _ in poses(labels))
    alone = labeller.label(batch.one(8), fit)[0]
    assert alone == found[8]


def test_real_pushes_stop_now_and_then_and_have_no_gripper(pusht, batch_of):
    batch = batch_of(*pusht, fps=10.0)
    labeller = Keyposes()
    found = labeller.label(batch, labeller.fit([batch]))
    stops = [next(row.value for row in labels.scores if row.metric == "stops") for labels in found]
    assert (np.median(stops), np.max(stops)) == (1.0, 4.0)
    assert {row.reason for labels in found for row in labels.scores if row.metric == "gripper_changes"} == {
        "no dimension is known as a gripper"
    }
