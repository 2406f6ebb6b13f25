from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_engine.model import ACTION, IMAGES, STATE, TIMESTAMP, Feature
from data_engine.outages import Outage
from data_engine.scoring import EpisodeBatch
from data_engine.video import FrameReader
from scorers.integrity import Integrity
from tests.squares import frame

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


def test_where_most_are_cut_short_the_rest_tell_and_who_is_done_early_is_not(tiers, batch_of):
    states, actions, tasks, tier = tiers
    own = [i for i, task in enumerate(tasks) if task == "drawer-open-v3" and tier[i] == "expert"]
    few = [i % 3 > 0 for i in range(len(own))]

    def too_short(less):
        columns = ([less(column[i]) if short else column[i] for i, short in zip(own, few, strict=True)]
                   for column in (states, actions))  # fmt: skip
        batch = batch_of(*columns, fps=10.0)
        scorer = Integrity(min_steps=1)
        return ["too_short" in found for found in reasons(scorer.score(batch, scorer.fit([batch])))]

    assert too_short(lambda x: x[: len(x) // 10]) == few
    assert not any(too_short(lambda x: x[9::10]))


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


def filmed(batch, frames, cameras=("top",), **columns):
    """``batch`` with ``frames`` of ``cameras``."""
    features = (Feature(name=IMAGES + camera, dtype="video", shape=(64, 64, 3)) for camera in cameras)
    dataset = batch.dataset.model_copy(update={"features": (*batch.dataset.features, *features)})
    return replace(batch, dataset=dataset, frames=frames, **columns)


def lively(steps):
    """uint8 [n, 64, 64, 3]: no two steps look alike."""
    return np.stack([frame(step % 24 / 24, step // 24 % 24 / 24) for step in steps])


def _black(steps):
    return np.where(((steps >= 30) & (steps < 70))[:, None, None, None], 0, lively(steps)).astype(np.uint8)


def _frozen(steps):
    return lively(np.where((steps >= 30) & (steps < 70), 30, steps))


def _undecodable(steps):
    if ((steps >= 30) & (steps < 70)).any():
        raise OSError("broken stream")
    return lively(steps)


@pytest.mark.parametrize("clock", [False, True], ids=["clock of the steps", "clock of its own"])
@pytest.mark.parametrize(
    ("reason", "shot"),
    [("black_frames", _black), ("frozen_frames", _frozen), ("undecodable_frames", _undecodable), (None, lively)],
)
def test_a_bad_stretch_of_one_camera_is_told_by_steps(clean, fit, batch_of, reason, shot, clock):
    batch = batch_of(clean[0][:2], clean[1][:2], fps=10.0)
    late = 3.0 if clock else 0.0
    if clock:
        own = batch.steps.column(TIMESTAMP).to_numpy() + late
        batch = replace(batch, steps=batch.steps.append_column("frame_time.top", pa.array(own)))

    def frames(episode, camera, times):
        steps = np.round((np.array(times) - (late if camera == "top" else 0)) * 10).astype(int)
        assert (steps >= 0).all()
        return shot(steps) if (episode, camera) == (0, "top") else lively(steps)

    rows = SCORER.score(filmed(batch, frames, ("side", "top")), fit)
    spans = rows[0][0].spans
    assert [(span.start, span.stop, span.reason) for span in spans] == ([(30, 70, f"{reason} top")] if reason else [])
    assert reasons(rows)[1] == set()
    assert rows[0][0].step_values.sum() == (40 if reason else 0)


def test_a_camera_that_an_episode_lacks_is_named(clean, fit, batch_of):
    batch = batch_of(clean[0][:3], clean[1][:3], fps=10.0)
    videos = [[{"camera": "side"}, {"camera": "top"}], [{"camera": "side"}], []]
    frames = lambda episode, camera, times: lively(np.round(np.array(times) * 10).astype(int))  # noqa: E731
    batch = filmed(batch, frames, ("side", "top"), episodes=batch.episodes.append_column("videos", pa.array(videos)))
    assert reasons(SCORER.score(batch, fit)) == [set(), {"missing_camera top"}, set()]


@pytest.mark.parametrize("known", [True, False])
def test_a_frozen_camera_is_seen_with_gaps_in_the_state_and_with_no_reference(clean, fit, batch_of, known):
    states = [clean[0][0].copy()]
    states[0][40], states[0][:, 4] = np.inf, 0
    batch = batch_of(states, clean[1][:1], fps=10.0)
    frames = lambda episode, camera, times: lively(np.zeros(len(times), int))  # noqa: E731
    limits = fit.meta if known else {"views": {}, "limits": {}, "copies": {}}
    (row,) = SCORER.score(filmed(batch, frames), replace(fit, meta=limits))
    assert (0, len(states[0]), "frozen_frames top") in [(span.start, span.stop, span.reason) for span in row[0].spans]


def test_a_store_that_does_not_answer_is_no_defect(clean, fit, batch_of):
    def frames(episode, camera, times):
        raise Outage("no answer")

    with pytest.raises(Outage):
        SCORER.score(filmed(batch_of(clean[0][:2], clean[1][:2], fps=10.0), frames), fit)


def test_real_cameras_have_no_defect_and_a_planted_one_is_found(shared_data, batch_of):
    root = shared_data / "g1_lerobot_v21"
    tables = [pq.read_table(path) for path in sorted((root / "data/chunk-000").glob("*.parquet"))]
    states, actions = ([np.stack(table[c].to_numpy(zero_copy_only=False)) for table in tables] for c in (STATE, ACTION))
    readers = [FrameReader(path) for path in sorted((root / "videos").rglob("*.mp4"))]

    def frames(episode, camera, times):
        return readers[episode].at(times)

    def stuck(episode, camera, times):
        return readers[episode].at(np.minimum(times, 2.0))

    batch = filmed(batch_of(states, actions, fps=30.0), frames)
    fit = SCORER.fit([batch])
    assert reasons(SCORER.score(batch, fit)) == [set()] * 6
    for row, state in zip(SCORER.score(replace(batch, frames=stuck), fit), states, strict=True):
        (found,) = row[0].spans
        assert (found.stop, found.reason) == (len(state), "frozen_frames top")
        assert abs(found.start - 60) <= 5
