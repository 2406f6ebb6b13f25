from dataclasses import replace

import numpy as np
import pytest

from benchmarks import cases, quality
from benchmarks.cases import Job, Settings
from benchmarks.kept import Kept
from benchmarks.planting import Course
from benchmarks.quality_report import grid, report
from benchmarks.quality_rivals import RIVALS, write_lerobot
from data_engine.scoring import ScoreRow


@pytest.fixture
def some(shared_data, tmp_path):
    return Settings(shared_data, tmp_path, scenes=2, people=12, tasks=("drawer-open-v3",), workers=1)


def test_a_planted_case_knows_its_bad_episodes(some):
    case = cases.make(Job("pusht planted", "lagged", 0.25, 1), some)
    clean = cases.acting_pusht.recordings(some.data)[:12]
    clean = [*clean[::2], *clean[1::2]]
    changed = [not np.array_equal(a.action, b.action) for a, b in zip(case.courses, clean, strict=True)]
    np.testing.assert_array_equal(changed, case.bad)
    assert case.bad.sum() == 3 and (case.worth < 0).sum() == 3
    assert case.counted.tolist() == [False] * 6 + [True] * 6
    kept = case.of_those_counted()
    assert kept.courses[0] is case.courses[6] and kept.bad.tolist() == case.bad[6:].tolist()
    fix = cases.make(Job("pusht planted", "lagged", 0.25, 1), replace(some, half="fix"))
    np.testing.assert_array_equal(fix.counted, ~case.counted)
    own = cases.make(Job("pusht planted", "lagged", 0.25, 1, "proprioception"), some)
    assert [c.state.shape[1] for c in own.courses] == [2] * 12
    np.testing.assert_array_equal(own.courses[0].action, case.courses[0].action)


def test_a_job_is_measured_and_reported(some):
    outcome = quality.perform(Job("pusht planted", "not_finite", 0.5), some, ["integrity"])
    hit, wrong, missed = outcome.facts["flagged"]
    assert outcome.auc["integrity"] == 1.0 and hit > 0 and (wrong, missed) == (0, 0)
    assert outcome.facts["episodes"] == 6
    assert set(outcome.auc) >= {"length", "log dimensionless jerk", "random"}
    assert outcome.auc["length"] >= 0.5  # told the direction
    text = report([outcome], [], ["a note"])
    assert "integrity, not_finite: recall: 1.000 (1.0): holds" in text
    assert "composite: not registered" in text and text.endswith("a note")


def test_what_was_measured_is_kept_and_what_there_is_no_time_for_is_said(some, tmp_path):
    path = tmp_path / "quality.jsonl"
    pieces = [quality.Piece(Job("pusht planted", "not_finite", 0.5), ("integrity",))]
    assert quality.run(pieces, some, Kept(path), 1, until=0) == [None]
    (note,) = quality._open([(pieces[0], None)])
    assert note.splitlines()[0] == "cut off: 1 of 1 sets were not measured"
    (first,) = quality.run(pieces, some, Kept(path), 1)
    assert first.auc["integrity"] == 1.0
    path.write_text(path.read_text().replace('"integrity": 1.0', '"integrity": 0.75', 1))
    (second,) = quality.run(pieces, some, Kept(path), 1, until=0)  # from the file, as it now says
    assert second.job == first.job and second.auc == first.auc | {"integrity": 0.75} and second.facts == first.facts
    other = quality.Piece(pieces[0].job, ("consistency",))
    assert quality.run([other], some, Kept(path), 1, until=0) == [None]


def test_what_weighs_most_is_measured_first_and_pieces_of_a_set_are_merged():
    work = list(quality.jobs(False, [], range(2), (0.2, 0.05)))
    found = quality.pieces(work, [(Job("pusht acted", "noise"), "rdq")], ["compatibility", "integrity"])
    plain = [piece for piece in found if piece.scorers == ("integrity",)]
    assert {piece.job for piece in plain} == set(work) and len(plain) == len(work)
    shares = [(piece.job.share == 0.05, piece.job.view != "state") for piece in plain]
    assert shares.index((True, False)) > sum(pair == (False, False) for pair in shares) - 1
    assert found[[piece.rival for piece in found].index("rdq") - 1].job.share == 0.2
    assert "leak" not in {piece.job.set for piece in found if piece.scorers == ("compatibility",)}
    one, two = quality.Outcome(work[0], auc={"a": 1.0}), quality.Outcome(work[0], auc={"b": 0.5})
    assert quality.merged([one, two]) == [quality.Outcome(work[0], auc={"a": 1.0, "b": 0.5})]


def test_every_copy_counts_as_one_with_its_original(some):
    outcome = quality.perform(Job("pusht planted", "duplicated", 0.5), some, ["integrity"])
    hit, wrong, missed = outcome.facts["flagged"]
    assert hit >= 2 and (wrong, missed) == (0, 0)


def test_a_leak_is_found_out(some):
    assert quality.perform(Job("leak", "none"), some, ["integrity"]).facts == {"integrity": 0.0}
    before = [{"m": ScoreRow("m", value)} for value in (1.0, 2.0, None)]
    assert quality.largest_change(before, before) == 0.0
    assert quality.largest_change(before, [{"m": ScoreRow("m", value)} for value in (1.0, 3.0, None)]) == 0.5
    assert quality.largest_change(before, before[::-1]) == float("inf")


def test_a_grid_is_aligned_and_leaves_out_what_is_not_there():
    text = grid("title", ["one", "two"], [("a", [1.0, float("nan")]), ("bb", [0.5, 0.25])]).splitlines()
    assert text[0] == "title" and text[4].split() == ["a", "1.000"] and text[5].split() == ["bb", "0.500", "0.250"]


def test_rivals_are_handed_a_set_that_our_own_reader_reads_back(tmp_path):
    draw = np.random.default_rng(0)
    courses = [
        Course(draw.normal(size=(n, 3)).astype(np.float32), draw.normal(size=(n, 2)).astype(np.float32),
               np.arange(n) / 10, task)
        for n, task in ((7, "open"), (5, "close"))
    ]  # fmt: skip
    import pyarrow.parquet as pq

    folder = write_lerobot(tmp_path / "set", courses, 10)
    table = pq.read_table(folder / "data/chunk-000/file-000.parquet")
    assert np.bincount(table["episode_index"].to_numpy()).tolist() == [7, 5]
    state = np.stack(table["observation.state"].to_numpy(zero_copy_only=False))
    np.testing.assert_array_equal(state, np.concatenate([c.state for c in courses]))


def test_scores_of_rivals_are_read_by_episode():
    rdq = RIVALS["rdq"].read({"episodes": {"1": {"composite": 0.25}, "0": {"composite": None}}}, 3)
    np.testing.assert_array_equal(rdq, [np.nan, -0.25, np.nan])
    deepen = {"episodes": [{"episode_id": "episode_000001", "score": 90, "checks": [{"severity": "fail"}]}]}
    np.testing.assert_allclose(RIVALS["deepen-grade"].read(deepen, 2), [np.nan, 10.1])
    calibra = {"analyzer_results": [{"raw_metrics": {"per_episode_ldlj": [-5.0, -5.1, -4.9, -9.0]}}]}
    assert np.argmax(RIVALS["calibra-robotics"].read(calibra, 4)) == 3
