import numpy as np
import pytest

from data_engine.model import ACTION, TIMESTAMP, Feature
from data_engine.scoring import EpisodeBatch
from scorers.kernels.smooth import log_dimensionless_jerk
from scorers.smoothness import Smoothness

SCORER = Smoothness()
METRICS = [metric.name for metric in SCORER.spec.metrics]
FPS = 20.0


def value(row, name):
    return row[METRICS.index(name)].value


def reaches(count=12, rest=(0, 0, 0)):
    """Two reaches each, with ``rest`` steps still before, between and after; the gripper closes between them."""
    u = np.linspace(0, 1, 41)
    bell = 10 * u**3 - 15 * u**4 + 6 * u**5
    states, actions = [], []
    for i in range(count):
        path = np.r_[np.zeros(rest[0]), bell, np.ones(rest[1]), 1 + bell[1:], np.full(rest[2], 2.0)]
        states.append(np.stack([path * (1 + 0.1 * i), np.sin(path + i)], axis=1))
        grip = np.where(path < 0.9, -1.0, 1.0)
        actions.append(np.stack([np.gradient(path), np.where(path > 1.9, -1.0, grip)], axis=1))
    return states, actions


def with_gripper(batch):
    features = (
        batch.dataset.features[0],
        Feature(name=ACTION, dtype="float32", shape=(2,), components=("dx", "gripper")),
    )
    return EpisodeBatch(
        batch.dataset.model_copy(update={"features": features}), batch.episodes, batch.steps, batch.offsets
    )


def test_rests_are_found_and_measured_in_seconds(batch_of):
    usual = batch_of(*reaches())
    fit = SCORER.fit([usual])
    states, actions = reaches(1, rest=(20, 30, 40))
    (row,) = SCORER.score(batch_of(states, actions), fit)
    found = {span.reason: (span.start, span.stop) for span in row[0].spans}
    assert set(found) == {"idle_start", "pause", "idle_end"}
    for reason, (start, stop) in (("idle_start", (0, 20)), ("pause", (60, 92)), ("idle_end", (131, 171))):
        assert abs(found[reason][0] - start) <= 6
        assert abs(found[reason][1] - stop) <= 6
    assert value(row, "idle_start_s") == pytest.approx((found["idle_start"][1] - found["idle_start"][0]) / FPS)
    assert value(row, "pauses") == 1


def test_what_stands_still_at_the_end_is_settled_though_a_thing_trembles(batch_of):
    draw = np.random.default_rng(0)
    states, actions = reaches(12)
    states[3] = np.concatenate([states[3], np.repeat(states[3][-1:], 40, axis=0)])
    actions[3] = np.concatenate([actions[3], np.zeros((40, 2))])
    # a thing that lies there and trembles
    states = [np.c_[state, draw.uniform(-0.003, 0.003, len(state))] for state in states]
    batch = batch_of(states, actions)
    rows = SCORER.score(batch, SCORER.fit([batch]))
    settled = np.array([value(row, "settled_s") for row in rows])
    assert settled[3] == pytest.approx(np.median(settled) + 40 / FPS, abs=0.1)
    assert np.delete(settled, 3).max() < 0.7
    assert value(rows[3], "idle_end_s") == 0.0  # which needs all of it to be still
    alone = SCORER.score(batch_of(states[:1], actions[:1], ["another task"]), SCORER.fit([batch]))
    assert value(alone[0], "settled_s") == settled[0]


def test_the_clock_counts_and_not_the_rows(batch_of):
    states, actions = reaches()
    batch = batch_of(states, actions)
    fit = SCORER.fit([batch])
    want = SCORER.score(batch, fit)[0]
    slow = batch.steps.column(TIMESTAMP).to_numpy() * 3
    steps = batch.steps.set_column(batch.steps.column_names.index(TIMESTAMP), TIMESTAMP, [slow])
    got = SCORER.score(EpisodeBatch(batch.dataset, batch.episodes, steps, batch.offsets), fit)[0]
    assert value(got, "log_dimensionless_jerk") == pytest.approx(value(want, "log_dimensionless_jerk"), rel=1e-6)
    assert value(got, "spectral_arc_length") != value(want, "spectral_arc_length")


def test_it_is_the_kernel_on_view_coordinates(batch_of):
    states, actions = reaches()
    states = [state[:, :1] for state in states]
    batch = batch_of(states, actions)
    row = SCORER.score(batch, SCORER.fit([batch]))[3]
    want = log_dimensionless_jerk(states[3].astype(np.float32).astype(float), FPS)
    assert value(row, "log_dimensionless_jerk") == pytest.approx(want, abs=0.05)


def test_gripper_cycles_need_a_named_gripper(batch_of):
    batch = batch_of(*reaches())
    assert value(SCORER.score(batch, SCORER.fit([batch]))[0], "gripper_cycles") is None
    named = with_gripper(batch)
    assert value(SCORER.score(named, SCORER.fit([named]))[0], "gripper_cycles") == 1


def test_noise_is_rough(tiers, batch_of):
    states, actions, tasks = (x[:30] for x in tiers[:3])
    batch = batch_of(states, actions, tasks)
    fit = SCORER.fit([batch])
    draw = np.random.default_rng(0)
    shaken = [s + draw.normal(0, 0.02, s.shape) * np.ptp(s, axis=0) for s in states]
    smooth, rough = SCORER.score(batch, fit), SCORER.score(batch_of(shaken, actions, tasks), fit)
    name = "log_dimensionless_jerk"
    assert np.mean([value(a, name) > value(b, name) for a, b in zip(smooth, rough, strict=True)]) >= 0.9
    assert all(
        value(a, "high_frequency_ratio") < value(b, "high_frequency_ratio") for a, b in zip(smooth, rough, strict=True)
    )


def test_reasons(batch_of):
    states, actions = reaches()
    batch = batch_of([np.full_like(states[0], np.nan), *states, states[0][:0]], [actions[0], *actions, actions[0][:0]])
    rows = SCORER.score(batch, SCORER.fit([batch]))
    assert rows[0][0].reason == "only 0 finite steps, of 5 at least"
    assert rows[-1][0].reason == "no steps"
    still = SCORER.score(batch_of([np.zeros_like(states[0])], actions[:1]), SCORER.fit([batch]))[0]
    assert still[0].reason == "no motion"
    slow = batch_of(states, actions, fps=2.0)
    assert "4 Hz" in SCORER.score(slow, SCORER.fit([slow]))[0][METRICS.index("high_frequency_ratio")].reason
    assert [row.metric for row in rows[1]] == METRICS


def test_order_and_names_change_nothing(tiers, batch_of):
    states, actions, tasks = (x[:20] for x in tiers[:3])
    batch = batch_of(states, actions, tasks)
    want = [[row.value for row in rows] for rows in SCORER.score(batch, SCORER.fit([batch]))]
    other = batch_of(states[::-1], actions[::-1], tasks[::-1], name="renamed")
    got = [[row.value for row in rows] for rows in SCORER.score(other, SCORER.fit([other]))]
    assert got[::-1] == want
