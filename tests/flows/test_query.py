from __future__ import annotations

from itertools import pairwise

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_engine import registry
from data_engine.errors import RequestError
from data_engine.recipe import ScoreRecipe
from flows.query import matching, query, score_column, score_metric, score_reference
from flows.score import score

SCORE = "action_divergence"
VERSION = registry.load("scorers", SCORE).spec.version


def scores(lake) -> dict[str, float | None]:
    """The headline's values by episode, read from the table itself."""
    found = lake.scan("scores").filter(pl.col("metric") == "own_residual").collect()
    return dict(found.select("unit_id", "value").iter_rows())


def test_without_a_question_every_episode_is_the_answer(read_only):
    frame, undecided = query(read_only)
    assert (len(frame), undecided) == (33, 0)
    assert frame.equals(read_only.episodes())


def test_what_is_null_is_neither_chosen_nor_denied_but_counted(read_only):
    values = scores(read_only)
    known = {unit: value for unit, value in values.items() if value is not None}
    middle = sorted(known.values())[len(known) // 2]
    low, undecided = query(read_only, f"{SCORE} < {middle!r}")
    high, same = query(read_only, f"NOT ({SCORE} < {middle!r})")
    assert set(low["episode_id"]) == {unit for unit, value in known.items() if value < middle}
    assert set(high["episode_id"]) == {unit for unit, value in known.items() if value >= middle}
    assert undecided == same == 33 - len(known)  # hands were not scored
    assert query(read_only, f"dataset = 'reach' AND {SCORE} < {middle!r}")[1] == 24 - len(known)
    nothing, undecided = query(read_only, f"{SCORE} IS NULL")
    assert (len(nothing), undecided) == (33 - len(known), 0)


@settings(max_examples=40, deadline=None)
@given(
    bound=st.floats(-1, 12, allow_nan=False),
    sign=st.sampled_from(["<", "<=", ">", ">=", "=", "<>"]),
    operator=st.sampled_from(["steady", "shaky", "lost", "nobody"]),
    join=st.sampled_from(["AND", "OR"]),
)
def test_agrees_with_three_valued_logic_row_by_row(read_only, bound, sign, operator, join):
    values = scores(read_only)
    compare = {
        "<": float.__lt__, "<=": float.__le__, ">": float.__gt__, ">=": float.__ge__, "=": float.__eq__,
        "<>": float.__ne__,
    }[sign]  # fmt: skip

    def verdict(row) -> bool | None:
        value, right = values.get(row["episode_id"]), row["operator"] == operator
        left = None if value is None else compare(value, bound)
        if left is None:
            return False if join == "AND" and not right else True if join == "OR" and right else None
        return (left and right) if join == "AND" else (left or right)

    frame, undecided = query(read_only, f"{SCORE} {sign} {bound!r} {join} operator = '{operator}'")
    wanted = {row["episode_id"]: verdict(row) for row in read_only.episodes().iter_rows(named=True)}
    assert set(frame["episode_id"]) == {unit for unit, answer in wanted.items() if answer}
    assert undecided == list(wanted.values()).count(None)


def test_order_puts_nulls_last_and_keeps_ties_as_they_were(read_only):
    frame, _ = query(read_only, order_by=[SCORE], columns=["episode_id", SCORE])
    values = frame[SCORE].to_list()
    known = [value for value in values if value is not None]
    assert known == sorted(known)
    assert values[len(known) :] == [None] * (33 - len(known))
    plain = read_only.episodes()["episode_id"].to_list()
    assert frame["episode_id"].to_list()[len(known) :] == [
        u for u in plain if u in set(frame["episode_id"][len(known) :])
    ]
    down, _ = query(read_only, order_by=[f"-{SCORE}"], columns=[SCORE])
    assert down[SCORE].to_list() == known[::-1] + [None] * (33 - len(known))
    tied, _ = query(read_only, order_by=["-operator", "n_steps"])
    rows = list(tied.select("operator", "n_steps").iter_rows())
    assert [row[0] for row in rows] == sorted((row[0] for row in rows), reverse=True)
    assert all(a[1] <= b[1] for a, b in pairwise(rows) if a[0] == b[0])


def test_columns_are_taken_by_name_also_scores_and_their_percentiles(read_only):
    columns = ["operator", SCORE, f"{SCORE}.length", f"percentile({SCORE})", f"{SCORE}.ambiguity@{VERSION}"]
    frame, _ = query(read_only, "dataset = 'reach'", columns=columns)
    assert frame.columns == columns
    lengths = query(read_only, "dataset = 'reach'", columns=["n_steps"])[0]["n_steps"]
    assert frame[f"{SCORE}.length"].to_list() == lengths.cast(pl.Float64).to_list()
    percentiles = frame[f"percentile({SCORE})"].drop_nulls()
    assert percentiles.is_between(0, 100).all()
    assert len(percentiles) == len(frame[SCORE].drop_nulls())
    best, _ = query(read_only, f"percentile({SCORE}) <= 25", columns=[f"percentile({SCORE})"])
    assert 0 < len(best) < len(percentiles)
    assert best.to_series().max() <= 25


def test_a_column_named_twice_is_shown_once_and_limits_cut(read_only):
    frame, _ = query(read_only, columns=["task", "task", "operator"], limit=3)
    assert (frame.columns, len(frame)) == (["task", "operator"], 3)
    assert len(query(read_only, limit=0)[0]) == 0


def test_other_tables_are_asked_in_the_same_words(read_only):
    frame, undecided = query(
        read_only, "metric = 'own_residual' AND value > 1", table="scores", columns=["unit_id", "value"],
        order_by=["-value"],
    )  # fmt: skip
    values = scores(read_only)
    assert frame["value"].to_list() == sorted((v for v in values.values() if v is not None and v > 1), reverse=True)
    assert undecided == list(values.values()).count(None)
    assert query(read_only, table="receipts")[0]["dataset"].sort().to_list() == ["hand", "reach"]
    assert len(query(read_only, table="evaluations")[0]) == 0  # a table that nothing was written to yet


@pytest.mark.parametrize(
    ("options", "message", "fix"),
    [
        ({"where": "sucess"}, "unknown column or score 'sucess'", "success"),
        ({"where": "action_divergenc < 1"}, "unknown column or score", SCORE),
        ({"where": f"{SCORE}.own < 1"}, "has no metric 'own'", "own_residual"),
        ({"where": f"{SCORE}@9 < 1"}, f"no {SCORE}.own_residual@9 scores", "scored so far: action_divergence"),
        ({"where": "mutual_information > 0"}, "no mutual_information.", "data-engine score mutual_information"),
        ({"columns": ["n_step"]}, "unknown column or score 'n_step'", "n_steps"),
        ({"order_by": ["-taks"]}, "unknown column or score 'taks'", "task"),
        ({"columns": [f"{SCORE} > 1 AND {SCORE}"]}, "is no name of a score", SCORE),
        ({"columns": [f"abs({SCORE})"]}, "is no name of a score", SCORE),
        ({"columns": [f"{SCORE} IS NOT NULL OR {SCORE}"]}, "is no name of a score", SCORE),
        ({"order_by": ["videos"]}, "column 'videos' has no order", "order by"),
        ({"order_by": ["labels"]}, "column 'labels' has no order", "order by"),
        ({"table": "episode"}, "unknown table 'episode'", "episodes"),
        ({"table": "steps/reach"}, "unknown table", "episodes"),
        ({"table": "scores", "columns": ["valu"]}, "scores has no column 'valu'", "value"),
        ({"table": "scores", "where": f"{SCORE} < 1"}, f"unknown column or score '{SCORE}'", None),
    ],
)
def test_a_wrong_question_is_one_line_with_a_fix(read_only, options, message, fix):
    with pytest.raises(RequestError) as caught:
        query(read_only, options.pop("where", None), **options)
    assert message in caught.value.message
    assert "\n" not in str(caught.value)
    assert fix is None or fix in caught.value.fix


def test_a_score_is_named_as_in_expressions():
    assert score_metric(SCORE).name == "own_residual"
    assert score_metric(SCORE).better == "lower"
    assert score_metric(f"{SCORE}.length").unit == "steps"
    assert score_reference(f"percentile({SCORE}.length@1)").field == "percentile"
    with pytest.raises(RequestError, match="'n_steps' is no name of a score"):
        score_reference("n_steps", {"n_steps": pl.Int64})


def test_the_newest_version_counts_and_an_older_one_by_name(filled):
    old = filled.scan("scores").filter(pl.col("metric") == "own_residual").collect()
    for version, plus in ((f"{VERSION}.9", 1000.0), (f"{VERSION}.10", 2000.0)):
        fit = f"fit_{version}"
        rows = old.with_columns(pl.col("value") + plus, version=pl.lit(version), fit_id=pl.lit(fit))
        filled.append("scores", rows.to_arrow(), transaction=version)
    episodes = filled.episodes()
    before = dict(old.select("unit_id", "value").iter_rows())
    named = [(SCORE, {}, 2000.0), (f"{SCORE}@{VERSION}.9", {}, 1000.0), (f"{SCORE}@{VERSION}", {}, 0.0)]
    for name, fits, plus in [*named, (SCORE, {SCORE: f"fit_{VERSION}.9"}, 1000.0)]:  # a fit says the version too
        found = score_column(filled, episodes, name, fits)
        assert found.drop_nulls().to_list() == [
            before[unit] + plus for unit in episodes["episode_id"] if before.get(unit) is not None
        ]


def test_two_candidate_fits_refuse_an_expression_until_one_is_named(filled, common):
    episodes = filled.episodes(dataset="reach")
    second = score(filled, ScoreRecipe(scorer=SCORE), episodes.head(18), **common)["fit_id"]
    with pytest.raises(RequestError, match="2 reference sets") as caught:
        query(filled, f"{SCORE} < 1")
    assert second in caught.value.message
    with pytest.raises(RequestError, match="2 reference sets"):
        query(filled, order_by=[SCORE])
    found, undecided = matching(filled, episodes, f"{SCORE}.length > 0", {SCORE: second})
    assert (len(found), undecided) == (18, 6)
    found, _ = query(filled, f"{SCORE}.length > 0", columns=[SCORE], fits={SCORE: second})
    assert len(found) == 18
