from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from data_engine.errors import SourceError
from data_engine.model import ACTION, STATE, TIMESTAMP, Feature
from data_engine.steps import canonical, content_hash, hashes, schema, steps_hashes, storage_type

FEATURES = (Feature(name=STATE, dtype="float32", shape=(2,)), Feature(name=ACTION, dtype="float16", shape=(1,)))


def table(n: int = 4, **columns) -> pa.Table:
    base = {
        STATE: pa.array(np.arange(2.0 * n).reshape(n, 2).tolist(), pa.list_(pa.float32())),
        ACTION: pa.array(np.arange(n, dtype=np.float16)),
        **columns,
    }
    return pa.table({name: column for name, column in base.items() if column is not None})


@pytest.mark.parametrize(
    ("dtype", "stored"),
    [("float16", "float"), ("uint8", "int16"), ("uint16", "int32"), ("uint32", "int64"), ("float64", "double"),
     ("uint64", "decimal128(20, 0)"), ("bool", "bool"), ("datetime64[ns]", "int64"), ("int8", "int8")],
)  # fmt: skip
def test_what_delta_cannot_hold_is_kept_without_loss(dtype, stored):
    assert str(storage_type(Feature(name="a", dtype=dtype))) == stored


def test_refuses_a_dtype_that_it_does_not_store():
    with pytest.raises(SourceError, match="complex64"):
        storage_type(Feature(name="a", dtype="complex64"))


def test_adds_time_from_the_frame_rate_only_where_it_is_absent():
    assert canonical(table(), FEATURES, fps=4.0)[TIMESTAMP].to_pylist() == [0, 0.25, 0.5, 0.75]
    given_times = table(timestamp=pa.array([0.0, 1.0, 3.0, 9.0]))
    assert canonical(given_times, FEATURES, fps=4.0)[TIMESTAMP].to_pylist() == [0, 1, 3, 9]


@pytest.mark.parametrize(
    ("steps", "reason"),
    [
        (table(0), "no steps"),
        (table(action=None), "'action' is declared and absent"),
        (table(extra=pa.array([1] * 4)), "'extra' is there and not declared"),
        (
            table(**{STATE: pa.array([[1.0]] * 4, pa.list_(pa.float32()))}),
            r"\[1\] values a step, declared as shape \(2,\)",
        ),
        (table(**{STATE: pa.array([1.0] * 4)}), "is scalar"),
        (table(action=pa.array(["a"] * 4)), "does not fit float16"),
    ],
)
def test_refuses_what_the_source_did_not_declare(steps, reason):
    with pytest.raises(SourceError, match=reason):
        canonical(steps, FEATURES, fps=10.0)


def test_missing_stays_null_and_never_becomes_zero():
    rows = pa.array([[1.0, 2.0], None, [3.0, None], [4.0, 5.0]], pa.list_(pa.float32()))
    stored = canonical(table(**{STATE: rows, ACTION: pa.array([1.0, None, 2.0, 3.0], pa.float32())}), FEATURES, 10.0)
    assert stored[STATE].to_pylist() == [[1.0, 2.0], None, [3.0, None], [4.0, 5.0]]
    assert stored[ACTION].to_pylist() == [1.0, None, 2.0, 3.0]


@settings(max_examples=50)
@given(
    hnp.arrays(
        st.sampled_from(["float32", "float64", "int16", "uint8", "bool"]), hnp.array_shapes(min_dims=2, max_dims=2)
    )
)
def test_values_come_through_exactly(values):
    feature = Feature(name="a", dtype=str(values.dtype), shape=(values.shape[1],))
    steps = pa.table({"a": pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])})
    stored = canonical(steps, [feature], fps=10.0)["a"]
    back = np.array(stored.to_pylist()).reshape(values.shape)
    np.testing.assert_array_equal(back, values)


def test_the_hash_is_of_values_not_of_chunks_or_column_order():
    whole = canonical(table(), FEATURES, 10.0)
    chunked = pa.concat_tables([whole.slice(0, 1), whole.slice(1)])
    assert content_hash(whole) == content_hash(chunked) == content_hash(whole.select(whole.column_names[::-1]))
    assert content_hash(whole) == content_hash(pa.concat_tables([whole, whole]).slice(4))


@pytest.mark.parametrize("column", [STATE, ACTION, TIMESTAMP])
def test_any_changed_value_changes_the_hash(column):
    whole = canonical(table(), FEATURES, 10.0)
    values = whole[column].to_pylist()
    values[2] = [v + 1 for v in values[2]] if isinstance(values[2], list) else values[2] + 1
    changed = whole.set_column(
        whole.column_names.index(column), column, pa.array(values, whole.schema.field(column).type)
    )
    assert content_hash(changed) != content_hash(whole)


def test_a_null_is_not_a_zero_and_a_camera_counts():
    nulled = canonical(table(action=pa.array([0.0, None, 2.0, 3.0], pa.float32())), FEATURES, 10.0)
    zeroed = canonical(table(action=pa.array([0.0, 0.0, 2.0, 3.0], pa.float32())), FEATURES, 10.0)
    assert content_hash(nulled) != content_hash(zeroed)
    assert content_hash(zeroed, {"top": "a"}) != content_hash(zeroed, {"top": "b"}) != content_hash(zeroed)


KINDS = pa.table(
    {
        TIMESTAMP: pa.array([0.0, 0.5, 1.0]),
        STATE: pa.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], pa.list_(pa.float32())),
        ACTION: pa.array([[1, 2], None, [3, None]], pa.list_(pa.int16())),
        "reward": pa.array([0.0, None, 1.0], pa.float32()),
        "terminated": pa.array([False, False, True]),
        "count": pa.array([1, 2, 3], pa.int64()),
        "big": pa.array([1, None, 2**64 - 1], pa.decimal128(20, 0)),
        "language": pa.array(["open", None, "é"]),
        "raw": pa.array([b"", b"\0", None], pa.binary()),
    }
)


def test_a_hash_once_written_down_stays_what_it_is():
    assert hashes(KINDS, {"top": "a"}) == (
        "0b7471a800aba419c43235fa15d57d74c4ebbf9c1b3965615576ddd73a085527",
        "79f5e80807f8ea86c60d583d6d8da65bb103a8d8cb4b3eaf68be2f7a8204613f",
    )


@settings(max_examples=25, deadline=None)
@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=9), min_size=1, max_size=5), st.integers(0, 3))
def test_episodes_behind_one_another_hash_as_each_alone(episodes, before):
    rows = pa.concat_tables([KINDS] * (before + 1)).slice(before)
    whole = rows.take([row for episode in episodes for row in episode])
    offsets = np.cumsum([0, *map(len, episodes)])
    alone = [hashes(rows.take(episode))[1] for episode in episodes]
    assert steps_hashes(whole, offsets) == alone
    sliced = pa.concat_tables([whole, whole]).combine_chunks().slice(len(whole))
    assert steps_hashes(sliced, offsets) == alone


def test_episodes_behind_one_another_are_stored_as_each_alone():
    parts = [table(3), table(1), table(5)]
    together = canonical(pa.concat_tables(parts), FEATURES, 10.0, [0, 3, 4, 9])
    assert together.equals(pa.concat_tables([canonical(part, FEATURES, 10.0) for part in parts]).combine_chunks())
    with pytest.raises(SourceError, match="no steps"):
        canonical(pa.concat_tables(parts), FEATURES, 10.0, [0, 3, 3, 9])


def test_the_schema_leaves_cameras_out():
    features = (*FEATURES, Feature(name="observation.images.top", dtype="video", shape=(4, 4, 3)))
    assert schema(features).names == ["episode_id", "step", "timestamp", STATE, ACTION]


@pytest.mark.parametrize("name", ["episode_id", "STEP", "Action", "a\0b"])
def test_a_name_that_no_table_can_hold_is_one_line(name):
    with pytest.raises(SourceError, match="zero byte" if "\0" in name else "but for its case") as caught:
        schema((*FEATURES, Feature(name=name, dtype="float32")))
    assert caught.value.code == "bad_column"
