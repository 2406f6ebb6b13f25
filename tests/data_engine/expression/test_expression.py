import sqlite3
import subprocess
import sys
from datetime import UTC, date, datetime
from itertools import chain

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_engine.errors import RequestError
from data_engine.expression import ScoreRef, compile
from data_engine.expression.text import MAX_DEPTH, MAX_LENGTH, MAX_NODES
from data_engine.model import EPISODES

COLUMNS = dict(zip(EPISODES.names, EPISODES.types, strict=True))
SCORES = {"divergence": ["own_residual", "ambiguity"], "integrity": ["defects"], "index": ["rank"]}


def rows(text, frame, scores=None):
    """The row numbers that ``text`` selects."""
    compiled = compile(text, frame.schema, scores)
    return frame.with_row_index("#").filter(compiled.expr)["#"].to_list()


FRAME = pl.DataFrame(
    {
        "task": ["open drawer", "Open Drawer", "push_T", None, "a.b*[c]\n'd'", "50%"],
        "success": [True, False, None, True, False, None],
        "n_steps": [10, 20, 30, 40, 50, None],
        "fps": [10.0, float("nan"), 30.0, float("inf"), None, 0.0],
        "labels": [["expert", "x"], [], None, ["worse"], [None, "expert"], ["x"]],
        "at": pl.Series([datetime(2025, 1, day, 12, tzinfo=UTC) for day in range(1, 6)] + [None]),
    },
    schema_overrides={"labels": pl.List(pl.String)},
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("success", [0, 3]),
        ("NOT success", [1, 4]),
        ("success IS NULL", [2, 5]),
        ("success IS NOT TRUE", [1, 2, 4, 5]),
        ("success IS FALSE", [1, 4]),
        ("success = FALSE", [1, 4]),
        ("task LIKE '%drawer'", [0]),
        ("task ILIKE '%DRAWER%'", [0, 1]),
        ("task NOT LIKE '%drawer%'", [1, 2, 4, 5]),
        ("task LIKE 'push_T'", [2]),
        ("task LIKE 'push-T'", []),
        ("task LIKE 'a.b*[c]%''d'''", [4]),
        ("task LIKE 'a.b'", []),
        ("task = 'open drawer' OR n_steps >= 40", [0, 3, 4]),
        ("n_steps BETWEEN 20 AND 40 AND NOT success", [1]),
        ("n_steps NOT IN (10, 20)", [2, 3, 4]),
        ("fps > 5", [0, 2, 3]),  # NaN > 5 is true in polars
        ("NOT fps > 5", [5]),
        ("fps IS NULL", [1, 4]),
        ("fps = fps", [0, 2, 3, 5]),
        ("n_steps / fps > 0.5", [0, 2]),
        ("fps - fps = 0", [0, 2, 5]),  # inf - inf is NaN, hence null
        ("contains(labels, 'expert')", [0, 4]),
        ("NOT contains(labels, 'expert')", [1, 3, 5]),
        ("contains(task, '.b*[')", [4]),
        ("length(labels) = 2 AND length(task) = 11", [0, 4]),
        ("upper(task) = lower('OPEN DRAWER') OR lower(task) = 'open drawer'", [0, 1]),
        ("coalesce(task, 'none') = 'none'", [3]),
        ("coalesce(n_steps, fps) = 0", [5]),
        ("round(n_steps / 40, 1) = 0.3 AND round(0.5) = 1 AND round(-2.5) = -3", [0]),
        ("abs(n_steps - 30) <= 10", [1, 2, 3]),
        ("at >= '2025-01-04'", [3, 4]),
        ("at < TIMESTAMP '2025-01-02 12:00:01' AND at > DATE '2025-01-01'", [0, 1]),
        ("at BETWEEN '2025-01-02T12:00:00Z' AND '2025-01-03T13:00:00+01:00'", [1, 2]),
        ("'2025-01-05' < at", [4]),
        ("n_steps < 99999999999999999999999", [0, 1, 2, 3, 4]),
        ("TRUE", [0, 1, 2, 3, 4, 5]),
        ("\"task\" = '50%'", [5]),
    ],
)
def test_language(text, expected):
    assert rows(text, FRAME) == expected


def test_scores_are_named_by_metric_version_and_percentile():
    compiled = compile(
        "divergence < 0.3 AND divergence.ambiguity@1.2.0 > 1 AND percentile(divergence@2) >= 50 AND index.rank = 1"
        ' AND success AND "integrity@1-rc" = 0',
        COLUMNS,
        SCORES,
    )
    assert compiled.columns == ("success",)
    assert set(compiled.scores) == {
        ScoreRef("divergence"),
        ScoreRef("divergence", "ambiguity", "1.2.0"),
        ScoreRef("divergence", None, "2", "percentile"),
        ScoreRef("index", "rank"),
        ScoreRef("integrity", None, "1-rc"),
    }


def test_a_missing_or_nan_score_selects_nothing_either_way():
    frame = pl.DataFrame({ScoreRef("divergence").column: [0.1, 0.9, None, float("nan")]})
    for text, expected in (("divergence > 0.5", [1]), ("NOT divergence > 0.5", [0]), ("divergence IS NULL", [2, 3])):
        compiled = compile(text, {}, SCORES)
        assert frame.with_row_index("#").filter(compiled.expr)["#"].to_list() == expected


def test_a_column_comes_before_a_scorer_of_its_name():
    assert compile("index > 3", {"index": "int64"}, SCORES).columns == ("index",)


def test_words_of_sql_may_be_columns():
    words = ["operator", "parent", "language", "left", "table", "index", "order", "select", "values", "case", "date"]
    frame = pl.DataFrame({word: [1, 2] for word in words})
    assert rows(" AND ".join(f"{word} = 2" for word in words), frame) == [1]


@pytest.mark.parametrize(
    "dtype",
    [pa.float32(), pa.float16(), pl.Float32, "double", pl.Float64(), "float64", pl.Decimal(10, 2), pa.decimal128(9, 2)],
)
def test_types_may_be_arrow_polars_or_names(dtype):
    assert compile("x > 1.5", {"x": dtype}).columns == ("x",)


def test_dates_compare_as_times():
    frame = pl.DataFrame({"day": [date(2025, 1, 1), date(2025, 1, 2)]})
    assert rows("day > '2025-01-01'", frame) == [1]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "empty"),
        ("n_step > 3", "unknown column or score 'n_step' at character 1 (did you mean n_steps?)"),
        ("success AND divergance > 3", "'divergance' at character 13 (did you mean divergence?)"),
        ("divergence.ambig > 3", "no metric 'ambig' at character 1 (did you mean ambiguity?)"),
        ("percentile(n_steps) > 3", "unknown score 'n_steps'"),
        ("task > 3", "cannot compare task (text) with 3 (number)"),
        ("n_steps > '5'", "cannot compare n_steps (number) with '5' (text)"),
        ("success = 1", "cannot compare success (true or false)"),
        ("success > FALSE", "has no order"),
        ("success IN (TRUE)", "success is true or false, not a number or text or a time"),
        ("labels = 'expert'", "use contains(list, 'value')"),
        ("videos = 1", "cannot compare videos (other)"),
        ("n_steps", "is a number, not true or false"),
        ("n_steps AND success", "n_steps is a number, not true or false"),
        ("task + 1 > 2", "task is text, not a number"),
        ("coalesce(task, 1) = 'a'", "coalesce mixes text and a number"),
        ("task = NULL", "IS NULL"),
        ("ingested_at > 'soon'", "'soon' is not a date"),
        ("task LIKE operator", "LIKE needs its pattern in quotes"),
        ("round(fps, 99) = 1", "digits from 0 to 15"),
        ("fps > 1e999", "out of range"),
        ("read_csv('/etc/passwd') = 1", "unknown function 'read_csv'"),
        ("(SELECT 1)", "expression:"),
        ("n_steps IN (SELECT 1)", "expression:"),
        ("n_steps IN n_steps", "IN takes a list"),
        ("success; DROP TABLE episodes", "';' does not belong"),
        ("success -- and more", "comment"),
        ("success /* and more */", "comment"),
        ("CASE WHEN success THEN 1 END = 1", "expression:"),
        ("CAST(n_steps AS text) = 'a'", "unknown function 'CAST'"),
        ("n_steps::text = 'a'", "does not belong"),
        ("task = $1", "does not belong"),
        ("task LIKE 'a' ESCAPE 'b'", "does not parse near 'ESCAPE' at character 15"),
        ("success AND", "does not parse"),
        ("task = 'a", "unclosed quote"),
        ("(success", "unclosed parenthesis"),
        ("success)", "parenthesis too many"),
        ("a.b.c = 1", "does not belong"),
        ("*", "not part of the language"),
        ("success success", "does not parse near 'success' at character 9"),
    ],
)
def test_refusals_are_one_clear_line(text, says):
    with pytest.raises(RequestError) as caught:
        compile(text, COLUMNS, SCORES)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.code == "bad_expression"


@pytest.mark.parametrize(
    "text",
    [
        "(" * 32 + "success" + ")" * 32,
        "NOT (" * 16 + "success" + ")" * 16,
        "abs(" * 30 + "n_steps" + ")" * 30 + " > 1",
        " + ".join(["n_steps"] * 31) + " > 1",
        "fps / (" * 15 + "fps" + ")" * 15 + " > 1",
        "coalesce(fps, round(fps - " * 10 + "fps" + ", 1))" * 10 + " > 1",
        "((fps > 1) = " * 15 + "success" + ")" * 15,
        "abs(" * 14 + "-fps" + ")" * 14 + " IN (" + ", ".join(["abs(-fps)"] * 70) + ")",
        " OR ".join(["success"] * 128),
        "n_steps IN (" + ", ".join(map(str, range(250))) + ")",
    ],
)
def test_what_is_within_the_bounds_compiles_and_runs_on_a_deep_stack(text):
    def deep(levels):
        return compile(text, COLUMNS) if levels == 0 else deep(levels - 1)

    frame = pl.DataFrame({"success": [True], "n_steps": [7], "fps": [30.0]})
    assert frame.select(deep(700).expr).to_series().to_list() in ([True], [False])


@pytest.mark.parametrize(
    "text",
    [
        "(" * 33 + "success" + ")" * 33,
        "(" * 4000,
        "NOT " * 33 + "success",
        "- " * 33 + "1 > n_steps",
        "1" + "+1" * 40 + " > n_steps",
        " OR ".join(["success"] * 129),
        "n_steps IN (" + ", ".join(map(str, range(300))) + ")",
        "task = '" + "a" * MAX_LENGTH + "'",
        "1" * (MAX_LENGTH - 10) + " > 1",
    ],
)
def test_what_is_beyond_the_bounds_is_refused(text):
    with pytest.raises(RequestError):
        compile(text, COLUMNS)
    assert (MAX_NODES, MAX_DEPTH) == (256, 32)


TEXTS = ["", "a", "A", "ab", "a_b", "a%b", "a.b", "é", "[a]", "a\nb", "it's", "\\", "^a$", None]
NUMBERS = [-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.5, 3.0, float("nan"), None]


def quoted(text):
    return "'" + text.replace("'", "''") + "'"


numbers = st.recursive(
    st.sampled_from(["x", "y", "n", "0.5", "1.5", "2", "0", "1e1"]),
    lambda inner: st.one_of(
        st.builds("({} {} {})".format, inner, st.sampled_from("+-*"), inner),
        st.builds("({} / {})".format, st.sampled_from("xy"), st.sampled_from(["x", "y", "2", "0.0"])),
        st.builds("-{}".format, st.sampled_from("xyn")),
        st.builds("abs({})".format, inner),
        st.builds("coalesce({}, {})".format, inner, inner),
        st.builds("round({})".format, st.sampled_from("xyn")),
        st.builds("length({})".format, st.sampled_from("st")),
    ),
    max_leaves=4,
)
literals = st.sampled_from([text for text in TEXTS if text is not None]).map(quoted)
texts = st.one_of(
    st.sampled_from("st"), literals, st.builds("coalesce({}, {})".format, st.sampled_from("st"), literals)
)
patterns = st.text(alphabet="aAb_%.[]^$\\'\né*", max_size=4).map(quoted)
comparisons = st.sampled_from(["=", "!=", "<>", "<", "<=", ">", ">="])
conditions = st.recursive(
    st.one_of(
        st.sampled_from(["b", "c", "TRUE", "FALSE"]),
        st.builds("{} {} {}".format, numbers, comparisons, numbers),
        st.builds("{} {} {}".format, texts, comparisons, texts),
        st.builds("{} {}LIKE {}".format, texts, st.sampled_from(["", "NOT "]), patterns),
        st.builds("{} {}IN ({}, {})".format, texts, st.sampled_from(["", "NOT "]), texts, texts),
        st.builds("{} {}IN ({}, {})".format, numbers, st.sampled_from(["", "NOT "]), numbers, numbers),
        st.builds("{} {}BETWEEN {} AND {}".format, numbers, st.sampled_from(["", "NOT "]), numbers, numbers),
        st.builds("{} IS {}NULL".format, st.one_of(texts, numbers), st.sampled_from(["", "NOT "])),
        st.builds("b IS {}{}".format, st.sampled_from(["", "NOT "]), st.sampled_from(["TRUE", "FALSE", "NULL"])),
    ),
    lambda inner: st.one_of(
        st.builds("{} AND {}".format, inner, inner),
        st.builds("{} OR {}".format, inner, inner),
        st.builds("({})".format, inner),
        st.builds("NOT ({})".format, inner),
        st.builds("NOT {}".format, inner),
    ),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def twin():
    """The same rows in polars and in sqlite, which is the oracle: it stores NaN as NULL and divides by zero to NULL."""
    size = 60
    data = {
        "x": [NUMBERS[i % len(NUMBERS)] for i in range(size)],
        "y": [NUMBERS[(i * 7 + i // 11) % len(NUMBERS)] for i in range(size)],
        "n": [None if i % 9 == 4 else i % 5 - 1 for i in range(size)],
        "s": [TEXTS[i % len(TEXTS)] for i in range(size)],
        "t": [TEXTS[(i * 5 + i // 14) % len(TEXTS)] for i in range(size)],
        "b": [[True, False, None][i % 3] for i in range(size)],
        "c": [[True, False, None][i // 3 % 3] for i in range(size)],
    }
    frame = pl.DataFrame(data, schema_overrides={"x": pl.Float64, "y": pl.Float64})
    database = sqlite3.connect(":memory:")
    database.execute("PRAGMA case_sensitive_like = ON")
    database.execute("CREATE TABLE rows (x REAL, y REAL, n INTEGER, s TEXT, t TEXT, b INTEGER, c INTEGER)")
    database.executemany("INSERT INTO rows VALUES (?, ?, ?, ?, ?, ?, ?)", frame.rows())
    yield frame, database
    database.close()


@settings(max_examples=60, deadline=None)
@given(text=conditions)
def test_agrees_with_sqlite(twin, text):
    frame, database = twin
    try:
        compiled = compile(text, frame.schema)
    except RequestError as error:
        assert "nested deeper" in str(error)  # the only refusal a well-typed expression may meet
        return
    ours = frame.select(compiled.expr.alias("r")) if compiled.columns else frame.select(r=compiled.expr)
    theirs = [None if r is None else bool(r) for (r,) in database.execute(f"SELECT ({text}) FROM rows ORDER BY rowid")]
    found = ours["r"].to_list()
    assert (found * len(theirs) if len(found) == 1 else found) == theirs


WORDS = (
    ["success", "task", "n_steps", "divergence.ambiguity@1", "labels", "AND", "OR", "NOT", "(", ")", ",", "IN", "IS"],
    ["NULL", "LIKE", "BETWEEN", "=", "<", "+", "-", "*", "/", "'a'", "1", "0.5", ".", "@", "percentile(", "contains("],
    ["round(", "DATE", "SELECT", "CASE", "CAST(", "EXISTS", "INTERVAL", "::", "{{", "--", "/*", "[", "]", "\x00", "$$"],
)
pieces = st.one_of(st.sampled_from([*chain(*WORDS)]), st.text(max_size=6))


@settings(max_examples=60, deadline=None)
@given(text=st.lists(pieces, max_size=14).map(" ".join))
def test_garbage_is_refused_and_nothing_else_happens(text):
    try:
        compile(text, COLUMNS, SCORES)
    except RequestError as error:
        assert "\n" not in str(error)


def test_importing_it_needs_neither_polars_nor_sqlglot():
    code = "import sys, data_engine.expression; print({'polars', 'sqlglot'} & set(sys.modules) or 'light')"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "light\n"
