from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from pydantic import ValidationError

from data_engine.conventions.convert import Conversion, convert, convert_steps, converted, resolve
from data_engine.errors import RequestError
from data_engine.exports.rows import rows_and_steps
from data_engine.model import Dataset, Feature, Finding
from data_engine.samples import Samples
from data_engine.windows import Windows

FINITE = st.floats(-1e6, 1e6, width=32)


def conversion(one: str, other: str, components: tuple[int, ...], **more) -> Conversion:
    return Conversion(dataset="a", column="action", from_=one, to=other, components=components, **more)


@settings(max_examples=25, deadline=None)
@given(arrays.arrays(np.float64, (7, 9), elements=FINITE))
def test_there_and_back_is_where_it_was(values):
    ways = [("deg", "rad", (0, 3), {}), ("mm", "m", (1,), {}), ("wxyz", "xyzw", (4, 5, 6, 7), {})]
    ways += [("larger_closes", "larger_opens", (8,), {"range": (0.0, 100.0)})]
    for one, other, components, more in ways:
        there = convert(values, [conversion(one, other, components, **more)])
        back = convert(there, [conversion(other, one, components, **more)])
        np.testing.assert_allclose(back, values, rtol=1e-12, atol=1e-9)
        rest = [i for i in range(9) if i not in components]
        np.testing.assert_array_equal(there[:, rest], values[:, rest])


def test_what_each_does():
    values = np.array([[180.0, 2.0, 10.0, 20.0, 30.0, 40.0]], np.float32)
    assert convert(values, [conversion("deg", "rad", (0,))])[0, 0] == np.float32(np.pi)
    assert convert(values, [conversion("m", "mm", (1,))])[0, 1] == 2000
    assert convert(values, [conversion("wxyz", "xyzw", (2, 3, 4, 5))])[0, 2:].tolist() == [20, 30, 40, 10]
    assert convert(values, [conversion("xyzw", "wxyz", (2, 3, 4, 5))])[0, 2:].tolist() == [40, 10, 20, 30]
    opened = convert(values, [conversion("larger_closes", "larger_opens", (5,), range=(0, 100))])
    assert opened[0, 5] == 60
    assert opened.dtype == np.float32
    assert convert(values, []) is values
    assert convert(np.array([90.0, np.nan]), [conversion("deg", "rad", (0,))])[0] == np.pi / 2  # a scalar column


def test_it_is_rounded_once_to_the_columns_type():
    values = np.random.default_rng(0).uniform(-180, 180, (1000, 1)).astype(np.float32)
    found = convert(values, [conversion("deg", "rad", (0,))])
    np.testing.assert_array_equal(found, (values.astype(np.float64) * (np.pi / 180)).astype(np.float32))


def test_a_table_keeps_its_types_and_what_is_missing():
    lists = [[1.0, 2.0, 3.0, None], None, [5.0, 6.0, 7.0, 8.0]]
    steps = pa.table({"action": pa.array(lists, pa.list_(pa.float32())), "grip": pa.array([1.0, None, 3.0])})
    turned = convert_steps(steps, [conversion("xyzw", "wxyz", (0, 1, 2, 3))])
    assert turned["action"].to_pylist() == [[None, 1.0, 2.0, 3.0], None, [8.0, 5.0, 6.0, 7.0]]
    assert turned.schema == steps.schema
    scaled = convert_steps(steps, [Conversion(dataset="a", column="grip", from_="mm", to="m", components=(0,))])
    assert scaled["grip"].to_pylist() == [0.001, None, 0.003]
    assert scaled["action"] == steps["action"]
    sliced = convert_steps(steps.slice(2), [conversion("xyzw", "wxyz", (0, 1, 2, 3))])
    assert sliced["action"].to_pylist() == [[8.0, 5.0, 6.0, 7.0]]
    assert convert_steps(steps.slice(3), [conversion("xyzw", "wxyz", (0, 1, 2, 3))]).num_rows == 0


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"from": "deg", "to": "grad"}, "no conversion from 'deg' to 'grad'"),
        ({"from": "range_m100_100", "to": "rad"}, "needs the robot's calibration"),
        ({"from": "deg", "to": "rad", "range": [0, 1]}, "range goes with the polarity"),
        ({"from": "larger_closes", "to": "larger_opens"}, r"range: \[low, high\]"),
        ({"from": "larger_closes", "to": "larger_opens", "range": [1, 0]}, "is no range"),
        ({"from": "deg", "to": "rad", "scale": 2}, "Extra inputs"),
    ],
)
def test_what_cannot_be_is_refused(fields, message):
    with pytest.raises(ValidationError, match=message):
        Conversion.model_validate({"dataset": "a", "column": "action", **fields})


def dataset(*findings: tuple[str, str, tuple[int, ...], float], dtype: str = "float32") -> Dataset:
    found = tuple(
        Finding(column="action", components=where, kind=kind, value=value, confidence=sure, evidence="seen")
        for kind, value, where, sure in findings
    )
    action = Feature(name="action", dtype=dtype, shape=(6,), findings=found)
    return Dataset(name="a", fps=10, features=(action,), origin="here", format="toy")


def named(given: Dataset, **fields) -> tuple[Conversion, ...]:
    return resolve([{"dataset": "a", "column": "action", "from": "deg", "to": "rad", **fields}], {"a": given}, ["a"])


def test_components_are_those_that_were_found():
    known = dataset(("unit", "deg", (0, 1), 0.9), ("unit", "m", (2, 3), 0.9))
    assert named(known)[0].components == (0, 1)
    after = converted(known, named(known)).feature("action").findings
    assert [(f.value, f.components) for f in after] == [("rad", (0, 1)), ("m", (2, 3))]
    part = converted(known, named(known, components=[1])).feature("action").findings
    assert [(f.value, f.components) for f in part] == [("rad", (1,)), ("deg", (0,)), ("m", (2, 3))]
    blank = dataset()
    assert named(blank, components=[4])[0].components == (4,)
    assert converted(blank, named(blank, components=[4])).feature("action").findings[0].value == "rad"
    whole = blank.model_copy(update={"features": (blank.features[0].model_copy(update={"unit": "deg"}),)})
    assert named(whole)[0].components == tuple(range(6))
    assert converted(whole, named(whole)).feature("action").unit == "rad"


@pytest.mark.parametrize(
    ("given", "fields", "message"),
    [
        (dataset(), {"dataset": "b"}, "no dataset 'b'"),
        (dataset(), {"column": "state"}, "no numeric column 'state'"),
        (dataset(), {}, "nothing in 'action' of dataset 'a' is known to be in deg"),
        (dataset(("unit", "rad", (0,), 0.9)), {}, r"is in rad \(seen\), not in deg"),
        (dataset(("unit", "rad", (0,), 0.9)), {"components": [0]}, "is in rad"),
        (dataset(), {"components": [6]}, "which has 6"),
        (dataset(), {"components": [1, 1]}, "which has 6"),
        (dataset(), {"from": "wxyz", "to": "xyzw", "components": [0, 1, 2]}, "4 components, not 3"),
        (dataset(dtype="int32"), {"components": [0]}, "would be rounded"),
        (dataset(), {"to": "gon"}, "no conversion from"),
    ],
)
def test_a_conversion_that_does_not_fit_its_dataset_is_refused(given, fields, message):
    with pytest.raises(RequestError, match=f"mixture.conversions.0: .*{message}"):
        named(given, **fields)


def test_a_doubtful_finding_gives_way_to_a_statement():
    assert named(dataset(("unit", "rad", (0,), 0.6)), components=[0])[0].components == (0,)


def test_statistics_loader_and_rows_hold_the_same_converted_steps(toy, tmp_path: Path):
    made = toy({"a": [12, 5, 30], "b": [8]})
    conversions = [
        {"dataset": "a", "column": "observation.state", "from": "deg", "to": "rad", "components": [1]},
        {"dataset": "a", "column": "action", "from": "larger_closes", "to": "larger_opens",
         "components": [0], "range": [0, 9]},
    ]  # fmt: skip
    plain = made.mixture(tmp_path / "cache")
    mixture = made.mixture(tmp_path / "cache", conversions=conversions)
    assert mixture.id != plain.id
    assert [c.components for c in mixture.document.conversions] == [(1,), (0,)]
    rows = mixture.episodes["dataset"].to_pylist()
    by_row = [mixture.steps(i) for i in range(len(rows))]
    streamed = [steps for _, steps in rows_and_steps(mixture, range(len(rows)))]
    seen = {}
    samples = Samples(mixture, Windows(action_horizon=1, columns=("observation.state", "action")))
    for sample in samples.iterate():
        seen[sample["episode_id"], int(sample["step"])] = sample
    assert seen
    stored = {"observation.state": np.float32, "action": np.float64}
    for i, name in enumerate(rows):
        episode = mixture.episodes["episode_id"][i].as_py()
        for column, dtype in stored.items():
            raw = np.array(plain.steps(i)[column].to_pylist(), np.float64)
            if name == "a" and column == "observation.state":
                raw[:, 1] *= np.pi / 180
            elif name == "a":
                raw[:, 0] = 9 - raw[:, 0]
            expected = raw.astype(dtype)
            for table in (by_row[i], streamed[i]):
                np.testing.assert_array_equal(np.array(table[column].to_pylist(), dtype), expected)
            for (who, step), sample in seen.items():
                if who == episode:
                    np.testing.assert_array_equal(sample[column][0], expected[step].astype(np.float32))
    told = mixture.statistics("arm2/delta")["observation.state"]
    pooled = np.concatenate([np.array(steps["observation.state"].to_pylist(), np.float64) for steps in by_row])
    np.testing.assert_allclose(told["mean"], pooled.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(told["max"], pooled.max(axis=0), rtol=1e-5)
    again = plain.steps(0)["action"].to_pylist()  # the cache and the lake hold what was recorded
    assert again == made.mixture(tmp_path / "cache").steps(0)["action"].to_pylist()
