from __future__ import annotations

import polars as pl
import pytest

from data_engine.errors import RequestError
from flows.review import Verdict, alpha, candidates, judge, queue, tally
from storage.lake import Lake


@pytest.fixture
def lake(tmp_path):
    """Two datasets of four episodes; two scorers that agree on some; ``pause`` flagged in three, ``jump`` in one."""
    lake = Lake.open(str(tmp_path / "lake"), create=True)
    episodes, scores = [], []
    for number in range(8):
        name = f"ep_{number}"
        episodes.append({"episode_id": name, "dataset": "ab"[number // 4], "content_hash": f"h{number}", "n_steps": 50,
                         "source_key": name, "duration_s": 5.0, "revision": 0})  # fmt: skip
        spans = []
        if number in (0, 1, 4):
            spans = [{"start": 5, "stop": 9, "reason": "pause"}, {"start": 20, "stop": 30, "reason": "pause"}]
        if number == 1:
            spans.append({"start": 1, "stop": 3, "reason": "jump"})
        for scorer, better, percentile in (("one", "higher", 100.0), ("two", "lower", 100.0 if number == 4 else 0.0)):
            measured = {"unit_kind": "episode", "unit_id": name, "content_hash": f"h{number}", "start": 0, "stop": 50}
            said = {"scorer": scorer, "metric": "m", "version": "1", "better": better, "percentile": percentile}
            flagged = {"value": 1.0, "status": "ok", "spans": spans if scorer == "one" else []}
            scores.append(measured | said | flagged)
    lake.append_rows("scores", scores, transaction="scores")
    lake.append_rows("episodes", episodes, transaction="episodes")
    return lake


def ask(lake, who="ann", **options):
    return queue(lake, candidates(lake), who, **options)


def test_a_row_for_each_reason_and_one_for_what_nobody_flagged(lake):
    found = candidates(lake)
    told = found.select("episode_id", "reason", "start", "stop", "steps", "spans").sort("episode_id", "reason").rows()
    assert told[:4] == [
        ("ep_0", "pause", 20, 30, 14, 2), ("ep_1", "jump", 1, 3, 2, 1), ("ep_1", "pause", 20, 30, 14, 2),
        ("ep_2", "unflagged", 0, 50, 50, 0),
    ]  # fmt: skip
    assert len(told) == 9
    doubt = dict(found.select("episode_id", "disagreement").unique().rows())
    assert (doubt["ep_4"], doubt["ep_0"]) == (1.0, 0.0)  # one calls it the best, the other the worst


def test_an_unscored_lake_and_an_empty_one_have_a_queue_too(tmp_path):
    empty = Lake.open(str(tmp_path / "empty"), create=True)
    assert ask(empty) == ([], 0)
    row = {"episode_id": "ep", "dataset": "a", "content_hash": "h", "n_steps": 3, "source_key": "s", "revision": 0}
    empty.append_rows("episodes", [row], transaction="episodes")
    ((item,), count) = ask(empty)
    assert (count, item["reason"], item["stop"], item["disagreement"]) == (1, "unflagged", 3, None)


def test_strata_take_turns_and_what_scorers_disagree_about_comes_first_in_each(lake):
    items, count = ask(lake)
    assert count == 9
    strata = [(item["dataset"], item["reason"]) for item in items]
    assert len(set(strata[:5])) == 5 == len(set(strata))  # one of each before the second of any
    assert [item["episode_id"] for item in items if item["reason"] == "pause" and item["dataset"] == "b"] == ["ep_4"]
    assert items[0]["episode_id"] == "ep_4"
    assert [item["priority"] for item in items] == sorted((item["priority"] for item in items), reverse=True)


def test_what_is_judged_leaves_the_queue_and_makes_its_stratum_less_urgent(lake):
    before = next(item for item in ask(lake)[0] if item["episode_id"] == "ep_0")
    judge(lake, [Verdict(episode_id="ep_1", reason="pause", start=20, stop=30, verdict="drop")], "ann")
    items, count = ask(lake)
    assert count == 8
    after = next(item for item in items if item["episode_id"] == "ep_0")
    assert after["priority"] < before["priority"]
    assert ask(lake, "bob")[1] == 9
    seen = next(item for item in ask(lake, again=True)[0] if item["mine"])
    assert (seen["episode_id"], seen["mine"], seen["verdicts"], seen["reviewers"]) == ("ep_1", "drop", 1, ["ann"])
    assert {item["reason"] for item in ask(lake, reason="jump")[0]} == {"jump"}
    assert ask(lake, where="dataset = 'b'")[1] == 4
    with pytest.raises(RequestError):
        ask(lake, where="nothing = 1")


def test_the_newest_verdict_of_a_person_counts_and_is_entered_once(lake):
    said = [Verdict(episode_id="ep_0", reason="pause", verdict=each) for each in ("keep", "drop", "keep")]
    assert [judge(lake, [each], "ann") for each in said] == [{"added": 1, "already": 0}] * 3
    assert judge(lake, [said[-1]], "ann") == {"added": 0, "already": 1}
    rows = lake.scan("annotations").collect()
    assert rows.sort("value").select("label", "value", "producer").rows() == [
        (verdict, turn, "person:ann") for turn, verdict in enumerate(("keep", "drop", "keep"))
    ]
    (reviewer,) = tally(lake, candidates(lake))["reviewers"]
    assert reviewer == {"reviewer": "ann", "verdicts": 1, "keep": 1, "drop": 0, "trim": 0, "relabel": 0}
    with pytest.raises(RequestError):
        judge(lake, [Verdict(episode_id="ep_0", verdict="keep"), Verdict(episode_id="ep_x", verdict="keep")], "ann")
    assert len(lake.scan("annotations").collect()) == 3
    with pytest.raises(ValueError, match="stop is not after start"):
        Verdict(episode_id="ep_0", verdict="keep", start=4, stop=4)


def test_each_reason_gets_its_precision_here(lake):
    judge(lake, [Verdict(episode_id=f"ep_{each}", reason="pause", verdict=verdict)
                 for each, verdict in ((0, "drop"), (1, "keep"), (4, "trim"))], "ann")  # fmt: skip
    judge(lake, [Verdict(episode_id="ep_0", reason="pause", verdict="keep"),
                 Verdict(episode_id="ep_1", reason="pause", verdict="keep"),
                 Verdict(episode_id="ep_1", reason="jump", verdict="drop")], "bob")  # fmt: skip
    said = tally(lake, candidates(lake))
    told = {(row["reason"], row["dataset"]): (row["flagged"], row["judged"], row["confirmed"], row["precision"])
            for row in said["reasons"]}  # fmt: skip
    assert told == {
        ("pause", None): (3, 2, 1, 0.5),
        ("pause", "a"): (2, 1, 0, 0.0),
        ("pause", "b"): (1, 1, 1, 1.0),
        ("jump", None): (1, 1, 1, 1.0),
        ("jump", "a"): (1, 1, 1, 1.0),
    }  # fmt: skip  (ep_0 is drop and keep: undecided)
    assert said["shared"] == 2
    assert said["pairs"] == [{"first": "ann", "second": "bob", "shared": 2, "agree": 0.5}]
    assert said["alpha"] == pytest.approx(alpha([["drop", "keep"], ["keep", "keep"]]))
    row = next(each for each in said["reasons"] if each["reason"] == "pause" and each["dataset"] is None)
    assert 0 < row["low"] < 0.5 < row["high"] < 1


def test_a_changed_episodes_verdicts_are_not_its_own(lake):
    judge(lake, [Verdict(episode_id="ep_0", reason="pause", verdict="drop")], "ann")
    row = lake.episodes().filter(pl.col("episode_id") == "ep_0").to_dicts()[0]
    lake.append_rows("episodes", [row | {"content_hash": "other", "revision": 1}], transaction="again")
    assert tally(lake, candidates(lake))["verdicts"] == 0


def test_alpha_is_krippendorffs():
    # his own example of nominal data: Computing Krippendorff's Alpha-Reliability (2011), section C, alpha 0.743
    coders = ["123321412...", "1233224125.3", ".3332342251.", "12332441251."]
    units = [[row[place] for row in coders if row[place] != "."] for place in range(12)]
    assert alpha(units) == pytest.approx(0.743, abs=5e-4)
    assert alpha([["keep", "keep"], ["drop", "drop"]]) == 1.0
    assert alpha([["keep"], ["drop"]]) is None
    assert alpha([["keep", "keep"]]) is None
