from dataclasses import replace

import numpy as np
import pytest

from data_engine.model import ACTION, IMAGES, STATE, TIMESTAMP, Feature
from data_engine.scoring import EpisodeBatch
from scorers.integrity import Integrity

SCORER = Integrity()
EPISODE = 4


@pytest.fixture(scope="module")
def clean(pusht):
    return [s.copy() for s in pusht[0][:40]], [a.copy() for a in pusht[1][:40]]


@pytest.fixture(scope="module")
def fit(clean, batch_of):
    return SCORER.fit([batch_of(*clean, fps=10.0)])


def reasons(rows):
    return [{span.reason for span in row[0].spans} for row in rows]


def test_clean_recordings_have_no_defect(pusht, tiers, batch_of):
    for batch in (batch_of(*pusht, fps=10.0), batch_of(*tiers[:3])):
        values = [row[0].value for row in SCORER.score(batch, SCORER.fit([batch]))]
        assert np.mean(np.array(values) > 0) < 0.02


def _freeze(s, a):
    s[20:40] = s[20]


def _teleport(s, a):
    s[30:, 0] += 400


def _wild(s, a):
    a[10, 1] = 1e5


def _nan(s, a):
    a[7:9, 0] = np.inf


def _constant(s, a):
    a[:, 1] = a[0, 1]


@pytest.mark.parametrize(
    ("spoil", "reason", "start"),
    [
        (_freeze, "frozen_state", 20),
        (_teleport, "teleport", 30),
        (_wild, "out_of_range", 10),
        (_nan, "not_finite", 7),
        (_constant, "constant_action", 0),
    ],
)
@pytest.mark.parametrize("refit", [False, True])
def test_a_planted_defect_is_named_and_the_rest_untouched(clean, fit, batch_of, spoil, reason, start, refit):
    states, actions = [s.copy() for s in clean[0]], [a.copy() for a in clean[1]]
    spoil(states[EPISODE], actions[EPISODE])
    batch = batch_of(states, actions, fps=10.0)
    rows = SCORER.score(batch, SCORER.fit([batch]) if refit else fit)
    found = [span for span in rows[EPISODE][0].spans if span.reason == reason]
    assert found[0].start == start
    assert rows[EPISODE][0].value > 0
    assert reason in rows[EPISODE][0].reason
    assert not any(row for i, row in enumerate(reasons(rows)) if i != EPISODE)


def test_times(clean, fit, batch_of):
    batch = batch_of(*clean, fps=10.0)
    times = batch.steps.column(TIMESTAMP).to_numpy().copy()
    a, b, c = batch.offsets[1] + 5, batch.offsets[2] + 5, batch.offsets[3] + 5
    times[a] = times[a - 1]
    times[b : batch.offsets[3]] += 1.0
    times[c] += 0.05
    steps = batch.steps.set_column(batch.steps.column_names.index(TIMESTAMP), TIMESTAMP, [times])
    found = reasons(SCORER.score(EpisodeBatch(batch.dataset, batch.episodes, steps, batch.offsets), fit))
    assert "time_not_increasing" in found[1]
    assert found[2] == {"time_gap"}
    assert found[3] == {"time_jitter"}
    assert found[0] == set()


def test_what_was_cut_short_does_not_set_what_is_usual(clean, batch_of):
    states, actions = [[x[: len(x) // (1 + 9 * (i % 2))] for i, x in enumerate(column)] for column in clean]
    batch = batch_of(states, actions, fps=10.0)
    scorer = Integrity(min_steps=1)
    found = reasons(scorer.score(batch, scorer.fit([batch])))
    assert ["too_short" in reason for reason in found] == [i % 2 == 1 for i in range(len(states))]


def test_too_short_empty_and_missing(clean, fit, batch_of):
    states, actions = clean
    batch = batch_of([states[0][:6], states[1][:0], states[2]], [actions[0][:6], actions[1][:0], actions[2]], fps=10.0)
    rows = SCORER.score(batch, fit)
    assert "too_short" in rows[0][0].reason
    assert rows[1][0].value == 1.0
    assert "too_short" in rows[1][0].reason
    assert rows[2][0].value == 0.0
    bare = EpisodeBatch(batch.dataset, batch.episodes, batch.steps.drop_columns([ACTION]), batch.offsets)
    assert all("missing_action" in row[0].reason for row in SCORER.score(bare, fit))


def test_declared_shape_and_type(clean, fit, batch_of):
    batch = batch_of(*clean, fps=10.0)
    lies = (Feature(name=STATE, dtype="float32", shape=(6,)), Feature(name=ACTION, dtype="int64", shape=(2,)))
    rows = SCORER.score(replace(batch, dataset=batch.dataset.model_copy(update={"features": lies})), fit)
    assert reasons(rows)[0] == {"wrong_shape", "wrong_dtype"}


def test_a_copy_is_reported_and_is_no_defect(clean, batch_of):
    states, actions = clean
    batch = batch_of([*states, states[3]], [*actions, actions[3]], fps=10.0)
    rows = SCORER.score(batch, SCORER.fit([batch]))
    assert [rows[i][2].value for i in (0, 3, -1)] == [1.0, 2.0, 2.0]
    assert rows[3][0].value == 0.0
    assert reasons(rows)[3] == {"duplicate"}


@pytest.mark.parametrize(
    ("reason", "shot"),
    [
        ("black_frames", lambda n: np.zeros((n, 4, 4, 3), np.uint8)),
        ("frozen_frames", lambda n: np.full((n, 4, 4, 3), 90, np.uint8)),
        ("undecodable_frames", lambda n: (_ for _ in ()).throw(OSError("broken stream"))),
        (None, lambda n: np.random.default_rng(0).integers(0, 255, (n, 4, 4, 3)).astype(np.uint8)),
    ],
)
def test_cameras(clean, fit, batch_of, reason, shot):
    batch = batch_of(clean[0][:2], clean[1][:2], fps=10.0)
    camera = Feature(name=IMAGES + "top", dtype="video", shape=(4, 4, 3))
    dataset = batch.dataset.model_copy(update={"features": (*batch.dataset.features, camera)})
    good = np.random.default_rng(1).integers(0, 255, (9, 4, 4, 3)).astype(np.uint8)
    frames = lambda episode, name, times: shot(len(times)) if episode == 0 else good[: len(times)]  # noqa: E731
    rows = SCORER.score(replace(batch, dataset=dataset, frames=frames), fit)
    assert reasons(rows) == [{reason} - {None}, set()]
